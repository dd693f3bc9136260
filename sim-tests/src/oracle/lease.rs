//! P3: a leased message is not given to anybody of the same consumer group before its deadline, across failovers too.
//!
//! A client does not know when exactly its lease began, only that it was after it asked. So a lease lasts at least from
//! then for as long as was agreed. An attempt that nobody saw is a delivery whose answer was lost: its lease lasts as
//! long as the shortest, because nobody has its receipt.
//!
//! A lease of a consumer that says good-bye may be over at once, and so may those that nobody saw: for some time such are
//! not reckoned with.

use std::{collections::BTreeMap, time::Duration};

use super::{Departures, Oracle, unseen_lease};
use crate::history::{Event, Place, Receipt};

/// What was delivered, by consumer group and place.
#[derive(Default)]
pub(super) struct Leases {
    leases: BTreeMap<(String, Place), Lease>,
    departures: Departures,
}

#[derive(Default)]
struct Lease {
    client: String,
    /// It began after that.
    asked: Duration,
    /// It lasts at least until then.
    until: Duration,
    attempt: i32,
}

impl Leases {
    fn lease_of(&mut self, receipt: &Receipt) -> &mut Lease {
        let key = (receipt.group.clone(), receipt.place.clone());
        self.leases.entry(key).or_default()
    }
}

impl Oracle for Leases {
    fn see(&mut self, at: Duration, event: &Event, wrong: &mut Vec<String>) {
        match event {
            Event::Delivered(it) => {
                let key = (it.group.clone(), it.place.clone());
                let over = self.departures.concern(it);
                if let Some(before) = self.leases.get(&key) {
                    let Lease { until, attempt, .. } = before;
                    if over && it.attempt < *attempt {
                        return;
                    }
                    let unseen = match self
                        .departures
                        .worked_since(before.asked, &it.group, &it.place.topic)
                        > 0
                    {
                        true => 0,
                        false => u32::try_from(it.attempt - attempt - 1).unwrap_or(0),
                    };
                    let until = *until + unseen_lease(it) * unseen;
                    if at < until {
                        wrong.push(format!(
                            "P3: {} came to {} again at {at:?} from {:?}, attempt {} after {attempt}, leased until {until:?}",
                            it.id, it.group, it.place, it.attempt
                        ));
                    }
                }
                let lasts = if over { Duration::ZERO } else { it.invisible };
                let lease = Lease {
                    client: it.client.clone(),
                    asked: it.asked,
                    until: it.asked + lasts,
                    attempt: it.attempt,
                };
                self.leases.insert(key, lease);
            }
            Event::Leaving { client, group, topic } => {
                self.departures.leaving(at, client, group, topic);
                for ((holder, place), lease) in &mut self.leases {
                    if holder == group && place.topic == *topic && lease.client == *client {
                        lease.until = lease.until.min(at);
                    }
                }
            }
            Event::Hidden {
                receipt,
                asked,
                invisible,
            } => self.lease_of(receipt).until = *asked + *invisible,
            Event::HideUnsure {
                receipt,
                asked,
                invisible,
            } => {
                let lease = self.lease_of(receipt);
                lease.until = lease.until.min(*asked + *invisible);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    fn hide(asked: u64, invisible: u64, sure: bool) -> Event {
        let (receipt, asked, invisible) = (receipt("t/1", 0, 1), S(asked), S(invisible));
        if sure {
            Event::Hidden {
                receipt,
                asked,
                invisible,
            }
        } else {
            Event::HideUnsure {
                receipt,
                asked,
                invisible,
            }
        }
    }

    fn judged(between: Option<(u64, Event)>, again: u64) -> usize {
        let mut events = vec![(1, delivered("t/1", 0, 1, 1))];
        events.extend(between);
        events.push((again, delivered("t/1", 0, 2, again)));
        judge(&mut Leases::default(), &events).len()
    }

    #[test]
    fn a_lease_lasts_from_the_question_for_as_long_as_agreed() {
        assert_eq!(judged(None, 10), 1);
        assert_eq!(judged(None, 11), 0);
    }

    #[test]
    fn hiding_makes_it_longer_or_shorter() {
        assert_eq!(judged(Some((5, hide(5, 20, true))), 24), 1);
        assert_eq!(judged(Some((5, hide(5, 20, true))), 25), 0);
        assert_eq!(judged(Some((3, hide(3, 1, true))), 4), 0);
    }

    #[test]
    fn of_two_possible_ends_the_earlier_one_counts() {
        assert_eq!(judged(Some((5, hide(5, 20, false))), 11), 0);
        assert_eq!(judged(Some((5, hide(5, 20, false))), 10), 1);
        assert_eq!(judged(Some((3, hide(3, 1, false))), 4), 0);
    }

    #[test]
    fn an_attempt_that_nobody_saw_has_a_lease_too() {
        let events = |again| {
            [
                (1, delivered("t/1", 0, 1, 1)),
                (again, delivered("t/1", 0, 3, again)),
            ]
        };
        assert_eq!(judge(&mut Leases::default(), &events(20)).len(), 1);
        assert_eq!(judge(&mut Leases::default(), &events(21)).len(), 0);
    }

    #[test]
    fn an_attempt_that_nobody_saw_is_over_early_by_a_good_bye_of_its_time_only() {
        let judged = |left| {
            let events = [
                (left, leaving()),
                (70, delivered("t/1", 0, 1, 70)),
                (80, delivered("t/1", 0, 3, 80)),
            ];
            judge(&mut Leases::default(), &events).len()
        };
        assert_eq!((judged(10), judged(11)), (1, 0));
    }

    #[test]
    fn an_attempt_that_nobody_saw_may_have_had_the_shortest_lease() {
        let again = |at| {
            let Event::Delivered(mut it) = delivered("t/1", 0, 3, at) else {
                unreachable!()
            };
            it.invisible = S(30);
            let events = [(1, delivered("t/1", 0, 1, 1)), (at, Event::Delivered(it))];
            judge(&mut Leases::default(), &events).len()
        };
        assert_eq!((again(20), again(21)), (1, 0));
    }

    #[test]
    fn a_good_bye_ends_leases_of_before_and_none_of_later() {
        assert_eq!(judged(Some((5, leaving())), 6), 0);
        let later = [
            (1, leaving()),
            (2, delivered("t/1", 0, 1, 2)),
            (11, delivered("t/1", 0, 2, 11)),
        ];
        assert_eq!(judge(&mut Leases::default(), &later).len(), 1);
        for (client, topic) in [("c", "other"), ("another", "t")] {
            let elsewhere = Event::Leaving {
                client: client.into(),
                group: "g".into(),
                topic: topic.into(),
            };
            assert_eq!(judged(Some((5, elsewhere)), 6), 1);
        }
    }

    #[test]
    fn what_was_asked_for_before_the_good_bye_may_come_after_what_others_got() {
        let late = |asked| {
            [
                (5, leaving()),
                (7, delivered("t/1", 0, 2, 6)),
                (8, delivered("t/1", 0, 1, asked)),
                (9, delivered("t/1", 0, 3, 9)),
            ]
        };
        let wrong = judge(&mut Leases::default(), &late(4));
        assert_eq!(wrong.len(), 1, "the third while the second is leased: {wrong:?}");
        assert_eq!(judge(&mut Leases::default(), &late(6)).len(), 2);
    }

    #[test]
    fn after_a_good_bye_an_attempt_that_nobody_saw_proves_nothing() {
        let events = [
            (1, leaving()),
            (2, delivered("t/1", 0, 1, 2)),
            (12, delivered("t/1", 0, 3, 12)),
        ];
        assert_eq!(judge(&mut Leases::default(), &events).len(), 0);
    }

    #[test]
    fn another_place_is_another_lease() {
        let events = [(1, delivered("t/1", 0, 1, 1)), (2, delivered("t/1", 1, 1, 2))];
        assert_eq!(judge(&mut Leases::default(), &events).len(), 0);
    }
}
