//! Looks into the nodes: what a log entry says is the same, byte for byte, wherever it is applied. The state would show a
//! difference too, but not where: bodies are in the log alone.

use std::collections::BTreeMap;

use broker::node::{META_SHARD, Node};
use raft_store::{Machine, Replica};

use super::cluster::replicas;
use crate::trace::fnv_of;

/// Entries of one shard that are looked at in one look at a node; more are passed over.
const MOST: u64 = 256;
/// Hashes kept of one shard.
const KEPT: usize = 4_096;

/// What was seen of all logs so far.
#[derive(Default)]
pub struct Payloads {
    /// How far each node's log of a shard was looked at.
    seen: BTreeMap<(u32, u32), u64>,
    /// Hashes of a shard's payloads, by index.
    known: BTreeMap<u32, BTreeMap<u64, u64>>,
}

impl Payloads {
    /// Looks at what was applied since the last look, as far as it is still in memory: a look reads no disk.
    pub fn look(&mut self, nodes: &[Node], wrong: &mut Vec<String>) {
        for node in nodes {
            for replica in replicas(node) {
                let status = replica.status();
                let Some(applied) = status.applied.map(|at| at.index) else {
                    continue;
                };
                let purged = status.purged.map_or(0, |at| at.index);
                let seen = self.seen.entry((node.id(), status.shard)).or_default();
                let mut from = *seen + 1;
                if purged > *seen {
                    // A snapshot came. What its state refers to is what was applied; what stands before that may be of an old leader.
                    from = oldest_live(node, &replica).unwrap_or(purged + 1);
                }
                let from = from.max(applied.saturating_sub(MOST));
                *seen = applied;
                for index in (from..=applied).filter(|&index| replica.is_recent(index)) {
                    if let Ok(payload) = replica.read_payload(index) {
                        wrong.extend(self.compare(status.shard, index, fnv_of(&payload)));
                    }
                }
            }
        }
    }

    fn compare(&mut self, shard: u32, index: u64, hash: u64) -> Option<String> {
        let known = self.known.entry(shard).or_default();
        let first = *known.entry(index).or_insert(hash);
        if known.len() > KEPT {
            known.pop_first();
        }
        (first != hash).then(|| differs(shard, index))
    }
}

/// Reads, from disks too, every entry that a state still refers to: what can be read is the same on all nodes. For the end of a
/// run, when no fault waits for a read.
#[must_use]
pub fn compare_live(nodes: &[Node]) -> Vec<String> {
    let (mut known, mut wrong) = (BTreeMap::new(), Vec::new());
    for node in nodes {
        for replica in replicas(node) {
            let status = replica.status();
            let purged = status.purged.map_or(0, |at| at.index);
            let oldest = match status.shard {
                META_SHARD => Some(purged + 1),
                _ => oldest_live(node, &replica),
            };
            let (Some(oldest), Some(applied)) = (oldest, status.applied) else {
                continue;
            };
            for index in oldest..=applied.index {
                // One that is damaged, and that nobody needs, nobody has repaired.
                let Ok(payload) = replica.read_payload(index) else {
                    continue;
                };
                let hash = fnv_of(&payload);
                if *known.entry((status.shard, index)).or_insert(hash) != hash {
                    wrong.push(differs(status.shard, index));
                }
            }
        }
    }
    wrong
}

/// The first entry that the state still refers to; the catalogue's refers to none.
fn oldest_live(node: &Node, replica: &Replica) -> Option<u64> {
    let shard = node.shard(replica.status().shard)?;
    let oldest = replica.read_state(|state| shard.machine.oldest_live_index(state));
    oldest.ok().flatten()
}

fn differs(shard: u32, index: u64) -> String {
    format!("P10: entry {index} of shard {shard} is not the same on all nodes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_payload_at_the_same_index_is_found() {
        let mut payloads = Payloads::default();
        assert_eq!(payloads.compare(1, 7, 5), None);
        assert_eq!(payloads.compare(1, 7, 5), None);
        assert_eq!(payloads.compare(2, 7, 6), None);
        assert!(payloads.compare(1, 7, 6).is_some());
    }
}
