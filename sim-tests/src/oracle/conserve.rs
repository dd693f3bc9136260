//! P4, as clients can see it: each delivery of a message to a consumer group has a higher attempt than the one before,
//! and what was acknowledged or buried does not come again ("recovered"). What a consumer asked for before it said good-bye
//! may come after what others got instead.

use std::{collections::BTreeMap, time::Duration};

use super::{Departures, Oracle};
use crate::history::{Event, Place};

#[derive(Default)]
struct Fate {
    attempt: i32,
    over: Option<Duration>,
}

/// The fate of everything delivered, by consumer group and place.
#[derive(Default)]
pub(super) struct Conserve {
    fates: BTreeMap<(String, Place), Fate>,
    departures: Departures,
}

impl Oracle for Conserve {
    fn see(&mut self, at: Duration, event: &Event, wrong: &mut Vec<String>) {
        match event {
            Event::Delivered(it) => {
                let fate = self
                    .fates
                    .entry((it.group.clone(), it.place.clone()))
                    .or_default();
                let overtaken = self.departures.concern(it) && it.attempt < fate.attempt;
                if it.attempt <= fate.attempt && !overtaken {
                    wrong.push(format!(
                        "P4: {} came to {} with attempt {} after {}",
                        it.id, it.group, it.attempt, fate.attempt
                    ));
                }
                // What was asked for before may arrive after.
                if fate.over.is_some_and(|over| it.asked > over) {
                    wrong.push(format!(
                        "P4 recovered: {} was done with and came to {} again at {at:?}",
                        it.id, it.group
                    ));
                }
                fate.attempt = fate.attempt.max(it.attempt);
            }
            Event::Leaving { client, group, topic } => self.departures.leaving(at, client, group, topic),
            Event::Acked { receipt, .. } | Event::Buried { receipt, .. } => {
                let key = (receipt.group.clone(), receipt.place.clone());
                let fate = self.fates.entry(key).or_default();
                fate.over.get_or_insert(at);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    #[test]
    fn attempts_go_up_and_may_leave_some_out() {
        let events = [
            (1, delivered("t/1", 0, 1, 1)),
            (11, delivered("t/1", 0, 3, 11)),
            (12, acked("t/1", 0)),
        ];
        assert_eq!(judge(&mut Conserve::default(), &events), Vec::<String>::new());
    }

    #[test]
    fn attempts_that_begin_again_are_found() {
        let events = [(1, delivered("t/1", 0, 1, 1)), (11, delivered("t/1", 0, 1, 11))];
        assert_eq!(judge(&mut Conserve::default(), &events).len(), 1);
    }

    #[test]
    fn attempts_of_somebody_who_left_may_come_late_but_not_twice() {
        let late = |attempt, asked| {
            [
                (5, leaving()),
                (7, delivered("t/1", 0, 2, 6)),
                (8, delivered("t/1", 0, attempt, asked)),
            ]
        };
        assert_eq!(judge(&mut Conserve::default(), &late(1, 4)).len(), 0);
        assert_eq!(judge(&mut Conserve::default(), &late(2, 4)).len(), 1);
        assert_eq!(judge(&mut Conserve::default(), &late(1, 6)).len(), 1);
    }

    #[test]
    fn what_was_done_with_and_comes_again_is_found_unless_it_was_asked_for_before() {
        let again = |asked| {
            [
                (1, delivered("t/1", 0, 1, 1)),
                (5, acked("t/1", 0)),
                (20, delivered("t/1", 0, 2, asked)),
            ]
        };
        assert_eq!(judge(&mut Conserve::default(), &again(20)).len(), 1);
        assert_eq!(judge(&mut Conserve::default(), &again(4)).len(), 0);
    }
}
