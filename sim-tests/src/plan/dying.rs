//! Worlds in which messages die, are given back, and, in order, stop their message groups. Which they are follows from the number of
//! the seed, and nothing is drawn for them: all other worlds stay what they are.

use std::time::Duration;

use super::{Fault, Plan, leaning::OFTEN};

/// Seeds modulo 100. (Of the seeds that were kept before there were such worlds none is one.)
const PLAIN: [u64; 4] = [52, 54, 55, 57];
/// The same of worlds in which message groups stop at what cannot be consumed.
const PARKED: [u64; 2] = [61, 62];

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
    fn none_of_the_seeds_that_were_kept_before_is_such_a_world() {
        let kept = include_str!("../../seeds.txt").lines();
        let kept = kept.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        let is_one = |seed: &u64| PLAIN.contains(&(seed % 100)) || PARKED.contains(&(seed % 100));
        assert_eq!(kept.filter(is_one).count(), 0);
    }
}
