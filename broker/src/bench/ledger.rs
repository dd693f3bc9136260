//! The verifier: what was sent, how it ended, and what arrived.
//!
//! Every send ends in one of three ways. *Acknowledged*: it must arrive. *Refused* (every try was
//! answered with "nothing was stored"): it must not. *Unknown* (a try broke off): both is fine.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use serde::Serialize;

use super::body::{Damage, RunId, Stamp, run_of_message_id};
use super::limits::{MAX_EXAMPLES, MAX_MESSAGES};
use super::locked;

/// How a send ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Acknowledged,
    Refused,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    UnderWay,
    Ended(Outcome),
}

/// Where a copy of a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub queue: i32,
    pub offset: i64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    position: Position,
    topic: u32,
    state: State,
    tries: u8,
    copies: u8,
    redelivered: u8,
    late: bool,
}

/// A message as a consumer got it.
pub(super) struct Arrival<'a> {
    pub message_id: &'a str,
    pub body: &'a [u8],
    /// Index of the topic it was received from.
    pub topic: u32,
    pub message_group: Option<&'a str>,
    pub position: Position,
    /// 1 at the first delivery.
    pub attempt: i32,
}

/// What an arrival was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    First(Stamp),
    Redelivered,
    Duplicate,
    /// Of another run or another program: none of our business.
    Foreign,
    Unexpected,
}

/// Message groups are dealt out to producers, so that one producer sends a message group in order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MessageGroups {
    pub count: u32,
    pub producers: u32,
}

impl MessageGroups {
    /// The message group of a message; `None` where none are used.
    pub(super) fn of(self, producer: u32, sequence: u32) -> Option<u32> {
        let owned = self.owned_by(producer);
        (owned > 0).then(|| producer + self.producers * (sequence % owned))
    }

    fn owned_by(self, producer: u32) -> u32 {
        if self.count <= producer {
            0
        } else {
            (self.count - producer).div_ceil(self.producers)
        }
    }

    pub(super) fn name(group: u32) -> String {
        format!("mg-{group}")
    }
}

struct Book {
    slots: Vec<Slot>,
    /// Per message group of the producer: the highest sequence that arrived.
    highest: Vec<u32>,
}

/// The books of all producers.
pub(super) struct Ledger {
    run: RunId,
    groups: MessageGroups,
    books: Vec<Mutex<Book>>,
    messages: AtomicU64,
    outstanding: Vec<AtomicI64>,
    foreign: AtomicU64,
    stray: AtomicU64,
    examples: Mutex<Vec<String>>,
}

/// What became of all messages.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Verdict {
    /// Sends that were acknowledged: each must have arrived.
    pub acknowledged: u64,
    /// Of those, how many arrived.
    pub arrived: u64,
    pub lost: u64,
    /// Further stored copies of messages.
    pub duplicated: u64,
    /// Of those, copies of messages whose first try already was acknowledged.
    pub duplicated_first_try: u64,
    /// Deliveries of the same stored copy once more.
    pub redelivered: u64,
    /// Damaged, refused, misplaced or never sent messages that arrived all the same.
    pub unexpected: u64,
    /// Messages on the topic that are not of this run.
    pub foreign: u64,
    /// Acknowledged messages that arrived after a later one of their message group; absent without message groups.
    pub order_violations: Option<u64>,
    /// Sends whose end is not known, and how many of them arrived.
    pub unknown: u64,
    pub unknown_arrived: u64,
    pub refused: u64,
    pub examples: Vec<String>,
}

impl Verdict {
    /// The rule for the exit code.
    pub(super) fn holds(&self) -> bool {
        self.lost == 0 && self.unexpected == 0 && self.order_violations.unwrap_or(0) == 0
    }
}

impl Ledger {
    pub(super) fn new(run: RunId, producers: u32, topics: u32, message_groups: u32) -> Self {
        let groups = MessageGroups {
            count: message_groups,
            producers,
        };
        let book = |producer| {
            let owned = usize::try_from(groups.owned_by(producer)).expect("fits into memory");
            Mutex::new(Book {
                slots: Vec::new(),
                highest: vec![0; owned],
            })
        };
        Self {
            run,
            groups,
            books: (0..producers).map(book).collect(),
            messages: AtomicU64::new(0),
            outstanding: (0..topics).map(|_| AtomicI64::new(0)).collect(),
            foreign: AtomicU64::new(0),
            stray: AtomicU64::new(0),
            examples: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn run(&self) -> RunId {
        self.run
    }

    pub(super) fn groups(&self) -> MessageGroups {
        self.groups
    }

    /// A producer begins a message to `topic` and learns its sequence number. `None`: the run has
    /// as many messages as can be verified.
    pub(super) fn begin(&self, producer: u32, topic: u32) -> Option<u32> {
        if self.messages.fetch_add(1, Ordering::Relaxed) >= MAX_MESSAGES {
            return None;
        }
        let mut book = locked(&self.books[producer as usize]);
        let sequence = u32::try_from(book.slots.len()).ok()?;
        book.slots.push(Slot {
            position: Position { queue: 0, offset: 0 },
            topic,
            state: State::UnderWay,
            tries: 0,
            copies: 0,
            redelivered: 0,
            late: false,
        });
        Some(sequence)
    }

    /// The sequence number the producer's next message will have.
    pub(super) fn next_sequence(&self, producer: u32) -> u32 {
        locked(&self.books[producer as usize]).slots.len() as u32
    }

    /// The send is over.
    pub(super) fn end(&self, producer: u32, sequence: u32, outcome: Outcome, tries: u32) {
        let mut book = locked(&self.books[producer as usize]);
        let slot = &mut book.slots[sequence as usize];
        assert_eq!(slot.state, State::UnderWay, "a send ends once");
        slot.state = State::Ended(outcome);
        slot.tries = u8::try_from(tries).unwrap_or(u8::MAX);
        if outcome == Outcome::Acknowledged && slot.copies == 0 {
            self.outstanding[slot.topic as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Acknowledged messages of a topic that did not arrive so far.
    pub(super) fn outstanding_of(&self, topic: u32) -> u64 {
        u64::try_from(self.outstanding[topic as usize].load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Acknowledged messages that did not arrive so far.
    pub(super) fn outstanding(&self) -> u64 {
        (0..self.outstanding.len() as u32)
            .map(|topic| self.outstanding_of(topic))
            .sum()
    }

    /// Messages of others that arrived so far.
    pub(super) fn foreign_so_far(&self) -> u64 {
        self.foreign.load(Ordering::Relaxed)
    }

    /// A consumer got a message.
    pub(super) fn arrived(&self, arrival: &Arrival<'_>) -> Seen {
        let stamp = match Stamp::decode(arrival.body) {
            Ok(stamp) => stamp,
            Err(damage) => {
                let ours = run_of_message_id(arrival.message_id) == Some(self.run);
                // What claims to be of another run is for that run to judge.
                return match damage {
                    _ if ours => self.unexpected(arrival, "a damaged body"),
                    Damage::Foreign | Damage::Changed => self.foreign(),
                };
            }
        };
        if stamp.run != self.run {
            return self.foreign();
        }
        if stamp.message_id() != arrival.message_id {
            return self.unexpected(arrival, "the body of another message");
        }
        let group = self
            .groups
            .of(stamp.producer, stamp.sequence)
            .map(MessageGroups::name);
        if group.as_deref() != arrival.message_group.filter(|name| !name.is_empty()) {
            return self.unexpected(arrival, "another message group");
        }
        self.book_arrival(stamp, arrival)
    }

    fn book_arrival(&self, stamp: Stamp, arrival: &Arrival<'_>) -> Seen {
        let Some(book) = self.books.get(stamp.producer as usize) else {
            return self.unexpected(arrival, "a producer that does not exist");
        };
        let mut book = locked(book);
        let Book { slots, highest } = &mut *book;
        let Some(slot) = slots.get_mut(stamp.sequence as usize) else {
            return self.unexpected(arrival, "never sent");
        };
        if slot.topic != arrival.topic {
            return self.unexpected(arrival, "sent to another topic");
        }
        if slot.copies > 0 {
            if slot.position == arrival.position && arrival.attempt > 1 {
                slot.redelivered = slot.redelivered.saturating_add(1);
                return Seen::Redelivered;
            }
            slot.copies = slot.copies.saturating_add(1);
            self.example(arrival, "a further copy");
            return Seen::Duplicate;
        }
        slot.copies = 1;
        slot.position = arrival.position;
        if slot.state == State::Ended(Outcome::Acknowledged) {
            self.outstanding[slot.topic as usize].fetch_sub(1, Ordering::Relaxed);
        }
        if !highest.is_empty() {
            let group = stamp.sequence as usize % highest.len();
            let highest = &mut highest[group];
            slot.late = stamp.sequence < *highest;
            *highest = stamp.sequence.max(*highest);
        }
        Seen::First(stamp)
    }

    fn foreign(&self) -> Seen {
        self.foreign.fetch_add(1, Ordering::Relaxed);
        Seen::Foreign
    }

    fn unexpected(&self, arrival: &Arrival<'_>, why: &str) -> Seen {
        self.stray.fetch_add(1, Ordering::Relaxed);
        self.example(arrival, why);
        Seen::Unexpected
    }

    fn example(&self, arrival: &Arrival<'_>, why: &str) {
        let mut examples = locked(&self.examples);
        if examples.len() < MAX_EXAMPLES {
            let Position { queue, offset } = arrival.position;
            examples.push(format!(
                "{why}: message {} at queue {queue} offset {offset}",
                arrival.message_id
            ));
        }
    }

    /// The judgement on everything that happened so far.
    pub(super) fn verdict(&self) -> Verdict {
        let mut verdict = Verdict {
            unexpected: self.stray.load(Ordering::Relaxed),
            foreign: self.foreign_so_far(),
            examples: locked(&self.examples).clone(),
            ..Verdict::default()
        };
        let mut late = 0;
        for (producer, book) in (0..).zip(&self.books) {
            for (sequence, slot) in (0..).zip(&locked(book).slots) {
                judge(slot, &mut verdict);
                let acknowledged = slot.state == State::Ended(Outcome::Acknowledged);
                late += u64::from(slot.late && acknowledged);
                if acknowledged && slot.copies == 0 && verdict.examples.len() < 2 * MAX_EXAMPLES {
                    let lost = Stamp {
                        run: self.run,
                        producer,
                        sequence,
                        due_ns: 0,
                    };
                    verdict
                        .examples
                        .push(format!("lost: message {}", lost.message_id()));
                }
            }
        }
        verdict.order_violations = (self.groups.count > 0).then_some(late);
        verdict
    }
}

fn judge(slot: &Slot, verdict: &mut Verdict) {
    let arrived = slot.copies > 0;
    let further = u64::from(slot.copies.saturating_sub(1));
    verdict.duplicated += further;
    verdict.redelivered += u64::from(slot.redelivered);
    match slot.state {
        State::Ended(Outcome::Acknowledged) => {
            verdict.acknowledged += 1;
            verdict.arrived += u64::from(arrived);
            verdict.lost += u64::from(!arrived);
            verdict.duplicated_first_try += if slot.tries == 1 { further } else { 0 };
        }
        State::Ended(Outcome::Refused) => {
            verdict.refused += 1;
            verdict.unexpected += u64::from(arrived);
        }
        State::Ended(Outcome::Unknown) | State::UnderWay => {
            verdict.unknown += 1;
            verdict.unknown_arrived += u64::from(arrived);
        }
    }
}

#[cfg(test)]
mod tests;
