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
/// And of those that came after them: seeds modulo this.
const SINCE: u64 = 500;
const LOSES_AGAIN: [u64; 5] = [5, 105, 205, 304, 404];
const OLD_LEADERS: [u64; 5] = [7, 129, 207, 307, 407];
const VANISH: [u64; 5] = [16, 114, 214, 316, 416];
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
    /// Nodes lose what they have again and again, and what fills them takes its time.
    LosesAgain,
    /// A leader that was cut off comes back with a log that is not the others', of which they have not much left.
    OldLeaders,
    /// Push consumers die with what they hold, while leaderships move.
    Vanish,
}

impl Leaning {
    /// That of a seed's world, if it has one.
    pub(super) fn of(seed: u64) -> Option<Leaning> {
        match seed % ONE_IN {
            6 => Some(Leaning::SettlesTwice),
            12 => Some(Leaning::SlowReads),
            22 => Some(Leaning::Crowd),
            _ if seed % LEAVES_ONE_IN == LEAVES => Some(Leaning::LeaveTogether),
            _ => match seed % SINCE {
                seed if LOSES_AGAIN.contains(&seed) => Some(Leaning::LosesAgain),
                seed if OLD_LEADERS.contains(&seed) => Some(Leaning::OldLeaders),
                seed if VANISH.contains(&seed) => Some(Leaning::Vanish),
                _ => None,
            },
        }
    }

    /// Makes a world such a one.
    pub(super) fn lean(self, plan: &mut Plan) {
        match self {
            Leaning::SettlesTwice => settle_twice(plan),
            Leaning::SlowReads => read_slowly(plan),
            Leaning::Crowd => crowd(plan),
            Leaning::LeaveTogether => leave_together(plan),
            Leaning::LosesAgain => lose_again(plan),
            Leaning::OldLeaders => old_leaders(plan),
            Leaning::Vanish => vanish(plan),
        }
    }
}

fn settle_twice(plan: &mut Plan) {
    plan.nodes = plan.nodes.max(3);
    (plan.groups, plan.consumers, plan.producers) = (3, 2, 3);
    (plan.habits.bury, plan.habits.twice) = (0.5, true);
    // So that of what is sent together one is in the log when the leader dies, and the other is tried again.
    (plan.limits.bounds.entry_commands, plan.batches) = (1, true);
    // What became of a dead letter must not be forgotten.
    plan.limits.keep();
    plan.faults.clear();
    change_leaders(plan);
    // Much is under way to a leader that dies: it is far, and its disk takes its time.
    plan.faults.insert(Fault::KillLeader, 2 * OFTEN);
    (plan.latency_ms, plan.sync_us, plan.work_ms) = (1..60, 10_000, 0);
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

fn lose_again(plan: &mut Plan) {
    plan.nodes = plan.nodes.max(3);
    (plan.shards, plan.consumers_from) = (1, Duration::ZERO);
    plan.faults.clear();
    plan.faults.insert(Fault::SecondLoss, OFTEN);
    plan.faults.insert(Fault::ErrorWithPower, OFTEN / 3);
    (plan.at_once, plan.fault_every_ms, plan.faults_for) = (1, 300, Duration::from_secs(60));
    // What was read is given up while the next is still written, applied and flushed.
    plan.limits.keep();
    (plan.segment_bytes, plan.flush_bytes, plan.body) = (1 << 15, 1 << 14, 7_000);
    plan.slowness = Slowness {
        percent: 50,
        usual_us: 50,
        long_ms: 200,
        ..Slowness::NONE
    };
    (plan.producers, plan.messages, plan.pause_ms) = (3, 150, 1..400);
    (
        plan.habits.forget,
        plan.habits.hide,
        plan.habits.late,
        plan.habits.rest,
    ) = (0.0, 0.0, 0.0, false);
}

fn old_leaders(plan: &mut Plan) {
    (plan.nodes, plan.shards) = (5, 1);
    // What an operator looks for must not be forgotten meanwhile.
    plan.operator = false;
    plan.faults.clear();
    plan.faults.insert(Fault::OldLeader, 2 * OFTEN);
    plan.faults.insert(Fault::KillLeader, OFTEN / 3);
    (plan.at_once, plan.fault_every_ms, plan.faults_for) = (1, 800, Duration::from_secs(60));
    plan.segment_bytes = plan.limits.forget_soon();
    (plan.flush_bytes, plan.body) = (1 << 14, 7_000);
    (plan.producers, plan.messages, plan.pause_ms) = (3, 200, 1..300);
}

fn vanish(plan: &mut Plan) {
    plan.nodes = plan.nodes.max(3);
    (plan.push, plan.good_byes, plan.deaths) = (true, false, true);
    (plan.shards, plan.groups, plan.consumers) = (2, 1, 4);
    (plan.work_ms, plan.renew_at_most) = (400, RENEW_AT_MOST);
    (plan.habits.rest, plan.limits.bounds.in_flight_per_queue) =
        (false, Bounds::default().in_flight_per_queue);
    plan.faults.clear();
    plan.limits.keep();
    change_leaders(plan);
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
    fn a_seventh_of_the_seeds_leans_and_of_those_that_are_kept_what_leaning_found() {
        let many = (0..3_000).filter_map(Leaning::of).count();
        assert!((385..=420).contains(&many), "{many}");
        let kept: BTreeSet<u64> = include_str!("../../seeds.txt")
            .lines()
            .filter_map(|line| line.split_whitespace().next()?.parse().ok())
            .collect();
        assert!(!kept.is_empty());
        let leaning: Vec<_> = kept.iter().filter(|&&seed| Leaning::of(seed).is_some()).collect();
        assert_eq!(leaning, [&25_008_532]);
    }
}
