//! A consumer group on a queue: how far it is, and what is in flight.
//!
//! Whatever lies below the cursor and is not in flight is over: acknowledged, a dead
//! letter, trimmed, filtered, or sought over. The counters say how many of each. In order, there are messages besides that were passed
//! over until an earlier one of their message group is over (`message_group.rs`), and dead letters that were given back: they are in
//! flight once more, and over once more.

use std::collections::{BTreeMap, BTreeSet};

use bytes::BufMut;

use crate::{
    ids::{GroupId, QueueId},
    keys::{self, Reader},
    kv::{Fault, KeyValue},
    message_group::Lock,
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
    /// The message group that it locks; 0 if it locks none.
    pub(crate) message_group: u64,
    /// Names the request that it was delivered to; 0 if that did not say.
    pub(crate) request: u64,
    /// Its client said good-bye.
    pub(crate) departed: bool,
    /// Its attempts are used up, and its message group stopped at it. Neither leased nor waiting.
    pub(crate) parked: bool,
    /// How often it was noted what became of it: if ever, a row of its own has the last of that (`history.rs`).
    pub(crate) noted: u32,
}

impl InFlight {
    /// True if this receipt is the one of the lease, and the lease is not over.
    pub(crate) fn holds(&self, nonce: u64) -> bool {
        self.leased && self.nonce == nonce
    }

    /// True if it is delivered again once its time has come.
    pub(crate) fn waits(&self) -> bool {
        !self.leased && plant!(ParkedIsDelivered => true, else !self.parked)
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
            message_group: value.long()?,
            request: value.long()?,
            departed: value.flag()?,
            parked: value.flag()?,
            noted: value.short()?,
        };
        value.end()?;
        Ok(in_flight)
    }

    fn encode(&self) -> Vec<u8> {
        let mut value = keys::value(61);
        value.put_u8(u8::from(self.leased));
        value.put_u8(u8::from(self.auto_renew));
        value.put_u8(u8::from(self.written));
        value.put_u32_le(self.attempt);
        value.put_u64_le(self.at_ms);
        value.put_u64_le(self.nonce);
        value.put_u64_le(self.client);
        value.put_u64_le(self.first_leased_ms);
        value.put_u64_le(self.message_group);
        value.put_u64_le(self.request);
        value.put_u8(u8::from(self.departed));
        value.put_u8(u8::from(self.parked));
        value.put_u32_le(self.noted);
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
    /// Dead letters that were given back.
    pub(crate) redriven: u64,
    /// It is on its way there: nothing is delivered.
    pub(crate) seeks_to: Option<u64>,
    in_flight: BTreeMap<u64, InFlight>,
    /// Of those, how many are leased.
    leased: usize,
    /// And how many parked.
    parked: usize,
    /// (time, offset) of what can be delivered next: what waits, and of each message group the first that is not over, unless one of
    /// it is leased.
    turns: BTreeSet<(u64, u64)>,
    /// Message groups of which something is in flight, or was passed over.
    locks: BTreeMap<u64, Lock>,
    /// Messages passed over until an earlier one of their message group is over.
    blocked: u64,
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
        let mut value = keys::value(89);
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
            self.redriven,
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
            redriven: value.long()?,
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

    pub(crate) fn leased(&self) -> usize {
        self.leased
    }

    pub(crate) fn parked(&self) -> usize {
        self.parked
    }

    /// Messages that are leased or wait: what a leader's bound is of. What is parked takes no room from others.
    pub(crate) fn leased_or_waiting(&self) -> usize {
        self.in_flight.len() - self.parked
    }

    pub(crate) fn turns(&self) -> &BTreeSet<(u64, u64)> {
        &self.turns
    }

    pub(crate) fn locks(&self) -> &BTreeMap<u64, Lock> {
        &self.locks
    }

    pub(crate) fn blocked(&self) -> u64 {
        self.blocked
    }

    /// When what may be delivered next of a message group, or of no group the message itself, can be.
    fn turn(&self, offset: u64, message_group: u64) -> Option<(u64, u64)> {
        let waits = |offset: u64| {
            let row = self.in_flight.get(&offset).filter(|row| row.waits());
            row.map(|row| (row.at_ms, offset))
        };
        match message_group {
            0 => waits(offset),
            group => self.locks.get(&group).and_then(|lock| lock.turn(waits)),
        }
    }

    /// In memory only; the caller writes.
    pub(crate) fn set(&mut self, offset: u64, now: InFlight) -> Option<InFlight> {
        let before = self.turn(offset, now.message_group);
        let row = self.in_flight.insert(offset, now);
        let was_leased = row.is_some_and(|row| row.leased);
        self.leased = self.leased + usize::from(now.leased) - usize::from(was_leased);
        let was_parked = row.is_some_and(|row| row.parked);
        self.parked = self.parked + usize::from(now.parked) - usize::from(was_parked);
        if now.message_group != 0 {
            let lock = self.locks.entry(now.message_group).or_default();
            lock.enter(offset, now.leased, was_leased);
        }
        self.take_turn(before, (offset, now.message_group));
        row
    }

    /// In memory only; the caller writes.
    pub(crate) fn remove(&mut self, offset: u64, now_ms: u64) -> Option<InFlight> {
        let row = *self.in_flight.get(&offset)?;
        let before = self.turn(offset, row.message_group);
        self.in_flight.remove(&offset);
        self.leased -= usize::from(row.leased);
        self.parked -= usize::from(row.parked);
        if let Some(lock) = self.locks.get_mut(&row.message_group) {
            lock.leave(offset, row.leased, now_ms);
        }
        self.take_turn(before, (offset, row.message_group));
        Some(row)
    }

    /// It was noted once more what became of a message in flight. In memory only; the caller writes.
    pub(crate) fn count_note(&mut self, offset: u64) -> Option<InFlight> {
        let row = self.in_flight.get_mut(&offset)?;
        row.noted = row.noted.saturating_add(1);
        Some(*row)
    }

    /// A message at the cursor is passed over until those of its message group before it are over. In memory only.
    pub(crate) fn block(&mut self, offset: u64, message_group: u64) {
        let lock = self.locks.entry(message_group).or_default();
        lock.block(offset);
        self.blocked += 1;
    }

    /// The first so many messages passed over of a message group are not any more; `next` is the first that still is. In memory only.
    pub(crate) fn unblock(&mut self, message_group: u64, count: u64, next: Option<u64>) {
        let before = self.turn(0, message_group);
        if let Some(lock) = self.locks.get_mut(&message_group) {
            lock.unblock(count, next);
            self.blocked -= count;
        }
        self.take_turn(before, (0, message_group));
    }

    /// Takes over the row of a message group while the state is loaded, after what is in flight.
    pub(crate) fn load_lock(&mut self, message_group: u64, value: Reader) -> Result<(), Fault> {
        let before = self.turn(0, message_group);
        let lock = self.locks.entry(message_group).or_default();
        self.blocked += lock.load(value)?;
        self.take_turn(before, (0, message_group));
        Ok(())
    }

    /// After a change: whose turn it was is replaced by whose it is.
    fn take_turn(&mut self, before: Option<(u64, u64)>, (offset, message_group): (u64, u64)) {
        if let Some(before) = before {
            self.turns.remove(&before);
        }
        if self.locks.get(&message_group).is_some_and(Lock::is_over) {
            self.locks.remove(&message_group);
        }
        self.turns.extend(self.turn(offset, message_group));
    }

    /// Messages over, in flight or passed over for a while must be exactly those below the cursor.
    pub(crate) fn conserves(&self) -> bool {
        let over = self.acked + self.dead_lettered + self.trimmed + self.filtered + self.sought;
        over + self.in_flight.len() as u64 + self.blocked == self.cursor - self.start + self.redriven
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
