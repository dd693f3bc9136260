//! A consumer group on a queue: how far it is, and what is in flight.
//!
//! Whatever lies below the cursor and is not in flight is over: acknowledged, a dead
//! letter, trimmed, filtered, or sought over. The counters say how many of each.

use std::collections::{BTreeMap, BTreeSet};

use bytes::BufMut;

use crate::{
    ids::{GroupId, QueueId},
    keys::{self, Reader},
    kv::{Fault, KeyValue},
};

/// A message that was delivered and is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InFlight {
    /// Leased until `at_ms`; otherwise it waits until then.
    pub(crate) leased: bool,
    pub(crate) auto_renew: bool,
    /// The answer that carried it was written out to the client.
    pub(crate) written: bool,
    pub(crate) attempt: u32,
    pub(crate) at_ms: u64,
    pub(crate) nonce: u64,
    pub(crate) client: u64,
    pub(crate) first_leased_ms: u64,
}

impl InFlight {
    /// True if this receipt is the one of the lease, and the lease is not over.
    pub(crate) fn holds(&self, nonce: u64) -> bool {
        self.leased && self.nonce == nonce
    }

    pub(crate) fn load(mut value: Reader) -> Result<Self, Fault> {
        let in_flight = Self {
            leased: value.flag()?,
            auto_renew: value.flag()?,
            written: value.flag()?,
            attempt: value.short()?,
            at_ms: value.long()?,
            nonce: value.long()?,
            client: value.long()?,
            first_leased_ms: value.long()?,
        };
        value.end()?;
        Ok(in_flight)
    }

    fn encode(&self) -> Vec<u8> {
        let mut value = keys::value(39);
        value.put_u8(u8::from(self.leased));
        value.put_u8(u8::from(self.auto_renew));
        value.put_u8(u8::from(self.written));
        value.put_u32_le(self.attempt);
        value.put_u64_le(self.at_ms);
        value.put_u64_le(self.nonce);
        value.put_u64_le(self.client);
        value.put_u64_le(self.first_leased_ms);
        value
    }
}

/// A consumer group's place in a queue.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Subscription {
    /// Where it began.
    pub(crate) start: u64,
    /// The next offset to be delivered for the first time.
    pub(crate) cursor: u64,
    pub(crate) acked: u64,
    pub(crate) dead_lettered: u64,
    /// Forgotten before they were delivered.
    pub(crate) trimmed: u64,
    /// Passed over by a filter.
    pub(crate) filtered: u64,
    /// Passed over by a seek that is not done.
    pub(crate) sought: u64,
    /// Seeks that were done.
    pub(crate) epoch: u64,
    /// The seek that was begun last.
    pub(crate) last_seek: u64,
    /// It is on its way there: nothing is delivered.
    pub(crate) seeks_to: Option<u64>,
    in_flight: BTreeMap<u64, InFlight>,
    /// (time, offset) of what waits.
    waiting: BTreeSet<(u64, u64)>,
}

impl Subscription {
    /// A consumer group that begins at `start`.
    pub(crate) fn starting(start: u64) -> Self {
        Self {
            start,
            cursor: start,
            ..Self::default()
        }
    }

    pub(crate) fn store(&self, kv: &mut dyn KeyValue, queue: QueueId, group: GroupId) -> Result<(), Fault> {
        let mut value = keys::value(81);
        for number in [
            self.start,
            self.cursor,
            self.acked,
            self.dead_lettered,
            self.trimmed,
            self.filtered,
            self.sought,
            self.epoch,
            self.last_seek,
        ] {
            value.put_u64_le(number);
        }
        value.put_u8(u8::from(self.seeks_to.is_some()));
        value.put_u64_le(self.seeks_to.unwrap_or(0));
        kv.put(&keys::subscription(queue, group), &value)
    }

    pub(crate) fn load(mut value: Reader) -> Result<Self, Fault> {
        let mut subscription = Self {
            start: value.long()?,
            cursor: value.long()?,
            acked: value.long()?,
            dead_lettered: value.long()?,
            trimmed: value.long()?,
            filtered: value.long()?,
            sought: value.long()?,
            epoch: value.long()?,
            last_seek: value.long()?,
            ..Self::default()
        };
        let (seeks, to) = (value.flag()?, value.long()?);
        subscription.seeks_to = seeks.then_some(to);
        value.end()?;
        Ok(subscription)
    }

    pub(crate) fn in_flight(&self) -> &BTreeMap<u64, InFlight> {
        &self.in_flight
    }

    pub(crate) fn waiting(&self) -> &BTreeSet<(u64, u64)> {
        &self.waiting
    }

    /// In memory only; the caller writes.
    pub(crate) fn set(&mut self, offset: u64, now: InFlight) -> Option<InFlight> {
        let before = self.remove(offset);
        if !now.leased {
            self.waiting.insert((now.at_ms, offset));
        }
        self.in_flight.insert(offset, now);
        before
    }

    /// In memory only; the caller writes.
    pub(crate) fn remove(&mut self, offset: u64) -> Option<InFlight> {
        let before = self.in_flight.remove(&offset)?;
        if !before.leased {
            self.waiting.remove(&(before.at_ms, offset));
        }
        Some(before)
    }

    /// Messages over or in flight must be exactly those below the cursor.
    pub(crate) fn conserves(&self) -> bool {
        let over = self.acked + self.dead_lettered + self.trimmed + self.filtered + self.sought;
        over + self.in_flight.len() as u64 == self.cursor - self.start
    }
}

/// Writes one in-flight row.
pub(crate) fn put_in_flight(
    kv: &mut dyn KeyValue,
    queue: QueueId,
    group: GroupId,
    offset: u64,
    row: &InFlight,
) -> Result<(), Fault> {
    kv.put(&keys::in_flight(queue, group, offset), &row.encode())
}
