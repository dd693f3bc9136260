//! Worlds that lean to what hardly any other has. Which they are follows from the number of the seed, and nothing is drawn for
//! them: all other worlds stay what they are.

use std::time::Duration;

use broker::limits::{Bounds, RENEW_AT_MOST};

use super::{Fault, Plan};
use crate::machine::Slowness;

/// One world in so many leans to each. (Of the seeds that were kept before there were such worlds none does: they show what they found.)
const ONE_IN: u64 = 30;
/// The same of worlds that are leant to since.
const LEAVES_ONE_IN: u64 = 100;
const LEAVES: u64 = 60;
/// How much more often than others the faults come that a world leans to.
pub(super) const OFTEN: u32 = 10;

/// What a world leans to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaning {
    /// Clients acknowledge what they bury, without waiting for the answer, while leaderships move.
    SettlesTwice,
    /// Disks are slow to read what has waited for its consumers.
    SlowReads,
    /// More is asked of new leaders than they have room for.
    Crowd,
    /// Push consumers of a cluster that is well say good-bye at the same time, and leave something that is held.
    LeaveTogether,
}

impl Leaning {
    /// That of a seed's world, if it has one.
    pub(super) fn of(seed: u64) -> Option<Leaning> {
        match seed % ONE_IN {
            6 => Some(Leaning::SettlesTwice),
            12 => Some(Leaning::SlowReads),
            22 => Some(Leaning::Crowd),
            _ if seed % LEAVES_ONE_IN == LEAVES => Some(Leaning::LeaveTogether),
            _ => None,
        }
    }

    /// Makes a world such a one.
    pub(super) fn lean(self, plan: &mut Plan) {
        match self {
            Leaning::SettlesTwice => settle_twice(plan),
            Leaning::SlowReads => read_slowly(plan),
            Leaning::Crowd => crowd(plan),
            Leaning::LeaveTogether => leave_together(plan),
        }
    }
}

fn settle_twice(plan: &mut Plan) {
    plan.nodes = plan.nodes.max(3);
    (plan.habits.bury, plan.habits.twice) = (0.3, true);
    // What became of a dead letter must not be forgotten.
    plan.limits.keep();
    change_leaders(plan);
}

fn read_slowly(plan: &mut Plan) {
    plan.nodes = 3;
    (plan.shards, plan.consumers) = (1, 1);
    plan.queues = plan.queues.max(2);
    (
        plan.slowness.percent,
        plan.slowness.long_ms,
        plan.slowness.longest_ms,
    ) = (90, 600, 6_000);
    // Many deliveries, of messages that are there still, and in memory no more.
    plan.limits.keep();
    plan.habits.batch = 2;
    plan.limits.cache_bytes = 4 * 1024;
    plan.consumers_from = Duration::from_secs(20);
    plan.faults_for = plan.faults_for.max(Duration::from_secs(40));
}

fn crowd(plan: &mut Plan) {
    plan.nodes = plan.nodes.max(3);
    (plan.shards, plan.groups, plan.consumers, plan.producers) = (1, 3, 2, 3);
    (
        plan.limits.bounds.queued_commands,
        plan.limits.bounds.entry_commands,
    ) = (6, 1);
    // Where requests come twice nobody believes that nothing was done.
    plan.faults.remove(&Fault::Disorder);
    change_leaders(plan);
}

fn leave_together(plan: &mut Plan) {
    plan.nodes = plan.nodes.max(3);
    (plan.push, plan.good_byes, plan.deaths) = (true, true, false);
    // Of one topic, so that nearly all say it together, and nobody again soon: then all are seen to.
    (plan.topics, plan.groups, plan.consumers, plan.producers) = (1, 1, 4, 2);
    // What they leave must come again soon: nobody is to wait for anything else.
    plan.faults.clear();
    plan.faults_for = Duration::from_secs(5);
    (plan.loss, plan.slowness) = (0.0, Slowness::NONE);
    // A leader looks for good-byes twice a second: where nothing takes time, always at the same moments.
    plan.latency_ms = 1..150;
    plan.limits.keep();
    plan.limits.bounds = Bounds::default();
    (plan.habits.rest, plan.habits.forget) = (false, 0.2);
    plan.consumers_from = Duration::ZERO;
    plan.max_attempts = plan.max_attempts.max(4);
    plan.renew_at_most = RENEW_AT_MOST;
    (plan.messages, plan.pause_ms) = (200, 1..900);
}

/// One leader after the other, while there is something to do.
fn change_leaders(plan: &mut Plan) {
    plan.faults.insert(Fault::MovedLeader, OFTEN);
    plan.faults.insert(Fault::KillLeader, OFTEN / 3);
    plan.fault_every_ms = plan.fault_every_ms.min(800);
    plan.faults_for = plan.faults_for.max(Duration::from_secs(30));
    plan.messages = plan.messages.max(150);
    plan.pause_ms = 1..300;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_tenth_of_the_seeds_leans_or_a_little_more_and_of_those_that_are_kept_what_leaning_found() {
        let many = (0..3_000).filter_map(Leaning::of).count();
        assert!((300..=330).contains(&many), "{many}");
        let kept: BTreeSet<u64> = include_str!("../../seeds.txt")
            .lines()
            .filter_map(|line| line.split_whitespace().next()?.parse().ok())
            .collect();
        assert!(!kept.is_empty());
        let leaning: Vec<_> = kept.iter().filter(|&&seed| Leaning::of(seed).is_some()).collect();
        assert_eq!(leaning, [&25_008_532]);
    }
}
