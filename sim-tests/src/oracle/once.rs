//! P7: a send that is repeated with the same message id, by whom and wherever, is stored once ("duplicated").
//!
//! Runs are shorter than the time for which the service remembers ids.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Oracle;
use crate::history::{DEAD_LETTERS, Event, Place};

/// Places of every message.
#[derive(Default)]
pub(super) struct Once(BTreeMap<String, BTreeSet<Place>>);

impl Oracle for Once {
    fn see(&mut self, _: Duration, event: &Event, wrong: &mut Vec<String>) {
        let Event::Delivered(it) = event else { return };
        if it.place.topic.starts_with(DEAD_LETTERS) {
            return;
        }
        let places = self.0.entry(it.id.clone()).or_default();
        if places.insert(it.place.clone()) && places.len() > 1 {
            wrong.push(format!("P7 duplicated: {} stands at {places:?}", it.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    #[test]
    fn a_copy_is_found_however_often_it_was_sent() {
        for tries in 1..=2 {
            let mut events: Vec<_> = (0..tries).map(|_| (0, sending("t/1"))).collect();
            events.extend([(1, delivered("t/1", 0, 1, 1)), (2, delivered("t/1", 7, 1, 2))]);
            assert_eq!(judge(&mut Once::default(), &events).len(), 1);
        }
    }

    #[test]
    fn the_same_place_again_is_no_copy() {
        let events = [
            (0, sending("t/1")),
            (1, delivered("t/1", 0, 1, 1)),
            (11, delivered("t/1", 0, 2, 11)),
        ];
        assert_eq!(judge(&mut Once::default(), &events).len(), 0);
    }
}
