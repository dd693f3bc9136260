//! P8: queue offsets are dense from 0 ("poll skip"), what stands at one never changes ("inconsistent offset"), and an
//! acknowledged send stands at the offset that was told.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Oracle;
use crate::history::{Event, Place};

/// What stands where.
#[derive(Default)]
pub(super) struct Offsets {
    at: BTreeMap<Place, String>,
    places: BTreeMap<String, BTreeSet<Place>>,
    told: BTreeMap<String, i64>,
}

impl Oracle for Offsets {
    fn see(&mut self, _: Duration, event: &Event, wrong: &mut Vec<String>) {
        match event {
            Event::Stored { id, offset, .. } => {
                self.told.insert(id.clone(), *offset);
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
        for (id, offset) in &self.told {
            let Some(places) = self.places.get(id) else {
                continue; // Then it is lost, which is not for here.
            };
            if !places.iter().any(|place| place.offset == *offset) {
                wrong.push(format!(
                    "P8: {id} was acknowledged at {offset} and came from {places:?}"
                ));
            }
        }
        let mut next = BTreeMap::new();
        for place in self.at.keys() {
            let expected = next.entry((&place.topic, place.queue)).or_insert(0);
            if place.offset != *expected {
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
    fn a_hole_is_found() {
        let events = [(1, delivered("t/1", 0, 1, 1)), (1, delivered("t/2", 2, 1, 1))];
        assert_eq!(judge(&mut Offsets::default(), &events).len(), 1);
    }
}
