//! Message ids stored lately, so that a retried send is stored once.
//!
//! Bounded by time and by number. Each append forgets a few of the oldest, so the work
//! stays even.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::BufMut;

use crate::{
    ids::QueueId,
    keys::{self, Reader},
    kv::{Fault, KeyValue},
    limits::{DEDUP_FORGET_PER_APPEND, DEDUP_WINDOW_MESSAGES, DEDUP_WINDOW_MS},
};

/// The window of one shard.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Dedup {
    by_id: BTreeMap<(u32, Arc<str>), Known>,
    /// Oldest first; their sequences have no gaps.
    ring: VecDeque<Remembered>,
    next_sequence: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Known {
    sequence: u64,
    time_ms: u64,
    queue: QueueId,
    offset: u64,
}

#[derive(Debug, Clone, PartialEq)]
struct Remembered {
    sequence: u64,
    time_ms: u64,
    topic: u32,
    id: Arc<str>,
}

impl Dedup {
    /// Where a message with this id stands, if it was stored within the window.
    pub(crate) fn find(&self, topic: u32, id: &str, now_ms: u64) -> Option<(QueueId, u64)> {
        let known = self.by_id.get(&(topic, Arc::from(id)))?;
        (known.time_ms + DEDUP_WINDOW_MS > now_ms).then_some((known.queue, known.offset))
    }

    pub(crate) fn remember(
        &mut self,
        kv: &mut dyn KeyValue,
        id: &str,
        queue: QueueId,
        offset: u64,
        now_ms: u64,
    ) -> Result<(), Fault> {
        let sequence = self.next_sequence;
        let mut value = keys::value(24 + id.len());
        value.put_u64_le(now_ms);
        value.put_u64_le(queue.0);
        value.put_u64_le(offset);
        value.put_slice(id.as_bytes());
        kv.put(&keys::dedup(sequence), &value)?;
        self.insert(sequence, now_ms, queue, offset, Arc::from(id));
        for _ in 0..DEDUP_FORGET_PER_APPEND {
            let Some(oldest) = self.ring.front() else { break };
            let over = oldest.time_ms + DEDUP_WINDOW_MS <= now_ms;
            if !over && self.ring.len() <= DEDUP_WINDOW_MESSAGES {
                break;
            }
            self.forget_oldest(kv)?;
        }
        Ok(())
    }

    fn forget_oldest(&mut self, kv: &mut dyn KeyValue) -> Result<(), Fault> {
        let Some(oldest) = self.ring.pop_front() else { return Ok(()) };
        kv.delete(&keys::dedup(oldest.sequence))?;
        let key = (oldest.topic, oldest.id);
        // The same id may have been stored again after the window.
        if self.by_id.get(&key).is_some_and(|known| known.sequence == oldest.sequence) {
            self.by_id.remove(&key);
        }
        Ok(())
    }

    fn insert(&mut self, sequence: u64, time_ms: u64, queue: QueueId, offset: u64, id: Arc<str>) {
        let topic = queue.topic();
        self.by_id.insert((topic, Arc::clone(&id)), Known { sequence, time_ms, queue, offset });
        self.ring.push_back(Remembered { sequence, time_ms, topic, id });
        self.next_sequence = sequence + 1;
    }

    /// Takes a row of the state; rows come in order.
    pub(crate) fn load(&mut self, mut key: Reader, mut value: Reader) -> Result<(), Fault> {
        let sequence = key.key_long()?;
        let (time_ms, queue, offset) = (value.long()?, QueueId(value.long()?), value.long()?);
        let id = String::from_utf8(value.rest().to_vec()).map_err(|_| Fault("dedup: an id is no text".into()))?;
        self.insert(sequence, time_ms, queue, offset, Arc::from(id));
        Ok(())
    }
}
