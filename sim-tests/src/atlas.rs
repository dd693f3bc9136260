//! What may be broken now. The atlas forbids only what no design could survive: never more copies of a record are destroyed
//! at the same time than a majority can do without, so that every loss is a bug.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use broker::node::Node;
use raft_store::ReplicaStatus;

use crate::{
    host::Host,
    oracle::cluster::{replicas, shards},
};

/// The damage of one world. Clones are the same atlas.
#[derive(Clone, Default)]
pub struct Atlas(Arc<Mutex<Damage>>);

#[derive(Default)]
struct Damage {
    /// Nodes that lost or may have lost what they had stored, and have not been filled again.
    forgetful: BTreeSet<u32>,
    /// Nodes that some fault holds: it will let them go.
    held: BTreeSet<u32>,
}

/// A node is somebody's to play with until this is dropped.
pub struct Hold {
    atlas: Atlas,
    node: u32,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.atlas.damage().held.remove(&self.node);
    }
}

impl Atlas {
    /// Takes a node for a fault that stops or restarts it, so that two faults do not start one node twice.
    #[must_use]
    pub fn hold(&self, node: u32) -> Option<Hold> {
        self.damage().held.insert(node).then(|| Hold {
            atlas: self.clone(),
            node,
        })
    }

    /// Whether what a node has stored may be destroyed now; if so, it counts as destroyed until it is filled again.
    ///
    /// What is committed is on a majority, so nodes that are fewer than one may lose everything at any moment: others may be
    /// behind, down or cut off. The same node may lose it again and again.
    #[must_use]
    pub fn may_forget(&self, node: u32, hosts: &[Host]) -> bool {
        let mut damage = self.damage();
        damage.see(hosts);
        let others = damage.forgetful.iter().filter(|other| **other != node).count();
        let allowed = others < (hosts.len() - 1) / 2;
        if allowed {
            damage.forgetful.insert(node);
        }
        allowed
    }

    /// The same for a node that may not know of its loss, and go on as if it had what it promised to have. Until others find it
    /// out it counts in majorities, so nobody else may be without anything that is committed.
    #[must_use]
    pub fn may_forget_unawares(&self, node: u32, hosts: &[Host]) -> bool {
        whole(hosts) && self.may_forget(node, hosts)
    }

    fn damage(&self) -> MutexGuard<'_, Damage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Damage {
    /// Who was filled again has lost nothing, unless there is damage on it that may cost it everything yet.
    fn see(&mut self, hosts: &[Host]) {
        if self.forgetful.is_empty() {
            return;
        }
        let leaders = leaders(hosts);
        let is_well = |host: &Host| {
            !host.damaged() && !host.condemned() && host.node().is_some_and(|node| is_filled(&node, &leaders))
        };
        let well: BTreeSet<u32> = hosts
            .iter()
            .filter(|host| is_well(host))
            .map(|host| host.id)
            .collect();
        self.forgive(&well);
    }

    /// Not those that a fault holds: it may destroy later what it was allowed to.
    fn forgive(&mut self, well: &BTreeSet<u32>) {
        let Damage { forgetful, held } = self;
        forgetful.retain(|node| held.contains(node) || !well.contains(node));
    }
}

/// What the leader of each shard says, the newest if there are two.
fn leaders(hosts: &[Host]) -> BTreeMap<u32, ReplicaStatus> {
    let mut all: BTreeMap<u32, ReplicaStatus> = BTreeMap::new();
    let nodes = hosts.iter().filter_map(Host::node);
    let statuses = nodes
        .flat_map(|node| replicas(&node))
        .map(|replica| replica.status());
    for status in statuses.filter(|status| status.is_leader) {
        if all
            .get(&status.shard)
            .is_none_or(|other| other.term < status.term)
        {
            all.insert(status.shard, status);
        }
    }
    all
}

/// The replicas of its present disk vote in every shard, and have everything that their leader knows to be committed.
fn is_filled(node: &Node, leaders: &BTreeMap<u32, ReplicaStatus>) -> bool {
    let here: BTreeMap<u32, u64> = replicas(node)
        .iter()
        .map(|replica| (replica.shard(), replica.id()))
        .collect();
    node.ready().is_ok()
        && shards(node).all(|shard| {
            let (Some(replica), Some(leader)) = (here.get(&shard), leaders.get(&shard)) else {
                return false;
            };
            leader.membership_committed
                && leader.voters.iter().all(|voters| voters.contains(replica))
                && has_all(*replica, leader)
        })
}

fn has_all(replica: u64, leader: &ReplicaStatus) -> bool {
    let committed = leader.committed.map(|at| at.index);
    let matched = leader.replication.get(&replica).copied().flatten();
    replica == leader.replica || matched >= committed
}

/// Every shard has its replica on every node as a voter, not that of an earlier disk, and all of them have everything
/// that their leader knows to be committed.
#[must_use]
pub fn whole(hosts: &[Host]) -> bool {
    let nodes: Vec<Node> = hosts.iter().filter_map(Host::node).collect();
    let leaders = leaders(hosts);
    nodes.len() == hosts.len()
        && nodes.iter().all(|node| is_filled(node, &leaders))
        && leaders.values().all(|leader| {
            leader.voters.len() == 1 && leader.learners.is_empty() && leader.voters[0].len() == hosts.len()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_still_be_destroyed_counts_as_destroyed_however_well_it_is() {
        let atlas = Atlas::default();
        let hold = atlas.hold(5);
        let well = BTreeSet::from([3, 5]);
        let after = |forgetful: &[u32]| {
            let mut damage = atlas.damage();
            damage.forgetful = forgetful.iter().copied().collect();
            damage.forgive(&well);
            damage.forgetful.clone()
        };
        assert_eq!(after(&[2, 3, 5]), BTreeSet::from([2, 5]));
        drop(hold);
        assert_eq!(after(&[2, 3, 5]), BTreeSet::from([2]));
    }
}
