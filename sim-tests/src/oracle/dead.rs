//! P9: no message is delivered to a consumer group more often than allowed, and a dead letter is in the dead-letter topic
//! exactly once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Oracle;
use crate::history::{DEAD_LETTERS, Event, Place};

/// Places of every message among those for clients and among dead letters.
pub(super) struct Dead {
    max_attempts: u32,
    alive: BTreeMap<String, BTreeSet<Place>>,
    dead: BTreeMap<(String, String), BTreeSet<Place>>,
    buried: BTreeSet<(String, String)>,
    /// Dead letters that retention took.
    forgotten: BTreeSet<(String, String)>,
}

impl Dead {
    pub(super) fn new(max_attempts: u32) -> Dead {
        Dead {
            max_attempts,
            alive: BTreeMap::new(),
            dead: BTreeMap::new(),
            buried: BTreeSet::new(),
            forgotten: BTreeSet::new(),
        }
    }
}

impl Oracle for Dead {
    fn see(&mut self, _: Duration, event: &Event, wrong: &mut Vec<String>) {
        match event {
            Event::Delivered(it) => {
                if let Some(group) = it.place.topic.strip_prefix(DEAD_LETTERS) {
                    let key = (group.to_owned(), it.id.clone());
                    self.dead.entry(key).or_default().insert(it.place.clone());
                    return;
                }
                self.alive
                    .entry(it.id.clone())
                    .or_default()
                    .insert(it.place.clone());
                if it.attempt > self.max_attempts as i32 {
                    wrong.push(format!(
                        "P9: {} came to {} with attempt {} of {}",
                        it.id, it.group, it.attempt, self.max_attempts
                    ));
                }
            }
            Event::Buried { receipt, .. } => {
                self.buried.insert((receipt.group.clone(), receipt.id.clone()));
            }
            Event::Forgotten {
                place, id: Some(id), ..
            } => {
                if let Some(group) = place.topic.strip_prefix(DEAD_LETTERS) {
                    self.forgotten.insert((group.to_owned(), id.clone()));
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, wrong: &mut Vec<String>) {
        for ((group, id), places) in &self.dead {
            // A send that was repeated elsewhere has copies, and each may die.
            let copies = self.alive.get(id).map_or(0, BTreeSet::len).max(1);
            if places.len() > copies {
                wrong.push(format!("P9: {id} is a dead letter of {group} at {places:?}"));
            }
        }
        for key @ (group, id) in &self.buried {
            if !self.dead.contains_key(key) && !self.forgotten.contains(key) {
                wrong.push(format!(
                    "P9: {group} buried {id}, and it is not among the dead letters"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};
    use crate::history::Why;

    fn dead(id: &str, offset: i64) -> Event {
        let Event::Delivered(mut it) = delivered(id, offset, 1, 1) else {
            unreachable!()
        };
        it.place.topic = "%DLQ%g".into();
        it.group = "undertaker".into();
        Event::Delivered(it)
    }

    fn buried(id: &str) -> Event {
        Event::Buried {
            receipt: receipt(id, 0, 1),
            asked: S(0),
        }
    }

    #[test]
    fn one_dead_letter_after_the_last_attempt_is_good() {
        let events = [
            (1, delivered("t/1", 0, 1, 1)),
            (11, delivered("t/1", 0, 2, 11)),
            (30, dead("t/1", 0)),
            (31, buried("t/1")),
        ];
        assert_eq!(judge(&mut Dead::new(2), &events), Vec::<String>::new());
    }

    #[test]
    fn an_attempt_too_many_is_found() {
        assert_eq!(
            judge(&mut Dead::new(2), &[(1, delivered("t/1", 0, 3, 1))]).len(),
            1
        );
    }

    #[test]
    fn a_dead_letter_twice_is_found_unless_the_message_is_there_twice() {
        let twice = [
            (1, delivered("t/1", 0, 1, 1)),
            (2, dead("t/1", 0)),
            (3, dead("t/1", 5)),
        ];
        assert_eq!(judge(&mut Dead::new(2), &twice).len(), 1);
        let mut copies = twice.to_vec();
        copies.push((4, delivered("t/1", 9, 1, 4)));
        assert_eq!(judge(&mut Dead::new(2), &copies).len(), 0);
    }

    #[test]
    fn a_buried_message_may_have_been_forgotten_as_a_dead_letter_only() {
        let forgotten_at = |topic: &str| {
            let Event::Forgotten {
                place,
                id,
                groups,
                why,
            } = forgotten("t/1", 0, Why::Aged(S(1)))
            else {
                unreachable!()
            };
            let topic = topic.into();
            let place = Place { topic, ..place };
            let forgotten = Event::Forgotten {
                place,
                id,
                groups,
                why,
            };
            judge(&mut Dead::new(2), &[(1, buried("t/1")), (9, forgotten)]).len()
        };
        assert_eq!(forgotten_at("%DLQ%g"), 0);
        assert_eq!(forgotten_at("t"), 1);
    }

    #[test]
    fn a_buried_message_that_is_nowhere_is_found() {
        assert_eq!(judge(&mut Dead::new(2), &[(1, buried("t/1"))]).len(), 1);
    }
}
