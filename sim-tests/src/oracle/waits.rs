//! Looks into the leaders: between two attempts a message waits for as long as was agreed, and only then (P3).
//!
//! A lease that ends by itself leaves a row behind that says until when the message waits. Who chose the lease's end has
//! chosen the wait, too: there is no other. Where the server renewed the lease, its consumer group's backoff follows, step by
//! step. And no consumer group has more messages of a queue in flight than the bound says.

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
    /// Messages of a queue that a consumer group may have in flight.
    most: usize,
    /// What was leased at the last look, by row.
    leased: BTreeMap<Row, InFlightView>,
}

impl Waits {
    /// Of consumer groups that all have this backoff.
    #[must_use]
    pub fn new(backoff: BackoffView, good_byes: bool, most: usize) -> Waits {
        Waits {
            backoff,
            good_byes,
            most,
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
        let mut counts: BTreeMap<(u32, QueueId, GroupId), usize> = BTreeMap::new();
        for node in nodes {
            for shard in node.shards().iter().filter(|shard| shard.leads()) {
                let rows: Vec<_> = shard.machine.read(|core| core.all_in_flight().collect());
                for (group, queue, row) in rows.into_iter().filter(|(group, ..)| is_ours(node, *group)) {
                    let key = (node.id(), shard.id, queue, group, row.offset);
                    *counts.entry((node.id(), queue, group)).or_default() += 1;
                    if row.leased {
                        leased.insert(key, row);
                    } else if let Some(before) = self.leased.get(&key) {
                        wrong.extend(self.judge(key, before, &row, shard.now_ms()));
                    }
                }
            }
        }
        self.leased = leased;
        wrong.extend(self.judge_counts(&counts));
    }

    fn judge_counts(&self, counts: &BTreeMap<(u32, QueueId, GroupId), usize>) -> Vec<String> {
        let too_many = counts.iter().filter(|(_, count)| **count > self.most);
        too_many
            .map(|((node, queue, group), count)| {
                let most = self.most;
                format!("{group:?} has {count} messages of {queue:?} in flight at node {node}, and {most} are the most")
            })
            .collect()
    }

    /// A row was leased, and now, at this time of its shard, it waits.
    fn judge(&self, key: Row, before: &InFlightView, now: &InFlightView, now_ms: u64) -> Option<String> {
        // Another name: somebody gave it another end.
        if before.nonce != now.nonce || before.attempt != now.attempt {
            return None;
        }
        let wait = self.wait_ms(now.attempt);
        // What should be over is, though its lease ended later: where nothing came about for minutes, word that its answer was
        // written out may have waited as long.
        if before.at_ms + wait <= now_ms && now.at_ms <= now_ms {
            return None;
        }
        // A lease that was written out or renewed since the last look ends much later than the next one.
        let good = match now.at_ms.checked_sub(before.at_ms) {
            // An end that was made nearer.
            None => self.good_byes,
            // Who chose the lease's end waits no longer, nor does what nobody got.
            Some(0) => !now.written || wait == 0,
            Some(waits) => now.written && waits == wait,
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
            message_group: 0,
            request: 0,
            first_leased_ms: 0,
            departed: false,
            parked: false,
            noted: 0,
        }
    }

    fn is_wrong(attempt: u32, written: bool, waits_ms: u64) -> bool {
        let waits = Waits::new(
            BackoffView::Customized {
                next_ms: vec![1_000, 5_000],
            },
            false,
            16,
        );
        let key = (1, 1, QueueId::new(1, 0), GroupId(1), 7);
        let before = row(true, attempt, 10_000, written);
        let now = row(false, attempt, 10_000 + waits_ms, written);
        let (due, due_rightly) = (now.at_ms, before.at_ms + waits.wait_ms(attempt));
        let is_wrong = |now_ms| waits.judge(key, &before, &now, now_ms).is_some();
        assert!(!is_wrong(due.max(due_rightly)), "both are over");
        let while_it_waits = is_wrong(10_000);
        assert_eq!(while_it_waits, is_wrong(due.max(due_rightly) - 1));
        while_it_waits
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
            assert!(is_wrong(attempt, true, wait + 1));
            assert!(is_wrong(attempt, true, 2 * wait));
            assert!(is_wrong(attempt, true, 0));
        }
        assert!(is_wrong(2, true, 1_000), "the step before");
    }

    #[test]
    fn more_in_flight_than_the_bound_is_found() {
        let waits = Waits::new(BackoffView::Customized { next_ms: vec![1] }, false, 5);
        let judged = |count| waits.judge_counts(&[((1, QueueId::new(1, 0), GroupId(1)), count)].into());
        assert_eq!(judged(5).len(), 0);
        assert_eq!(judged(6).len(), 1);
    }

    #[test]
    fn waits_grow_up_to_the_longest() {
        let backoff = BackoffView::Exponential {
            initial_ms: 100,
            max_ms: 500,
            multiplier_percent: 200,
        };
        let waits = Waits::new(backoff, false, 16);
        assert_eq!(
            [1, 2, 3, 4, 9].map(|attempt| waits.wait_ms(attempt)),
            [100, 200, 400, 500, 500]
        );
    }
}
