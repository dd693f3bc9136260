//! Message ids stored lately, so that a retried send is stored once (docs/adr/0026).
//!
//! What is remembered is rows: one for each id in the order in which they came, and one by which an id is found. Memory holds the ends
//! and a page of the oldest, whatever is stored. An id is forgotten when its time is over; each append forgets a few of the oldest, so
//! the work stays even. Too many are forgotten before their time, which is counted.

use std::collections::{BTreeMap, VecDeque};

use bytes::{BufMut, Bytes};

use crate::{
    ids::QueueId,
    keys::{self, Key, Reader},
    kv::{Fault, KeyValue},
    limits::{DEDUP_FORGET_PER_APPEND, DEDUP_PAGE, DEDUP_WINDOW_MESSAGES, DEDUP_WINDOW_MS},
};

/// The window of one shard. Sequences have no gaps.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Dedup {
    /// The sequence of the oldest that is remembered.
    first: u64,
    /// The sequence of what comes next.
    next: u64,
    /// The oldest of them, some; they are in the state as well.
    oldest: Page,
    shortened: Shortened,
}

/// Rows that were read ahead. No part of the state.
#[derive(Debug, Clone, Default)]
struct Page(VecDeque<Remembered>);

impl PartialEq for Page {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Ids that were forgotten before their time since this core was loaded, and how old the last of them was. No part of the state.
#[derive(Debug, Clone, Default)]
struct Shortened(u64, u64);

impl PartialEq for Shortened {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Remembered {
    time_ms: u64,
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

    fn read(value: Bytes) -> Result<Self, Fault> {
        let mut value = Reader::value("dedup", value)?;
        Ok(Self {
            time_ms: value.long()?,
            queue: QueueId(value.long()?),
            offset: value.long()?,
            id: value.rest(),
        })
    }

    fn get(kv: &dyn KeyValue, sequence: u64) -> Result<Option<Self>, Fault> {
        kv.get(&keys::dedup(sequence))?.map(Self::read).transpose()
    }
}

impl Dedup {
    /// Where a message with this id stands, if it was stored within the window.
    pub(crate) fn find(
        &self,
        kv: &dyn KeyValue,
        topic: u32,
        id: &str,
        now_ms: u64,
    ) -> Result<Option<(QueueId, u64)>, Fault> {
        let Some(sequence) = sequence_of(kv, topic, id.as_bytes())? else {
            return Ok(None);
        };
        if sequence < self.first {
            return Ok(None);
        }
        let known = Remembered::get(kv, sequence)?.ok_or_else(|| missing(sequence))?;
        let place = (known.queue, known.offset);
        Ok((!is_over(known.time_ms, now_ms)).then_some(place))
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
        let sequence = self.next;
        let known = Remembered {
            time_ms: now_ms,
            queue,
            offset,
            id: Bytes::copy_from_slice(id.as_bytes()),
        };
        known.store(kv, sequence)?;
        let mut value = keys::value(8);
        value.put_u64_le(sequence);
        kv.put(&keys::dedup_id(queue.topic(), id.as_bytes()), &value)?;
        self.next += 1;
        let most = plant!(WindowIsANumber => 16, else DEDUP_WINDOW_MESSAGES);
        self.forget(kv, now_ms, most)?;
        Ok(sequence)
    }

    /// Forgets a few of the oldest whose time is over, or who are too many.
    fn forget(&mut self, kv: &mut dyn KeyValue, now_ms: u64, most: u64) -> Result<(), Fault> {
        for _ in 0..DEDUP_FORGET_PER_APPEND {
            let time_ms = self.oldest(kv)?.time_ms;
            let is_over = is_over(time_ms, now_ms);
            if !is_over && self.next - self.first <= most {
                break;
            }
            if !is_over {
                let Shortened(count, age_ms) = &mut self.shortened;
                (*count, *age_ms) = (*count + 1, now_ms - time_ms);
            }
            self.forget_oldest(kv)?;
        }
        Ok(())
    }

    /// Ids that were forgotten before their time, because there were too many, since this core was loaded; and how old the last of them
    /// was, milliseconds.
    pub(crate) fn shortened(&self) -> (u64, u64) {
        let Shortened(count, age_ms) = self.shortened;
        (count, age_ms)
    }

    /// What was remembered under a number stands elsewhere now. If it is remembered still.
    pub(crate) fn moved(
        &mut self,
        kv: &mut dyn KeyValue,
        sequence: u64,
        from: (QueueId, u64),
        to: (QueueId, u64),
    ) -> Result<(), Fault> {
        if !(self.first..self.next).contains(&sequence) {
            return Ok(());
        }
        let known = Remembered::get(kv, sequence)?.ok_or_else(|| missing(sequence))?;
        if (known.queue, known.offset) != from {
            return Ok(());
        }
        let (queue, offset) = to;
        Remembered {
            queue,
            offset,
            ..known
        }
        .store(kv, sequence)
    }

    /// The oldest that is remembered, of which there is one.
    fn oldest(&mut self, kv: &dyn KeyValue) -> Result<&Remembered, Fault> {
        if self.oldest.0.is_empty() {
            let rows = kv.scan(&keys::dedup(self.first), &Key::of(keys::DEDUP).end(), DEDUP_PAGE)?;
            for ((key, value), expected) in rows.into_iter().zip(self.first..) {
                if Reader::key("dedup", key)?.key_long()? != expected {
                    return Err(missing(expected));
                }
                self.oldest.0.push_back(Remembered::read(value)?);
            }
        }
        self.oldest.0.front().ok_or_else(|| missing(self.first))
    }

    fn forget_oldest(&mut self, kv: &mut dyn KeyValue) -> Result<(), Fault> {
        let oldest = self.oldest.0.pop_front().expect("the caller looked at it");
        let sequence = self.first;
        // The same id may have been stored again after its window: then it is found as that.
        let found = sequence_of(kv, oldest.queue.topic(), &oldest.id)?;
        if plant!(NewerGoesWithTheOlder => true, else found == Some(sequence)) {
            kv.delete(&keys::dedup_id(oldest.queue.topic(), &oldest.id))?;
        }
        kv.delete(&keys::dedup(sequence))?;
        self.first += 1;
        Ok(())
    }

    /// Reads the ends, however many are remembered: where one is missing there is none behind it.
    pub(crate) fn load(kv: &dyn KeyValue) -> Result<Self, Fault> {
        let all = Key::of(keys::DEDUP);
        let Some((key, _)) = kv.scan(&all, &all.end(), 1)?.into_iter().next() else {
            return Ok(Self::default());
        };
        let first = Reader::key("dedup", key)?.key_long()?;
        let is_there = |sequence: u64| Ok::<_, Fault>(kv.get(&keys::dedup(sequence))?.is_some());
        let mut step = 1;
        while is_there(first + step)? {
            step *= 2;
        }
        // There is one at `low`, and none at `high`.
        let (mut low, mut high) = (first + step / 2, first + step);
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            match is_there(middle)? {
                true => low = middle,
                false => high = middle,
            }
        }
        Ok(Self {
            first: plant!(DedupForgottenAtRestart => high, else first),
            next: high,
            ..Self::default()
        })
    }

    /// What must hold between commands: each row has its sequence, and the latest of each id is found by it.
    pub(crate) fn check(&self, kv: &dyn KeyValue) -> Result<(), String> {
        let text = |fault: Fault| fault.to_string();
        let mut latest = BTreeMap::new();
        let mut expected = self.first;
        keys::each(kv, Key::of(keys::DEDUP), |key, value| {
            let (sequence, known) = (Reader::key("dedup", key)?.key_long()?, Remembered::read(value)?);
            if sequence != expected {
                return Err(missing(expected));
            }
            expected += 1;
            latest.insert(keys::dedup_id(known.queue.topic(), &known.id), sequence);
            Ok(())
        })
        .map_err(text)?;
        if self.first < self.next && expected != self.next {
            return Err(format!("ids are remembered up to {expected}, not {}", self.next));
        }
        let mut found = BTreeMap::new();
        keys::each(kv, Key::of(keys::DEDUP_ID), |key, value| {
            found.insert(key.to_vec(), Reader::value("dedup id", value)?.long()?);
            Ok(())
        })
        .map_err(text)?;
        if found != latest {
            return Err(format!("ids are found as {found:?}, and are {latest:?}"));
        }
        Ok(())
    }

    /// What is remembered from a number on, for oracles: number, queue, offset, id.
    #[cfg(madsim)]
    pub(crate) fn from(&self, kv: &dyn KeyValue, sequence: u64) -> Vec<(u64, QueueId, u64, Bytes)> {
        let numbers = sequence.max(self.first)..self.next;
        let rows = numbers.map(|number| (number, Remembered::get(kv, number)));
        let rows = rows.map(|(number, row)| (number, row.expect("it can be read").expect("it is there")));
        rows.map(|(number, it)| (number, it.queue, it.offset, it.id))
            .collect()
    }
}

/// The number under which an id was remembered last.
fn sequence_of(kv: &dyn KeyValue, topic: u32, id: &[u8]) -> Result<Option<u64>, Fault> {
    let Some(value) = kv.get(&keys::dedup_id(topic, id))? else {
        return Ok(None);
    };
    let mut value = Reader::value("dedup id", value)?;
    let sequence = value.long()?;
    value.end()?;
    Ok(Some(sequence))
}

fn missing(sequence: u64) -> Fault {
    Fault::Corrupt(format!("dedup: row {sequence} is missing"))
}

/// True if what was stored at `time_ms` has left the window. Time does not go back.
fn is_over(time_ms: u64, now_ms: u64) -> bool {
    plant!(DedupWindowNeverEnds => return false);
    let window = plant!(DedupWindowHalf => DEDUP_WINDOW_MS / 2, else DEDUP_WINDOW_MS);
    now_ms.saturating_sub(time_ms) >= window
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ordered rows.
    #[derive(Default)]
    struct Rows(BTreeMap<Vec<u8>, Bytes>);

    impl KeyValue for Rows {
        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
            Ok(self.0.get(key).cloned())
        }

        fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Fault> {
            let rows = self.0.range(from.to_vec()..to.to_vec()).take(limit);
            Ok(rows
                .map(|(key, value)| (key.clone().into(), value.clone()))
                .collect())
        }

        fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
            self.0.insert(key.to_vec(), Bytes::copy_from_slice(value));
            Ok(())
        }

        fn delete(&mut self, key: &[u8]) -> Result<(), Fault> {
            self.0.remove(key);
            Ok(())
        }
    }

    fn filled(count: u64) -> (Dedup, Rows) {
        let (mut dedup, mut rows) = (Dedup::default(), Rows::default());
        for offset in 0..count {
            let id = offset.to_string();
            dedup
                .remember(&mut rows, &id, QueueId::new(1, 0), offset, 5 + offset)
                .unwrap();
        }
        (dedup, rows)
    }

    #[test]
    fn too_many_are_forgotten_before_their_time_the_oldest_first_and_it_is_counted() {
        let (mut dedup, mut rows) = filled(10);
        dedup.forget(&mut rows, 20, 7).unwrap();
        assert_eq!(dedup.shortened(), (3, 13), "the last of them came at 7");
        assert_eq!(dedup.find(&rows, 1, "2", 20), Ok(None));
        assert_eq!(dedup.find(&rows, 1, "3", 20), Ok(Some((QueueId::new(1, 0), 3))));
        assert_eq!((dedup.check(&rows), rows.0.len()), (Ok(()), 14));
    }

    #[test]
    fn the_window_is_by_time_however_many_come() {
        // More than were kept in memory once.
        let count = 300_000;
        let (dedup, rows) = filled(count);
        assert_eq!(dedup.shortened(), (0, 0));
        let last = 5 + count;
        let first_kept = last - DEDUP_WINDOW_MS;
        for offset in [first_kept, first_kept + 1, count - 1] {
            let found = dedup.find(&rows, 1, &offset.to_string(), last);
            assert_eq!(found, Ok(Some((QueueId::new(1, 0), offset))), "{offset}");
        }
        assert_eq!(
            dedup.find(&rows, 1, &(first_kept - 6).to_string(), last),
            Ok(None)
        );
        assert_eq!(Dedup::load(&rows), Ok(dedup));
    }

    #[test]
    fn the_ends_are_found_whatever_is_stored() {
        for count in [0, 1, 2, 3, 4, 7, 8, 9, 100] {
            let (dedup, rows) = filled(count);
            assert_eq!(Dedup::load(&rows), Ok(dedup), "{count}");
        }
    }

    #[test]
    fn an_id_that_is_stored_again_after_its_window_is_found_as_that() {
        let (mut dedup, mut rows) = filled(9);
        let now_ms = 5 + DEDUP_WINDOW_MS;
        dedup
            .remember(&mut rows, "0", QueueId::new(1, 0), 50, now_ms)
            .unwrap();
        assert_eq!(
            dedup.find(&rows, 1, "0", now_ms),
            Ok(Some((QueueId::new(1, 0), 50)))
        );
        assert_eq!(dedup.check(&rows), Ok(()));
    }

    #[test]
    fn a_missing_row_is_a_fault() {
        let (mut dedup, mut rows) = filled(9);
        rows.delete(&keys::dedup(3)).unwrap();
        assert!(dedup.find(&rows, 1, "3", 20).is_err());
        dedup.oldest.0.clear();
        assert!(dedup.forget(&mut rows, 20, 1).is_err());
    }
}
