//! Recent entries in memory: each shard's tail, under one bound of bytes for the node.
//!
//! Entries not yet written are always here, so a read never has to wait for the disk to have them. Older ones leave in
//! the order they came. What is read from disk is not put in: a replica that catches up must not push the tail out.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use bytes::Bytes;

use crate::limits::RECENT_ENTRY_BYTES;
use crate::log_id::LogId;

struct Entry {
    record: Bytes,
    log_id: LogId,
    age: u64,
}

impl Entry {
    /// Bytes of memory it takes, with its place in the order: of small records most is not the record.
    fn cost(&self) -> usize {
        self.record.len() + RECENT_ENTRY_BYTES
    }
}

#[derive(Default)]
struct Tail {
    first: u64,
    entries: VecDeque<Entry>,
}

impl Tail {
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn get(&self, index: u64) -> Option<&Entry> {
        self.entries.get(index.checked_sub(self.first)? as usize)
    }
}

/// The recent entries of all shards.
pub(super) struct Recent {
    tails: BTreeMap<u32, Tail>,
    /// In the order they came: shard and age. Entries that were truncated leave their mark here until it comes up.
    order: VecDeque<(u32, u64)>,
    bytes: usize,
    limit_bytes: usize,
    next_age: u64,
    /// Entries younger than this must stay.
    written: u64,
}

impl Recent {
    pub(super) fn new(limit_bytes: usize) -> Recent {
        Recent {
            tails: BTreeMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            limit_bytes,
            next_age: 0,
            written: 0,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds an entry behind the shard's tail.
    pub(super) fn push(&mut self, shard: u32, log_id: LogId, record: Bytes) {
        let tail = self.tails.entry(shard).or_default();
        if tail.end() != log_id.index {
            self.bytes -= tail.entries.iter().map(Entry::cost).sum::<usize>();
            tail.entries.clear();
            tail.first = log_id.index;
        }
        let entry = Entry {
            record,
            log_id,
            age: self.next_age,
        };
        self.bytes += entry.cost();
        tail.entries.push_back(entry);
        self.order.push_back((shard, self.next_age));
        self.next_age += 1;
    }

    /// Forgets the shard's entries from `index` on.
    pub(super) fn cut_from(&mut self, shard: u32, index: u64) {
        let Some(tail) = self.tails.get_mut(&shard) else {
            return;
        };
        let keep = index.saturating_sub(tail.first).min(tail.entries.len() as u64) as usize;
        let gone: usize = tail.entries.drain(keep..).map(|entry| entry.cost()).sum();
        self.bytes -= gone;
    }

    pub(super) fn drop_shard(&mut self, shard: u32) {
        self.cut_from(shard, 0);
        self.tails.remove(&shard);
    }

    /// The next `count` entries, in the order they came, are written now; what exceeds the bound leaves.
    pub(super) fn written(&mut self, count: u64) {
        self.written += count;
        while self.bytes > self.limit_bytes {
            let Some(&(shard, age)) = self.order.front() else {
                break;
            };
            if age >= self.written {
                break;
            }
            self.order.pop_front();
            let Some(tail) = self.tails.get_mut(&shard) else {
                continue;
            };
            if tail.entries.front().is_some_and(|entry| entry.age == age) {
                let entry = tail.entries.pop_front().expect("there is a front");
                tail.first += 1;
                self.bytes -= entry.cost();
            }
        }
        self.forget_stale_marks();
    }

    /// Marks of truncated entries may not pile up when the bound is never reached.
    fn forget_stale_marks(&mut self) {
        while let Some((shard, age)) = self.order.front() {
            let front = self.tails.get(shard).and_then(|tail| tail.entries.front());
            if front.is_some_and(|entry| entry.age <= *age) {
                break;
            }
            self.order.pop_front();
        }
    }

    pub(super) fn get(&self, shard: u32, index: u64) -> Option<&Bytes> {
        Some(&self.tails.get(&shard)?.get(index)?.record)
    }

    pub(super) fn log_id(&self, shard: u32, index: u64) -> Option<LogId> {
        Some(self.tails.get(&shard)?.get(index)?.log_id)
    }

    /// The index of the shard's oldest recent entry, if it has any.
    pub(super) fn first(&self, shard: u32) -> Option<u64> {
        let tail = self.tails.get(&shard)?;
        (!tail.entries.is_empty()).then_some(tail.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: usize = 10 + RECENT_ENTRY_BYTES;

    fn push(recent: &mut Recent, shard: u32, index: u64) {
        recent.push(shard, LogId::at(1, 1, index), Bytes::from(vec![0; 10]));
    }

    #[test]
    fn the_oldest_written_entries_leave_first() {
        let mut recent = Recent::new(5 * COST);
        for index in 0..10 {
            push(&mut recent, (index % 2) as u32, index / 2);
        }
        assert_eq!(recent.bytes(), 10 * COST, "what is not written stays");
        recent.written(4);
        assert_eq!(
            (recent.bytes(), recent.first(0), recent.first(1)),
            (6 * COST, Some(2), Some(2))
        );
        recent.written(6);
        assert_eq!(
            (recent.bytes(), recent.first(0), recent.first(1)),
            (5 * COST, Some(3), Some(2))
        );
        assert!(recent.get(0, 2).is_none());
        assert!(recent.get(1, 2).is_some());
    }

    #[test]
    fn truncated_entries_are_gone_and_counted() {
        let mut recent = Recent::new(100 * COST);
        for index in 0..10 {
            push(&mut recent, 1, index);
        }
        recent.cut_from(1, 4);
        assert_eq!(recent.bytes(), 4 * COST);
        assert!(recent.get(1, 4).is_none());
        push(&mut recent, 1, 4);
        recent.written(11);
        assert_eq!(recent.log_id(1, 4), Some(LogId::at(1, 1, 4)));
        recent.drop_shard(1);
        assert_eq!(recent.bytes(), 0);
        recent.written(0);
        assert!(recent.order.is_empty());
    }

    #[test]
    fn a_gap_starts_a_new_tail() {
        let mut recent = Recent::new(100 * COST);
        push(&mut recent, 1, 3);
        push(&mut recent, 1, 30);
        assert_eq!((recent.bytes(), recent.first(1)), (COST, Some(30)));
    }
}
