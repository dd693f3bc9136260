//! Looks into the machines: what a node counts as flushed no power failure takes from its state. The log gives up what counts so,
//! and an orderly stop leaves nothing else behind.

use std::collections::BTreeMap;

use broker::node::Node;

use super::cluster::replicas;
use crate::host::Host;

/// What counted as flushed at the last look, by node and shard: the replica, and the index.
#[derive(Default)]
pub struct Flushed(BTreeMap<(u32, u32), (u64, Option<u64>)>);

impl Flushed {
    /// Looks at what counts as flushed since the last look.
    pub fn look(&mut self, hosts: &[Host], wrong: &mut Vec<String>) {
        for (host, node) in hosts.iter().filter_map(|host| Some((host, host.node()?))) {
            for replica in replicas(&node) {
                let (shard, counts) = (replica.shard(), replica.flushed_index());
                let now = (replica.id(), counts);
                if self.0.insert((host.id, shard), now) != Some(now) {
                    wrong.extend(compare(host.id, shard, counts, host.durably_applied(shard)));
                }
            }
        }
    }
}

/// Says what only the memory of a node has that has stopped in an orderly way.
#[must_use]
pub fn left_in_memory(host: &Host, stopped: &Node) -> Vec<String> {
    let replicas = replicas(stopped).into_iter();
    let applied = replicas.map(|replica| (replica.shard(), replica.status().applied.map(|at| at.index)));
    applied
        .filter_map(|(shard, applied)| compare(host.id, shard, applied, host.durably_applied(shard)))
        .collect()
}

fn compare(node: u32, shard: u32, claimed: Option<u64>, durable: Option<u64>) -> Option<String> {
    let lost = claimed > durable;
    lost.then(|| {
        format!("P11: node {node} counts the state of shard {shard} as written out to {claimed:?}, and a crash leaves it at {durable:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_a_crash_takes_back_further_than_was_said_is_found() {
        assert_eq!(compare(1, 2, None, None), None);
        assert_eq!(compare(1, 2, Some(7), Some(7)), None);
        assert_eq!(compare(1, 2, Some(7), Some(9)), None);
        assert!(compare(1, 2, Some(7), Some(6)).is_some());
        assert!(compare(1, 2, Some(7), None).is_some());
    }
}
