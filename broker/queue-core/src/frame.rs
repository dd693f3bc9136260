//! How commands stand in an entry of a data shard's log.
//!
//! ```text
//! payload = u8 version (2) | u64 the shard's time in ms | u64 the leader's wall clock in ms | frame*
//! frame   = u32 length | encoded record.v1.Command
//! ```
//! Little endian. A message is found again by entry index, offset and length of its
//! frame, without reading the rest of the entry.

use bytes::{BufMut, Bytes, BytesMut};
use flotilla_proto::record::Command;
use prost::Message;

use crate::limits::MAX_ENTRY_PAYLOAD;

const VERSION: u8 = 2;
const HEAD: usize = 17;
const LENGTH: usize = 4;

/// Bytes that are no entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Written by another release.
    #[error("entry version {0} is unknown")]
    Version(u8),
    /// Lengths that do not fit, or a payload over its bound.
    #[error("the entry is cut short or too long")]
    Length,
    /// A frame that is no command.
    #[error("a frame does not decode: {0}")]
    Command(String),
}

/// Puts commands into a payload.
#[derive(Debug)]
pub struct EntryBuilder {
    bytes: BytesMut,
    count: usize,
}

impl EntryBuilder {
    /// An empty entry, stamped by the leader.
    pub fn new(time_ms: u64, wall_ms: u64) -> Self {
        let mut bytes = BytesMut::with_capacity(1024);
        bytes.put_u8(VERSION);
        bytes.put_u64_le(time_ms);
        bytes.put_u64_le(wall_ms);
        Self { bytes, count: 0 }
    }

    /// Adds a command; returns its number in the entry.
    pub fn push(&mut self, command: &Command) -> usize {
        let length = command.encoded_len();
        self.bytes.reserve(length + LENGTH);
        self.bytes
            .put_u32_le(u32::try_from(length).expect("commands are bounded far below 4 GiB"));
        command.encode(&mut self.bytes).expect("the buffer grows");
        self.count += 1;
        self.count - 1
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True if no command was added.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The payload.
    pub fn finish(self) -> Bytes {
        self.bytes.freeze()
    }
}

/// An entry, its frames not yet decoded.
#[derive(Debug)]
pub struct Entry {
    /// The shard's time as its leader reckoned it, milliseconds.
    pub time_ms: u64,
    /// The leader's wall clock, milliseconds since 1970.
    pub wall_ms: u64,
    /// The commands.
    pub frames: Frames,
}

/// The frames of an entry: `(offset, length, command)` each. Ends after the first error.
#[derive(Debug)]
pub struct Frames {
    payload: Bytes,
    at: usize,
}

/// Reads an entry. Message bytes are slices of `payload`, not copies.
pub fn decode_entry(payload: &Bytes) -> Result<Entry, FrameError> {
    if payload.len() < HEAD || payload.len() > MAX_ENTRY_PAYLOAD {
        return Err(FrameError::Length);
    }
    if payload[0] != VERSION {
        return Err(FrameError::Version(payload[0]));
    }
    let long = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().expect("eight bytes"));
    Ok(Entry {
        time_ms: long(1),
        wall_ms: long(9),
        frames: Frames {
            payload: payload.clone(),
            at: HEAD,
        },
    })
}

impl Iterator for Frames {
    type Item = Result<(u32, u32, Command), FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.payload.len() {
            return None;
        }
        let frame = self.read();
        if frame.is_err() {
            self.at = self.payload.len();
        }
        Some(frame)
    }
}

impl Frames {
    fn read(&mut self) -> Result<(u32, u32, Command), FrameError> {
        let start = self.at + LENGTH;
        let head = self.payload.get(self.at..start).ok_or(FrameError::Length)?;
        let length = u32::from_le_bytes(head.try_into().expect("four bytes"));
        let command = read_frame(&self.payload, start as u32, length)?;
        self.at = start + length as usize;
        Ok((start as u32, length, command))
    }
}

/// Reads one command by its place in the payload.
pub fn read_frame(payload: &Bytes, frame_offset: u32, frame_len: u32) -> Result<Command, FrameError> {
    let start = frame_offset as usize;
    let end = start.checked_add(frame_len as usize).ok_or(FrameError::Length)?;
    if end > payload.len() {
        return Err(FrameError::Length);
    }
    Command::decode(payload.slice(start..end)).map_err(|error| FrameError::Command(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_proto::record::{Append, command};
    use proptest::prelude::*;

    fn append(queue: u64, id: &str, body: Vec<u8>) -> Command {
        let append = Append {
            queue,
            message_id: id.into(),
            message: body.into(),
            tag: 3,
            due_ms: 9,
            ..Append::default()
        };
        Command {
            command: Some(command::Command::Append(append)),
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            time_ms: u64,
            wall_ms: u64,
            commands in prop::collection::vec((any::<u64>(), "[a-z]{0,9}", prop::collection::vec(any::<u8>(), 0..99)), 0..9),
        ) {
            let commands: Vec<Command> = commands.into_iter().map(|(q, id, body)| append(q, &id, body)).collect();
            let mut builder = EntryBuilder::new(time_ms, wall_ms);
            for command in &commands {
                builder.push(command);
            }
            let payload = builder.finish();
            let entry = decode_entry(&payload).unwrap();
            prop_assert_eq!((entry.time_ms, entry.wall_ms), (time_ms, wall_ms));
            let frames: Vec<_> = entry.frames.map(Result::unwrap).collect();
            prop_assert_eq!(frames.len(), commands.len());
            for ((offset, length, read), written) in frames.iter().zip(&commands) {
                prop_assert_eq!(read, written);
                prop_assert_eq!(&read_frame(&payload, *offset, *length).unwrap(), written);
            }
        }

        #[test]
        fn garbage_is_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let payload = Bytes::from(bytes);
            if let Ok(entry) = decode_entry(&payload) {
                for _ in entry.frames {}
            }
            let _ = read_frame(&payload, 3, u32::MAX);
        }
    }

    #[test]
    fn a_message_is_a_slice_of_its_entry() {
        let mut builder = EntryBuilder::new(1, 2);
        builder.push(&append(1, "id", vec![7; 100]));
        let payload = builder.finish();
        let (_, _, command) = decode_entry(&payload).unwrap().frames.next().unwrap().unwrap();
        let Some(command::Command::Append(append)) = command.command else {
            panic!()
        };
        let whole = payload.as_ptr() as usize..payload.as_ptr() as usize + payload.len();
        assert!(whole.contains(&(append.message.as_ptr() as usize)));
    }
}
