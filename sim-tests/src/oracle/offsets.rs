//! P8: queue offsets are dense from 0 ("poll skip"), what stands at one never changes ("inconsistent offset"), and an
//! acknowledged send stands at the offset that was told.
//!
//! A message can become a dead letter without a client ever having seen it: every answer with it may be lost. Its place
//! is a hole then, and a topic has no more holes than such messages. So is the place of a message that retention took.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Oracle;
use crate::history::{DEAD_LETTERS, Event, Place};

/// What stands where.
#[derive(Default)]
pub(super) struct Offsets {
    at: BTreeMap<Place, String>,
    places: BTreeMap<String, BTreeSet<Place>>,
    sent_to: BTreeMap<String, String>,
    told: BTreeMap<String, i64>,
    /// What retention took, and from where.
    forgotten: BTreeMap<Place, Option<String>>,
}

impl Offsets {
    /// Came as a dead letter, and never before.
    fn only_dead(&self, id: &str) -> bool {
        let places = self.places.get(id);
        places.is_some_and(|places| places.iter().all(|place| place.topic.starts_with(DEAD_LETTERS)))
    }
}

impl Oracle for Offsets {
    fn see(&mut self, _: Duration, event: &Event, wrong: &mut Vec<String>) {
        match event {
            Event::Sending { topic, id } => {
                self.sent_to.insert(id.clone(), topic.clone());
            }
            Event::Stored { id, offset, .. } => {
                self.told.insert(id.clone(), *offset);
            }
            Event::Forgotten { place, id, .. } => {
                self.forgotten.insert(place.clone(), id.clone());
            }
            Event::Delivered(it) => {
                self.places
                    .entry(it.id.clone())
                    .or_default()
                    .insert(it.place.clone());
                if let Some(other) = self.at.insert(it.place.clone(), it.id.clone())
                    && other != it.id
                {
                    wrong.push(format!(
                        "P8 inconsistent offset: {other} stood at {:?}, and now {}",
                        it.place, it.id
                    ));
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, wrong: &mut Vec<String>) {
        let taken: BTreeSet<(&str, i64)> = self
            .forgotten
            .iter()
            .filter_map(|(place, id)| Some((id.as_deref()?, place.offset)))
            .collect();
        for (id, offset) in &self.told {
            let Some(places) = self.places.get(id) else {
                continue; // Then it is lost, which is not for here.
            };
            let is_there = places.iter().any(|place| place.offset == *offset);
            if !self.only_dead(id) && !is_there && !taken.contains(&(id, *offset)) {
                wrong.push(format!(
                    "P8: {id} was acknowledged at {offset} and came from {places:?}"
                ));
            }
        }
        let mut unseen: BTreeMap<&str, i64> = BTreeMap::new();
        for (id, topic) in &self.sent_to {
            if self.only_dead(id) {
                *unseen.entry(topic).or_default() += 1;
            }
        }
        let mut next = BTreeMap::new();
        for place in self.at.keys() {
            let expected = next.entry((&place.topic, place.queue)).or_insert(0);
            let unseen = unseen.entry(&place.topic).or_default();
            let hole = *expected..place.offset;
            let missing = hole.filter(|&offset| {
                let place = Place {
                    offset,
                    ..place.clone()
                };
                !self.forgotten.contains_key(&place)
            });
            let missing = missing.count() as i64;
            *unseen -= missing;
            if missing > 0 && *unseen < 0 {
                wrong.push(format!(
                    "P8 poll skip: nothing came from {expected} before {place:?}"
                ));
            }
            *expected = place.offset + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};
    use crate::history::Why;

    #[test]
    fn dense_offsets_that_were_told_are_good() {
        let events = [
            (0, stored("t/1", 0)),
            (1, delivered("t/2", 1, 1, 1)),
            (1, delivered("t/1", 0, 1, 1)),
            (12, delivered("t/1", 0, 2, 12)),
        ];
        assert_eq!(judge(&mut Offsets::default(), &events), Vec::<String>::new());
    }

    #[test]
    fn a_place_that_changes_its_message_is_found() {
        let events = [(1, delivered("t/1", 0, 1, 1)), (2, delivered("t/2", 0, 1, 2))];
        assert_eq!(judge(&mut Offsets::default(), &events).len(), 1);
    }

    #[test]
    fn an_offset_that_was_told_and_is_not_true_is_found() {
        let events = [(0, stored("t/1", 3)), (1, delivered("t/1", 0, 1, 1))];
        assert_eq!(judge(&mut Offsets::default(), &events).len(), 1);
    }

    #[test]
    fn a_hole_is_where_a_message_died_that_nobody_saw() {
        let Event::Delivered(mut dead) = delivered("t/1", 0, 1, 30) else {
            unreachable!()
        };
        dead.place.topic = "%DLQ%g".into();
        let mut events = vec![
            (0, sending("t/1")),
            (0, stored("t/1", 1)),
            (1, delivered("t/0", 0, 1, 1)),
            (1, delivered("t/2", 2, 1, 1)),
            (30, Event::Delivered(dead)),
        ];
        assert_eq!(judge(&mut Offsets::default(), &events), Vec::<String>::new());
        // It explains one hole.
        events.push((31, delivered("t/4", 4, 1, 31)));
        assert_eq!(judge(&mut Offsets::default(), &events).len(), 1);
    }

    #[test]
    fn a_hole_is_where_retention_took_a_message_and_nowhere_else() {
        let mut events = vec![
            (0, stored("t/1", 1)),
            (1, forgotten("t/1", 1, Why::Room)),
            (1, delivered("t/0", 0, 1, 1)),
            (2, delivered("t/2", 2, 1, 2)),
            (2, delivered("t/1", 3, 1, 2)),
        ];
        assert_eq!(judge(&mut Offsets::default(), &events), Vec::<String>::new());
        events.push((3, delivered("t/5", 5, 1, 3)));
        assert_eq!(judge(&mut Offsets::default(), &events).len(), 1);
    }

    #[test]
    fn a_hole_is_found() {
        let events = [(1, delivered("t/1", 0, 1, 1)), (1, delivered("t/2", 2, 1, 1))];
        assert_eq!(judge(&mut Offsets::default(), &events).len(), 1);
    }
}
