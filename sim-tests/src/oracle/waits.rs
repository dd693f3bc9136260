//! Looks into the leaders: between two attempts a message waits for as long as was agreed, and only then (P3).
//!
//! A lease that ends by itself leaves a row behind that says until when the message waits. Who chose the lease's end has
//! chosen the wait, too: there is no other. Where the server renewed the lease, its consumer group's backoff follows, step by
//! step.

use std::collections::BTreeMap;

use broker::{node::Node, views::BackoffView};
use queue_core::{GroupId, InFlightView, QueueId};

/// One message for one consumer group, at one node.
type Row = (u32, u32, QueueId, GroupId, u64);

/// What was seen of leases so far.
pub struct Waits {
    backoff: BackoffView,
    /// Somebody may have said good-bye, which ends leases early, and leaves no wait.
    good_byes: bool,
    /// What was leased at the last look, by row.
    leased: BTreeMap<Row, InFlightView>,
}

impl Waits {
    /// Of consumer groups that all have this backoff.
    #[must_use]
    pub fn new(backoff: BackoffView, good_byes: bool) -> Waits {
        Waits {
            backoff,
            good_byes,
            leased: BTreeMap::new(),
        }
    }

    /// Looks at all messages in flight where they are led. `is_ours` tells consumer groups of the plan from others.
    pub fn look(
        &mut self,
        nodes: &[Node],
        is_ours: impl Fn(&Node, GroupId) -> bool,
        wrong: &mut Vec<String>,
    ) {
        let mut leased = BTreeMap::new();
        for node in nodes {
            for shard in node.shards().iter().filter(|shard| shard.leads()) {
                let rows: Vec<_> = shard.machine.read(|core| core.all_in_flight().collect());
                for (group, queue, row) in rows.into_iter().filter(|(group, ..)| is_ours(node, *group)) {
                    let key = (node.id(), shard.id, queue, group, row.offset);
                    if row.leased {
                        leased.insert(key, row);
                    } else if let Some(before) = self.leased.get(&key) {
                        wrong.extend(self.judge(key, before, &row));
                    }
                }
            }
        }
        self.leased = leased;
    }

    /// A row was leased, and now it waits.
    fn judge(&self, key: Row, before: &InFlightView, now: &InFlightView) -> Option<String> {
        // Another name: somebody gave it another end.
        if before.nonce != now.nonce || before.attempt != now.attempt {
            return None;
        }
        let wait = self.wait_ms(now.attempt);
        let good = match now.at_ms.checked_sub(before.at_ms) {
            // An end that was made nearer.
            None => self.good_byes,
            Some(0) => !before.written || wait == 0 || self.good_byes,
            // It may have been written out, or renewed, since the last look. Who chose the lease's end waits no longer.
            Some(waits) => before.auto_renew && waits >= wait,
        };
        let (.., offset) = key;
        (!good).then(|| {
            format!(
                "P3: after attempt {} the message at {offset} of {:?} waits until {}, its lease ended at {} and the wait is {wait} ms",
                now.attempt, key.2, now.at_ms, before.at_ms
            )
        })
    }

    fn wait_ms(&self, attempt: u32) -> u64 {
        match &self.backoff {
            BackoffView::Customized { next_ms } => {
                let at = (attempt as usize - 1).min(next_ms.len() - 1);
                next_ms[at]
            }
            BackoffView::Exponential {
                initial_ms,
                max_ms,
                multiplier_percent,
            } => {
                let grow = |wait: u64, _| (wait * u64::from(*multiplier_percent) / 100).min(*max_ms);
                (1..attempt).fold(*initial_ms.min(max_ms), grow)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(leased: bool, attempt: u32, at_ms: u64, written: bool) -> InFlightView {
        InFlightView {
            offset: 7,
            nonce: 1,
            attempt,
            leased,
            at_ms,
            auto_renew: written,
            written,
            client: 1,
            first_leased_ms: 0,
        }
    }

    fn is_wrong(attempt: u32, written: bool, waits_ms: u64) -> bool {
        let waits = Waits::new(
            BackoffView::Customized {
                next_ms: vec![1_000, 5_000],
            },
            false,
        );
        let key = (1, 1, QueueId::new(1, 0), GroupId(1), 7);
        let before = row(true, attempt, 10_000, written);
        let now = row(false, attempt, 10_000 + waits_ms, written);
        waits.judge(key, &before, &now).is_some()
    }

    #[test]
    fn who_chose_the_lease_waits_no_longer() {
        assert!(!is_wrong(1, false, 0));
        assert!(is_wrong(1, false, 1));
        assert!(is_wrong(1, false, 1_000), "the step of the backoff");
    }

    #[test]
    fn each_step_of_the_backoff_is_as_long_as_agreed() {
        for (attempt, wait) in [(1, 1_000), (2, 5_000), (3, 5_000)] {
            assert!(!is_wrong(attempt, true, wait));
            assert!(is_wrong(attempt, true, wait - 1));
            assert!(is_wrong(attempt, true, 0));
        }
        assert!(is_wrong(2, true, 1_000), "the step before");
    }

    #[test]
    fn waits_grow_up_to_the_longest() {
        let backoff = BackoffView::Exponential {
            initial_ms: 100,
            max_ms: 500,
            multiplier_percent: 200,
        };
        let waits = Waits::new(backoff, false);
        assert_eq!(
            [1, 2, 3, 4, 9].map(|attempt| waits.wait_ms(attempt)),
            [100, 200, 400, 500, 500]
        );
    }
}
