//! One shard's replica on this node: the only handle the broker holds on consensus.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use flotilla_proto::peer::{RaftRequest, RaftResponse};

use crate::{
    machine::{Applied, Machine, StateRead},
    transport::Transport,
};

mod error;
mod status;

pub use error::{BarrierError, ChangeError, PayloadError, ProposeError};
pub use status::{ReplicaStatus, Role};

/// Times of the consensus protocol. All replicas of a cluster should agree on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftOptions {
    /// How often a leader shows that it lives.
    pub heartbeat: Duration,
    /// Shortest silence after which a follower stands for election.
    pub election_min: Duration,
    /// Longest such silence; also how long followers keep faith in a leader they have heard.
    pub election_max: Duration,
}

impl Default for RaftOptions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(150),
            election_min: Duration::from_millis(600),
            election_max: Duration::from_millis(900),
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

/// A replica. Cheap to clone; all clones are the same replica.
#[derive(Clone)]
pub struct Replica {
    inner: Arc<Inner>,
}

struct Inner {
    shard: u32,
    replica: u64,
}

/// Follows a replica's status.
pub struct StatusWatch {
    inner: Arc<Inner>,
}

impl StatusWatch {
    /// Waits until the status differs from what was seen last. `false` when the replica has stopped.
    pub async fn changed(&mut self) -> bool {
        let _ = &self.inner;
        todo!()
    }

    /// The status now.
    pub fn current(&mut self) -> ReplicaStatus {
        todo!()
    }
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

    /// Founds the shard with these voters (replica id to node id), this replica among them. Every founding replica may
    /// call it, with the same members; a replica that already has a membership or a log leaves it as it is.
    pub async fn initialize(&self, members: BTreeMap<u64, u32>) -> Result<(), ChangeError> {
        let _ = members;
        todo!()
    }

    /// Replicates `payload` and answers once this replica has applied it. Many calls may be under way; their entries
    /// stand in the log in the order in which the calls were first polled.
    pub async fn propose(&self, payload: Bytes) -> Result<Applied, ProposeError> {
        let _ = payload;
        todo!()
    }

    /// A linearizable read point: returns when this replica was confirmed as leader after the call began, and has
    /// applied everything committed before.
    pub async fn barrier(&self) -> Result<(), BarrierError> {
        todo!()
    }

    /// The status now.
    pub fn status(&self) -> ReplicaStatus {
        todo!()
    }

    /// A watch on the status.
    pub fn subscribe(&self) -> StatusWatch {
        todo!()
    }

    /// Adds a replica that receives the log without voting. Returns when that is committed, before it has caught up.
    pub async fn add_learner(&self, replica: u64, node: u32) -> Result<(), ChangeError> {
        let _ = (replica, node);
        todo!()
    }

    /// Replaces the voters. New ones must be learners that have caught up; removed ones leave the shard altogether.
    /// Returns when the change is committed.
    pub async fn change_voters(&self, voters: BTreeSet<u64>) -> Result<(), ChangeError> {
        let _ = voters;
        todo!()
    }

    /// Removes learners from the shard.
    pub async fn remove_learners(&self, learners: BTreeSet<u64>) -> Result<(), ChangeError> {
        let _ = learners;
        todo!()
    }

    /// Asks voter `to` to take over. Returns once the request is made; watch the status for the outcome.
    pub async fn transfer_leader(&self, to: u64) -> Result<(), ProposeError> {
        let _ = to;
        todo!()
    }

    /// Stands for election now.
    pub async fn campaign(&self) -> Result<(), ProposeError> {
        todo!()
    }

    /// The payload of the entry at `index`, from memory or disk. Blocks on the disk for old entries.
    pub fn read_payload(&self, index: u64) -> Result<Bytes, PayloadError> {
        let _ = index;
        todo!()
    }

    /// Reads the state of the entries applied so far, consistent for the whole of `read`.
    pub fn read_state<R>(&self, read: impl FnOnce(&dyn StateRead) -> R) -> R {
        let _ = read;
        todo!()
    }

    /// Answers a message of another replica. What order matters for is queued during this call, before the future is
    /// polled: call it in the order of arrival, await the futures as you like.
    pub fn handle(&self, request: RaftRequest) -> impl Future<Output = RaftResponse> + Send + 'static {
        let _ = request;
        async { todo!() }
    }

    /// Gives up log entries up to `index`: they can be recycled, and replicas that still lack them get a snapshot.
    /// Never goes past what is applied and flushed here.
    pub async fn purge_to(&self, index: u64) -> Result<(), ProposeError> {
        let _ = index;
        todo!()
    }

    /// Stops the replica; nothing is flushed. Later calls answer `Stopped`.
    pub async fn shutdown(&self) {
        todo!()
    }
}
