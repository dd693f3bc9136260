//! Worlds in which messages have priorities. Which they are follows from the number of the seed, and nothing is drawn for them: all
//! other worlds stay what they are.

use broker::limits::Bounds;

use super::{Fault, Plan, Wanted, leaning::OFTEN};

/// Seeds modulo 100.
const PRIORITIES: [u64; 5] = [63, 64, 67, 68, 69];
/// Seeds that were kept before there were such worlds: theirs stay what they were.
const KEPT: [u64; 8] = [
    4_164,
    21_069,
    30_067,
    5_000_168,
    10_000_369,
    23_300_164,
    47_758_063,
    108_918_763,
];

/// Makes a seed's world such a one, if it is one.
pub(super) fn choose(seed: u64, plan: &mut Plan) {
    plan.priorities = PRIORITIES.contains(&(seed % 100)) && !KEPT.contains(&seed);
    if !plan.priorities {
        return;
    }
    // What is forgotten is not there, and of what comes twice nobody knows what it took.
    plan.limits.keep();
    plan.faults.remove(&Fault::Disorder);
    // A lane that is full has nothing new.
    plan.limits.bounds.in_flight_per_queue = Bounds::default().in_flight_per_queue;
    if seed / 300 % 2 == 0 && plan.nodes > 1 {
        plan.faults.insert(Fault::KillLeader, OFTEN);
    }
    plan.window = seed / 100 % 4 == 1;
    if seed / 100 % 3 == 0 {
        plan.urgent = Some(Wanted::Others);
        // Small, so that a lane takes more than one look.
        let bounds = &mut plan.limits.bounds;
        (bounds.filter_page, bounds.pass_over_at, bounds.pass_over_most) = (1, 1, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_that_were_kept_before_are_no_such_worlds() {
        let kept = include_str!("../../seeds.txt").lines();
        let kept = kept.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        let mut before = kept.filter(|seed| !(25_050_000..25_060_000).contains(seed));
        assert!(before.all(|seed| !PRIORITIES.contains(&(seed % 100)) || KEPT.contains(&seed)));
    }
}
