//! How a node finds its place: forms a cluster, goes on after a restart, or comes
//! back with an empty data directory.
//!
//! The rule that everything here serves: no replica ever votes with amnesia. A
//! directory takes part under incarnation 1 only if every node of the start list saw
//! exactly this directory before anything was agreed; any other directory of the same
//! node gets a new incarnation from the meta shard, and so new Raft ids.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flotilla_proto::{
    peer::{StatusRequest, StatusResponse},
    record::{self, meta_command},
};
use raft_store::{Replica, ReplicaOptions, StoreError};

use super::{
    META_SHARD, Node, StopReason, dropping, forgetting, identity::Identity, keeper, machine::QueueMachine,
    membership, renewals, replica_of, retention, shard::DataShard,
};
use crate::{
    meta::{MetaReply, MetaState},
    node::peers_transport::RaftOverPeers,
    peer::{Body, PeerTransport},
};

mod place;

const ASK_EVERY: Duration = Duration::from_millis(200);
const ASK_FOR: Duration = Duration::from_millis(1_000);
/// The catalogue hears of this node's log again when it has grown by so many batches, and no sooner than after this time: an idle
/// cluster writes nothing.
const REGISTER_BATCHES: u64 = 256;
const REGISTER_EVERY_MS: u64 = 60_000;
/// How long a registration waits for the one before; twice as long each time while the catalogue's entry stays as it was.
const REGISTER_PAUSE_MS: std::ops::RangeInclusive<u64> = 1_000..=60_000;
/// Said of a data directory whose parts do not belong together, with what to do.
const MIXED: &str = "parts of different directories were put together. Put back the parts that belong together, or move the \
                     directory away and start the node with an empty one, which the other nodes fill";
/// Data shards per node of a new cluster. Measured: see docs/performance.md.
const SHARDS_PER_NODE: u32 = 1;

/// Brings the node up and follows the catalogue until the node stops.
pub(super) async fn run(node: Node) {
    if let Err(why) = bring_up(&node).await {
        if node.stopping() {
            return; // What is half up falls down; why it stops was said.
        }
        tracing::error!(?why, "the node cannot take part");
        node.stop(why);
    }
}

/// Damaged data condemns the directory; anything else needs a person. Nobody knows which of the parts of two directories belongs here.
fn unusable(error: StoreError) -> StopReason {
    match error {
        StoreError::Corrupt(what) => StopReason::Condemned(what),
        StoreError::Newer(what) => StopReason::Newer(what),
        StoreError::WrongReplica { .. } => StopReason::Refused(format!("{error}: {MIXED}")),
        other => StopReason::Fatal(other.to_string()),
    }
}

fn fatal(error: impl ToString) -> StopReason {
    StopReason::Fatal(error.to_string())
}

async fn bring_up(node: &Node) -> Result<(), StopReason> {
    let known = node.inner.identity.lock().expect("no panic while held").clone();
    let identity = match known {
        Some(identity) => identity,
        None => {
            let Some(identity) = place::find_place(node).await else {
                return Ok(());
            };
            identity.store(&node.inner.disk).map_err(fatal)?;
            *node.inner.identity.lock().expect("no panic while held") = Some(identity.clone());
            identity
        }
    };
    let meta = open_meta(node, &identity).await?;
    tokio::spawn(membership::first_leader(node.clone(), META_SHARD, meta.clone()));
    if identity.incarnation == 1 {
        let members = identity.nodes.keys().map(|&id| (replica_of(id, 1), id)).collect();
        meta.initialize(members).await.map_err(fatal)?;
    }
    tokio::spawn(membership::run(node.clone()));
    tokio::spawn(retention::run(node.clone()));
    tokio::spawn(forgetting::run(node.clone()));
    follow_catalogue(node, &identity).await
}

pub(super) async fn ask_all(node: &Node) -> BTreeMap<u32, StatusResponse> {
    let peers = node
        .inner
        .options
        .initial_cluster
        .keys()
        .copied()
        .filter(|&peer| peer != node.id());
    let question = StatusRequest {
        me: Some(node.describe()),
        fresh: true,
        from: Some(node.hello()),
    };
    let mut answers = ask(&*node.inner.transport, peers, &question, ASK_FOR).await;
    answers.retain(|&peer, answer| {
        let refuses = answer.from.as_ref().filter(|from| from.refused.is_some());
        if let Some(from) = refuses.filter(|from| from.node == peer) {
            node.told(from);
        }
        refuses.is_none()
    });
    answers
}

/// Asks each of these nodes once; what those answered that did so in time.
pub(crate) async fn ask(
    transport: &dyn PeerTransport,
    peers: impl Iterator<Item = u32>,
    question: &StatusRequest,
    within: Duration,
) -> BTreeMap<u32, StatusResponse> {
    let asked = peers.map(|peer| async move {
        match transport.call(peer, Body::Status(question.clone()), within).await {
            Ok(Body::StatusAnswer(answer)) => Some((peer, answer)),
            _ => None,
        }
    });
    futures::future::join_all(asked)
        .await
        .into_iter()
        .flatten()
        .collect()
}

async fn open_meta(node: &Node, identity: &Identity) -> Result<Replica, StopReason> {
    let replica = node
        .inner
        .store
        .open_replica(ReplicaOptions {
            shard: META_SHARD,
            replica: identity.replica(),
            machine: Arc::clone(&node.inner.meta_machine) as _,
            transport: Arc::new(RaftOverPeers::new(node)),
            raft: node.inner.options.raft.clone(),
        })
        .await
        .map_err(unusable)?;
    assert!(
        node.inner.meta_replica.set(replica.clone()).is_ok(),
        "the meta shard is opened once"
    );
    Ok(replica)
}

/// Opens shards, learns addresses and keeps the registration right, as the catalogue changes.
async fn follow_catalogue(node: &Node, identity: &Identity) -> Result<(), StopReason> {
    let mut changes = node.inner.meta_machine.subscribe();
    let mut stop = node.inner.stop.subscribe();
    let mut pace = Pace::default();
    loop {
        let meta = changes.borrow_and_update().clone();
        if let Some(cluster) = meta.cluster().filter(|&cluster| cluster != identity.cluster) {
            return Err(StopReason::Refused(format!(
                "the state in this data directory is of cluster {cluster:016x}, its file NODE of cluster {:016x}: {MIXED}",
                identity.cluster
            )));
        }
        let is_empty = meta.cluster().is_none();
        if is_empty {
            found_cluster(node, identity).await;
        } else {
            open_shards(node, identity, &meta).await?;
            learn_addresses(node, &meta);
            register_self(node, &meta, &mut pace).await;
        }
        tokio::select! {
            biased;
            _ = stop.wait_for(Option::is_some) => return Ok(()),
            changed = changes.changed() => if changed.is_err() { return Ok(()) },
            // Others fill this replica, unless its directory was put back to before it was filled: they say so when asked.
            () = ask_whether_refused(node), if is_empty => {}
            () = tokio::time::sleep(ASK_EVERY), if !is_empty => {}
        }
    }
}

/// Asks the others once, after a while. One that refuses this node's directory stops it.
async fn ask_whether_refused(node: &Node) {
    tokio::time::sleep(ASK_EVERY).await;
    plant!(OldEmptyDirectoryWaits => (), else _ = ask_all(node).await);
}

/// The first leader of the meta shard writes down what the cluster is.
async fn found_cluster(node: &Node, identity: &Identity) {
    if !node.leads(META_SHARD) {
        return;
    }
    let nodes: Vec<_> = identity.nodes.values().cloned().collect();
    let count = node
        .inner
        .options
        .data_shards
        .unwrap_or(SHARDS_PER_NODE * nodes.len() as u32);
    let bootstrap = record::Bootstrap {
        cluster: identity.cluster,
        nodes,
        data_shards: count,
    };
    match node
        .propose_meta(meta_command::Command::Bootstrap(bootstrap))
        .await
    {
        Ok(reply) => tracing::info!(?reply, data_shards = count, "cluster formed"),
        Err(error) => tracing::info!(%error, "forming the cluster is tried again"),
    }
}

async fn open_shards(node: &Node, identity: &Identity, meta: &MetaState) -> Result<(), StopReason> {
    for id in 1..=meta.data_shards() {
        if node.shard(id).is_some() {
            continue;
        }
        let machine = Arc::new(QueueMachine::new(
            identity.replica(),
            Arc::clone(&node.inner.hub),
            Arc::clone(node.clock()),
        ));
        let replica = node
            .inner
            .store
            .open_replica(ReplicaOptions {
                shard: id,
                replica: identity.replica(),
                machine: Arc::clone(&machine) as _,
                transport: Arc::new(RaftOverPeers::new(node)),
                raft: node.inner.options.raft.clone(),
            })
            .await
            .map_err(unusable)?;
        if identity.incarnation == 1 {
            let members = meta
                .initial_nodes()
                .iter()
                .map(|&node| (replica_of(node, 1), node))
                .collect();
            replica.initialize(members).await.map_err(fatal)?;
        }
        let shard = Arc::new(DataShard::new(
            id,
            replica,
            machine,
            Arc::clone(node.clock()),
            node.options().bounds,
        ));
        node.inner
            .shards
            .write()
            .expect("no panic while held")
            .insert(id, Arc::clone(&shard));
        tokio::spawn(membership::first_leader(node.clone(), id, shard.replica.clone()));
        tokio::spawn(dropping::run(node.clone(), Arc::clone(&shard)));
        tokio::spawn(keeper::run(node.clone(), Arc::clone(&shard)));
        tokio::spawn(renewals::run(node.clone(), shard));
    }
    Ok(())
}

fn learn_addresses(node: &Node, meta: &MetaState) {
    let others = meta.nodes().values().filter(|other| other.id != node.id());
    node.inner
        .transport
        .set_peers(others.map(|other| (other.id, other.peer_addr.clone())).collect());
}

/// Whether the catalogue's entry shows this node as it is. How far its log was may be a lie, as everything in there.
fn shows(known: &record::Node, me: &record::Node, lately: bool) -> bool {
    let same = known.peer_addr == me.peer_addr
        && known.client_addr == me.client_addr
        && known.http_addr == me.http_addr
        && known.session == me.session;
    // Told once more after its first batch: a copy from before this life must show less than is registered.
    let told_enough =
        known.synced > me.opened && (lately || me.synced < known.synced.saturating_add(REGISTER_BATCHES));
    same && told_enough
}

/// How often this node registers itself: each time costs every node a write.
#[derive(Default)]
struct Pace {
    tried_ms: u64,
    pause_ms: u64,
    /// The catalogue's entry at the last try.
    seen: Option<record::Node>,
}

impl Pace {
    /// Whether it is time for another try; if so, it counts as made.
    fn may_try(&mut self, entry: &record::Node, now_ms: u64) -> bool {
        let changed = self.seen.as_ref() != Some(entry);
        let pause_ms = if changed {
            *REGISTER_PAUSE_MS.start()
        } else {
            self.pause_ms
        };
        if self.seen.is_some() && now_ms - self.tried_ms < pause_ms {
            return false;
        }
        *self = Pace {
            tried_ms: now_ms,
            pause_ms: if changed { pause_ms } else { pause_ms * 2 }.min(*REGISTER_PAUSE_MS.end()),
            seen: Some(entry.clone()),
        };
        true
    }
}

/// Keeps the catalogue's entry of this node right: where it is, and how far its log was in this life, so that an older state
/// of this directory is known for one also after a restart of all nodes.
async fn register_self(node: &Node, meta: &MetaState, pace: &mut Pace) {
    let now = node.clock().steady_ms();
    let me = node.describe();
    let Some(known) = meta.nodes().get(&me.id) else {
        return;
    };
    let lately = now - pace.tried_ms < REGISTER_EVERY_MS;
    if shows(known, &me, lately) || known.directory != me.directory {
        return;
    }
    if !pace.may_try(known, now) {
        return;
    }
    let registration = record::RegisterNode {
        node: Some(me),
        replaces: 0,
    };
    match node
        .propose_meta(meta_command::Command::RegisterNode(registration))
        .await
    {
        Ok(MetaReply::Refused(refusal)) => {
            tracing::warn!(%refusal, "the catalogue does not take this node's registration")
        }
        Ok(_) => {}
        Err(error) => tracing::info!(%error, "registering this node is tried again"),
    }
}

#[cfg(test)]
mod tests;
