//! One node at run time: its replicas, its place in the cluster, and the way to the leaders.
//!
//! Nothing here decides what happens to a message: that is the core's, through the log. The node decides what to propose, when, and
//! where a request is better served.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, OnceLock, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use flotilla_proto::record;
use raft_store::{Engine, PayloadError, RaftOptions, Replica, Store, StoreError, StoreOptions, disk::Disk};
use tokio::sync::watch;

use crate::{
    clock::Clock,
    limits::Bounds,
    meta::{MetaMachine, MetaState},
    peer::PeerTransport,
};

pub mod bootstrap;
pub mod catalogue;
mod checks;
pub mod clients;
pub mod damage;
pub mod dropping;
pub mod forgetting;
pub mod forward;
mod health;
mod hints;
pub mod hub;
pub mod identity;
pub mod keeper;
pub mod kv;
mod lanes;
pub mod machine;
pub mod meeting;
pub mod membership;
pub mod peers;
pub mod peers_transport;
#[cfg(madsim)]
#[path = "../../sim-tests/plant/bodies/node.rs"]
mod planted;
pub mod polls;
pub mod producers;
pub mod proposer;
mod reading;
mod renewals;
pub mod retention;
mod roster;
pub mod shard;
pub mod shard_time;
mod shard_views;
mod signs;
pub mod written;

pub use checks::Transactions;
use clients::Clients;
use forward::ForwardHandler;
use hub::Hub;
use identity::Identity;
use membership::SignOfLife;
use polls::Polls;
use producers::Producers;
use roster::Roster;
use shard::{DataShard, Leadership};
use written::WrittenOut;

/// The shard that holds the cluster's catalogue.
pub const META_SHARD: u32 = 0;

/// A node that has not answered for so long is not shown as alive.
const ALIVE_FOR_MS: u64 = 3_000;

/// The Raft id of a node's replicas: another data directory of the same node is another replica.
pub fn replica_of(node: u32, incarnation: u32) -> u64 {
    (u64::from(node) << 16) | u64::from(incarnation)
}

/// The node a replica runs on.
pub fn node_of(replica: u64) -> u32 {
    (replica >> 16) as u32
}

/// Everything a node is told at its start.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// This node's number, from 1.
    pub node_id: u32,
    /// Node number to peer address, the same on every node; empty for a single node.
    pub initial_cluster: BTreeMap<u32, String>,
    /// Data shards of a new cluster; absent: by the number of nodes.
    pub data_shards: Option<u32>,
    /// Where other nodes reach this one, `host:port`.
    pub peer_addr: String,
    /// Where clients reach this one, `host:port`; it stands in routes.
    pub client_addr: String,
    /// Where administrators reach this one, `host:port`.
    pub http_addr: String,
    /// Unknown topics come into being when a client asks for them.
    pub auto_create_topics: bool,
    /// Unknown consumer groups come into being when a client uses them.
    pub auto_create_groups: bool,
    /// Queues of a topic when nobody says how many.
    pub default_queues: u32,
    /// Messages older than this may be forgotten.
    pub retention: Duration,
    /// The oldest messages are forgotten when a node's log is larger than this, bytes.
    pub retention_bytes: u64,
    /// A message may be sent so long before it is to be delivered.
    pub max_delay: Duration,
    /// When transactions are checked back.
    pub transactions: Transactions,
    /// A push consumer that lives may hold a message for so long; then it comes to others.
    pub renew_at_most: Duration,
    /// Timing of elections and heartbeats.
    pub raft: RaftOptions,
    /// Log, cache and flush sizes.
    pub store: StoreOptions,
    /// How much it takes on.
    pub bounds: Bounds,
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Log or state cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was refused by the others for good.
    #[error("{0}")]
    Refused(String),
    /// The `NODE` file cannot be read or written, or is another node's.
    #[error("the data directory cannot be used: {0}")]
    Identity(#[from] std::io::Error),
}

/// Why a node stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// It was asked to.
    Shutdown,
    /// Stored data is damaged: the data directory must be set aside and the node rebuilt from its peers.
    Condemned(String),
    /// The same of single records only, and the other nodes could do without the directory: until they confirm that, it can serve
    /// what is whole.
    GivenUp(String),
    /// What is stored, or was agreed, is of a newer release: that one has to be run. Nothing was touched.
    Newer(String),
    /// The data directory does not belong here any more, or not in this state: a person has to put things right.
    Refused(String),
    /// The disk failed or an invariant broke: a person must look.
    Fatal(String),
}

/// A running node; cheap to clone.
#[derive(Clone)]
pub struct Node {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) options: NodeOptions,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) store: Store,
    pub(crate) transport: Arc<dyn PeerTransport>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) polls: Polls,
    pub(crate) clients: Clients,
    pub(crate) producers: Arc<Producers>,
    pub(crate) written: WrittenOut,
    pub(crate) meta_machine: Arc<MetaMachine>,
    pub(crate) meta_replica: OnceLock<Replica>,
    pub(crate) meta_leadership: Leadership,
    /// When the last completed look at how far the catalogue has come began.
    pub(crate) meta_seen: tokio::sync::Mutex<Option<tokio::time::Instant>>,
    pub(crate) shards: RwLock<BTreeMap<u32, Arc<DataShard>>>,
    pub(crate) identity: Mutex<Option<Identity>>,
    pub(crate) forwarded: OnceLock<Arc<dyn ForwardHandler>>,
    /// What a node without a cluster waits for.
    pub(crate) waits_for: Mutex<Option<String>>,
    /// Drawn at every start.
    pub(crate) session: u64,
    /// Last synced batch of the log when it was opened.
    pub(crate) opened: u64,
    /// Whom this node takes for the others.
    pub(crate) roster: Arc<Roster>,
    /// What other nodes answered last.
    pub(crate) heard: Mutex<BTreeMap<u32, SignOfLife>>,
    /// Up to which entry each shard would have to be forgotten for this node's log to be within its bound, as of the last
    /// round of retention.
    pub(crate) too_many: Mutex<retention::needs::TooMany>,
    /// It hands its leaderships over and stops.
    pub(crate) leaving: AtomicBool,
    /// A directory of this node was set aside: whatever it finds, it never forms a cluster.
    pub(crate) had_data: bool,
    /// Records that could not be read when it was given up before, and have not been tried since.
    pub(crate) suspected: Mutex<BTreeSet<(u32, u64)>>,
    pub(crate) stop: watch::Sender<Option<StopReason>>,
}

impl Node {
    /// Whose data directory this is; nothing if it never took part in a cluster. Touches nothing: to be called before anything
    /// in the directory is opened, which a newer release may have written.
    ///
    /// # Errors
    /// Why it cannot be this node's, or not with this release.
    pub fn look_at(disk: &dyn Disk, node: u32) -> Result<Option<Identity>, NodeError> {
        if let Some(reason) = identity::refused(disk)? {
            return Err(NodeError::Refused(reason));
        }
        let directory = Store::directory(disk)?;
        let identity = Identity::load(disk, node, directory)?;
        if identity.is_some() && !Store::has_log(disk)? {
            let lost = "it has taken part in a cluster and has lost its log, and with it what it voted for";
            return Err(StoreError::Corrupt(lost.into()).into());
        }
        Ok(identity)
    }

    /// Opens the data directory and begins to take part in the cluster; does not wait for it.
    pub async fn start(
        options: NodeOptions,
        disk: Arc<dyn Disk>,
        engine: Arc<dyn Engine>,
        transport: Arc<dyn PeerTransport>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, NodeError> {
        let identity = Self::look_at(&*disk, options.node_id)?;
        let had_data = disk.exists(identity::HAD_DATA)?;
        let kept = damage::kept::load(&*disk)
            .map_err(damage::cannot_keep)
            .unwrap_or_default();
        let came_back = kept.is_some();
        let mut store_options = options.store.clone();
        store_options.new_identity = clock.random_u64().max(1);
        let store = Store::open(Arc::clone(&disk), engine, store_options).await?;
        let opened = store.log().synced();
        let session = clock.random_u64().max(1);
        let (stop, _) = watch::channel(None);
        transport.set_peers(others(&options));
        let roster = Arc::new(Roster::of(others(&options).into_keys()));
        let bounds = options.bounds;
        let node = Self {
            inner: Arc::new(Inner {
                options,
                clock,
                disk,
                store,
                transport,
                hub: Arc::new(Hub::new(bounds.waiting_receives)),
                polls: Polls::default(),
                clients: Clients::default(),
                producers: Arc::default(),
                written: WrittenOut::default(),
                meta_machine: Arc::new(MetaMachine::new()),
                meta_replica: OnceLock::new(),
                meta_leadership: Leadership::default(),
                meta_seen: tokio::sync::Mutex::default(),
                shards: RwLock::default(),
                identity: Mutex::new(identity),
                forwarded: OnceLock::new(),
                waits_for: Mutex::default(),
                session,
                opened,
                roster,
                heard: Mutex::default(),
                too_many: Mutex::default(),
                leaving: AtomicBool::new(false),
                had_data,
                suspected: Mutex::new(kept.unwrap_or_default()),
                stop,
            }),
        };
        tokio::spawn(bootstrap::run(node.clone()));
        tokio::spawn(watch_store(node.clone()));
        tokio::spawn(written::run(node.clone()));
        tokio::spawn(hints::run(node.clone()));
        tokio::spawn(damage::run(node.clone(), came_back));
        Ok(node)
    }

    /// This node's number.
    pub fn id(&self) -> u32 {
        self.inner.options.node_id
    }

    /// What the node was told at its start.
    pub fn options(&self) -> &NodeOptions {
        &self.inner.options
    }

    /// The node's clock and random source.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// The catalogue as applied here.
    pub fn meta(&self) -> Arc<MetaState> {
        self.inner.meta_machine.snapshot()
    }

    /// Waiters of this node.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.inner.hub
    }

    /// How consumer groups read topics.
    pub fn polls(&self) -> &Polls {
        &self.inner.polls
    }

    /// Clients this node heard of.
    pub fn clients(&self) -> &Clients {
        &self.inner.clients
    }

    /// Producers that can be asked about transactions here.
    pub fn producers(&self) -> &Arc<Producers> {
        &self.inner.producers
    }

    /// Answers that this node wrote out to clients.
    pub fn written(&self) -> &WrittenOut {
        &self.inner.written
    }

    /// The node's log and state.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// One data shard, if it has a replica here.
    pub fn shard(&self, id: u32) -> Option<Arc<DataShard>> {
        self.inner
            .shards
            .read()
            .expect("no panic while held")
            .get(&id)
            .cloned()
    }

    /// All data shards with a replica here.
    pub fn shards(&self) -> Vec<Arc<DataShard>> {
        self.inner
            .shards
            .read()
            .expect("no panic while held")
            .values()
            .cloned()
            .collect()
    }

    /// The replica of the meta shard, once the node takes part.
    pub fn meta_replica(&self) -> Option<&Replica> {
        self.inner.meta_replica.get()
    }

    /// The node that leads a shard, as far as this node knows.
    pub fn leader(&self, shard: u32) -> Option<u32> {
        if shard == META_SHARD {
            let status = self.meta_replica()?.status();
            self.inner.meta_leadership.see(&status, self.clock().steady_ms());
            return self.inner.meta_leadership.node();
        }
        self.inner
            .shards
            .read()
            .expect("no panic while held")
            .get(&shard)?
            .leadership()
            .node()
    }

    /// Another node says that it leads a shard.
    fn hear_leader(&self, shard: u32, leader: u32, term: u64) {
        let now = self.clock().steady_ms();
        let ceased = if shard == META_SHARD {
            self.inner.meta_leadership.hear(leader, term, now)
        } else {
            self.shard(shard)
                .is_some_and(|shard| shard.leadership().hear(leader, term, now))
        };
        if ceased {
            self.inner.hub.ring_all();
        }
    }

    /// True if this node leads the shard, as far as it knows.
    pub fn leads(&self, shard: u32) -> bool {
        self.leader(shard) == Some(self.id())
    }

    /// This node and those that answered it lately.
    pub fn alive_nodes(&self) -> BTreeSet<u32> {
        let now = self.clock().steady_ms();
        let heard = self.inner.heard.lock().expect("no panic while held");
        let alive = heard
            .iter()
            .filter(|(_, sign)| sign.at_ms + ALIVE_FOR_MS > now)
            .map(|(&node, _)| node);
        alive.chain([self.id()]).collect()
    }

    /// Nodes whose disk has no room for messages, as far as known here.
    pub(crate) fn full_nodes(&self) -> BTreeSet<u32> {
        let heard = self.inner.heard.lock().expect("no panic while held");
        let others = heard.iter().filter(|(_, sign)| sign.full).map(|(&node, _)| node);
        let me = (!self.store().log().has_room()).then(|| self.id());
        others.chain(me).collect()
    }

    /// Whether another node has said that it stops; it then leads nothing any more.
    pub(crate) fn leaving(&self, node: u32) -> bool {
        let heard = self.inner.heard.lock().expect("no panic while held");
        heard.get(&node).is_some_and(|sign| sign.leaving)
    }

    /// A replica that a leader has not heard of for so long is taken for stopped.
    pub(crate) fn silence(&self) -> Duration {
        2 * self.inner.options.raft.election_max
    }

    /// A node as the catalogue, or before that the start list, knows it.
    pub fn describe(&self) -> record::Node {
        let identity = self.inner.identity.lock().expect("no panic while held");
        record::Node {
            id: self.id(),
            directory: self.inner.store.identity(),
            incarnation: identity.as_ref().map_or(0, |identity| identity.incarnation),
            peer_addr: self.inner.options.peer_addr.clone(),
            client_addr: self.inner.options.client_addr.clone(),
            http_addr: self.inner.options.http_addr.clone(),
            synced: self.inner.store.log().synced(),
            session: self.inner.session,
            opened: self.inner.opened,
        }
    }

    /// Stops for a reason; the first reason counts.
    pub fn stop(&self, reason: StopReason) {
        self.inner.stop.send_if_modified(|stopped| {
            let first = stopped.is_none();
            stopped.get_or_insert(reason);
            first
        });
        self.inner.hub.ring_all();
    }

    /// True once the node stops.
    pub fn stopping(&self) -> bool {
        self.inner.stop.borrow().is_some()
    }

    /// Waits until the node stops, and tells why.
    pub async fn wait_stopped(&self) -> StopReason {
        let mut stop = self.inner.stop.subscribe();
        let stopped = stop
            .wait_for(Option::is_some)
            .await
            .expect("the node holds the sender");
        stopped.clone().expect("just waited for it")
    }

    /// Hands leaderships over, stops the replicas, and makes the state durable.
    pub async fn shutdown(&self) {
        self.inner.leaving.store(true, Ordering::SeqCst);
        plant!(ShutdownWithoutHandOver => (), else membership::hand_over(self).await);
        self.stop(StopReason::Shutdown);
        if let Err(error) = self.inner.store.close().await {
            tracing::warn!(%error, "the state was not flushed; the log replays it at the next start");
        }
    }

    /// Sorts a failure of reading stored data: what cannot be repaired condemns the directory.
    pub fn report_read_error(&self, error: &PayloadError) {
        if let PayloadError::Corrupt(_) = error {
            tracing::error!(%error, "stored data is damaged; this node will be rebuilt from its peers");
            self.stop(StopReason::Condemned(error.to_string()));
        } else {
            tracing::error!(%error, "stored data cannot be read");
        }
    }
}

/// Peer addresses of the start list, without this node.
fn others(options: &NodeOptions) -> BTreeMap<u32, String> {
    let mut peers = options.initial_cluster.clone();
    peers.remove(&options.node_id);
    peers
}

/// A failed disk or a damaged record stops the node.
async fn watch_store(node: Node) {
    let mut stop = node.inner.stop.subscribe();
    tokio::select! {
        biased;
        _ = stop.wait_for(Option::is_some) => {}
        reason = node.inner.store.wait_stopped() => {
            node.stop(match reason {
                raft_store::StoreStopped::Corrupt(what) => StopReason::Condemned(what),
                raft_store::StoreStopped::Failed(what) => StopReason::Fatal(what),
                raft_store::StoreStopped::Newer(what) => StopReason::Newer(what),
                raft_store::StoreStopped::Closed => StopReason::Shutdown,
            });
        }
    }
}
