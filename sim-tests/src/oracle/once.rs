//! P7: a send that is repeated with the same message id within the dedup window, by whom and wherever, is stored once
//! ("duplicated").

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Oracle;
use crate::history::{DEAD_LETTERS, Event, Place};

/// All tries of a message must lie within this; the dedup window is longer, by more than a try can take.
const WINDOW: Duration = Duration::from_secs(100);

/// First and last try, and places, of every message.
#[derive(Default)]
pub(super) struct Once {
    tries: BTreeMap<String, (Duration, Duration)>,
    places: BTreeMap<String, BTreeSet<Place>>,
}

impl Oracle for Once {
    fn see(&mut self, at: Duration, event: &Event, wrong: &mut Vec<String>) {
        match event {
            Event::Sending { id, .. } => self.tries.entry(id.clone()).or_insert((at, at)).1 = at,
            Event::Delivered(it) if !it.place.topic.starts_with(DEAD_LETTERS) => {
                let places = self.places.entry(it.id.clone()).or_default();
                let within = |(first, last): &(Duration, Duration)| *last - *first < WINDOW;
                if places.insert(it.place.clone())
                    && places.len() > 1
                    && self.tries.get(&it.id).is_some_and(within)
                {
                    wrong.push(format!("P7 duplicated: {} stands at {places:?}", it.id));
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    /// Of a message that was sent at these times: a copy in another queue, or in the same.
    fn copies(tries: &[u64], queue: i32) -> usize {
        let mut events: Vec<_> = tries.iter().map(|at| (*at, sending("t/1"))).collect();
        let Event::Delivered(mut copy) = delivered("t/1", 7, 1, 202) else {
            unreachable!()
        };
        copy.place.queue = queue;
        events.extend([(201, delivered("t/1", 0, 1, 201)), (202, Event::Delivered(copy))]);
        judge(&mut Once::default(), &events).len()
    }

    #[test]
    fn a_copy_is_found_in_any_queue_unless_the_tries_were_far_apart() {
        for queue in [0, 1] {
            assert_eq!(copies(&[0], queue), 1);
            assert_eq!(copies(&[0, 99], queue), 1);
            assert_eq!(copies(&[0, 100], queue), 0);
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
