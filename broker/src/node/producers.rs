//! Producers with an open Telemetry stream on this node, by the topics that they send to: whom to ask how a transaction ended.
//!
//! A hint only. Whoever is not found here is not asked here.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use flotilla_proto::record::StoredMessage;
use prost::Message;
use queue_core::QueueId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::limits::{
    MAX_PRODUCER_TOPICS, MAX_QUESTION_BYTES, MAX_QUESTION_BYTES_PER_PRODUCER, MAX_QUESTIONS_PER_PRODUCER,
    MAX_SENT_TOPICS_PER_PRODUCER, MAX_TOPICS_PER_PRODUCER, STREAMS_OF_A_CLIENT,
};

/// How a transaction ended: its half message, and what names it.
#[derive(Debug, Clone)]
pub struct Question {
    /// Shard of the queue.
    pub shard: u32,
    /// The queue that the message comes to if it is committed.
    pub queue: QueueId,
    /// Its number among those that ever waited for the queue.
    pub timer: u64,
    /// The message.
    pub message: StoredMessage,
    /// When it was stored, milliseconds since 1970.
    pub stored_ms: u64,
}

/// A question on its way to a producer, and the room that it takes meanwhile.
#[derive(Debug)]
pub struct Asked {
    /// What is asked.
    pub question: Question,
    _room: OwnedSemaphorePermit,
    _share: Option<OwnedSemaphorePermit>,
}

/// What becomes of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// A producer gets it.
    Asked,
    /// No producer of the topic is here.
    Nobody,
    /// Those that are here have many to read already.
    Full,
}

/// The producers of one node.
pub struct Producers {
    seated: Mutex<Seated>,
    /// Bytes of questions that were not read yet.
    room: Arc<Semaphore>,
}

impl Default for Producers {
    fn default() -> Self {
        Self {
            seated: Mutex::default(),
            room: Arc::new(Semaphore::new(MAX_QUESTION_BYTES)),
        }
    }
}

#[derive(Default)]
struct Seated {
    last: u64,
    seats: BTreeMap<u64, One>,
    /// Seats by topic, each with the one that was asked last.
    by_topic: BTreeMap<String, (u64, BTreeSet<u64>)>,
    by_client: BTreeSet<(String, u64)>,
    /// Topics of all seats together.
    topics: usize,
}

struct One {
    client: String,
    /// Topics that it says it sends to.
    said: BTreeSet<String>,
    /// And those that it has sent to, whatever it says, the last first.
    sent: VecDeque<String>,
    questions: mpsc::Sender<Asked>,
    /// Its share of the node's room: who reads nothing does not take it all.
    share: Arc<Semaphore>,
}

impl One {
    fn has(&self, topic: &String) -> bool {
        self.said.contains(topic) || self.sent.contains(topic)
    }
}

/// The place of one stream. It is given back when it is dropped.
pub struct Seat {
    producers: Arc<Producers>,
    number: u64,
    questions: mpsc::Receiver<Asked>,
}

impl Seat {
    /// The topics that its producer says it sends to, instead of those that it said before.
    pub fn declare(&self, topics: impl IntoIterator<Item = String>) {
        let topics: Vec<String> = topics.into_iter().take(MAX_TOPICS_PER_PRODUCER).collect();
        let mut seated = self.producers.lock();
        for topic in seated.said(self.number) {
            seated.remove(self.number, &topic);
        }
        for topic in topics {
            seated.add(self.number, topic);
        }
    }

    /// The next question for its producer.
    pub async fn next(&mut self) -> Asked {
        match self.questions.recv().await {
            Some(asked) => asked,
            // The other end goes with this one.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seated = self.producers.lock();
        for topic in seated.said(self.number) {
            seated.remove(self.number, &topic);
        }
        while let Some(topic) = seated.oldest_sent(self.number, 0) {
            seated.no_longer(self.number, &topic);
        }
        if let Some(one) = seated.seats.remove(&self.number) {
            seated.by_client.remove(&(one.client, self.number));
        }
    }
}

impl Producers {
    /// A place for a stream of this client.
    pub fn enter(self: &Arc<Self>, client: &str) -> Seat {
        let (sender, questions) = mpsc::channel(MAX_QUESTIONS_PER_PRODUCER);
        let mut seated = self.lock();
        seated.last += 1;
        let number = seated.last;
        let one = One {
            client: client.to_owned(),
            said: BTreeSet::new(),
            sent: VecDeque::new(),
            questions: sender,
            share: Arc::new(Semaphore::new(MAX_QUESTION_BYTES_PER_PRODUCER)),
        };
        seated.seats.insert(number, one);
        seated.by_client.insert((client.to_owned(), number));
        drop(seated);
        Seat {
            producers: Arc::clone(self),
            number,
            questions,
        }
    }

    /// A client has sent a half message: it can be asked about this topic, whether it said so or not.
    pub fn sent(&self, client: &str, topic: &str) {
        let mut seated = self.lock();
        let theirs = (client.to_owned(), 0)..=(client.to_owned(), u64::MAX);
        // Its last streams: the others are left over from connections that broke.
        let theirs = seated.by_client.range(theirs).rev().take(STREAMS_OF_A_CLIENT);
        let numbers: Vec<u64> = theirs.map(|&(_, number)| number).collect();
        for number in numbers {
            seated.add_sent(number, topic);
        }
    }

    /// Asks a producer of the message's topic, each in turn.
    pub fn ask(&self, mut question: Question) -> Ask {
        let bytes = question
            .message
            .encoded_len()
            .clamp(1, MAX_QUESTION_BYTES_PER_PRODUCER) as u32;
        let room = Arc::clone(&self.room).try_acquire_many_owned(bytes);
        let mut seated = self.lock();
        let Seated { seats, by_topic, .. } = &mut *seated;
        let Some((last, numbers)) = by_topic.get_mut(&question.message.topic) else {
            return Ask::Nobody;
        };
        let Ok(room) = room else {
            return Ask::Full;
        };
        // It is a part of its entry, which may be much larger.
        question.message.body = Bytes::copy_from_slice(&question.message.body);
        let mut asked = Asked {
            question,
            _room: room,
            _share: None,
        };
        let after = numbers.range(*last + 1..).chain(numbers.range(..=*last));
        for number in after.copied().collect::<Vec<_>>() {
            let Some(one) = seats.get(&number) else { continue };
            let Ok(share) = Arc::clone(&one.share).try_acquire_many_owned(bytes) else {
                continue;
            };
            asked._share = Some(share);
            match one.questions.try_send(asked) {
                Ok(()) => {
                    *last = number;
                    return Ask::Asked;
                }
                Err(mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back)) => {
                    asked = back;
                }
            }
        }
        Ask::Full
    }

    fn lock(&self) -> MutexGuard<'_, Seated> {
        self.seated.lock().expect("no panic while held")
    }
}

impl Seated {
    fn said(&mut self, number: u64) -> Vec<String> {
        let one = self.seats.get(&number);
        one.map_or_else(Vec::new, |one| one.said.iter().cloned().collect())
    }

    fn add(&mut self, number: u64, topic: String) {
        let is_full = self.topics >= MAX_PRODUCER_TOPICS;
        let Some(one) = self.seats.get_mut(&number).filter(|_| !is_full) else {
            return;
        };
        if one.said.insert(topic.clone()) {
            self.topics += 1;
            self.by_topic.entry(topic).or_default().1.insert(number);
        }
    }

    fn add_sent(&mut self, number: u64, topic: &str) {
        let is_full = self.topics >= MAX_PRODUCER_TOPICS;
        let Some(one) = self.seats.get_mut(&number) else {
            return;
        };
        let is_known = one.sent.iter().any(|known| known == topic);
        if is_known || is_full {
            return;
        }
        one.sent.push_front(topic.to_owned());
        self.topics += 1;
        self.by_topic
            .entry(topic.to_owned())
            .or_default()
            .1
            .insert(number);
        if let Some(oldest) = self.oldest_sent(number, MAX_SENT_TOPICS_PER_PRODUCER) {
            self.no_longer(number, &oldest);
        }
    }

    /// Takes the topic that it has sent to longest ago, if there are more than so many.
    fn oldest_sent(&mut self, number: u64, most: usize) -> Option<String> {
        let one = self.seats.get_mut(&number)?;
        if one.sent.len() <= most {
            return None;
        }
        one.sent.pop_back()
    }

    /// It says so no longer.
    fn remove(&mut self, number: u64, topic: &String) {
        if let Some(one) = self.seats.get_mut(&number) {
            one.said.remove(topic);
            self.no_longer(number, topic);
        }
    }

    /// It is in one list less.
    fn no_longer(&mut self, number: u64, topic: &String) {
        self.topics -= 1;
        let is_found = self.seats.get(&number).is_some_and(|one| one.has(topic));
        if !is_found && let Some((_, numbers)) = self.by_topic.get_mut(topic) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_topic.remove(topic);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::record::Property;
    use futures::FutureExt;

    use super::*;

    fn question(topic: &str, timer: u64) -> Question {
        Question {
            shard: 1,
            queue: QueueId::new(1, 0),
            timer,
            message: StoredMessage {
                topic: topic.into(),
                ..Default::default()
            },
            stored_ms: 0,
        }
    }

    fn next(seat: &mut Seat) -> Option<u64> {
        seat.next().now_or_never().map(|asked| asked.question.timer)
    }

    #[test]
    fn producers_of_a_topic_are_asked_in_turn_and_no_others() {
        let producers = Arc::new(Producers::default());
        assert_eq!(producers.ask(question("t", 0)), Ask::Nobody);
        let (mut a, mut b) = (producers.enter("a"), producers.enter("b"));
        a.declare(["t".into(), "u".into()]);
        b.declare(["t".into()]);
        assert!((0..3).all(|timer| producers.ask(question("t", timer)) == Ask::Asked));
        assert_eq!(
            (next(&mut a), next(&mut a), next(&mut a)),
            (Some(0), Some(2), None)
        );
        assert_eq!(next(&mut b), Some(1));
        b.declare(["v".into()]);
        drop(a);
        assert!(
            ["t", "u"]
                .iter()
                .all(|topic| producers.ask(question(topic, 4)) == Ask::Nobody)
        );
        drop(b);
        let seated = producers.lock();
        assert_eq!(
            (seated.topics, seated.by_topic.len(), seated.by_client.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn who_has_sent_can_be_asked_although_it_never_named_the_topic() {
        let producers = Arc::new(Producers::default());
        let mut seat = producers.enter("a");
        producers.sent("b", "t");
        assert_eq!(producers.ask(question("t", 0)), Ask::Nobody);
        producers.sent("a", "t");
        assert_eq!(producers.ask(question("t", 1)), Ask::Asked);
        assert_eq!(next(&mut seat), Some(1));
    }

    #[test]
    fn a_producer_that_does_not_read_is_passed_over_and_holds_no_more_than_its_share() {
        let producers = Arc::new(Producers::default());
        let mut seat = producers.enter("a");
        seat.declare(["t".into()]);
        for timer in 0..MAX_QUESTIONS_PER_PRODUCER as u64 {
            assert_eq!(producers.ask(question("t", timer)), Ask::Asked);
        }
        assert_eq!(producers.ask(question("t", 99)), Ask::Full);
        let mut other = producers.enter("b");
        other.declare(["t".into()]);
        assert_eq!(producers.ask(question("t", 100)), Ask::Asked);
        assert_eq!((next(&mut other), next(&mut seat)), (Some(100), Some(0)));
    }

    #[test]
    fn what_a_producer_has_sent_is_known_whatever_it_says_later_and_how_much_it_said() {
        let producers = Arc::new(Producers::default());
        let mut seat = producers.enter("a");
        seat.declare((0..1_000).map(|number| number.to_string()));
        producers.sent("a", "t");
        seat.declare([]);
        assert_eq!(producers.ask(question("t", 1)), Ask::Asked);
        assert_eq!(next(&mut seat), Some(1));
        assert_eq!(producers.lock().topics, 1);
        for number in 0..1_000 {
            producers.sent("a", &number.to_string());
        }
        assert_eq!(producers.lock().topics, MAX_SENT_TOPICS_PER_PRODUCER);
        drop(seat);
        let seated = producers.lock();
        assert_eq!((seated.topics, seated.by_topic.len()), (0, 0));
    }

    #[test]
    fn whoever_reads_nothing_takes_no_room_from_producers_of_other_topics() {
        let producers = Arc::new(Producers::default());
        let (seat, mut other) = (producers.enter("a"), producers.enter("b"));
        seat.declare(["t".into()]);
        other.declare(["u".into()]);
        let large = |topic: &str, timer| {
            let mut question = question(topic, timer);
            question.message.body = vec![0; 1 << 20].into();
            question
        };
        let asked = (0..100).filter(|&timer| producers.ask(large("t", timer)) == Ask::Asked);
        assert_eq!(asked.count(), MAX_QUESTION_BYTES_PER_PRODUCER >> 20);
        assert_eq!(producers.ask(large("u", 7)), Ask::Asked);
        assert_eq!(next(&mut other), Some(7));
    }

    #[test]
    fn a_question_counts_with_its_properties_and_keeps_no_more_than_itself() {
        let producers = Arc::new(Producers::default());
        let mut seat = producers.enter("a");
        seat.declare(["t".into()]);
        let entry = Bytes::from(vec![7; 1 << 18]);
        let mut one = question("t", 1);
        one.message.body = entry.slice(..10);
        one.message.properties.push(Property {
            key: "p".into(),
            value: "v".repeat(16_000),
        });
        assert_eq!(producers.ask(one), Ask::Asked);
        assert!(MAX_QUESTION_BYTES - producers.room.available_permits() > 16_000);
        assert!(entry.is_unique());
        assert_eq!(next(&mut seat), Some(1));
    }

    #[test]
    fn a_producer_is_found_under_so_many_topics_at_most() {
        let producers = Arc::new(Producers::default());
        let seat = producers.enter("a");
        seat.declare((0..1_000).map(|number| number.to_string()));
        assert_eq!(producers.lock().topics, MAX_TOPICS_PER_PRODUCER);
    }
}
