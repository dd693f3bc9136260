//! P8, as consumers see it: messages of a queue come to a consumer group for the first time in the order of their offsets
//! ("non-monotonic poll").
//!
//! Answers overtake each other on their way, so only a delivery that was asked for after another had come is held
//! against it.

use std::{collections::BTreeMap, time::Duration};

use super::Oracle;
use crate::history::{Event, Place};

/// When first deliveries came, with the highest offset so far, by consumer group, topic and queue.
#[derive(Default)]
pub(super) struct Polls(BTreeMap<(String, String, i32), Vec<(Duration, i64)>>);

impl Oracle for Polls {
    fn see(&mut self, at: Duration, event: &Event, wrong: &mut Vec<String>) {
        let Event::Delivered(it) = event else { return };
        if it.attempt != 1 {
            return;
        }
        let Place { topic, queue, offset } = it.place.clone();
        let came = self.0.entry((it.group.clone(), topic, queue)).or_default();
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
        assert_eq!(judge(&mut Polls::default(), &events), Vec::<String>::new());
    }

    #[test]
    fn a_step_back_is_found() {
        let events = [
            (1, delivered("t/0", 0, 1, 0)),
            (3, delivered("t/2", 2, 1, 2)),
            (5, delivered("t/1", 1, 1, 4)),
        ];
        assert_eq!(judge(&mut Polls::default(), &events).len(), 1);
    }

    #[test]
    fn a_redelivery_is_no_step_back() {
        let events = [
            (1, delivered("t/0", 0, 1, 0)),
            (3, delivered("t/2", 2, 1, 2)),
            (15, delivered("t/0", 0, 2, 14)),
        ];
        assert_eq!(judge(&mut Polls::default(), &events), Vec::<String>::new());
    }
}
