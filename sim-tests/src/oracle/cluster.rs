//! Looks into the nodes: P10, and what Raft promises below everything else.
//!
//! - State machine safety and log matching: an index of a shard has one entry, wherever it is committed or applied.
//! - Leader completeness: a leader's log reaches as far as anything that was committed in terms before its own.
//! - P10: replicas that have applied the same index have the same state, byte for byte.

use std::collections::BTreeMap;

use broker::node::{META_SHARD, Node};
use raft_store::{LogId, Replica, ReplicaStatus, StateRead, engine::row_digest};

/// What was seen of all replicas so far.
#[derive(Default)]
pub struct Watch {
    /// Term and proposer of the entry at a shard's index.
    entries: BTreeMap<(u32, u64), (u64, u64)>,
    /// The last entry known to be committed, by shard.
    committed: BTreeMap<u32, LogId>,
    /// Hash of the state after a shard's index.
    states: BTreeMap<(u32, u64), u64>,
}

/// What a replica says about itself, as far as oracles care.
struct Said {
    shard: u32,
    replica: u64,
    term: u64,
    leads: bool,
    last_log: Option<u64>,
    committed: Option<LogId>,
    applied: Option<LogId>,
}

impl From<&ReplicaStatus> for Said {
    fn from(status: &ReplicaStatus) -> Said {
        Said {
            shard: status.shard,
            replica: status.replica,
            term: status.term,
            leads: status.is_leader,
            last_log: status.last_log,
            committed: status.committed,
            applied: status.applied,
        }
    }
}

impl Watch {
    /// Looks at all replicas of some nodes. States are compared by the sum that the state engine keeps of its rows.
    pub fn look(&mut self, nodes: &[Node], wrong: &mut Vec<String>) {
        for replica in nodes.iter().flat_map(replicas) {
            let said = Said::from(&replica.status());
            self.hear(&said, wrong);
            let state = replica.read_state_at(|applied, state| Some((applied?.index, kept(state))));
            if let Some((index, sum)) = state {
                self.state(said.shard, index, sum, wrong);
            }
        }
    }

    /// The same once more, with every row looked at: the sums are those of the rows that are there.
    pub fn look_at_every_row(&mut self, nodes: &[Node], wrong: &mut Vec<String>) {
        self.look(nodes, wrong);
        for node in nodes {
            for replica in replicas(node) {
                let (kept, counted) = replica.read_state(|state| (kept(state), counted(state)));
                if kept != counted {
                    wrong.push(format!(
                        "P10: the rows of shard {} on node {} are not those that were written",
                        replica.shard(),
                        node.id()
                    ));
                }
            }
        }
    }

    fn hear(&mut self, said: &Said, wrong: &mut Vec<String>) {
        let shard = said.shard;
        for entry in [said.committed, said.applied].into_iter().flatten() {
            let mine = (entry.term, entry.node);
            let known = *self.entries.entry((shard, entry.index)).or_insert(mine);
            if known != mine {
                wrong.push(format!(
                    "Raft: index {} of shard {shard} is {known:?} and, at replica {}, {mine:?}",
                    entry.index, said.replica
                ));
            }
        }
        if said.leads
            && let Some(best) = self.committed.get(&shard)
            && best.term < said.term
            && said.last_log < Some(best.index)
        {
            wrong.push(format!(
                "Raft: replica {} leads shard {shard} in term {} with a log to {:?}, and {best} was committed",
                said.replica, said.term, said.last_log
            ));
        }
        if let Some(committed) = said.committed
            && self
                .committed
                .get(&shard)
                .is_none_or(|best| best.index < committed.index)
        {
            self.committed.insert(shard, committed);
        }
    }

    fn state(&mut self, shard: u32, index: u64, hash: u64, wrong: &mut Vec<String>) {
        let known = *self.states.entry((shard, index)).or_insert(hash);
        if known != hash {
            wrong.push(format!("P10: shard {shard} has two states after index {index}"));
        }
    }
}

/// The replicas a node has open.
pub fn replicas(node: &Node) -> Vec<Replica> {
    let meta = node.meta_replica().cloned().into_iter();
    meta.chain(node.shards().iter().map(|shard| shard.replica.clone()))
        .collect()
}

/// All shards of the cluster, the meta shard first.
pub fn shards(node: &Node) -> impl Iterator<Item = u32> + use<> {
    META_SHARD..=node.meta().data_shards()
}

/// The sum that the state engine keeps.
fn kept(state: &dyn StateRead) -> u64 {
    state.digest().expect("simulated nodes have the memory engine")
}

/// The sum of all rows, one by one.
fn counted(state: &dyn StateRead) -> u64 {
    let (mut sum, mut from) = (0_u64, Vec::new());
    loop {
        let pairs = state.scan(&from, &[], 1_000).expect("the state can be read");
        for (key, value) in &pairs {
            sum = sum.wrapping_add(row_digest(key, value));
        }
        let Some((last, _)) = pairs.last() else {
            return sum;
        };
        from = last.to_vec();
        from.push(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(term: u64, node: u64, index: u64) -> LogId {
        LogId { term, node, index }
    }

    fn said(replica: u64, term: u64, committed: Option<LogId>) -> Said {
        Said {
            shard: 1,
            replica,
            term,
            leads: false,
            last_log: committed.map(|at| at.index),
            committed,
            applied: None,
        }
    }

    fn judge(all: &[Said]) -> usize {
        let (mut watch, mut wrong) = (Watch::default(), Vec::new());
        for said in all {
            watch.hear(said, &mut wrong);
        }
        wrong.len()
    }

    #[test]
    fn two_entries_of_an_index_are_found() {
        let at = |replica, term| said(replica, 9, Some(entry(term, 1, 7)));
        assert_eq!(judge(&[at(1, 3), at(2, 3)]), 0);
        assert_eq!(judge(&[at(1, 3), at(2, 4)]), 1);
    }

    #[test]
    fn a_leader_without_what_was_committed_before_it_is_found() {
        let leader = |term, last_log| Said {
            leads: true,
            last_log,
            ..said(2, term, None)
        };
        let before = || said(1, 3, Some(entry(3, 1, 7)));
        assert_eq!(judge(&[before(), leader(4, Some(7))]), 0);
        assert_eq!(judge(&[before(), leader(4, Some(6))]), 1);
        // A leader of an older term that does not know yet is none of our business.
        assert_eq!(judge(&[before(), leader(2, Some(6))]), 0);
    }

    #[test]
    fn two_states_of_an_index_are_found() {
        let (mut watch, mut wrong) = (Watch::default(), Vec::new());
        watch.state(1, 7, 5, &mut wrong);
        watch.state(2, 7, 6, &mut wrong);
        watch.state(1, 7, 5, &mut wrong);
        assert!(wrong.is_empty());
        watch.state(1, 7, 6, &mut wrong);
        assert_eq!(wrong.len(), 1);
    }
}
