//! The meta shard: which nodes, topics and consumer groups the cluster has, and where queues live.
//!
//! [`MetaState`] is a pure function of the shard's log, like the core of a data shard: commands in,
//! replies out, written through to the key-value state. [`MetaMachine`] runs it as a replica and lets
//! the rest of the node watch it.
//!
//! Payload of an entry:
//!
//! ```text
//! u8 version = 1 | u64 LE leader's time, ms | encoded flotilla.record.v1.MetaCommand
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use flotilla_proto::record::MetaCommand;
use prost::Message;

mod commands;
mod keys;
pub mod limits;
mod machine;
mod reply;
mod sorted;
mod state;

pub use machine::MetaMachine;
pub use reply::{MetaRefusal, MetaReply};
pub use state::{DEAD_LETTER_PREFIX, MetaState, dead_letter_topic};

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 9;

/// A meta entry that this build cannot read. It was agreed by a quorum, so it must not be skipped:
/// the replica stops.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Written by a newer build.
    #[error("a meta entry of format version {0} was written by a newer build: upgrade this node")]
    Version(u8),
    /// A command this build does not know.
    #[error("a meta entry holds a command or field this build does not know: upgrade this node")]
    UnknownCommand,
    /// Not a meta entry at all.
    #[error("a meta entry cannot be decoded: {0}")]
    Malformed(String),
}

/// The payload of an entry that carries `command`, stamped with the leader's time.
#[must_use]
pub fn encode(time_ms: u64, command: &MetaCommand) -> Bytes {
    let mut payload = BytesMut::with_capacity(HEAD_BYTES + command.encoded_len());
    payload.put_u8(VERSION);
    payload.put_u64_le(time_ms);
    command.encode(&mut payload).expect("BytesMut grows");
    payload.freeze()
}

/// The leader's time in ms and the command of an entry's payload.
///
/// # Errors
/// See [`PayloadError`].
pub fn decode(payload: &Bytes) -> Result<(u64, MetaCommand), PayloadError> {
    let Some(version) = payload.first() else {
        return Err(PayloadError::Malformed("it is empty".into()));
    };
    if *version != VERSION {
        return Err(PayloadError::Version(*version));
    }
    if payload.len() < HEAD_BYTES {
        return Err(PayloadError::Malformed("it is too short".into()));
    }
    let time = payload[1..HEAD_BYTES].try_into().expect("eight bytes");
    let command = MetaCommand::decode(payload.slice(HEAD_BYTES..))
        .map_err(|error| PayloadError::Malformed(error.to_string()))?;
    // Decoding drops what it does not know, which may change what the rest means.
    if command.command.is_none() || command.encoded_len() != payload.len() - HEAD_BYTES {
        return Err(PayloadError::UnknownCommand);
    }
    Ok((u64::from_le_bytes(time), command))
}

#[cfg(test)]
mod tests;
