//! Queues and the places of their messages.

use bytes::BufMut;

use crate::{
    ids::{Position, QueueId},
    keys::{self, Reader},
    kv::{Fault, KeyValue},
    view::Stored,
};

/// A queue's ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Queue {
    /// First offset kept.
    pub(crate) first: u64,
    /// Offset of the next message.
    pub(crate) next: u64,
    /// Messages from here on are displaced. So a queue of dead letters is not searched for others.
    pub(crate) in_order_end: u64,
    /// When its last message was stored, by the wall clock: none after it counts as stored before.
    pub(crate) stored_ms: u64,
    /// Its first message that stands in order: offset, and index of the entry. Found again when the state is loaded.
    pub(crate) oldest: Option<(u64, u64)>,
}

impl Queue {
    pub(crate) fn store(&self, kv: &mut dyn KeyValue, id: QueueId) -> Result<(), Fault> {
        plant!(QueueEndSavedRarely => if self.next % 4 != 1 { return Ok(()) });
        let mut value = keys::value(32);
        value.put_u64_le(self.first);
        value.put_u64_le(self.next);
        value.put_u64_le(self.in_order_end);
        value.put_u64_le(self.stored_ms);
        kv.put(&keys::queue(id), &value)
    }

    pub(crate) fn load(mut value: Reader) -> Result<Self, Fault> {
        let queue = Self {
            first: value.long()?,
            next: value.long()?,
            in_order_end: value.long()?,
            stored_ms: value.long()?,
            oldest: None,
        };
        value.end()?;
        Ok(queue)
    }
}

/// Flags of a message's row.
const DISPLACED: u8 = 1;
const DEAD: u8 = 2;

/// A message's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) displaced: bool,
    /// It is a dead letter: a row of its own says where from (`letter.rs`).
    pub(crate) dead: bool,
    pub(crate) stored: Stored,
}

impl Message {
    pub(crate) fn put(&self, kv: &mut dyn KeyValue, queue: QueueId, offset: u64) -> Result<(), Fault> {
        let Position {
            index,
            frame_offset,
            frame_len,
        } = self.stored.position;
        let mut value = keys::value(49);
        let dead = if self.dead { DEAD } else { 0 };
        value.put_u8(if self.displaced { dead | DISPLACED } else { dead });
        value.put_u64_le(index);
        value.put_u32_le(frame_offset);
        value.put_u32_le(frame_len);
        value.put_u64_le(self.stored.time_ms);
        value.put_u64_le(self.stored.stored_ms);
        value.put_u64_le(self.stored.tag);
        value.put_u64_le(self.stored.message_group);
        kv.put(&keys::message(queue, offset), &value)?;
        if self.displaced {
            let mut value = keys::value(4);
            value.put_u32_le(frame_len);
            kv.put(&keys::displaced(index, queue, offset), &value)?;
        }
        if self.stored.message_group != 0 {
            kv.put(
                &keys::chain(queue, self.stored.message_group, offset),
                &keys::value(0),
            )?;
        }
        Ok(())
    }

    pub(crate) fn get(kv: &dyn KeyValue, queue: QueueId, offset: u64) -> Result<Option<Self>, Fault> {
        kv.get(&keys::message(queue, offset))?.map(Self::read).transpose()
    }

    pub(crate) fn read(value: bytes::Bytes) -> Result<Self, Fault> {
        let mut value = Reader::value("message", value)?;
        let flags = value.byte()?;
        if flags & !(DISPLACED | DEAD) != 0 {
            return Err(Fault::Corrupt(format!("message: {flags} are no flags")));
        }
        let position = Position {
            index: value.long()?,
            frame_offset: value.short()?,
            frame_len: value.short()?,
        };
        let (time_ms, stored_ms) = (value.long()?, value.long()?);
        let (tag, message_group) = (value.long()?, value.long()?);
        value.end()?;
        Ok(Self {
            displaced: flags & DISPLACED != 0,
            dead: flags & DEAD != 0,
            stored: Stored {
                position,
                time_ms,
                stored_ms,
                tag,
                message_group,
            },
        })
    }

    /// Removes the row that this was read from, and those by which it is found. Not that of a dead letter.
    pub(crate) fn delete(&self, kv: &mut dyn KeyValue, queue: QueueId, offset: u64) -> Result<(), Fault> {
        if self.displaced {
            kv.delete(&keys::displaced(self.stored.position.index, queue, offset))?;
        }
        if self.stored.message_group != 0 {
            kv.delete(&keys::chain(queue, self.stored.message_group, offset))?;
        }
        kv.delete(&keys::message(queue, offset))
    }
}
