//! Counts what a consumer group of a merely consuming run receives. Who sent it is not known
//! here, so nothing can be missing; but repeated and damaged messages are noticed.

use std::collections::BTreeMap;

use serde::Serialize;

use super::body::{Damage, RunId, Stamp};
use super::ledger::{Arrival, Seen};
use super::limits::MAX_MESSAGES;

/// Messages by run and producer, one bit each.
#[derive(Default)]
pub(super) struct Tally {
    seen: BTreeMap<(RunId, u32), Vec<u64>>,
    counts: Counts,
}

/// What one consumer group received.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Counts {
    pub received: u64,
    pub distinct: u64,
    /// Deliveries of messages that had been delivered before, and said so.
    pub redelivered: u64,
    /// Deliveries of messages that had been delivered before, and claimed to be the first.
    pub duplicated: u64,
    /// Damaged messages.
    pub unexpected: u64,
    /// Messages that no benchmark sent.
    pub foreign: u64,
}

/// What all consumer groups of a run received.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Consumed {
    #[serde(flatten)]
    pub all: Counts,
    /// Messages received, by consumer group.
    pub by_group: BTreeMap<String, u64>,
}

impl Consumed {
    pub(super) fn add(&mut self, group: &str, counts: &Counts) {
        self.all.add(counts);
        self.by_group.insert(group.to_owned(), counts.received);
    }
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.distinct += other.distinct;
        self.redelivered += other.redelivered;
        self.duplicated += other.duplicated;
        self.unexpected += other.unexpected;
        self.foreign += other.foreign;
    }
}

impl Tally {
    pub(super) fn arrived(&mut self, arrival: &Arrival<'_>) -> Seen {
        self.counts.received += 1;
        let stamp = match Stamp::decode(arrival.body) {
            Ok(stamp)
                if stamp.message_id() == arrival.message_id && u64::from(stamp.sequence) < MAX_MESSAGES =>
            {
                stamp
            }
            Ok(_) | Err(Damage::Changed) => {
                self.counts.unexpected += 1;
                return Seen::Unexpected;
            }
            Err(Damage::Foreign) => {
                self.counts.foreign += 1;
                return Seen::Foreign;
            }
        };
        let bits = self.seen.entry((stamp.run, stamp.producer)).or_default();
        let (word, bit) = (stamp.sequence as usize / 64, 1u64 << (stamp.sequence % 64));
        if bits.len() <= word {
            bits.resize(word + 1, 0);
        }
        if bits[word] & bit == 0 {
            bits[word] |= bit;
            self.counts.distinct += 1;
            Seen::First(stamp)
        } else if arrival.attempt > 1 {
            self.counts.redelivered += 1;
            Seen::Redelivered
        } else {
            self.counts.duplicated += 1;
            Seen::Duplicate
        }
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Position;
    use super::*;

    #[test]
    fn repeated_and_damaged_messages_are_counted() {
        let mut tally = Tally::default();
        let mut arrive = |sequence: u32, attempt: i32, body: Option<&[u8]>| {
            let stamp = Stamp {
                run: RunId(1),
                producer: 3,
                sequence,
                due_ns: 0,
            };
            let good = stamp.encode(50);
            tally.arrived(&Arrival {
                message_id: &stamp.message_id(),
                body: body.unwrap_or(&good),
                topic: 0,
                message_group: None,
                position: Position { queue: 0, offset: 0 },
                attempt,
            })
        };
        for sequence in [0, 63, 64, 1000] {
            assert!(matches!(arrive(sequence, 1, None), Seen::First(_)));
        }
        assert_eq!(arrive(63, 2, None), Seen::Redelivered);
        assert_eq!(arrive(64, 1, None), Seen::Duplicate);
        assert_eq!(arrive(5, 1, Some(b"hello")), Seen::Foreign);
        let other = Stamp {
            run: RunId(1),
            producer: 3,
            sequence: 6,
            due_ns: 0,
        }
        .encode(50);
        assert_eq!(arrive(5, 1, Some(&other)), Seen::Unexpected);
        let expected = Counts {
            received: 8,
            distinct: 4,
            redelivered: 1,
            duplicated: 1,
            unexpected: 1,
            foreign: 1,
        };
        assert_eq!(tally.counts(), &expected);
    }
}
