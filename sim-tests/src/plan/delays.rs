//! Worlds in which messages wait to be delivered at a date. Which they are follows from the number of the seed, and nothing is
//! drawn for them: all other worlds stay what they are.

use std::time::Duration;

use super::{Fault, Limits, Plan, leaning::OFTEN};

/// Seeds modulo 100. (Of the seeds that were kept before there were such worlds none is one.)
const DELAYS: [u64; 10] = [80, 82, 88, 89, 92, 93, 95, 97, 98, 99];
/// Clocks that are wrong by more would leave no delay to be seen.
const MOST_SKEW_MS: i64 = 2_000;

/// Makes a seed's world such a one, if it is one.
pub(super) fn choose(seed: u64, plan: &mut Plan) {
    plan.delays = DELAYS.contains(&(seed % 100));
    if !plan.delays {
        return;
    }
    // What came is not to be forgotten for its age before anybody had it. In many worlds there is little room for what waits.
    plan.limits.retention = Limits::large().retention;
    plan.skew_ms = plan.skew_ms.min(MOST_SKEW_MS);
    plan.faults.remove(&Fault::ClockJump);
    plan.limits.bounds.fire = [1, 3, 1_024][(seed / 100 % 3) as usize];
    plan.faults_for = plan.faults_for.max(Duration::from_secs(30));
    // Timers are lost, and sends and recalls repeated, where leaders change.
    if seed / 300 % 2 == 0 && plan.nodes > 1 {
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
        assert_eq!(kept.filter(|seed| DELAYS.contains(&(seed % 100))).count(), 0);
    }
}
