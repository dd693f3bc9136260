//! A life of the broker process on a machine.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use broker::{
    node::{Node, NodeError, NodeOptions, StopReason, meeting::Greeting},
    peer::{HelloSource, PROTOCOL_VERSION, PeerTransport},
    service::Service,
};
use flotilla_proto::peer::Hello;
use madsim::rand::{Rng, thread_rng};
use raft_store::{RaftOptions, StoreError, StoreOptions};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tracing::debug;

use super::{
    Hardware, client_addr, lock, peer_addr,
    ports::{Front, Witness},
    power::Supply,
};
use crate::{
    clock::{SimClock, WallClock},
    coverage::Coverage,
    disk::{PoweredEngine, TracedDisk},
    harm::Chart,
    history::History,
    oracle::votes::Votes,
    peers::{Disorder, SimTransport, serve},
    plan::Plan,
    trace::Trace,
};

/// How long a supervisor waits before it starts a process again that has exited.
const SUPERVISOR_WAITS: Duration = Duration::from_millis(500);
/// What a node says that found no space to start in.
const NO_ROOM: &str = "disk is full";
/// As `flotilla serve` has it: then the process ends with what it still leads.
pub const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(15);

/// Which cluster a process belongs to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Guise {
    /// The one of this world.
    #[default]
    Own,
    /// Another, which it is about to form alone.
    Founder,
    /// Another, though it was started with the addresses of this one.
    Visitor,
}

/// What a life of the broker process is made of.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) id: u32,
    pub(super) supply: Supply,
    pub(super) coverage: Coverage,
    pub(super) plan: Plan,
    pub(super) hardware: Arc<Mutex<Hardware>>,
    pub(super) running: Arc<Mutex<Option<Arc<Service>>>>,
    pub(super) wall: WallClock,
    pub(super) guise: Arc<Mutex<Guise>>,
    /// Rung when it is to stop; a new one for each life.
    pub(super) told_to_leave: Arc<Mutex<Arc<Notify>>>,
    /// What runs here in the guise of another cluster's node.
    pub(super) visitor: Arc<Mutex<Option<Node>>>,
    /// Why it ended by itself the last time.
    pub(super) last_words: Arc<Mutex<String>>,
    pub(super) may_stop: Arc<AtomicBool>,
    pub(super) damaged: Arc<AtomicBool>,
    /// What the machine does to it.
    pub(super) chart: Chart,
    pub(super) condemned: Arc<AtomicBool>,
    pub(super) exited: Arc<AtomicBool>,
    /// Given by its replicas, in all lives.
    pub(super) votes: Votes,
    pub(super) history: History,
    pub(super) disorder: Disorder,
    pub(super) trace: Trace,
}

/// Why a life ended by itself.
enum End {
    /// It found out that its data is damaged.
    Damage(String),
    /// Anything else.
    Failure(String),
}

impl Process {
    pub(super) async fn run(self) {
        let met_sectors = || lock(&self.hardware).disk.counts().met_sectors;
        let before = met_sectors();
        let (why, excused) = match self.live().await {
            Ok(()) => (String::new(), true),
            Err(End::Failure(why)) => {
                // A write that met a sector which cannot be read: what is damaged there the next start finds.
                let met = met_sectors() > before;
                if met {
                    self.supply.await_start();
                }
                (why, met || self.may_stop.load(Ordering::SeqCst))
            }
            Err(End::Damage(why)) => {
                self.condemned.store(true, Ordering::SeqCst);
                (why, self.damaged.load(Ordering::SeqCst))
            }
        };
        debug!(node = self.id, why, excused, "stopped by itself");
        if !excused {
            self.history
                .broken(format!("P11: node {} stopped by itself: {why}", self.id));
        }
        *lock(&self.running) = None;
        *lock(&self.last_words) = why;
        self.exited.store(true, Ordering::SeqCst);
    }

    /// A node, or nothing if there is no space to start in.
    async fn start(&self, hello: HelloSource) -> Result<Option<Node>, End> {
        let transport = SimTransport::new(hello, self.disorder.clone(), self.trace.clone());
        let (disk, engine) = {
            let hardware = lock(&self.hardware);
            (hardware.disk.mount(), hardware.engine.mount())
        };
        let power = &self.supply.power;
        power.back();
        let of_machine = (power.clone(), self.chart.clone());
        let disk = TracedDisk::new(disk, self.id.into(), of_machine, self.trace.clone());
        let engine = Arc::new(PoweredEngine::new(engine, power.clone(), self.chart.clone()));
        let started = Node::start(
            self.options(),
            Arc::new(disk),
            engine,
            transport as Arc<dyn PeerTransport>,
            Arc::new(SimClock::new(
                self.id.into(),
                self.wall.clone(),
                self.trace.clone(),
            )),
        );
        match started.await {
            Ok(node) => Ok(Some(node)),
            Err(NodeError::Store(StoreError::Corrupt(what)) | NodeError::Refused(what)) => {
                Err(End::Damage(what))
            }
            Err(NodeError::Identity(error)) if error.kind() == io::ErrorKind::InvalidData => {
                Err(End::Damage(error.to_string()))
            }
            Err(error) if error.to_string().contains(NO_ROOM) => Ok(None),
            Err(error) => Err(End::Failure(format!("it cannot start: {error}"))),
        }
    }

    async fn live(&self) -> Result<(), End> {
        let me = Greeting::new(self.id);
        let hello: HelloSource = me.clone();
        // A node that cannot start for want of space exits, and its supervisor starts it again.
        let node = loop {
            match self.start(hello.clone()).await? {
                Some(node) => break node,
                None => sleep(SUPERVISOR_WAITS).await,
            }
        };
        me.is(&node);
        let service = Arc::new(Service::new(node.clone()));
        self.open_ports(&node, &service, hello);
        let told_to_leave = lock(&self.told_to_leave).clone();
        let reason = tokio::select! {
            biased;
            reason = node.wait_stopped() => reason,
            () = told_to_leave.notified() => {
                let _ = timeout(HAND_OVER_TIMEOUT, node.shutdown()).await;
                StopReason::Shutdown
            }
        };
        match reason {
            StopReason::Shutdown => Ok(()),
            // Its disk has lost something: peers have seen more of it.
            StopReason::Condemned(what) | StopReason::GivenUp(what) | StopReason::Refused(what) => {
                Err(End::Damage(what))
            }
            StopReason::Fatal(what) | StopReason::Newer(what) => Err(End::Failure(what)),
        }
    }

    /// From now on others can talk to it.
    fn open_ports(&self, node: &Node, service: &Arc<Service>, hello: HelloSource) {
        let guise = *lock(&self.guise);
        // What another cluster's node votes for is its own affair.
        let votes = match guise {
            Guise::Own => self.votes.clone(),
            Guise::Founder | Guise::Visitor => Votes::default(),
        };
        votes.new_life();
        tokio::spawn(serve(
            peer_addr(self.id),
            hello,
            Arc::new(Witness {
                node: node.clone(),
                votes,
                chart: self.chart.clone(),
                history: self.history.clone(),
            }),
            self.trace.clone(),
        ));
        if guise != Guise::Own {
            *lock(&self.visitor) = Some(node.clone());
            return;
        }
        // Clients have no cluster, and are talked to by whoever is there.
        let id = self.id;
        tokio::spawn(serve(
            client_addr(self.id),
            Arc::new(move || Hello {
                version: PROTOCOL_VERSION,
                node: id,
                ..Hello::default()
            }),
            Arc::new(Front {
                service: service.clone(),
            }),
            self.trace.clone(),
        ));
        *lock(&self.running) = Some(service.clone());
    }

    fn options(&self) -> NodeOptions {
        let plan = &self.plan;
        let alone = *lock(&self.guise) == Guise::Founder;
        let initial_cluster: BTreeMap<u32, String> = (1..=plan.nodes)
            .filter(|node| !alone || *node == self.id)
            .map(|node| (node, peer_addr(node).to_string()))
            .collect();
        NodeOptions {
            node_id: self.id,
            initial_cluster,
            data_shards: Some(plan.shards),
            peer_addr: peer_addr(self.id).to_string(),
            client_addr: client_addr(self.id).to_string(),
            http_addr: String::new(),
            auto_create_topics: true,
            auto_create_groups: true,
            default_queues: plan.queues,
            retention: plan.limits.retention,
            retention_bytes: plan.limits.retention_bytes,
            max_delay: broker::limits::MAX_DELAY,
            transactions: plan.transaction_rules,
            renew_at_most: plan.renew_at_most,
            raft: RaftOptions {
                append_entries: plan.limits.append_entries,
                ..RaftOptions::default()
            },
            bounds: plan.limits.bounds,
            store: StoreOptions {
                // Small, so that segments roll over and the state is flushed within a short run.
                segment_bytes: plan.segment_bytes,
                cache_bytes: plan.limits.cache_bytes,
                flush_every_bytes: plan.flush_bytes,
                flush_every: plan.limits.flush_every,
                snapshot_piece_bytes: plan.limits.snapshot_piece_bytes,
                ..StoreOptions::new(thread_rng().gen_range(1..=u64::MAX))
            },
        }
    }
}
