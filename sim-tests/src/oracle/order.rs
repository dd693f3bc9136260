//! P2: the messages of a message group stand in one queue in the order in which they were sent, and a consumer group that wants order
//! gets one of them only when those before it are over, or together with them.
//!
//! What is over nobody sees who did not do it; but what is over does not come again, and its receipt counts no more. So whatever
//! shows of an earlier message that it was not over, when a later one had come in another answer, tells of a broken order. Answers
//! overtake each other on their way: only what was asked for after that one had come is held against it.

use std::{collections::BTreeMap, time::Duration};

use super::Oracle;
use crate::{
    history::{DEAD_LETTERS, Delivery, Event, Receipt},
    readers::{Readers, message_group_of},
};

/// A message group in a topic.
type Line = (String, String);

/// Answers with messages of one message group to one consumer group: when each came, what was asked for it, by whom, and the last offset
/// in it.
type Answers = Vec<(Duration, (String, Duration), i64)>;

pub(super) struct Orders {
    readers: Readers,
    came: BTreeMap<(String, Line), Answers>,
    /// Where message groups are: their queue, and the last one that was known to be stored before another was sent.
    places: BTreeMap<Line, i32>,
    /// When messages were sent for the first time, and how many of their message group were known to be stored by then: the highest
    /// offset.
    sent: BTreeMap<String, Option<i64>>,
    stored: BTreeMap<Line, i64>,
}

impl Orders {
    pub(super) fn new(readers: Readers) -> Orders {
        Orders {
            readers,
            came: BTreeMap::new(),
            places: BTreeMap::new(),
            sent: BTreeMap::new(),
            stored: BTreeMap::new(),
        }
    }

    /// It was not over at `then`.
    fn lives(
        &self,
        then: Duration,
        (group, topic, id, offset): (&str, &str, &str, i64),
        except: Option<&(String, Duration)>,
    ) -> Option<String> {
        let order = self.readers.order_of(group, id)?;
        let key = (group.to_owned(), (topic.to_owned(), order.to_owned()));
        let answers = self.came.get(&key)?;
        let later = answers.iter().find(|(came, request, last)| {
            *came < then
                && *last > offset
                && except != Some(request)
                && !self.came_with(&key, request, offset)
        })?;
        Some(format!(
            "P2: {id} of message group {order} was not over at {then:?} for {group}, and {} after it in the queue came in another \
             answer at {:?}",
            later.2 - offset,
            later.0
        ))
    }

    /// Whether an answer had this message, too, or an earlier one that it may have been given after.
    fn came_with(&self, key: &(String, Line), request: &(String, Duration), offset: i64) -> bool {
        let answers = self.came.get(key).into_iter().flatten();
        answers.clone().any(|(_, of, at)| of == request && *at == offset)
    }

    fn delivered(&mut self, at: Duration, it: &Delivery, wrong: &mut Vec<String>) {
        let Some(message_group) = message_group_of(&it.id) else {
            return;
        };
        if it.place.topic.starts_with(DEAD_LETTERS) {
            return;
        }
        let line = (it.place.topic.clone(), message_group.to_owned());
        let queue = *self.places.entry(line.clone()).or_insert(it.place.queue);
        if queue != it.place.queue {
            wrong.push(format!(
                "P2: message group {message_group} stands in queue {queue}, and {} in another: {:?}",
                it.id, it.place
            ));
        }
        let request = (it.client.clone(), it.asked);
        let what = (
            it.group.as_str(),
            it.place.topic.as_str(),
            it.id.as_str(),
            it.place.offset,
        );
        wrong.extend(self.lives(it.asked, what, Some(&request)));
        if self.readers.order_of(&it.group, &it.id).is_some() {
            let answers = self.came.entry((it.group.clone(), line)).or_default();
            answers.push((at, request, it.place.offset));
        }
    }

    fn receipt(&self, asked: Duration, receipt: &Receipt) -> Option<String> {
        let what = (
            receipt.group.as_str(),
            receipt.place.topic.as_str(),
            receipt.id.as_str(),
            receipt.place.offset,
        );
        self.lives(asked, what, None)
    }
}

impl Oracle for Orders {
    fn see(&mut self, at: Duration, event: &Event, wrong: &mut Vec<String>) {
        match event {
            Event::Sending { topic, id } => {
                if let Some(message_group) = message_group_of(id) {
                    let before = self.stored.get(&(topic.clone(), message_group.to_owned()));
                    self.sent.entry(id.clone()).or_insert(before.copied());
                }
            }
            Event::Stored { topic, id, offset } => {
                let Some(message_group) = message_group_of(id) else {
                    return;
                };
                if let Some(Some(before)) = self.sent.get(id)
                    && before >= offset
                {
                    wrong.push(format!(
                        "P2: {id} was sent when one of its message group was stored at {before}, and stands at {offset}"
                    ));
                }
                let last = self
                    .stored
                    .entry((topic.clone(), message_group.to_owned()))
                    .or_insert(*offset);
                *last = (*last).max(*offset);
            }
            Event::Delivered(it) => self.delivered(at, it, wrong),
            Event::Acked { receipt, asked } | Event::Hidden { receipt, asked, .. } => {
                wrong.extend(self.receipt(*asked, receipt));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    fn orders() -> Orders {
        let readers: Readers = ["g".to_owned()].into_iter().collect();
        Orders::new(readers.with_order(["g".to_owned()].into()))
    }

    #[test]
    fn one_after_the_other_and_several_in_one_answer_are_good() {
        let events = [
            (1, delivered("t/0@a", 0, 1, 0)),
            (1, delivered("t/1@a", 1, 1, 0)),
            (2, delivered("t/7@b", 7, 1, 1)),
            (3, acked("t/0@a", 0)),
            (14, delivered("t/1@a", 1, 2, 13)),
            (15, acked("t/1@a", 1)),
            (16, delivered("t/2@a", 2, 1, 15)),
        ];
        assert_eq!(judge(&mut orders(), &events), Vec::<String>::new());
    }

    #[test]
    fn an_earlier_one_that_comes_after_a_later_one_is_found() {
        let events = [(2, delivered("t/1@a", 1, 1, 1)), (5, delivered("t/0@a", 0, 1, 4))];
        assert_eq!(judge(&mut orders(), &events).len(), 1);
        let overtaken = [(2, delivered("t/1@a", 1, 1, 1)), (5, delivered("t/0@a", 0, 1, 1))];
        assert_eq!(judge(&mut orders(), &overtaken), Vec::<String>::new());
    }

    #[test]
    fn an_earlier_one_that_is_acknowledged_after_a_later_one_came_is_found() {
        let asked = |at| Event::Acked {
            receipt: receipt("t/0@a", 0, 1),
            asked: S(at),
        };
        for (at, wrong) in [(1, 0), (4, 1)] {
            let events = [
                (0, delivered("t/0@a", 0, 1, 0)),
                (3, delivered("t/1@a", 1, 1, 2)),
                (5, asked(at)),
            ];
            assert_eq!(judge(&mut orders(), &events).len(), wrong);
        }
    }

    #[test]
    fn a_message_group_in_two_queues_or_out_of_the_order_of_its_sends_is_found() {
        let mut other = delivered("t/1@a", 1, 1, 0);
        if let Event::Delivered(it) = &mut other {
            it.place.queue = 3;
        }
        let events = [(1, delivered("t/0@a", 0, 1, 0)), (2, other)];
        assert_eq!(judge(&mut orders(), &events).len(), 1);
        let events = [
            (1, sending("t/0@a")),
            (2, stored("t/0@a", 5)),
            (3, sending("t/1@a")),
            (4, stored("t/1@a", 4)),
        ];
        assert_eq!(judge(&mut orders(), &events).len(), 1);
    }
}
