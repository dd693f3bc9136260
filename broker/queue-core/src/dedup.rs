//! Message ids stored lately, so that a retried send is stored once.
//!
//! Bounded by time and by number. Each append forgets a few of the oldest, so the work
//! stays even. Ids are found by a hash that lives in memory only: two ids with one hash
//! cost a comparison, never a message, and the state does not depend on how it hashes.

use std::{
    collections::{BTreeSet, VecDeque},
    hash::{DefaultHasher, Hasher},
};

use bytes::{BufMut, Bytes};

use crate::{
    ids::QueueId,
    keys::{self, Reader},
    kv::{Fault, KeyValue},
    limits::{DEDUP_FORGET_PER_APPEND, DEDUP_WINDOW_MESSAGES, DEDUP_WINDOW_MS},
};

/// The window of one shard.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Dedup {
    /// (hash, sequence) of everything in the ring.
    by_hash: BTreeSet<(u64, u64)>,
    /// Oldest first; their sequences have no gaps. Once something was stored it is never empty.
    ring: VecDeque<Remembered>,
    /// The sequence of the ring's oldest.
    first: u64,
}

#[derive(Debug, Clone, PartialEq)]
struct Remembered {
    time_ms: u64,
    hash: u64,
    queue: QueueId,
    offset: u64,
    /// Text.
    id: Bytes,
}

impl Remembered {
    fn store(&self, kv: &mut dyn KeyValue, sequence: u64) -> Result<(), Fault> {
        let mut value = keys::value(24 + self.id.len());
        value.put_u64_le(self.time_ms);
        value.put_u64_le(self.queue.0);
        value.put_u64_le(self.offset);
        value.put_slice(&self.id);
        kv.put(&keys::dedup(sequence), &value)
    }
}

impl Dedup {
    /// Where a message with this id stands, if it was stored within the window.
    pub(crate) fn find(&self, topic: u32, id: &str, now_ms: u64) -> Option<(QueueId, u64)> {
        let hash = hash(topic, id.as_bytes());
        // The latest first: the same id may have been stored again after the window.
        let known = self
            .by_hash
            .range((hash, 0)..=(hash, u64::MAX))
            .rev()
            .map(|&(_, sequence)| &self.ring[(sequence - self.first) as usize])
            .find(|known| known.queue.topic() == topic && known.id == id)?;
        (!is_over(known.time_ms, now_ms)).then_some((known.queue, known.offset))
    }

    /// Remembers where a message stands; the number under which it is.
    pub(crate) fn remember(
        &mut self,
        kv: &mut dyn KeyValue,
        id: &str,
        queue: QueueId,
        offset: u64,
        now_ms: u64,
    ) -> Result<u64, Fault> {
        let (hash, sequence) = self.push(now_ms, queue, offset, Bytes::copy_from_slice(id.as_bytes()));
        self.ring.back().expect("just pushed").store(kv, sequence)?;
        self.by_hash.insert((hash, sequence));
        for _ in 0..DEDUP_FORGET_PER_APPEND {
            let oldest = self.ring.front().expect("one was just remembered");
            if !is_over(oldest.time_ms, now_ms) && self.ring.len() <= DEDUP_WINDOW_MESSAGES {
                break;
            }
            self.forget_oldest(kv)?;
        }
        Ok(sequence)
    }

    /// What was remembered under a number stands elsewhere now. If it is remembered still.
    pub(crate) fn moved(
        &mut self,
        kv: &mut dyn KeyValue,
        sequence: u64,
        from: (QueueId, u64),
        to: (QueueId, u64),
    ) -> Result<(), Fault> {
        let at = sequence.checked_sub(self.first);
        let known = at.and_then(|at| self.ring.get_mut(at as usize));
        match known.filter(|known| (known.queue, known.offset) == from) {
            Some(known) => {
                (known.queue, known.offset) = to;
                known.store(kv, sequence)
            }
            None => Ok(()),
        }
    }

    fn forget_oldest(&mut self, kv: &mut dyn KeyValue) -> Result<(), Fault> {
        let oldest = self.ring.pop_front().expect("the caller looked at it");
        self.by_hash.remove(&(oldest.hash, self.first));
        kv.delete(&keys::dedup(self.first))?;
        self.first += 1;
        Ok(())
    }

    /// Puts an id at the end of the ring; returns its place in `by_hash`.
    fn push(&mut self, time_ms: u64, queue: QueueId, offset: u64, id: Bytes) -> (u64, u64) {
        let hash = hash(queue.topic(), &id);
        let sequence = self.first + self.ring.len() as u64;
        self.ring.push_back(Remembered {
            time_ms,
            hash,
            queue,
            offset,
            id,
        });
        (hash, sequence)
    }

    /// All that is in the ring, for oracles: sequence, queue, offset, id.
    #[cfg(madsim)]
    pub(crate) fn latest_first(&self) -> impl Iterator<Item = (u64, QueueId, u64, &[u8])> + '_ {
        let sequences = self.first..self.first + self.ring.len() as u64;
        let latest_first = sequences.rev().zip(self.ring.iter().rev());
        latest_first.map(|(sequence, known)| (sequence, known.queue, known.offset, &known.id[..]))
    }

    /// Takes a row of the state; rows come in order. Nothing is found before [`Self::loaded`].
    pub(crate) fn load(&mut self, mut key: Reader, mut value: Reader) -> Result<(), Fault> {
        let sequence = key.key_long()?;
        if self.ring.is_empty() {
            self.first = sequence;
        }
        if sequence != self.first + self.ring.len() as u64 {
            return Err(Fault::Corrupt(format!(
                "dedup: rows before {sequence} are missing"
            )));
        }
        let (time_ms, queue, offset) = (value.long()?, QueueId(value.long()?), value.long()?);
        let id = value.rest();
        str::from_utf8(&id).map_err(|_| Fault::Corrupt("dedup: an id is no text".into()))?;
        self.push(time_ms, queue, offset, id);
        Ok(())
    }

    /// After the last row. At once, because a restart waits for this: sorted it is several times cheaper than one by one.
    pub(crate) fn loaded(&mut self) {
        let places = self.ring.iter().zip(self.first..);
        self.by_hash = places.map(|(known, sequence)| (known.hash, sequence)).collect();
    }
}

/// True if what was stored at `time_ms` has left the window. Time does not go back.
fn is_over(time_ms: u64, now_ms: u64) -> bool {
    plant!(DedupWindowNeverEnds => return false);
    let window = plant!(DedupWindowHalf => DEDUP_WINDOW_MS / 2, else DEDUP_WINDOW_MS);
    now_ms.saturating_sub(time_ms) >= window
}

fn hash(topic: u32, id: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u32(topic);
    hasher.write(id);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts rows.
    #[derive(Default)]
    struct Rows(usize);

    impl KeyValue for Rows {
        fn get(&self, _: &[u8]) -> Result<Option<Bytes>, Fault> {
            unreachable!("the window is in memory")
        }

        fn scan(&self, _: &[u8], _: &[u8], _: usize) -> Result<Vec<(Bytes, Bytes)>, Fault> {
            unreachable!("the window is in memory")
        }

        fn put(&mut self, _: &[u8], _: &[u8]) -> Result<(), Fault> {
            self.0 += 1;
            Ok(())
        }

        fn delete(&mut self, _: &[u8]) -> Result<(), Fault> {
            self.0 -= 1;
            Ok(())
        }
    }

    #[test]
    fn the_oldest_id_is_forgotten_when_there_are_too_many() {
        let (mut dedup, mut rows) = (Dedup::default(), Rows::default());
        let queue = QueueId::new(1, 0);
        for offset in 0..=DEDUP_WINDOW_MESSAGES as u64 {
            dedup
                .remember(&mut rows, &offset.to_string(), queue, offset, 5)
                .unwrap();
        }
        assert_eq!(
            (rows.0, dedup.by_hash.len()),
            (DEDUP_WINDOW_MESSAGES, DEDUP_WINDOW_MESSAGES)
        );
        assert_eq!(dedup.find(1, "0", 5), None);
        assert_eq!(dedup.find(1, "1", 5), Some((queue, 1)));
    }

    #[test]
    fn two_ids_with_one_hash_are_two_messages() {
        let (mut dedup, mut rows) = (Dedup::default(), Rows::default());
        dedup.remember(&mut rows, "a", QueueId::new(1, 0), 0, 5).unwrap();
        // What stands under the hash of "b" is "a".
        dedup.by_hash = BTreeSet::from([(hash(1, b"b"), 0)]);
        assert_eq!(dedup.find(1, "b", 5), None);
    }

    #[test]
    fn a_missing_row_is_a_fault() {
        let row = |sequence: u64| {
            let mut value = keys::value(24);
            value.put_bytes(0, 24);
            let key = Reader::key("dedup", Bytes::copy_from_slice(&keys::dedup(sequence))).unwrap();
            (key, Reader::value("dedup", value.into()).unwrap())
        };
        let mut dedup = Dedup::default();
        let load = |dedup: &mut Dedup, (key, value)| dedup.load(key, value);
        assert_eq!(load(&mut dedup, row(7)), Ok(()));
        assert_eq!(load(&mut dedup, row(8)), Ok(()));
        assert!(load(&mut dedup, row(10)).is_err());
    }
}
