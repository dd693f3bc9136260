//! Worlds with transactions. Which they are follows from the number of the seed, and nothing is drawn for them: all other worlds
//! stay what they are.

use std::time::Duration;

use broker::node::Transactions;

use super::{Fault, Plan, leaning::OFTEN};

/// Seeds modulo 100.
const TRANSACTIONS: [u64; 6] = [81, 83, 84, 85, 86, 87];
/// Seeds that were kept before there were such worlds: theirs stay what they were.
const KEPT: [u64; 7] = [
    86,
    20_081,
    6_000_087,
    16_000_483,
    24_009_981,
    67_918_585,
    168_139_084,
];

fn is_one(seed: u64) -> bool {
    TRANSACTIONS.contains(&(seed % 100)) && !KEPT.contains(&seed)
}

/// Makes a seed's world such a one, if it is one.
pub(super) fn choose(seed: u64, plan: &mut Plan) {
    plan.transactions = is_one(seed);
    if !plan.transactions {
        return;
    }
    let hundreds = seed / 100;
    // Short, so that much is asked about and given up while there are faults.
    plan.transaction_rules = Transactions {
        first_check: Duration::from_millis([500, 1_500, 3_000][(hundreds % 3) as usize]),
        check_every: Duration::from_millis([2_000, 4_000][(hundreds % 2) as usize]),
        max_checks: [2, 3, 5][(hundreds / 2 % 3) as usize],
    };
    plan.limits.bounds.fire = [1, 3, 1_024][(hundreds / 6 % 3) as usize];
    // What was committed is not to be forgotten before anybody had it: its account would not know of what came and went between two looks.
    plan.limits.keep();
    plan.faults_for = plan.faults_for.max(Duration::from_secs(30));
    // Ends are repeated, and questions lost, where leaders change.
    if hundreds / 3 % 2 == 0 && plan.nodes > 1 {
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
        // Later ones are kept because of their transactions.
        let before = kept.filter(|seed| !(25_030_000..26_000_000).contains(seed));
        assert_eq!(before.filter(|seed| is_one(*seed)).count(), 0);
    }
}
