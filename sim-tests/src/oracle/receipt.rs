//! P3, for whoever has a receipt: while a lease lasts its holder's acknowledgement is not refused, and an
//! acknowledgement with an older receipt is not accepted, unless the message is over anyway (which a node that repeats a
//! request of unknown outcome cannot tell from its own success). A lease of a consumer that says good-bye may be over at
//! once.

use std::{collections::BTreeMap, time::Duration};

use super::{Departures, Oracle};
use crate::history::{Event, Place};

/// The latest delivery of everything, by consumer group and place.
#[derive(Default)]
pub(super) struct Receipts {
    latest: BTreeMap<(String, Place), Latest>,
    departures: Departures,
}

struct Latest {
    attempt: i32,
    seen: Duration,
    /// The lease lasts at least until then, unless its holder ends it.
    until: Duration,
    ending: bool,
}

impl Oracle for Receipts {
    fn see(&mut self, at: Duration, event: &Event, wrong: &mut Vec<String>) {
        match event {
            Event::Delivered(it) => {
                let key = (it.group.clone(), it.place.clone());
                let over = self.departures.concern(it);
                if over
                    && self
                        .latest
                        .get(&key)
                        .is_some_and(|latest| latest.attempt > it.attempt)
                {
                    return;
                }
                let lasts = if over { Duration::ZERO } else { it.invisible };
                let latest = Latest {
                    attempt: it.attempt,
                    seen: at,
                    until: it.asked + lasts,
                    ending: false,
                };
                self.latest.insert(key, latest);
            }
            Event::Leaving { group, topic } => {
                self.departures.leaving(at, group, topic);
                for ((holder, place), latest) in &mut self.latest {
                    if holder == group && place.topic == *topic {
                        latest.until = latest.until.min(at);
                    }
                }
            }
            Event::Ending {
                group,
                place,
                attempt,
            } => {
                if let Some(latest) = self.latest.get_mut(&(group.clone(), place.clone())) {
                    latest.ending |= latest.attempt == *attempt;
                }
            }
            Event::Acked {
                group,
                place,
                id,
                attempt,
                asked,
            } => {
                if let Some(latest) = self.latest.get(&(group.clone(), place.clone()))
                    && latest.attempt > *attempt
                    && latest.seen < *asked
                    && at < latest.until
                    && !latest.ending
                {
                    wrong.push(format!(
                        "P3: {group} acknowledged {id} with the receipt of attempt {attempt}, while attempt {} is leased",
                        latest.attempt
                    ));
                }
            }
            Event::AckRefused {
                group,
                place,
                id,
                attempt,
            } => {
                if let Some(latest) = self.latest.get(&(group.clone(), place.clone()))
                    && latest.attempt == *attempt
                    && at < latest.until
                {
                    wrong.push(format!(
                        "P3: {group} may not acknowledge {id} of {place:?} at {at:?}, leased until {:?}",
                        latest.until
                    ));
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
        Event::Ending {
            group: "g".into(),
            place: place(0),
            attempt,
        }
    }

    fn refused(attempt: i32) -> Event {
        Event::AckRefused {
            group: "g".into(),
            place: place(0),
            id: "t/1".into(),
            attempt,
        }
    }

    /// The first receipt, acknowledged at 15 and accepted at 16.
    fn old() -> Event {
        Event::Acked {
            group: "g".into(),
            place: place(0),
            id: "t/1".into(),
            attempt: 1,
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
}
