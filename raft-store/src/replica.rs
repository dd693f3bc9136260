//! One shard's replica on this node: the only handle the broker holds on consensus.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use flotilla_proto::peer::{RaftRequest, RaftResponse};
use openraft::{ReadPolicy, async_runtime::WatchReceiver, errors::ClientWriteError};
use tokio::sync::mpsc;

use crate::{
    health::Health,
    limits::{MAX_APPEND_ENTRIES, MAX_PAYLOAD_BYTES},
    log::{NodeLog, ReadError},
    log_id::LogId,
    machine::{Applied, Machine, StateRead},
    record::{Kind, Record, RecordHead},
    runtime::in_order,
    snapshot::{Inbox, Snapshots},
    state::ShardState,
    storage::StateMachine,
    store::WeakStore,
    transport::Transport,
    types::{Data, Fatal, RaftLogId, Responder, TypeConfig, convert},
};

mod change;
mod error;
mod inbound;
mod open;
mod purge;
mod repair;
mod status;

pub use error::{BarrierError, ChangeError, PayloadError, ProposeError, PurgeError};
pub(crate) use open::{Shared, open};
pub(crate) use repair::Repairs;
pub use status::{ReplicaStatus, Role, StatusWatch};

/// Times of the consensus protocol. All replicas of a cluster should agree on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftOptions {
    /// How often a leader shows that it lives.
    pub heartbeat: Duration,
    /// Shortest silence after which a follower stands for election.
    pub election_min: Duration,
    /// Longest such silence; also how long followers keep faith in a leader they have heard.
    pub election_max: Duration,
    /// How long an append may wait for its answer.
    pub append_ttl: Duration,
    /// How long a chunk of a snapshot may wait for its answer.
    pub snapshot_ttl: Duration,
    /// Entries of one append message.
    pub append_entries: u64,
}

impl Default for RaftOptions {
    /// A leader that dies is missed after `election_max` at the latest, and replaced within the next election timeout:
    /// under two seconds, with room for a slow vote.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(150),
            election_min: Duration::from_millis(600),
            election_max: Duration::from_millis(900),
            append_ttl: Duration::from_secs(2),
            snapshot_ttl: Duration::from_secs(10),
            append_entries: MAX_APPEND_ENTRIES,
        }
    }
}

/// What [`crate::Store::open_replica`] needs to know.
pub struct ReplicaOptions {
    /// The shard; unique within the node.
    pub shard: u32,
    /// Id of this replica: node id << 16 | incarnation. Never used again after its data was lost.
    pub replica: u64,
    /// What the shard replicates for.
    pub machine: Arc<dyn Machine>,
    /// The way to the other replicas.
    pub transport: Arc<dyn Transport>,
    /// Times.
    pub raft: RaftOptions,
}

type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// A replica. Cheap to clone; all clones are the same replica.
#[derive(Clone)]
pub struct Replica {
    inner: Arc<Inner>,
}

struct Inner {
    shard: u32,
    replica: u64,
    options: RaftOptions,
    raft: Raft,
    state: Arc<ShardState>,
    machine: Arc<dyn Machine>,
    log: NodeLog,
    health: Health,
    store: WeakStore,
    /// Appends of other replicas, in the order they came.
    appends: mpsc::Sender<inbound::Append>,
    inbox: tokio::sync::Mutex<Inbox>,
    snapshots: Arc<Snapshots>,
    repairs: Arc<Repairs>,
    /// What of the state is known to survive a crash.
    flushed: Mutex<Option<RaftLogId>>,
    /// Ends when nothing is done to the state any more.
    work: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

impl Replica {
    /// The shard.
    pub fn shard(&self) -> u32 {
        self.inner.shard
    }

    /// This replica's id.
    pub fn id(&self) -> u64 {
        self.inner.replica
    }

    /// Replicates `payload` and answers once this replica has applied it. Many calls may be under way; their entries
    /// stand in the log in the order in which the calls were first polled.
    pub async fn propose(&self, payload: Bytes) -> Result<Applied, ProposeError> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(ProposeError::TooLarge(payload.len()));
        }
        if self.inner.log.is_stuck() {
            return Err(ProposeError::NoRoom);
        }
        let (responder, answer) = Responder::pair();
        let proposed = self.inner.raft.client_write_ff(Data(payload), Some(responder));
        in_order(proposed).await.map_err(|fatal| self.stopped(&fatal))?;
        match answer.await {
            Ok(Ok(response)) => Ok(response.data),
            Ok(Err(ClientWriteError::ForwardToLeader(forward))) => Err(ProposeError::NotLeader {
                leader: forward.leader_id,
            }),
            Ok(Err(ClientWriteError::LogEntryDiscarded(forward))) => Err(ProposeError::Unknown {
                leader: forward.leader_id,
            }),
            Ok(Err(error)) => Err(ProposeError::Stopped(error.to_string())),
            // Nobody will answer: the replica has stopped, or got past the entry by a snapshot.
            Err(_) => match self.status().stopped {
                Some(reason) => Err(ProposeError::Stopped(reason)),
                None => Err(ProposeError::Unknown {
                    leader: self.status().leader,
                }),
            },
        }
    }

    /// A linearizable read point: returns when this replica was confirmed as leader after the call began, and has
    /// applied everything committed before. The index of the last entry that any replica must have applied to show as
    /// much.
    pub async fn barrier(&self) -> Result<u64, BarrierError> {
        use openraft::errors::{LinearizableReadError as Refused, RaftError};
        let confirmed = self.inner.raft.ensure_linearizable(ReadPolicy::ReadIndex);
        // A leader without a quorum would be waiting for the partition to heal.
        match tokio::time::timeout(self.inner.options.election_max, confirmed).await {
            Err(_) => Err(BarrierError::NoQuorum),
            Ok(Ok(read_at)) => Ok(read_at.index()),
            Ok(Err(RaftError::APIError(Refused::ForwardToLeader(forward)))) => Err(BarrierError::NotLeader {
                leader: forward.leader_id,
            }),
            Ok(Err(RaftError::APIError(Refused::QuorumNotEnough(_)))) => Err(BarrierError::NoQuorum),
            Ok(Err(RaftError::Fatal(fatal))) => Err(BarrierError::Stopped(self.reason(&fatal))),
        }
    }

    /// Waits until this replica, leader or not, has applied the entry at `index`. `false` when it has stopped.
    pub async fn wait_applied(&self, index: u64) -> bool {
        let mut metrics = self.inner.raft.metrics();
        loop {
            let applied = metrics
                .borrow_watched()
                .last_applied
                .as_ref()
                .map(|id| id.index());
            if applied >= Some(index) {
                return true;
            }
            if metrics.changed().await.is_err() {
                return false;
            }
        }
    }

    /// The status now.
    pub fn status(&self) -> ReplicaStatus {
        ReplicaStatus::of(self.inner.shard, &self.inner.raft.metrics().borrow_watched())
    }

    /// A watch on what the replica is.
    pub fn subscribe(&self) -> StatusWatch {
        let raft = &self.inner.raft;
        StatusWatch {
            shard: self.inner.shard,
            metrics: raft.metrics(),
            server: raft.server_metrics(),
        }
    }

    /// Asks voter `to` to take over. Returns once the request is made; watch the status for the outcome. Until then
    /// this replica takes no proposals.
    pub async fn transfer_leader(&self, to: u64) -> Result<(), ProposeError> {
        let status = self.status();
        if !status.is_leader {
            return Err(ProposeError::NotLeader {
                leader: status.leader,
            });
        }
        if to == self.id() {
            // It would wait for itself, without a heartbeat, until others elect somebody.
            return Ok(());
        }
        self.inner
            .raft
            .trigger()
            .transfer_leader(to)
            .await
            .map_err(|fatal| self.stopped(&fatal))
    }

    /// Stands for election now, if a quorum has no leader either (pre-vote): a leader that lives is not disturbed.
    pub async fn campaign(&self) -> Result<(), ProposeError> {
        self.inner
            .raft
            .trigger()
            .elect(true)
            .await
            .map_err(|fatal| self.stopped(&fatal))
    }

    /// True if the payload of the entry at `index` is in memory: reading it does not block.
    pub fn is_recent(&self, index: u64) -> bool {
        self.inner.log.is_recent(self.inner.shard, index)
    }

    /// The payload of the entry at `index`, from memory or disk; also one that was purged, as long as its segment
    /// exists. Blocks on the disk for old entries.
    pub fn read_payload(&self, index: u64) -> Result<Bytes, PayloadError> {
        let record = self
            .inner
            .log
            .read_record(self.inner.shard, index)
            .map_err(|error| match error {
                ReadError::NotFound { .. } => PayloadError::NotFound(index),
                ReadError::Corrupt { .. } => {
                    self.inner.health.damages.note(&error);
                    PayloadError::Damaged(index)
                }
                ReadError::Io { .. } | ReadError::Newer { .. } => {
                    PayloadError::Io(self.inner.health.read(error).to_string())
                }
            })?;
        let head = RecordHead::parse(&record).map_err(|e| PayloadError::Corrupt(e.to_string()))?;
        let view = Record::view(head, &record);
        match view.kind {
            Kind::Normal => Ok(view.payload),
            _ => Err(PayloadError::NoPayload(index)),
        }
    }

    /// Tries to repair the record at `index` with another replica's. Whether it can be read now, or is not here any more.
    pub async fn repair(&self, index: u64) -> bool {
        self.inner.repairs.mend(index).await
    }

    /// Reads the state of the entries applied so far: between two batches, never in the middle of one. Entries wait
    /// while `read` runs. Locks of the machine must be taken inside of it, not around it: applying takes them in
    /// that order. Calls must not be nested.
    pub fn read_state<R>(&self, read: impl FnOnce(&dyn StateRead) -> R) -> R {
        self.read_state_at(|_, state| read(state))
    }

    /// Like [`Self::read_state`], with the last entry that the state has in it. The status may not know of it yet.
    pub fn read_state_at<R>(&self, read: impl FnOnce(Option<LogId>, &dyn StateRead) -> R) -> R {
        self.inner
            .state
            .with_read(|state, standing| read(standing.applied.as_ref().map(convert::from_raft), state))
    }

    /// Answers a message of another replica. What order matters for is queued during this call, before the future is
    /// polled: call it in the order of arrival, await the futures as you like.
    pub fn handle(&self, request: RaftRequest) -> impl Future<Output = RaftResponse> + Send + 'static {
        inbound::handle(self.inner.clone(), request)
    }

    /// Gives up log entries up to `index`: their segments can be recycled, and replicas that still lack them get a
    /// snapshot. Never goes past what is applied and flushed here. Returns when openraft has let go of them.
    pub async fn purge_to(&self, index: u64) -> Result<(), PurgeError> {
        purge::purge_to(self, index).await
    }

    /// Stops the replica; nothing is flushed. Later calls answer `Stopped`.
    pub async fn shutdown(&self) {
        self.inner.repairs.close();
        let _ = self.inner.raft.shutdown().await;
        // Nobody sends anything: it is over when the senders are gone.
        while self.inner.work.lock().await.recv().await.is_some() {}
        self.inner.store.forget(self);
    }

    /// The oldest entry that the state refers to, or that a snapshot under way needs.
    pub(crate) fn oldest_needed(&self) -> Result<u64, crate::engine::EngineError> {
        // In this order: a hold that has ended by now has left its records to the state.
        let held = self.inner.snapshots.held();
        let (oldest, applied) = self.inner.state.with_read(|state, standing| {
            let oldest = self.inner.machine.oldest_live_index(state);
            (oldest, standing.applied)
        });
        // What is not applied yet the state will refer to as soon as it is, which may be before anything is given up.
        let next = applied.map_or(0, |applied| applied.index + 1);
        let next = plant!(UnappliedIsUnneeded => u64::MAX, else next);
        Ok(oldest?
            .into_iter()
            .chain(held)
            .min()
            .map_or(next, |oldest| oldest.min(next)))
    }

    /// Gives up what nobody has needed for a while.
    pub(crate) fn tidy(&self) {
        self.inner.snapshots.tidy();
        if let Ok(mut inbox) = self.inner.inbox.try_lock() {
            inbox.tidy();
        }
    }

    pub(crate) fn applied(&self) -> Option<RaftLogId> {
        self.inner.state.applied()
    }

    pub(crate) fn set_flushed(&self, upto: Option<RaftLogId>) {
        let mut flushed = self.inner.flushed.lock().unwrap_or_else(PoisonError::into_inner);
        *flushed = (*flushed).max(upto);
    }

    /// The index of the last applied entry that counts as flushed: what no crash takes from the state, and the log may give up.
    pub fn flushed_index(&self) -> Option<u64> {
        self.flushed().map(|id| id.index)
    }

    pub(crate) fn flushed(&self) -> Option<RaftLogId> {
        *self.inner.flushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is(&self, other: &Replica) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    fn stopped(&self, fatal: &Fatal) -> ProposeError {
        ProposeError::Stopped(self.reason(fatal))
    }

    /// Why the replica has stopped: the store's reason is the better one, if it has any.
    fn reason(&self, fatal: &Fatal) -> String {
        self.inner
            .health
            .stopped()
            .map_or_else(|| fatal.to_string(), |cause| cause.to_string())
    }
}

/// Members as openraft wants them.
fn members(members: BTreeMap<u64, u32>) -> BTreeMap<u64, crate::types::Member> {
    members
        .into_iter()
        .map(|(replica, node)| (replica, crate::types::Member { node }))
        .collect()
}
