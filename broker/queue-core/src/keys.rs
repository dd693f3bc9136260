//! Keys and values, byte by byte. Numbers in keys are big endian, so scans are ordered;
//! numbers in values are little endian. Every value begins with a format byte, 2.
//!
//! ```text
//! n                                   -> fmt | u64 now_ms
//! g                                   -> fmt | u64 deletions
//! q | u64 queue                       -> fmt | u64 first | u64 next | u64 in_order_end | u64 stored_ms
//! m | u64 queue | u64 offset          -> fmt | u8 flags | u64 index | u32 frame_offset | u32 frame_len
//!                                            | u64 time_ms | u64 stored_ms | u64 tag | u64 message_group
//! c | u64 queue | u64 mgroup | u64 off-> fmt                     (messages of a message group, in order)
//! x | u64 index | u64 queue | u64 off -> fmt | u32 frame_len     (displaced messages by the entry they are in)
//! r | u32 group                       -> fmt | u32 version | u32 max_attempts | u64 dead_letter_queue | u8 fifo | u8 paused
//!                                            | u8 park | encoded Backoff or nothing
//! s | u64 queue | u32 group           -> fmt | u64 start | u64 cursor | u64 acked | u64 dead_lettered | u64 trimmed | u64 filtered
//!                                            | u64 sought | u64 epoch | u64 last_seek | u64 redriven | u8 seeks | u64 seeks_to
//! f | u64 queue | u32 group | u64 off -> fmt | u8 leased | u8 auto_renew | u8 written | u32 attempt | u64 at_ms
//!                                            | u64 nonce | u64 client | u64 first_leased_ms | u64 message_group | u64 request
//!                                            | u8 departed | u8 parked | u32 noted
//! a | u64 queue | u32 group | u64 off -> fmt | notes             (what became of a message in flight before)
//! e | u64 queue | u64 offset          -> fmt | u32 group | u64 from_queue | u64 from_offset | u64 from_epoch | u64 stored_ms
//!                                            | u64 message_group | u64 redriven_ms | u64 redriven_by
//!                                            | u32 noted | notes                             (of a dead letter)
//! l | u64 queue | u32 group | u64 mg  -> fmt | u64 blocked | u64 next | u64 ready_ms   (message groups with messages passed over)
//! b                                   -> fmt | u64 displaced_bytes
//! o | u64 queue                       -> fmt | u64 next | u64 waiting | u64 fired | u64 recalled | u64 remembered
//!                                            | u64 undecided | u64 given_up
//! w | u64 queue | u64 timer           -> fmt | u8 wait | u64 at_ms | u64 dedup sequence | u64 message_id | u32 checks
//!                                            (0: until its date, 1: recalled, 2: half, 3: half and given up, 4: committed, 5: rolled back)
//! t | u64 at_ms | u64 queue | u64 tim -> fmt                      (timers by their time)
//! h | u64 at_ms | u64 queue | u64 tim -> fmt                      (half messages by their next check)
//! d | u64 sequence                    -> fmt | u64 time_ms | u64 queue | u64 offset | message id
//! i | u32 topic | message id          -> fmt | u64 sequence      (where a message id is remembered)
//! ```
//! Flags of a message: 1, it is displaced; 2, it is a dead letter. A note: `u32 attempt | u64 at_ms | u64 wall_ms | u64 client | u8 what`.
//!
//! A message is displaced when its entry is not where its neighbours' order would have
//! it: a dead letter, one that waited, or one that was copied forward. A waiting message has its row in the waiting room of
//! its queue: there the highest bit of the queue's number is set, and the offset is the number of its timer.

use std::ops::ControlFlow;

use bytes::{Buf, BufMut, Bytes};

use crate::{
    ids::{GroupId, QueueId},
    kv::{Fault, KeyValue},
    limits::LOAD_PAGE,
};

/// Format byte of every value.
pub(crate) const FORMAT: u8 = 2;

pub(crate) const NOW: &[u8] = b"n";
pub(crate) const DELETIONS: &[u8] = b"g";
pub(crate) const QUEUE: u8 = b'q';
pub(crate) const MESSAGE: u8 = b'm';
pub(crate) const DISPLACED: u8 = b'x';
pub(crate) const DISPLACED_BYTES: &[u8] = b"b";
pub(crate) const ROOM: u8 = b'o';
pub(crate) const TIMER: u8 = b'w';
pub(crate) const DUE: u8 = b't';
pub(crate) const CHECK: u8 = b'h';
pub(crate) const RULES: u8 = b'r';
pub(crate) const SUBSCRIPTION: u8 = b's';
pub(crate) const IN_FLIGHT: u8 = b'f';
pub(crate) const DEDUP: u8 = b'd';
pub(crate) const DEDUP_ID: u8 = b'i';
pub(crate) const CHAIN: u8 = b'c';
pub(crate) const LOCK: u8 = b'l';
pub(crate) const HISTORY: u8 = b'a';
pub(crate) const LETTER: u8 = b'e';

/// A key: its kind and its parts, in order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    bytes: [u8; 32],
    len: usize,
}

impl Key {
    pub(crate) fn of(kind: u8) -> Self {
        let mut bytes = [0; 32];
        bytes[0] = kind;
        Self { bytes, len: 1 }
    }

    fn part(mut self, part: &[u8]) -> Self {
        self.bytes[self.len..self.len + part.len()].copy_from_slice(part);
        self.len += part.len();
        self
    }

    pub(crate) fn long(self, number: u64) -> Self {
        self.part(&number.to_be_bytes())
    }

    pub(crate) fn group(self, group: GroupId) -> Self {
        self.part(&group.0.to_be_bytes())
    }

    /// The first key after all that begin with this one.
    pub(crate) fn end(mut self) -> Self {
        for at in (0..self.len).rev() {
            if self.bytes[at] < u8::MAX {
                self.bytes[at] += 1;
                self.len = at + 1;
                return self;
            }
        }
        unreachable!("kinds are letters, so a key never consists of 0xff alone")
    }
}

impl std::ops::Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

pub(crate) fn queue(queue: QueueId) -> Key {
    Key::of(QUEUE).long(queue.0)
}

pub(crate) fn message(queue: QueueId, offset: u64) -> Key {
    Key::of(MESSAGE).long(queue.0).long(offset)
}

/// The offset in a message's key.
pub(crate) fn offset(key: Bytes) -> Result<u64, Fault> {
    let mut key = Reader::key("message", key)?;
    key.key_long()?;
    key.key_long()
}

pub(crate) fn displaced(index: u64, queue: QueueId, offset: u64) -> Key {
    Key::of(DISPLACED).long(index).long(queue.0).long(offset)
}

pub(crate) fn chain(queue: QueueId, message_group: u64, offset: u64) -> Key {
    Key::of(CHAIN).long(queue.0).long(message_group).long(offset)
}

pub(crate) fn lock(queue: QueueId, group: GroupId, message_group: u64) -> Key {
    Key::of(LOCK).long(queue.0).group(group).long(message_group)
}

pub(crate) fn room(queue: QueueId) -> Key {
    Key::of(ROOM).long(queue.0)
}

pub(crate) fn timer(queue: QueueId, number: u64) -> Key {
    Key::of(TIMER).long(queue.0).long(number)
}

/// In one of the orders by time.
pub(crate) fn due(order: u8, at_ms: u64, queue: QueueId, number: u64) -> Key {
    Key::of(order).long(at_ms).long(queue.0).long(number)
}

pub(crate) fn rules(group: GroupId) -> Key {
    Key::of(RULES).group(group)
}

pub(crate) fn subscription(queue: QueueId, group: GroupId) -> Key {
    Key::of(SUBSCRIPTION).long(queue.0).group(group)
}

pub(crate) fn in_flight(queue: QueueId, group: GroupId, offset: u64) -> Key {
    Key::of(IN_FLIGHT).long(queue.0).group(group).long(offset)
}

pub(crate) fn history(queue: QueueId, group: GroupId, offset: u64) -> Key {
    Key::of(HISTORY).long(queue.0).group(group).long(offset)
}

pub(crate) fn letter(queue: QueueId, offset: u64) -> Key {
    Key::of(LETTER).long(queue.0).long(offset)
}

pub(crate) fn dedup(sequence: u64) -> Key {
    Key::of(DEDUP).long(sequence)
}

/// The key of a message id, which is as long as the id.
pub(crate) fn dedup_id(topic: u32, id: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(5 + id.len());
    key.push(DEDUP_ID);
    key.extend_from_slice(&topic.to_be_bytes());
    key.extend_from_slice(id);
    key
}

/// Reads numbers from a key or value, and says which one is damaged when they are not there.
pub(crate) struct Reader {
    bytes: Bytes,
    what: &'static str,
}

impl Reader {
    /// A value; checks its format byte.
    pub(crate) fn value(what: &'static str, bytes: Bytes) -> Result<Self, Fault> {
        let mut reader = Self { bytes, what };
        match reader.byte()? {
            FORMAT => Ok(reader),
            other => Err(Fault::Newer(format!(
                "{what}: format {other} is unknown; run the release that wrote it"
            ))),
        }
    }

    /// A key; skips its kind.
    pub(crate) fn key(what: &'static str, bytes: Bytes) -> Result<Self, Fault> {
        let mut reader = Self { bytes, what };
        reader.byte()?;
        Ok(reader)
    }

    fn need(&self, count: usize) -> Result<(), Fault> {
        if self.bytes.len() < count {
            return Err(Fault::Corrupt(format!(
                "{}: the stored bytes are cut short",
                self.what
            )));
        }
        Ok(())
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Fault> {
        self.need(1)?;
        Ok(self.bytes.get_u8())
    }

    pub(crate) fn flag(&mut self) -> Result<bool, Fault> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Fault::Corrupt(format!("{}: {other} is no flag", self.what))),
        }
    }

    /// A number of a value, little endian.
    pub(crate) fn short(&mut self) -> Result<u32, Fault> {
        self.need(4)?;
        Ok(self.bytes.get_u32_le())
    }

    /// A number of a value, little endian.
    pub(crate) fn long(&mut self) -> Result<u64, Fault> {
        self.need(8)?;
        Ok(self.bytes.get_u64_le())
    }

    /// A number of a key, big endian.
    pub(crate) fn key_short(&mut self) -> Result<u32, Fault> {
        self.need(4)?;
        Ok(self.bytes.get_u32())
    }

    /// A number of a key, big endian.
    pub(crate) fn key_long(&mut self) -> Result<u64, Fault> {
        self.need(8)?;
        Ok(self.bytes.get_u64())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn rest(self) -> Bytes {
        self.bytes
    }

    pub(crate) fn end(self) -> Result<(), Fault> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        Err(Fault::Corrupt(format!(
            "{}: the stored bytes are too long",
            self.what
        )))
    }
}

/// A value under construction.
pub(crate) fn value(capacity: usize) -> Vec<u8> {
    let mut value = Vec::with_capacity(capacity + 1);
    value.put_u8(FORMAT);
    value
}

/// Visits every pair whose key begins with `prefix`, in order.
pub(crate) fn each(
    kv: &dyn KeyValue,
    prefix: Key,
    mut visit: impl FnMut(Bytes, Bytes) -> Result<(), Fault>,
) -> Result<(), Fault> {
    each_until(kv, &prefix, &prefix.end(), LOAD_PAGE, |key, value| {
        visit(key, value)?;
        Ok(ControlFlow::Continue(()))
    })
}

/// Visits the pairs with `from <= key < to` in order, until `visit` breaks. Reads `page` pairs first,
/// and more at once if those were not enough.
pub(crate) fn each_until(
    kv: &dyn KeyValue,
    from: &[u8],
    to: &[u8],
    mut page: usize,
    mut visit: impl FnMut(Bytes, Bytes) -> Result<ControlFlow<()>, Fault>,
) -> Result<(), Fault> {
    let mut from = from.to_vec();
    loop {
        let found = kv.scan(&from, to, page)?;
        let full = found.len() == page;
        if let Some((last, _)) = found.last() {
            from.clear();
            from.extend_from_slice(last);
            from.push(0);
        }
        for (key, value) in found {
            if visit(key, value)?.is_break() {
                return Ok(());
            }
        }
        if !full {
            return Ok(());
        }
        page = LOAD_PAGE;
    }
}
