//! Receipt handles: the name of a lease, readable by every node.
//!
//! Layout before base64url: `u8 version (1) | u32 shard | u64 queue | u32 consumer group |
//! u64 offset | u64 nonce`, big endian. Nothing in it is bound to a node or a connection,
//! so it stays good through failovers.

use data_encoding::BASE64URL_NOPAD;
use queue_core::QueueId;

const VERSION: u8 = 1;
const LENGTH: usize = 33;

/// What a handle says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle {
    /// Shard of the queue.
    pub shard: u32,
    /// The queue.
    pub queue: QueueId,
    /// Id of the consumer group.
    pub group: u32,
    /// Offset of the message in the queue.
    pub offset: u64,
    /// Drawn by the leader for this lease.
    pub nonce: u64,
}

impl Handle {
    /// As clients get it.
    pub fn encode(&self) -> String {
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION;
        bytes[1..5].copy_from_slice(&self.shard.to_be_bytes());
        bytes[5..13].copy_from_slice(&self.queue.0.to_be_bytes());
        bytes[13..17].copy_from_slice(&self.group.to_be_bytes());
        bytes[17..25].copy_from_slice(&self.offset.to_be_bytes());
        bytes[25..33].copy_from_slice(&self.nonce.to_be_bytes());
        BASE64URL_NOPAD.encode(&bytes)
    }

    /// Reads a handle; nothing if it is none of ours.
    pub fn decode(text: &str) -> Option<Self> {
        if text.len() != BASE64URL_NOPAD.encode_len(LENGTH) {
            return None;
        }
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
        if bytes.len() != LENGTH || bytes[0] != VERSION {
            return None;
        }
        let long = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let short = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        Some(Self {
            shard: short(1),
            queue: QueueId(long(5)),
            group: short(13),
            offset: long(17),
            nonce: long(25),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(shard: u32, queue: u64, group: u32, offset: u64, nonce: u64) {
            let handle = Handle { shard, queue: QueueId(queue), group, offset, nonce };
            prop_assert_eq!(Handle::decode(&handle.encode()), Some(handle));
        }

        #[test]
        fn garbage_is_no_handle(text in ".{0,80}") {
            if let Some(handle) = Handle::decode(&text) {
                prop_assert_eq!(handle.encode(), text);
            }
        }
    }
}
