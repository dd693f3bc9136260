//! What the node knows of its shards, for people.

use std::collections::BTreeMap;

use raft_store::ReplicaStatus;

use super::{META_SHARD, Node, node_of};
use crate::views::{ReplicaView, ShardView};

impl Node {
    /// What the replicas here report, the meta shard's first.
    pub fn statuses(&self) -> Vec<(u32, ReplicaStatus)> {
        let meta = self.meta_replica().map(|replica| (META_SHARD, replica.status()));
        let shards = self.shards();
        let data = shards.iter().map(|shard| (shard.id, shard.replica.status()));
        meta.into_iter().chain(data).collect()
    }

    /// The same with every shard's replicas.
    pub fn shard_views(&self) -> Vec<ShardView> {
        self.statuses()
            .into_iter()
            .map(|(id, status)| shard_view(id, &status))
            .collect()
    }
}

fn shard_view(id: u32, status: &ReplicaStatus) -> ShardView {
    let members: BTreeMap<u64, bool> = status
        .learners
        .iter()
        .map(|&learner| (learner, false))
        .chain(status.voters.iter().flatten().map(|&voter| (voter, true)))
        .collect();
    let last = status.last_log.unwrap_or(0);
    let replicas = members
        .into_iter()
        .map(|(replica, voter)| {
            let own = (replica == status.replica).then_some(status.last_log).flatten();
            let matched = own.or_else(|| status.replication.get(&replica).copied().flatten());
            ReplicaView {
                node: node_of(replica),
                replica,
                voter,
                matched,
                lag: status
                    .is_leader
                    .then(|| matched.map(|matched| last.saturating_sub(matched)))
                    .flatten(),
            }
        })
        .collect();
    ShardView {
        id,
        leader: status.leader.map(node_of),
        term: status.term,
        committed: status.committed.map_or(0, |id| id.index),
        applied: status.applied.map_or(0, |id| id.index),
        replicas,
    }
}
