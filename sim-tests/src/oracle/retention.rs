//! Retention: nothing is forgotten before its time, what is forgotten stays so, and what is past retention goes.
//!
//! A message may be forgotten when it is older than the retention time, or when it stands in the oldest segments of a log that
//! is over its bound. What a consumer group has leased or waits for stays, and dead letters are never forgotten for room.
//! `ledger` keeps account of all queues and says why each message was forgotten, `look` reads the nodes for it. Here
//! is judged what clients can know of it: by true time, which no clock of the cluster can bend.

use std::{collections::BTreeMap, time::Duration};

use super::Oracle;
use crate::history::{Event, Place, Why};

pub mod ledger;
#[cfg(madsim)]
pub mod look;

/// What was sent when, and what was forgotten when.
#[derive(Default)]
pub(super) struct Retention {
    sent: BTreeMap<String, Duration>,
    /// By consumer group and place.
    forgotten: BTreeMap<(String, Place), Duration>,
}

impl Oracle for Retention {
    fn see(&mut self, at: Duration, event: &Event, wrong: &mut Vec<String>) {
        match event {
            Event::Sending { id, .. } => {
                self.sent.entry(id.clone()).or_insert(at);
            }
            Event::Forgotten {
                place,
                id,
                groups,
                why,
            } => {
                if let Why::Aged(retention) = why
                    && let Some(sent) = id.as_ref().and_then(|id| self.sent.get(id))
                    && at < *sent + *retention
                {
                    wrong.push(format!(
                        "retention: {id:?} at {place:?} was sent at {sent:?} and forgotten by {at:?} as older than {retention:?}"
                    ));
                }
                for group in groups {
                    self.forgotten.insert((group.clone(), place.clone()), at);
                }
            }
            Event::Delivered(it) => {
                let key = (it.group.clone(), it.place.clone());
                // What was asked for before may arrive after.
                if self.forgotten.get(&key).is_some_and(|at| it.asked > *at) {
                    wrong.push(format!(
                        "retention: {} was forgotten at {:?} and came to {} at {at:?}",
                        it.id, it.place, it.group
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

    fn aged(seconds: u64) -> Event {
        forgotten("t/1", 0, Why::Aged(S(seconds)))
    }

    #[test]
    fn what_is_younger_than_the_retention_by_true_time_must_not_be_forgotten_for_its_age() {
        let judged = |at, seconds| {
            let events = [(5, sending("t/1")), (7, sending("t/1")), (at, aged(seconds))];
            judge(&mut Retention::default(), &events).len()
        };
        assert_eq!(judged(15, 10), 0);
        assert_eq!(judged(14, 10), 1);
        let room = [(5, sending("t/1")), (6, forgotten("t/1", 0, Why::Room))];
        assert_eq!(judge(&mut Retention::default(), &room).len(), 0);
    }

    #[test]
    fn what_was_forgotten_does_not_come_unless_it_was_asked_for_before() {
        let judged = |asked| {
            let events = [(20, aged(10)), (25, delivered("t/1", 0, 1, asked))];
            judge(&mut Retention::default(), &events).len()
        };
        assert_eq!(judged(20), 0);
        assert_eq!(judged(21), 1);
    }
}
