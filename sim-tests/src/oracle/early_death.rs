//! P9, the other side: a message becomes a dead letter when its attempts are used up, not before; or when somebody buries
//! it, or says that its last attempt failed.
//!
//! Attempts that nobody saw had a lease each, as long as the shortest (see `lease`). So there is a time before which no message is
//! given up, and it is reckoned here message by message.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Departures, Oracle, SHORTEST_LEASE, unseen_lease};
use crate::history::{DEAD_LETTERS, Event, Receipt, topic_of};

/// A message, for a consumer group.
type Owed = (String, String);

/// How far everything is on its way to the dead letters.
pub(super) struct EarlyDeath {
    groups: BTreeSet<String>,
    max_attempts: u32,
    sent: BTreeMap<String, Duration>,
    ways: BTreeMap<Owed, Way>,
    departures: Departures,
}

#[derive(Default)]
struct Way {
    /// The attempt after which it comes no more to anybody, if no later one was seen.
    attempt: u32,
    /// That attempt is not over before.
    until: Duration,
    /// Attempts after it had such a lease, at least.
    unseen: Duration,
    /// Somebody may have made a dead letter of it.
    may_be_dead: bool,
}

impl EarlyDeath {
    /// Every message is for each of these consumer groups.
    pub(super) fn new(groups: BTreeSet<String>, max_attempts: u32) -> EarlyDeath {
        EarlyDeath {
            groups,
            max_attempts,
            sent: BTreeMap::new(),
            ways: BTreeMap::new(),
            departures: Departures::default(),
        }
    }

    fn way(&mut self, receipt: &Receipt) -> Option<&mut Way> {
        self.ways.get_mut(&(receipt.group.clone(), receipt.id.clone()))
    }

    /// Its lease may end at this time already.
    fn may_end(&mut self, receipt: &Receipt, at: Duration) {
        let most = self.max_attempts;
        if let Some(way) = self.way(receipt) {
            // Somebody who says that the last attempt failed gives it up.
            way.may_be_dead |= at <= way.until && receipt.attempt >= most as i32;
            way.until = way.until.min(at);
        }
    }

    fn judge(&self, at: Duration, group: &str, id: &str, wrong: &mut Vec<String>) {
        let key = (group.to_owned(), id.to_owned());
        let never = Way::default();
        let way = self.ways.get(&key).unwrap_or(&never);
        let Some(sent) = self.sent.get(id) else { return };
        let lease = way.unseen.max(SHORTEST_LEASE);
        let mut unseen = self.max_attempts.saturating_sub(way.attempt);
        if way.attempt == 0 {
            // Of those whose answers never came each may have been cut short by the good-bye of whoever had asked.
            let good_byes = self.departures.worked_since(*sent, group, topic_of(id));
            unseen = unseen.saturating_sub(good_byes as u32);
        }
        let earliest = way.until.max(*sent) + lease * unseen;
        if at < earliest && !way.may_be_dead {
            wrong.push(format!(
                "P9: {id} is a dead letter of {group} at {at:?}, after attempt {} of {}; not before {earliest:?}",
                way.attempt, self.max_attempts
            ));
        }
    }
}

impl Oracle for EarlyDeath {
    fn see(&mut self, at: Duration, event: &Event, wrong: &mut Vec<String>) {
        match event {
            Event::Sending { id, .. } => _ = self.sent.entry(id.clone()).or_insert(at),
            Event::Delivered(it) => {
                if let Some(group) = it.place.topic.strip_prefix(DEAD_LETTERS) {
                    if self.groups.contains(group) {
                        self.judge(at, group, &it.id, wrong);
                    }
                    return;
                }
                // Whose lease may be over by a good-bye that nobody saw in time.
                let may_be_over = self.departures.worked_since(it.asked, &it.group, &it.place.topic) > 0;
                let way = self.ways.entry((it.group.clone(), it.id.clone())).or_default();
                if it.attempt > way.attempt as i32 {
                    way.attempt = it.attempt as u32;
                    way.until = it.asked + it.invisible;
                    way.unseen = unseen_lease(it);
                    // Whatever it was that could have ended it before has not.
                    way.may_be_dead = may_be_over;
                }
            }
            Event::Leaving { client, group, topic } => {
                self.departures.leaving(at, client, group, topic);
                for ((of, id), way) in &mut self.ways {
                    way.may_be_dead |= of == group && id.starts_with(topic.as_str());
                }
            }
            Event::HideUnsure {
                receipt,
                asked,
                invisible,
            } => self.may_end(receipt, *asked + *invisible),
            Event::Hidden {
                receipt,
                asked,
                invisible,
            } => {
                if let Some(way) = self.way(receipt) {
                    way.until = *asked + *invisible;
                }
            }
            Event::Burying(receipt) => {
                if let Some(way) = self.way(receipt) {
                    way.may_be_dead = true;
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    fn dead(id: &str) -> Event {
        let Event::Delivered(mut it) = delivered(id, 0, 1, 1) else {
            unreachable!()
        };
        it.place.topic = "%DLQ%g".into();
        it.group = "undertaker".into();
        Event::Delivered(it)
    }

    fn judged(events: &[(u64, Event)]) -> usize {
        let mut all = vec![(1, sending("t/1"))];
        all.extend_from_slice(events);
        judge(&mut EarlyDeath::new(["g".to_owned()].into(), 3), &all).len()
    }

    #[test]
    fn three_attempts_take_three_leases_whoever_saw_them() {
        assert_eq!(judged(&[(30, dead("t/1"))]), 1);
        assert_eq!(judged(&[(31, dead("t/1"))]), 0);
        let second = (15, delivered("t/1", 0, 2, 15));
        assert_eq!(judged(&[second.clone(), (34, dead("t/1"))]), 1);
        assert_eq!(judged(&[second, (35, dead("t/1"))]), 0);
    }

    #[test]
    fn a_shorter_lease_may_have_been_agreed() {
        let hide = |attempt| Event::HideUnsure {
            receipt: receipt("t/1", 0, attempt),
            asked: S(2),
            invisible: S(1),
        };
        let first = (2, delivered("t/1", 0, 1, 2));
        assert_eq!(judged(&[first.clone(), (2, hide(1)), (22, dead("t/1"))]), 1);
        assert_eq!(judged(&[first, (2, hide(1)), (23, dead("t/1"))]), 0);
        let last = (2, delivered("t/1", 0, 3, 2));
        assert_eq!(judged(&[last, (2, hide(3)), (2, dead("t/1"))]), 0);
    }

    #[test]
    fn what_somebody_buries_is_dead_at_once() {
        let first = (2, delivered("t/1", 0, 1, 2));
        assert_eq!(judged(&[first.clone(), (3, dead("t/1"))]), 1);
        let burying = Event::Burying(receipt("t/1", 0, 1));
        assert_eq!(judged(&[first, (2, burying), (3, dead("t/1"))]), 0);
    }

    #[test]
    fn whoever_gets_it_again_knows_that_nobody_buried_it() {
        let first = (2, delivered("t/1", 0, 1, 2));
        let burying = (2, Event::Burying(receipt("t/1", 0, 1)));
        let second = (15, delivered("t/1", 0, 2, 15));
        let events = [first, burying, second];
        let with = |dead_at| [&events[..], &[(dead_at, dead("t/1"))]].concat();
        assert_eq!((judged(&with(34)), judged(&with(35))), (1, 0));
    }

    #[test]
    fn a_good_bye_makes_attempts_short_for_its_time_only() {
        let again = |at| {
            [
                (3, leaving()),
                (at, delivered("t/1", 0, 1, at)),
                (at, dead("t/1")),
            ]
        };
        assert_eq!((judged(&again(62)), judged(&again(63))), (0, 1));
        // Nobody saw any of the three attempts; each good-bye may have ended one.
        let unseen = |good_byes, at| {
            let mut events = vec![(3, leaving()); good_byes];
            events.push((at, dead("t/1")));
            judged(&events)
        };
        assert_eq!((unseen(1, 20), unseen(1, 21)), (1, 0));
        assert_eq!((unseen(2, 10), unseen(2, 11), unseen(3, 3)), (1, 0, 0));
    }
}
