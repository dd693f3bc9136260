//! Bodies of planted bugs: changes of a shard's members that leave the wrong voters.

use std::collections::BTreeSet;

use super::{Step, node_of};

/// The new replica is added, and nobody leaves for it.
pub(super) fn nobody_leaves(next: Step, voters: &[BTreeSet<u64>], wanted: &BTreeSet<u64>) -> Step {
    changed(next, voters, wanted, |_, _| None)
}

/// The first voter of another node leaves for the new replica.
pub(super) fn another_leaves(next: Step, voters: &[BTreeSet<u64>], wanted: &BTreeSet<u64>) -> Step {
    changed(next, voters, wanted, |voters, new| {
        voters.iter().copied().find(|&id| node_of(id) != node_of(new))
    })
}

/// The step with another one who leaves. Once the new replicas are voters there is nothing left to do.
fn changed(
    next: Step,
    voters: &[BTreeSet<u64>],
    wanted: &BTreeSet<u64>,
    leaves: impl Fn(&BTreeSet<u64>, u64) -> Option<u64>,
) -> Step {
    let [voters] = voters else {
        return next;
    };
    let mut of_new_directories = wanted.iter().filter(|&&id| id & 0xffff > 1);
    if of_new_directories.all(|id| voters.contains(id)) {
        return Step::Done;
    }
    let Step::ChangeVoters(right) = &next else {
        return next;
    };
    let Some(&new) = right.difference(voters).next() else {
        return next;
    };
    let leaving = leaves(voters, new);
    let staying = voters.iter().copied().filter(|&id| Some(id) != leaving);
    Step::ChangeVoters(staying.chain([new]).collect())
}
