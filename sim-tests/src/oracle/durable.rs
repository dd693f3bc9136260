//! P1: an acknowledged send survives ("lost"), and nothing comes that nobody sent ("unexpected"), that was refused
//! ("aborted read"), that a consumer group did not want ("unwanted") or that is not what was sent ("corrupt"). What retention takes, with good reason, before a consumer group
//! had it is not lost for that group.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Oracle;
use crate::{
    history::{DEAD_LETTERS, Event, topic_of},
    readers::Readers,
};

/// Who got what.
pub(super) struct Durable {
    readers: Readers,
    sent: BTreeSet<String>,
    stored: BTreeSet<String>,
    refused: BTreeSet<String>,
    /// By consumer group.
    came: BTreeMap<String, BTreeSet<String>>,
    /// (consumer group, message) that retention has taken before it came.
    forgotten: BTreeSet<(String, String)>,
}

impl Durable {
    /// Messages are for these consumer groups.
    pub(super) fn new(readers: Readers) -> Durable {
        Durable {
            readers,
            sent: BTreeSet::new(),
            stored: BTreeSet::new(),
            refused: BTreeSet::new(),
            came: BTreeMap::new(),
            forgotten: BTreeSet::new(),
        }
    }
}

impl Oracle for Durable {
    fn see(&mut self, at: Duration, event: &Event, wrong: &mut Vec<String>) {
        match event {
            Event::Sending { id, .. } => {
                self.sent.insert(id.clone());
            }
            Event::Stored { id, .. } => {
                self.stored.insert(id.clone());
            }
            Event::Refused { id } => {
                self.refused.insert(id.clone());
                // The answer may have been on its way for longer than the message.
                if self.came.values().any(|came| came.contains(id)) {
                    wrong.push(format!("P1 aborted read: {id} came, and was refused by {at:?}"));
                }
            }
            Event::Delivered(it) => {
                if self.refused.contains(&it.id) {
                    wrong.push(format!(
                        "P1 aborted read: {} came at {at:?} and had been refused",
                        it.id
                    ));
                }
                let dead_of = it.place.topic.strip_prefix(DEAD_LETTERS);
                if !self.sent.contains(&it.id) {
                    wrong.push(format!(
                        "P1 unexpected: {} came at {at:?} and was never sent",
                        it.id
                    ));
                } else if dead_of.is_none() && topic_of(&it.id) != it.place.topic {
                    wrong.push(format!("P1 unexpected: {} came from {:?}", it.id, it.place));
                }
                if !it.intact {
                    wrong.push(format!("P1 corrupt: the body of {} is not what was sent", it.id));
                }
                let group = dead_of.unwrap_or(&it.group).to_owned();
                if !self.readers.wants(&group, &it.id) {
                    wrong.push(format!(
                        "P1 unwanted: {} came at {at:?} through the filter of {group}",
                        it.id
                    ));
                }
                self.came.entry(group).or_default().insert(it.id.clone());
            }
            Event::Forgotten {
                id: Some(id), groups, ..
            } => {
                for group in groups {
                    self.forgotten.insert((group.clone(), id.clone()));
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, wrong: &mut Vec<String>) {
        for id in &self.stored {
            for group in self.readers.of(id) {
                let came = self.came.get(group);
                let is_forgotten = self.forgotten.contains(&(group.clone(), id.clone()));
                if !is_forgotten && !came.is_some_and(|came| came.contains(id)) {
                    wrong.push(format!(
                        "P1 lost: {id} was acknowledged and never came to {group}"
                    ));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};
    use crate::history::Why;

    fn oracle() -> Durable {
        Durable::new(Readers::from(["g".to_owned()]))
    }

    #[test]
    fn what_was_sent_and_came_is_good_and_unknown_ends_may_go_either_way() {
        let events = [
            (0, sending("t/1")),
            (1, stored("t/1", 0)),
            (2, delivered("t/1", 0, 1, 2)),
            (3, sending("t/2")),
            (3, sending("t/3")),
            (4, delivered("t/3", 1, 1, 4)),
        ];
        assert_eq!(judge(&mut oracle(), &events), Vec::<String>::new());
    }

    #[test]
    fn a_lost_message_is_found() {
        let wrong = judge(&mut oracle(), &[(0, sending("t/1")), (1, stored("t/1", 0))]);
        assert!(wrong.len() == 1 && wrong[0].starts_with("P1 lost"), "{wrong:?}");
    }

    #[test]
    fn what_retention_takes_is_lost_for_those_who_should_have_it_still() {
        let mut oracle = Durable::new(Readers::from(["g".to_owned(), "h".to_owned()]));
        let events = [
            (0, sending("t/1")),
            (1, stored("t/1", 0)),
            (9, forgotten("t/1", 0, Why::Room)),
        ];
        let wrong = judge(&mut oracle, &events);
        assert!(wrong.len() == 1 && wrong[0].ends_with("to h"), "{wrong:?}");
    }

    #[test]
    fn a_message_that_only_another_group_got_is_lost() {
        let mut oracle = Durable::new(Readers::from(["g".to_owned(), "h".to_owned()]));
        let events = [
            (0, sending("t/1")),
            (1, stored("t/1", 0)),
            (2, delivered("t/1", 0, 1, 2)),
        ];
        let wrong = judge(&mut oracle, &events);
        assert!(wrong.len() == 1 && wrong[0].ends_with("to h"), "{wrong:?}");
    }

    #[test]
    fn what_a_group_does_not_want_need_not_come_and_must_not() {
        let readers = || Readers::from(["g".to_owned()]).with_choosy("g".into(), |id| id != "t/1");
        let events = [(0, sending("t/1")), (1, stored("t/1", 0))];
        assert_eq!(judge(&mut Durable::new(readers()), &events), Vec::<String>::new());
        let came = [events.as_slice(), &[(2, delivered("t/1", 0, 1, 2))]].concat();
        let wrong = judge(&mut Durable::new(readers()), &came);
        assert!(
            wrong.len() == 1 && wrong[0].starts_with("P1 unwanted"),
            "{wrong:?}"
        );
    }

    #[test]
    fn a_message_that_was_refused_and_comes_is_found() {
        let refused = Event::Refused { id: "t/1".into() };
        let came = || delivered("t/1", 0, 1, 1);
        for events in [[(1, refused.clone()), (2, came())], [(1, came()), (2, refused)]] {
            let wrong = judge(
                &mut oracle(),
                &[[(0, sending("t/1"))].as_slice(), &events].concat(),
            );
            assert!(
                wrong.len() == 1 && wrong[0].starts_with("P1 aborted read"),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn invented_misplaced_and_damaged_messages_are_found() {
        let wrong = judge(&mut oracle(), &[(0, delivered("t/1", 0, 1, 0))]);
        assert!(wrong[0].starts_with("P1 unexpected"), "{wrong:?}");
        let wrong = judge(
            &mut oracle(),
            &[(0, sending("u/1")), (0, delivered("u/1", 0, 1, 0))],
        );
        assert!(wrong[0].starts_with("P1 unexpected"), "{wrong:?}");
        let Event::Delivered(mut it) = delivered("t/1", 0, 1, 0) else {
            unreachable!()
        };
        it.intact = false;
        let wrong = judge(&mut oracle(), &[(0, sending("t/1")), (0, Event::Delivered(it))]);
        assert!(wrong[0].starts_with("P1 corrupt"), "{wrong:?}");
    }
}
