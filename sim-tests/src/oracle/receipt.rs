//! P3, for whoever has a receipt: while a lease lasts its holder is not refused, whatever it asks for, and what is asked
//! with an older receipt is not accepted, be it of an earlier delivery or of before the lease was given another end; unless
//! the message is over anyway (which a node that repeats a request of unknown outcome cannot tell from its own success). A
//! lease of a consumer that says good-bye may be over at once.

use std::{collections::BTreeMap, time::Duration};

use super::{Departures, Oracle};
use crate::history::{Delivery, Event, Place, Receipt};

/// The latest delivery of everything, by consumer group and place.
#[derive(Default)]
pub(super) struct Receipts {
    latest: BTreeMap<(String, Place), Latest>,
    departures: Departures,
}

struct Latest {
    client: String,
    attempt: i32,
    /// How often its lease was given another end.
    changes: u32,
    /// This receipt counts since then.
    seen: Duration,
    /// The lease lasts at least until then, unless its holder ends it.
    until: Duration,
    /// Its holder is about to do that.
    ending: bool,
    /// Nobody knows whether the lease was given another end, and with it another receipt.
    unsure: bool,
}

impl Latest {
    fn is_of(&self, receipt: &Receipt) -> bool {
        (self.attempt, self.changes) == (receipt.attempt, receipt.changes)
    }

    fn is_after(&self, receipt: &Receipt) -> bool {
        (self.attempt, self.changes) > (receipt.attempt, receipt.changes)
    }
}

impl Receipts {
    fn of(&mut self, receipt: &Receipt) -> Option<&mut Latest> {
        self.latest
            .get_mut(&(receipt.group.clone(), receipt.place.clone()))
    }

    /// The service did at `at`, or before, what was asked with this receipt at `asked`.
    fn accepted(&mut self, receipt: &Receipt, asked: Duration, at: Duration, wrong: &mut Vec<String>) {
        if let Some(latest) = self.of(receipt)
            && latest.is_after(receipt)
            && latest.seen < asked
            && at < latest.until
            && !latest.ending
            && !latest.unsure
        {
            wrong.push(format!(
                "P3: {} still decides about {} at {at:?} with the receipt of attempt {} and {} changes, while attempt {} with {} \
                 is leased",
                receipt.group, receipt.id, receipt.attempt, receipt.changes, latest.attempt, latest.changes
            ));
        }
    }

    /// The service refused what was asked with this receipt, although its lease, had it lasted until `until`, was there.
    fn refused(&mut self, receipt: &Receipt, until: Duration, at: Duration, wrong: &mut Vec<String>) {
        if let Some(latest) = self.of(receipt)
            && latest.is_of(receipt)
            && !latest.unsure
            && at < latest.until.min(until)
        {
            wrong.push(format!(
                "P3: {} is refused with {} of {:?} at {at:?}, leased until {:?}",
                receipt.group, receipt.id, receipt.place, latest.until
            ));
        }
    }

    /// A message came: its earlier receipts count no more.
    fn delivered(&mut self, it: &Delivery, at: Duration) {
        let key = (it.group.clone(), it.place.clone());
        let over = self.departures.concern(it);
        let known = self.latest.get(&key);
        if over && known.is_some_and(|latest| latest.attempt > it.attempt) {
            return;
        }
        let lasts = if over { Duration::ZERO } else { it.invisible };
        let latest = Latest {
            client: it.client.clone(),
            attempt: it.attempt,
            changes: 0,
            seen: at,
            until: it.asked + lasts,
            ending: false,
            unsure: false,
        };
        self.latest.insert(key, latest);
    }
}

impl Oracle for Receipts {
    fn see(&mut self, at: Duration, event: &Event, wrong: &mut Vec<String>) {
        match event {
            Event::Delivered(it) => self.delivered(it, at),
            Event::Leaving { client, group, topic } => {
                self.departures.leaving(at, client, group, topic);
                for ((holder, place), latest) in &mut self.latest {
                    if holder == group && place.topic == *topic && latest.client == *client {
                        latest.until = latest.until.min(at);
                    }
                }
            }
            Event::Ending(receipt) => {
                if let Some(latest) = self.of(receipt).filter(|latest| latest.is_of(receipt)) {
                    latest.ending = true;
                }
            }
            Event::Acked { receipt, asked } | Event::Buried { receipt, asked } => {
                self.accepted(receipt, *asked, at, wrong);
            }
            Event::EndRefused(receipt) => self.refused(receipt, Duration::MAX, at, wrong),
            Event::HideUnsure { receipt, .. } => {
                if let Some(latest) = self.of(receipt).filter(|latest| latest.is_of(receipt)) {
                    latest.unsure = true;
                }
            }
            Event::HideRefused {
                receipt,
                asked,
                invisible,
            } => {
                if let Some(latest) = self.of(receipt).filter(|latest| latest.is_of(receipt)) {
                    latest.unsure = false;
                    // Done, unknown to whoever passed it on, over by the time it was tried again, and so refused.
                    self.refused(receipt, *asked + *invisible, at, wrong);
                }
            }
            Event::Hidden {
                receipt,
                asked,
                invisible,
            } => {
                self.accepted(receipt, *asked, at, wrong);
                if let Some(latest) = self.of(receipt).filter(|latest| latest.is_of(receipt)) {
                    latest.changes += 1;
                    (latest.seen, latest.until) = (at, *asked + *invisible);
                    (latest.ending, latest.unsure) = (false, false);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    fn ending(attempt: i32) -> Event {
        Event::Ending(receipt("t/1", 0, attempt))
    }

    fn refused(attempt: i32) -> Event {
        Event::EndRefused(receipt("t/1", 0, attempt))
    }

    /// The first receipt, acknowledged at 15 and accepted at 16.
    fn old() -> Event {
        Event::Acked {
            receipt: receipt("t/1", 0, 1),
            asked: S(15),
        }
    }

    fn judged(events: &[(u64, Event)]) -> usize {
        judge(&mut Receipts::default(), events).len()
    }

    #[test]
    fn a_holder_is_refused_after_its_lease_only() {
        let first = || (1, delivered("t/1", 0, 1, 1));
        assert_eq!(judged(&[first(), (10, refused(1))]), 1);
        assert_eq!(judged(&[first(), (11, refused(1))]), 0);
        assert_eq!(
            judged(&[first(), (12, delivered("t/1", 0, 2, 12)), (13, refused(1))]),
            0
        );
    }

    #[test]
    fn a_holder_that_said_good_bye_may_be_refused_and_one_that_came_later_not() {
        let first = || (1, delivered("t/1", 0, 1, 1));
        assert_eq!(judged(&[first(), (5, leaving()), (6, refused(1))]), 0);
        let late = [(5, leaving()), (6, delivered("t/1", 0, 1, 4)), (7, refused(1))];
        assert_eq!(judged(&late), 0, "it had asked before");
        let later = [(5, leaving()), (6, delivered("t/1", 0, 1, 6)), (7, refused(1))];
        assert_eq!(judged(&later), 1);
    }

    #[test]
    fn a_late_answer_to_somebody_who_left_does_not_hide_who_has_the_lease() {
        let events = [
            (5, leaving()),
            (7, delivered("t/1", 0, 2, 6)),
            (8, delivered("t/1", 0, 1, 4)),
        ];
        let with = |event| judged(&[events.as_slice(), &[event]].concat());
        assert_eq!(with((16, old())), 0, "the second lease may be over");
        assert_eq!(with((15, refused(2))), 1);
        assert_eq!(with((9, refused(1))), 0);
    }

    #[test]
    fn an_old_receipt_counts_only_when_the_message_is_over() {
        let twice = |second| {
            vec![
                (1, delivered("t/1", 0, 1, 1)),
                (second, delivered("t/1", 0, 2, second)),
            ]
        };
        let with = |mut events: Vec<_>, more: &[(u64, Event)]| {
            events.extend_from_slice(more);
            judged(&events)
        };
        assert_eq!(with(twice(12), &[(16, old())]), 1);
        assert_eq!(
            with(twice(15), &[(16, old())]),
            0,
            "it was sent before the redelivery was seen"
        );
        assert_eq!(
            with(twice(12), &[(14, ending(2)), (16, old())]),
            0,
            "the new holder is done, perhaps"
        );
        assert_eq!(with(twice(12), &[(14, ending(1)), (16, old())]), 1);
        assert_eq!(
            with(twice(12), &[(30, old())]),
            0,
            "the second lease is over, too"
        );
    }

    /// The first delivery, from the second 1 on, hidden at 5 for 20 seconds, or not.
    fn hidden(end: fn(Receipt, Duration, Duration) -> Event) -> Vec<(u64, Event)> {
        let asked = |changes| Receipt {
            changes,
            ..receipt("t/1", 0, 1)
        };
        let (receipt, asked, invisible) = (asked(0), S(5), S(20));
        let unsure = Event::HideUnsure {
            receipt: receipt.clone(),
            asked,
            invisible,
        };
        vec![
            (1, delivered("t/1", 0, 1, 1)),
            (5, unsure),
            (6, end(receipt, asked, invisible)),
        ]
    }

    fn done(receipt: Receipt, asked: Duration, invisible: Duration) -> Event {
        Event::Hidden {
            receipt,
            asked,
            invisible,
        }
    }

    fn refuse(receipt: Receipt, asked: Duration, invisible: Duration) -> Event {
        Event::HideRefused {
            receipt,
            asked,
            invisible,
        }
    }

    fn changed() -> Receipt {
        Receipt {
            changes: 1,
            ..receipt("t/1", 0, 1)
        }
    }

    #[test]
    fn a_new_receipt_counts_for_as_long_as_was_asked_and_the_old_one_no_more() {
        let with = |at, event| judged(&[hidden(done).as_slice(), &[(at, event)]].concat());
        assert_eq!(with(24, Event::EndRefused(changed())), 1);
        assert_eq!(with(25, Event::EndRefused(changed())), 0);
        assert_eq!(with(8, refused(1)), 0, "the old one is nobody's");
        let accepted = |receipt, asked| Event::Acked {
            receipt,
            asked: S(asked),
        };
        assert_eq!(with(8, accepted(receipt("t/1", 0, 1), 7)), 1);
        assert_eq!(with(8, accepted(receipt("t/1", 0, 1), 5)), 0, "sent before");
        assert_eq!(with(8, accepted(changed(), 7)), 0);
    }

    #[test]
    fn who_is_refused_another_end_had_no_lease() {
        assert_eq!(judged(&hidden(refuse)), 1);
        let mut late = hidden(refuse);
        late[2].0 = 11;
        assert_eq!(judged(&late), 0);
    }

    #[test]
    fn of_two_possible_receipts_either_may_count() {
        let mut unsure = hidden(done);
        unsure.pop();
        let with = |event| judged(&[unsure.as_slice(), &[(8, event)]].concat());
        assert_eq!(with(refused(1)), 0);
        let acked = Event::Acked {
            receipt: receipt("t/1", 0, 1),
            asked: S(7),
        };
        assert_eq!(with(acked), 0);
    }

    #[test]
    fn a_dead_letter_with_an_old_receipt_is_found() {
        let events = [
            (1, delivered("t/1", 0, 1, 1)),
            (12, delivered("t/1", 0, 2, 12)),
            (
                16,
                Event::Buried {
                    receipt: receipt("t/1", 0, 1),
                    asked: S(15),
                },
            ),
        ];
        assert_eq!(judged(&events), 1);
    }
}
