//! What the node knows of its shards, for people.

use std::collections::BTreeMap;

use raft_store::ReplicaStatus;

use super::{ALIVE_FOR_MS, META_SHARD, Node, node_of, replica_of};
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
            .map(|(id, status)| ShardView {
                served: self.is_served(id),
                ..shard_view(id, &status, |replica| self.replica_is_alive(&status, replica))
            })
            .collect()
    }

    /// Whether a replica was heard within seconds. The leader knows it of each; elsewhere a replica lives as long as its node,
    /// with the data directory that it belongs to.
    fn replica_is_alive(&self, status: &ReplicaStatus, replica: u64) -> bool {
        if replica == status.replica {
            return true;
        }
        if status.is_leader {
            return status
                .heard_ms_ago
                .get(&replica)
                .is_some_and(|&ago| ago < ALIVE_FOR_MS);
        }
        let meta = self.meta();
        let known = meta.nodes().get(&node_of(replica));
        let current = known.is_some_and(|known| replica_of(known.id, known.incarnation) == replica);
        current && self.alive_nodes().contains(&node_of(replica))
    }

    /// Who is not talked to, by the node it says it is, with the reason.
    pub fn strangers(&self) -> BTreeMap<u32, String> {
        self.inner.roster.refused(self.clock().steady_ms())
    }
}

fn shard_view(id: u32, status: &ReplicaStatus, alive: impl Fn(u64) -> bool) -> ShardView {
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
            let alive = alive(replica);
            ReplicaView {
                node: node_of(replica),
                alive,
                replica,
                voter,
                matched,
                lag: (status.is_leader && alive)
                    .then(|| matched.map(|matched| last.saturating_sub(matched)))
                    .flatten(),
            }
        })
        .collect();
    ShardView {
        id,
        leader: status.leader.map(node_of),
        served: false,
        term: status.term,
        committed: status.committed.map_or(0, |id| id.index),
        applied: status.applied.map_or(0, |id| id.index),
        replicas,
    }
}
