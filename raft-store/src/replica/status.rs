//! What a replica knows about itself and its shard, as plain numbers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use openraft::{Instant, ServerState, async_runtime::WatchReceiver};

use crate::{
    log_id::LogId,
    types::{Metrics, MetricsReceiver, ServerMetricsReceiver, convert},
};

/// What a replica currently is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Receives entries, does not vote.
    #[default]
    Learner,
    /// Votes, and follows a leader or waits for one.
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads; whether it still has a quorum only [`crate::Replica::barrier`] tells.
    Leader,
}

/// A replica at one moment. Local knowledge: a partitioned replica reports what it last knew.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplicaStatus {
    /// The shard.
    pub shard: u32,
    /// This replica's id.
    pub replica: u64,
    /// What this replica is.
    pub role: Role,
    /// Replica id of the leader, as far as known.
    pub leader: Option<u64>,
    /// Whether this replica leads: `role == Leader`.
    pub is_leader: bool,
    /// On the leader: it has applied an entry of its own term, and so all that earlier leaders have answered. Until then
    /// its state may be an old one.
    pub caught_up: bool,
    /// The current term.
    pub term: u64,
    /// Index of the last entry in this replica's log.
    pub last_log: Option<u64>,
    /// Last entry this replica knows to be committed and has itself.
    pub committed: Option<LogId>,
    /// Last entry applied to the state.
    pub applied: Option<LogId>,
    /// Last entry this replica can no longer send to others from its log.
    pub purged: Option<LogId>,
    /// The voters: one set, or two while a change of voters is under way.
    pub voters: Vec<BTreeSet<u64>>,
    /// Replicas that receive entries without voting.
    pub learners: BTreeSet<u64>,
    /// Node of every voter and learner.
    pub nodes: BTreeMap<u64, u32>,
    /// On the leader: index up to which each replica is known to have the log. A replica that was
    /// not heard of yet has none.
    pub replication: BTreeMap<u64, Option<u64>>,
    /// On the leader: milliseconds since a message was sent that each replica has answered, when this status was asked for.
    /// One that has answered nothing yet is not in it.
    pub heard_ms_ago: BTreeMap<u64, u64>,
    /// On the leader: milliseconds since a quorum last confirmed it, when this status was asked for.
    pub quorum_acked_ms_ago: Option<u64>,
    /// Whether the membership shown is committed.
    pub membership_committed: bool,
    /// Why the replica has stopped for good, if it has.
    pub stopped: Option<String>,
}

impl ReplicaStatus {
    pub(super) fn of(shard: u32, metrics: &Metrics) -> Self {
        let membership = metrics.membership_config.membership();
        let role = match metrics.state {
            ServerState::Leader => Role::Leader,
            ServerState::Candidate => Role::Candidate,
            ServerState::Follower => Role::Follower,
            ServerState::Learner | ServerState::Shutdown => Role::Learner,
        };
        let replication = metrics.replication.iter().flatten();
        let applied = metrics.last_applied.as_ref().map(convert::from_raft);
        let own = |at: LogId| at.term == metrics.current_term && at.node == metrics.id;
        Self {
            shard,
            replica: metrics.id,
            role,
            leader: metrics.current_leader,
            is_leader: role == Role::Leader,
            caught_up: role == Role::Leader && applied.is_some_and(own),
            term: metrics.current_term,
            last_log: metrics.last_log_index,
            committed: metrics.local_committed.as_ref().map(convert::from_raft),
            applied,
            purged: metrics.purged.as_ref().map(convert::from_raft),
            voters: membership.get_joint_config().clone(),
            learners: membership.learner_ids().collect(),
            nodes: membership
                .nodes()
                .map(|(replica, member)| (*replica, member.node))
                .collect(),
            replication: replication
                .map(|(id, matched)| (*id, matched.as_ref().map(|id| id.index)))
                .collect(),
            heard_ms_ago: metrics
                .heartbeat
                .iter()
                .flatten()
                .filter_map(|(id, at)| Some((*id, millis((*at)?.into_inner().elapsed()))))
                .collect(),
            quorum_acked_ms_ago: metrics
                .last_quorum_acked
                .map(|at| millis(at.into_inner().elapsed())),
            membership_committed: metrics.membership_config == metrics.committed_membership_config,
            stopped: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    }
}

/// Follows what a replica is: its role, leader, term and members. Not woken by every entry.
pub struct StatusWatch {
    pub(super) shard: u32,
    pub(super) metrics: MetricsReceiver,
    pub(super) server: ServerMetricsReceiver,
}

impl StatusWatch {
    /// Waits until role, leader, term or membership have changed since they were last seen. `false` when the replica
    /// has stopped.
    pub async fn changed(&mut self) -> bool {
        self.server.changed().await.is_ok()
    }

    /// Waits until anything has changed, also what is applied. `false` when the replica has stopped.
    pub async fn progressed(&mut self) -> bool {
        self.metrics.changed().await.is_ok()
    }

    /// The status now, which counts as seen.
    pub fn current(&mut self) -> ReplicaStatus {
        let server = self.server.borrow_and_update().clone();
        let metrics = {
            let metrics = self.metrics.borrow_watched();
            // Of the two, openraft publishes the one that is waited for first.
            Metrics {
                current_term: metrics.current_term.max(server.vote.leader_id.term),
                state: server.state,
                current_leader: server.current_leader,
                membership_config: server.membership_config,
                committed_membership_config: server.committed_membership_config,
                ..metrics.clone()
            }
        };
        ReplicaStatus::of(self.shard, &metrics)
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}
