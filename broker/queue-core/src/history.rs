//! What became of a message before: how each of its attempts ended, and what operators decided. The last so many are kept
//! ([`MAX_NOTES`]), in a row of its own, which only a message has of which there is something to tell. A dead letter takes them along.

use bytes::BufMut;

use crate::{
    core::Core,
    ids::{GroupId, QueueId},
    keys::{self, Reader},
    kv::{Fault, KeyValue},
    limits::MAX_NOTES,
    subscription::InFlight,
};

/// Something that became of a message in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// Of which attempt, from 1. They begin anew when a message is given back.
    pub attempt: u32,
    /// When, by the shard's time.
    pub at_ms: u64,
    /// When, by the wall clock of the leader, milliseconds since 1970.
    pub wall_ms: u64,
    /// Hash of the id of the client that had it; 0 if none had.
    pub client: u64,
    /// What.
    pub what: What,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum What {
    /// Its lease ended, and nobody said anything.
    TimedOut = 1,
    /// Its consumer gave it back.
    Refused = 2,
    /// Its consumer said good-bye.
    Departed = 3,
    /// Its consumer gave it up.
    GivenUp = 4,
    /// An operator decided that its message group goes on without it.
    Skipped = 5,
    /// An operator decided that it is delivered again.
    Released = 6,
    /// It was a dead letter, and an operator gave it back.
    Redriven = 7,
}

impl What {
    fn of(byte: u8) -> Result<Self, Fault> {
        Ok(match byte {
            1 => Self::TimedOut,
            2 => Self::Refused,
            3 => Self::Departed,
            4 => Self::GivenUp,
            5 => Self::Skipped,
            6 => Self::Released,
            7 => Self::Redriven,
            other => return Err(Fault::Corrupt(format!("history: {other} is nothing known"))),
        })
    }
}

/// Bytes of a note.
const NOTE_BYTES: usize = 29;

/// Adds one, and lets the first go if there are too many.
pub(crate) fn add(notes: &mut Vec<Note>, note: Note) {
    notes.push(note);
    let over = notes.len().saturating_sub(MAX_NOTES);
    notes.drain(..over);
}

pub(crate) fn put(value: &mut Vec<u8>, notes: &[Note]) {
    value.reserve(notes.len() * NOTE_BYTES);
    for note in notes {
        value.put_u32_le(note.attempt);
        value.put_u64_le(note.at_ms);
        value.put_u64_le(note.wall_ms);
        value.put_u64_le(note.client);
        value.put_u8(note.what as u8);
    }
}

/// To the end of a value.
pub(crate) fn read(value: &mut Reader) -> Result<Vec<Note>, Fault> {
    let mut notes = Vec::new();
    while !value.is_empty() {
        notes.push(Note {
            attempt: value.short()?,
            at_ms: value.long()?,
            wall_ms: value.long()?,
            client: value.long()?,
            what: What::of(value.byte()?)?,
        });
    }
    Ok(notes)
}

impl Core {
    /// What became before of a message in flight, the last of it last.
    pub fn history(
        &self,
        kv: &dyn KeyValue,
        (group, queue, offset): (GroupId, QueueId, u64),
    ) -> Result<Vec<Note>, Fault> {
        match kv.get(&keys::history(queue, group, offset))? {
            Some(value) => read(&mut Reader::value("history", value)?),
            None => Ok(Vec::new()),
        }
    }

    /// Notes what became of a message in flight; gives its row, which the caller writes with what it is from now on.
    pub(crate) fn note(
        &mut self,
        kv: &mut dyn KeyValue,
        wall_ms: u64,
        (queue, group, offset): (QueueId, GroupId, u64),
        what: What,
    ) -> Result<InFlight, Fault> {
        let at_ms = self.now_ms;
        let known = self.subscription_mut(queue, group).expect("the caller found it");
        let row = known.count_note(offset).expect("the caller found it");
        let mut notes = match row.noted {
            1 => Vec::new(),
            _ => self.history(kv, (group, queue, offset))?,
        };
        let by_client = matches!(
            what,
            What::TimedOut | What::Refused | What::Departed | What::GivenUp
        );
        let note = Note {
            attempt: row.attempt,
            at_ms,
            wall_ms,
            client: if by_client { row.client } else { 0 },
            what,
        };
        add(&mut notes, note);
        put_history(kv, (queue, group, offset), &notes)?;
        Ok(row)
    }
}

/// Writes what became of a message in flight.
pub(crate) fn put_history(
    kv: &mut dyn KeyValue,
    (queue, group, offset): (QueueId, GroupId, u64),
    notes: &[Note],
) -> Result<(), Fault> {
    let mut value = keys::value(notes.len() * NOTE_BYTES);
    put(&mut value, notes);
    kv.put(&keys::history(queue, group, offset), &value)
}
