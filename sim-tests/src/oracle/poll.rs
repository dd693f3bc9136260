//! P8, as consumers see it: messages of a queue come to a consumer group for the first time in the order of their offsets
//! ("non-monotonic poll"); where consumer groups want order, those of each message group.
//!
//! Answers overtake each other on their way, so only a delivery that was asked for after another had come is held
//! against it.

use std::{collections::BTreeMap, time::Duration};

use super::Oracle;
use crate::{
    history::{Event, Place},
    readers::Readers,
};

/// When first deliveries came, with the highest offset so far, by consumer group, topic and queue.
pub(super) struct Polls {
    readers: Readers,
    came: BTreeMap<Line, Vec<(Duration, i64)>>,
}

/// Consumer group, topic, queue, and the message group where only that has an order.
type Line = (String, String, i32, String);

impl Polls {
    pub(super) fn new(readers: Readers) -> Polls {
        Polls {
            readers,
            came: BTreeMap::new(),
        }
    }
}

impl Oracle for Polls {
    fn see(&mut self, at: Duration, event: &Event, wrong: &mut Vec<String>) {
        let Event::Delivered(it) = event else { return };
        if it.attempt != 1 {
            return;
        }
        let Place { topic, queue, offset } = it.place.clone();
        let order = self.readers.order_of(&it.group, &it.id).unwrap_or_default();
        let line = (it.group.clone(), topic, queue, order.to_owned());
        let came = self.came.entry(line).or_default();
        let before = came.partition_point(|&(when, _)| when < it.asked);
        if let Some(&(when, highest)) = before.checked_sub(1).and_then(|last| came.get(last))
            && highest >= offset
        {
            wrong.push(format!(
                "P8 non-monotonic poll: {:?} came to {} for the first time at {at:?}, asked for at {:?}, after {highest} at {when:?}",
                it.place, it.group, it.asked
            ));
        }
        let highest = came.last().map_or(offset, |&(_, highest)| highest.max(offset));
        came.push((at, highest));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    #[test]
    fn rising_offsets_are_good_and_answers_may_overtake_each_other() {
        let events = [
            (1, delivered("t/0", 0, 1, 0)),
            (3, delivered("t/2", 2, 1, 2)),
            (4, delivered("t/1", 1, 1, 2)),
            (5, delivered("t/3", 3, 1, 4)),
        ];
        assert_eq!(
            judge(&mut Polls::new(Readers::default()), &events),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_step_back_is_found() {
        let events = [
            (1, delivered("t/0", 0, 1, 0)),
            (3, delivered("t/2", 2, 1, 2)),
            (5, delivered("t/1", 1, 1, 4)),
        ];
        assert_eq!(judge(&mut Polls::new(Readers::default()), &events).len(), 1);
    }

    #[test]
    fn a_redelivery_is_no_step_back() {
        let events = [
            (1, delivered("t/0", 0, 1, 0)),
            (3, delivered("t/2", 2, 1, 2)),
            (15, delivered("t/0", 0, 2, 14)),
        ];
        assert_eq!(
            judge(&mut Polls::new(Readers::default()), &events),
            Vec::<String>::new()
        );
    }
}
