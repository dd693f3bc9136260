//! What clients did and saw, in the order in which it happened, and the oracles that watch it.
//!
//! The history knows nothing of the broker: only what an application can know.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    oracle::{self, Oracle, names::Names},
    readers::Readers,
};

pub mod names;

/// Where a message stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Full name of the topic.
    pub topic: String,
    /// Number of the queue.
    pub queue: i32,
    /// Offset in the queue.
    pub offset: i64,
}

/// A message that came, as its consumer saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Who got it.
    pub client: String,
    /// The consumer group.
    pub group: String,
    /// From where.
    pub place: Place,
    /// The message id.
    pub id: String,
    /// 1 for the first.
    pub attempt: i32,
    /// When the receive was sent.
    pub asked: Duration,
    /// For how long nobody else gets it, from some moment after `asked`.
    pub invisible: Duration,
    /// The server renews its lease while the client lives.
    pub renewed: bool,
    /// The body is the one that was sent.
    pub intact: bool,
}

/// What a consumer shows to say what becomes of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The consumer group.
    pub group: String,
    /// Where the message stands.
    pub place: Place,
    /// The message id.
    pub id: String,
    /// Which delivery.
    pub attempt: i32,
    /// How often its lease was given another end since: each time, another handle takes the place of the one before.
    pub changes: u32,
}

/// Why a message may be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It was older than this, the retention time.
    Aged(Duration),
    /// It stood in a segment that had to go for a log to be within its bound.
    Room,
}

/// Something a client did or saw, or what nobody will see any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message is about to be sent (again).
    Sending { topic: String, id: String },
    /// These messages are about to be sent in one request (again), and in no other.
    Together { ids: Vec<String> },
    /// The service acknowledged the send.
    Stored { topic: String, id: String, offset: i64 },
    /// The service refused the message for what it is, or had to: it must never come.
    Refused { id: String },
    /// A message came.
    Delivered(Delivery),
    /// Whoever has this receipt is about to end or to change its lease.
    Ending(Receipt),
    /// The service accepted an acknowledgement, which was first sent at `asked`.
    Acked { receipt: Receipt, asked: Duration },
    /// The service refused an acknowledgement or a dead letter, and no earlier try of it can have been carried out.
    EndRefused(Receipt),
    /// The service accepted that the message stays hidden for `invisible` from some moment after `asked`. From now on
    /// another receipt counts.
    Hidden {
        receipt: Receipt,
        asked: Duration,
        invisible: Duration,
    },
    /// That is being tried, and nobody knows yet, or ever, whether it is carried out.
    HideUnsure {
        receipt: Receipt,
        asked: Duration,
        invisible: Duration,
    },
    /// The service refused it, and it was not carried out.
    HideRefused {
        receipt: Receipt,
        asked: Duration,
        invisible: Duration,
    },
    /// An acknowledgement was tried, and nobody knows whether it was carried out.
    AckUnsure(Receipt),
    /// The faults are over, and the cluster is whole.
    Calm,
    /// Another node leads some shard: whoever leads knows of no client how long it was silent before.
    Led,
    /// A consumer is cut off, and ends without a word within [`VANISHES_WITHIN`].
    Vanishing {
        client: String,
        group: String,
        topic: String,
    },
    /// A consumer ended without a word: what it was about to do is done or not.
    Died {
        client: String,
        group: String,
        topic: String,
    },
    /// A consumer of the topic is about to say good-bye: what was given to it, or will be because it asked before, may come
    /// to others from now on.
    Leaving {
        client: String,
        group: String,
        topic: String,
    },
    /// Whoever has this receipt is about to make a dead letter of the message.
    Burying(Receipt),
    /// The service accepted that the message is a dead letter, which was first asked for at `asked`.
    Buried { receipt: Receipt, asked: Duration },
    /// Retention has taken a message, and with good reason.
    Forgotten {
        place: Place,
        /// The message id, if it is known.
        id: Option<String>,
        /// Consumer groups that had not been given it and will not get it from anywhere; for a dead letter, whose it was.
        groups: Vec<String>,
        why: Why,
    },
    /// To names that are given again and again, and under them.
    Named(names::Named),
}

impl Event {
    /// Whether a text is about the message of this event.
    fn is_in(&self, text: &str) -> bool {
        let (id, place) = match self {
            Event::Sending { id, .. } | Event::Stored { id, .. } | Event::Refused { id } => (Some(id), None),
            Event::Together { ids } => return ids.iter().any(|id| text.contains(id.as_str())),
            Event::Delivered(it) => (Some(&it.id), Some(&it.place)),
            Event::Ending(receipt)
            | Event::Burying(receipt)
            | Event::Acked { receipt, .. }
            | Event::EndRefused(receipt)
            | Event::Hidden { receipt, .. }
            | Event::HideUnsure { receipt, .. }
            | Event::HideRefused { receipt, .. }
            | Event::AckUnsure(receipt)
            | Event::Buried { receipt, .. } => (Some(&receipt.id), Some(&receipt.place)),
            Event::Forgotten { place, id, .. } => (id.as_ref(), Some(place)),
            Event::Calm | Event::Led => return false,
            Event::Leaving { group, topic, .. }
            | Event::Vanishing { group, topic, .. }
            | Event::Died { group, topic, .. } => {
                return text.contains(group) && text.contains(topic);
            }
            Event::Named(it) => return it.is_in(text),
        };
        id.is_some_and(|id| text.contains(id.as_str()))
            || place.is_some_and(|place| text.contains(&format!("{place:?}")))
    }
}

/// Longest time that nothing is heard of a consumer that vanishes before it counts as dead.
pub const VANISHES_WITHIN: Duration = Duration::from_secs(30);

/// Dead letters of a consumer group are in a topic of this name and the group's.
pub const DEAD_LETTERS: &str = "%DLQ%";

/// Messages that are to be delivered at a date are in a topic of this name.
pub const DELAYED: &str = "delayed";

/// Messages of transactions are in a topic of this name.
pub const TRANSACTIONS: &str = "transactions";
/// Messages with priorities are in topics of these names; in the second, waiting weighs something.
pub const URGENT: &str = "urgent";
/// See [`URGENT`].
pub const AGEING: &str = "ageing";

/// What was agreed for all consumer groups.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Most deliveries of a message to a consumer group.
    pub max_attempts: u32,
    /// A lease that the server renews lasts so long at most, or a little longer.
    pub renew_at_most: Duration,
    /// A consumer group may have so much in flight on one queue that nobody waits for its turn.
    pub room_in_flight: bool,
    /// The network loses packets all the time, not only while there are faults.
    pub loses_answers: bool,
    /// Whatever happens, a majority of the nodes is up and hears each other.
    pub majority_is_up: bool,
}

/// Counts for the report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sends that were acknowledged.
    pub stored: usize,
    /// Deliveries to consumers.
    pub delivered: usize,
    /// Acknowledgements that were accepted.
    pub acked: usize,
    /// Messages that retention took.
    pub forgotten: usize,
}

/// The history of one run. Clones are the same history.
#[derive(Clone)]
pub struct History(Arc<Mutex<Book>>);

struct Book {
    oracles: Vec<Box<dyn Oracle>>,
    events: Vec<(Duration, Event)>,
    violations: Vec<String>,
    tally: Tally,
    readers: Readers,
    /// Of stored messages: the consumer groups that are not done with them.
    left: BTreeMap<(String, String), BTreeSet<String>>,
    /// Of each queue, by topic and number: the offset after the last message that came from it, or was forgotten.
    ends: BTreeMap<(String, i32), i64>,
    /// Where dead letters came from, by the topic that they were sent to.
    dead: BTreeMap<String, BTreeSet<Place>>,
    /// (consumer group, message) that were done before the producer knew that the message is stored.
    done: BTreeSet<(String, String, String)>,
    /// Watches what becomes of names; the others know nothing of them.
    names: Names,
    /// When each message was sent for the first time.
    sent: BTreeMap<String, Duration>,
    /// What retention took of the topics of those that are delivered at a date, or once they are committed.
    delayed_and_forgotten: BTreeSet<String>,
}

impl History {
    /// An empty one, with all oracles; messages are for these consumer groups.
    #[must_use]
    pub fn new(readers: Readers, rules: Rules) -> History {
        History(Arc::new(Mutex::new(Book {
            oracles: oracle::all(&readers, rules),
            events: Vec::new(),
            violations: Vec::new(),
            tally: Tally::default(),
            readers,
            left: BTreeMap::new(),
            ends: BTreeMap::new(),
            dead: BTreeMap::new(),
            done: BTreeSet::new(),
            names: Names::default(),
            sent: BTreeMap::new(),
            delayed_and_forgotten: BTreeSet::new(),
        })))
    }

    /// Something happened at `at`, time since the start.
    pub fn record(&self, at: Duration, event: &Event) {
        let mut book = self.book();
        let Book {
            oracles,
            names,
            violations,
            ..
        } = &mut *book;
        for oracle in oracles {
            oracle.see(at, event, violations);
        }
        names.see(at, event, violations);
        if let Event::Sending { id, .. } | Event::Named(names::Named::Sending { id, .. }) = event {
            book.sent.entry(id.clone()).or_insert(at);
        }
        book.follow(event);
        book.events.push((at, event.clone()));
    }

    /// A promise was found broken elsewhere.
    pub fn broken(&self, what: String) {
        self.book().violations.push(what);
    }

    /// When a message was sent for the first time.
    #[must_use]
    pub fn first_sent(&self, id: &str) -> Option<Duration> {
        self.book().sent.get(id).copied()
    }

    /// Messages that were to be delivered at a date, or were half, and that retention took once they stood in their queues.
    #[must_use]
    pub fn delayed_and_forgotten(&self) -> BTreeSet<String> {
        self.book().delayed_and_forgotten.clone()
    }

    /// True once every consumer group is done with every stored message.
    #[must_use]
    pub fn drained(&self) -> bool {
        self.book().left.is_empty()
    }

    /// Of each queue, by topic and number: the offset after the last message that came from it, or was forgotten.
    #[must_use]
    pub fn ends(&self) -> BTreeMap<(String, i32), i64> {
        self.book().ends.clone()
    }

    /// How many messages of a topic came as dead letters: where they stood before nobody has seen whose answers were lost.
    #[must_use]
    pub fn dead_of(&self, topic: &str) -> usize {
        self.book().dead.get(topic).map_or(0, BTreeSet::len)
    }

    /// What has not come yet from names that are given again and again, and will have to.
    #[must_use]
    pub fn owed_by_names(&self) -> Vec<String> {
        self.book().names.owed()
    }

    /// The first few messages somebody is not done with, for people.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        let book = self.book();
        let line = |((topic, id), groups): (&(String, String), &BTreeSet<String>)| {
            format!("{topic} {id} for {groups:?}")
        };
        book.left.iter().take(5).map(line).collect()
    }

    /// Everything that must not be, at the end of the run. A run that was broken earlier did not come to its end.
    #[must_use]
    pub fn verdict(&self) -> Vec<String> {
        let mut book = self.book();
        let Book {
            oracles,
            names,
            violations,
            ..
        } = &mut *book;
        if violations.is_empty() {
            for oracle in oracles {
                oracle.end(violations);
            }
            names.end(violations);
        }
        violations.clone()
    }

    /// What happened to the messages that the violations are about, in order, one line each.
    #[must_use]
    pub fn timeline(&self) -> Vec<String> {
        let book = self.book();
        let blamed = |event: &Event| book.violations.iter().any(|what| event.is_in(what));
        let blamed = book.events.iter().filter(|(_, event)| blamed(event));
        blamed
            .map(|(at, event)| format!("{at:>12.3?}  {event:?}"))
            .collect()
    }

    /// Whether something is wrong already.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        !self.book().violations.is_empty()
    }

    /// Counts.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.book().tally
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn follow(&mut self, event: &Event) {
        match event {
            Event::Stored { topic, id, .. } => {
                self.tally.stored += 1;
                let (topic, id) = (topic.clone(), id.clone());
                let done = |group: &String| {
                    let key = (group.clone(), topic.clone(), id.clone());
                    self.done.contains(&key)
                };
                let readers = self.readers.of(&id);
                let left: BTreeSet<String> = readers.filter(|group| !done(group)).cloned().collect();
                if !left.is_empty() {
                    self.left.insert((topic, id), left);
                }
            }
            Event::Delivered(delivery) => {
                self.tally.delivered += 1;
                self.extend(&delivery.place);
                if let Some(group) = delivery.place.topic.strip_prefix(DEAD_LETTERS) {
                    self.finish(group, &delivery.id);
                    let dead = self.dead.entry(topic_of(&delivery.id).to_owned()).or_default();
                    dead.insert(delivery.place.clone());
                }
            }
            Event::Acked { receipt, .. } => {
                self.tally.acked += 1;
                self.finish(&receipt.group, &receipt.id);
            }
            Event::AckUnsure(receipt) => self.finish(&receipt.group, &receipt.id),
            Event::Forgotten {
                place, id, groups, ..
            } => {
                self.tally.forgotten += 1;
                if [DELAYED, TRANSACTIONS].contains(&place.topic.as_str()) {
                    self.delayed_and_forgotten.extend(id.clone());
                }
                self.extend(place);
                for (group, id) in groups.iter().zip(id.iter().cycle()) {
                    self.finish(group, id);
                }
            }
            // A dead letter is done with when it is seen among the dead letters.
            Event::Sending { .. }
            | Event::Together { .. }
            | Event::Refused { .. }
            | Event::Ending { .. }
            | Event::Burying { .. }
            | Event::EndRefused { .. }
            | Event::Hidden { .. }
            | Event::HideUnsure { .. }
            | Event::HideRefused { .. }
            | Event::Leaving { .. }
            | Event::Vanishing { .. }
            | Event::Died { .. }
            | Event::Calm
            | Event::Led
            | Event::Named(_)
            | Event::Buried { .. } => {}
        }
    }

    fn extend(&mut self, place: &Place) {
        let end = self.ends.entry((place.topic.clone(), place.queue)).or_default();
        *end = (place.offset + 1).max(*end);
    }

    /// A consumer group is done with a message.
    fn finish(&mut self, group: &str, id: &str) {
        let topic = topic_of(id).to_owned();
        self.done.insert((group.to_owned(), topic.clone(), id.to_owned()));
        let key = (topic, id.to_owned());
        if let Some(left) = self.left.get_mut(&key) {
            left.remove(group);
            if left.is_empty() {
                self.left.remove(&key);
            }
        }
    }
}

/// Ids of messages begin with the topic that they were sent to, wherever they are found later.
#[must_use]
pub fn topic_of(id: &str) -> &str {
    id.split('/').next().unwrap_or(id)
}
