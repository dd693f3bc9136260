//! How long a message waits before its next attempt. Integers only.

use flotilla_proto::record::{Backoff, backoff::Strategy};

use crate::limits::DEFAULT_BACKOFF_MS;

/// The wait after failed attempt `attempt` (from 1), milliseconds.
///
/// Exponential: initial × multiplier^(attempt−1), at most max. Customized: the list's
/// entry for the attempt, the last one repeating.
pub(crate) fn delay_ms(backoff: Option<&Backoff>, attempt: u32) -> u64 {
    let attempt = attempt.max(1);
    match backoff.and_then(|backoff| backoff.strategy.as_ref()) {
        Some(Strategy::Exponential(rule)) => {
            let mut delay = rule.initial_ms.min(rule.max_ms);
            for _ in 1..attempt {
                let grown = u128::from(delay) * u128::from(rule.multiplier_percent) / 100;
                let most = plant!(ExponentialBackoffNeverGrows => rule.initial_ms, else rule.max_ms);
                let grown = grown.min(u128::from(most)) as u64;
                if grown == delay {
                    break;
                }
                delay = grown;
            }
            delay
        }
        Some(Strategy::Customized(rule)) => {
            let at = plant!(BackoffListOneStepAhead => attempt as usize, else attempt as usize - 1);
            let at = at.min(rule.next_ms.len().saturating_sub(1));
            rule.next_ms.get(at).copied().unwrap_or(DEFAULT_BACKOFF_MS)
        }
        None => DEFAULT_BACKOFF_MS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_proto::record::{CustomizedBackoff, ExponentialBackoff};

    fn exponential(initial_ms: u64, max_ms: u64, multiplier_percent: u32) -> Backoff {
        let rule = ExponentialBackoff {
            initial_ms,
            max_ms,
            multiplier_percent,
        };
        Backoff {
            strategy: Some(Strategy::Exponential(rule)),
        }
    }

    #[test]
    fn exponential_grows_up_to_its_maximum() {
        let rule = exponential(1_000, 7_000, 200);
        let delays: Vec<u64> = (1..=5).map(|attempt| delay_ms(Some(&rule), attempt)).collect();
        assert_eq!(delays, [1_000, 2_000, 4_000, 7_000, 7_000]);
        assert_eq!(
            delay_ms(Some(&exponential(u64::MAX, u64::MAX, 900)), u32::MAX),
            u64::MAX
        );
    }

    #[test]
    fn a_shrinking_or_constant_exponential_ends() {
        assert_eq!(delay_ms(Some(&exponential(1_000, 7_000, 100)), u32::MAX), 1_000);
        assert_eq!(delay_ms(Some(&exponential(1_000, 7_000, 50)), u32::MAX), 0);
    }

    #[test]
    fn the_last_entry_of_a_list_repeats() {
        let rule = Backoff {
            strategy: Some(Strategy::Customized(CustomizedBackoff { next_ms: vec![5, 9] })),
        };
        assert_eq!(
            [1, 2, 3, 99].map(|attempt| delay_ms(Some(&rule), attempt)),
            [5, 9, 9, 9]
        );
    }

    #[test]
    fn no_rule_is_the_default() {
        assert_eq!(delay_ms(None, 3), DEFAULT_BACKOFF_MS);
    }
}
