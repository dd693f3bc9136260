//! Worlds in which messages die, are given back, and, in order, stop their message groups. Which they are follows from the number of
//! the seed, and nothing is drawn for them: all other worlds stay what they are.

use std::time::Duration;

use super::{Fault, Plan, leaning::OFTEN};

/// Seeds modulo 100.
const PLAIN: [u64; 4] = [52, 54, 55, 57];
/// The same of worlds in which message groups stop at what cannot be consumed.
const PARKED: [u64; 2] = [61, 62];
/// Seeds that were kept before there were such worlds: theirs are what they were.
const KEPT: [u64; 9] = [
    61,
    152,
    1_554,
    12_000_061,
    16_001_162,
    123_919_155,
    24_003_557,
    24_006_561,
    25_007_154,
];

/// What becomes of messages that cannot be consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dying {
    /// They are dead letters.
    Plain,
    /// Their message groups stop until an operator decides.
    Parked,
}

/// Makes a seed's world such a one, if it is one.
pub(super) fn choose(seed: u64, plan: &mut Plan) {
    plan.dying = match seed % 100 {
        _ if KEPT.contains(&seed) => return,
        which if PLAIN.contains(&which) => Some(Dying::Plain),
        which if PARKED.contains(&which) => Some(Dying::Parked),
        _ => return,
    };
    // What died must not be forgotten before it is given back.
    plan.limits.keep();
    plan.faults_for = plan.faults_for.max(Duration::from_secs(30));
    // Decisions are repeated, and come late, where leaders change.
    if seed / 100 % 2 == 0 && plan.nodes > 1 {
        plan.faults.insert(Fault::KillLeader, OFTEN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_that_were_kept_before_are_no_such_worlds() {
        let kept = include_str!("../../seeds.txt").lines();
        let kept = kept.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        let is_one = |seed: &u64| PLAIN.contains(&(seed % 100)) || PARKED.contains(&(seed % 100));
        // Those that are kept since then have numbers of their own.
        let before = kept
            .filter(is_one)
            .filter(|seed| !(25_040_000..25_050_000).contains(seed));
        assert!(before.into_iter().all(|seed| KEPT.contains(&seed)));
    }
}
