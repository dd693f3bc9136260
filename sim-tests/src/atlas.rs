//! What may be broken now. The atlas keeps the cluster recoverable: never more copies of a record are destroyed than the
//! promises allow, so that every loss is a bug.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::host::Host;

/// The damage of one world. Clones are the same atlas.
#[derive(Clone, Default)]
pub struct Atlas(Arc<Mutex<Damage>>);

#[derive(Default)]
struct Damage {
    /// Nodes that lost or may have lost what they had stored.
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

    /// Whether what a node has stored may be destroyed now; if so, it counts as destroyed until the cluster is whole.
    #[must_use]
    pub fn may_forget(&self, node: u32, hosts: &[Host]) -> bool {
        let mut damage = self.damage();
        if !damage.forgetful.is_empty() && whole(hosts) {
            damage.forgetful.clear();
        }
        let minority = (hosts.len() - 1) / 2;
        // Damage that nobody has found yet may cost a node everything at any time.
        let damaged = hosts.iter().filter(|host| host.damaged()).count();
        let allowed = damage.forgetful.is_empty() && damaged < minority && whole(hosts);
        if allowed {
            damage.forgetful.insert(node);
        }
        allowed
    }

    fn damage(&self) -> MutexGuard<'_, Damage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every shard has its replica on every node as a voter, not that of an earlier disk, and all of them have everything
/// that their leader knows to be committed.
#[must_use]
pub fn whole(hosts: &[Host]) -> bool {
    let nodes: Vec<_> = hosts.iter().filter_map(Host::node).collect();
    if nodes.len() < hosts.len() || nodes.iter().any(|node| node.ready().is_err()) {
        return false;
    }
    crate::oracle::cluster::shards(&nodes[0]).all(|shard| {
        let all = nodes.iter().flat_map(crate::oracle::cluster::replicas);
        let ours: Vec<_> = all.filter(|replica| replica.shard() == shard).collect();
        let present: BTreeSet<u64> = ours.iter().map(|replica| replica.id()).collect();
        let led = ours
            .iter()
            .map(|replica| replica.status())
            .find(|it| it.is_leader);
        led.is_some_and(|leader| {
            let committed = leader.committed.map(|at| at.index);
            let voters = leader.voters.first().cloned().unwrap_or_default();
            leader.voters.len() == 1
                && leader.membership_committed
                && leader.learners.is_empty()
                && voters == present
                && voters.len() == hosts.len()
                && voters.iter().all(|voter| {
                    let matched = leader.replication.get(voter).copied().flatten();
                    *voter == leader.replica || matched >= committed
                })
        })
    })
}
