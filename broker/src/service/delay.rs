//! Messages that are to be delivered at a date: whether the date can be, and what their senders hold of them.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use flotilla_proto::rocketmq::{Code, MessageType, SendResultEntry, SystemProperties};
use queue_core::QueueId;

use super::{
    answer::{self, Refused},
    names,
    stored::to_ms,
};
use crate::limits::MAX_MESSAGE_ID_BYTES;

/// When a message is to be delivered, milliseconds since 1970, if it says so.
pub(super) fn delivery_ms(
    properties: &SystemProperties,
    now_ms: u64,
    at_most: Duration,
) -> Result<Option<u64>, Refused> {
    let Some(stamp) = &properties.delivery_timestamp else {
        return Ok(None);
    };
    if names::kind(properties) == MessageType::Transaction {
        return Err(Refused::new(
            Code::MessagePropertyConflictWithType,
            "a transactional message is delivered when it is committed: it has no delivery timestamp",
        ));
    }
    let refuse = |why: String| Err(Refused::new(Code::IllegalDeliveryTime, why));
    if !names::is_time(stamp) {
        return refuse("the delivery timestamp is not one between the years 1970 and 9999".into());
    }
    let delivery_ms = to_ms(stamp);
    let ahead = Duration::from_millis(delivery_ms.saturating_sub(now_ms));
    if ahead > at_most {
        return refuse(format!(
            "the delivery time is {} s ahead; at most {} s are allowed (`max_delay`)",
            ahead.as_secs(),
            at_most.as_secs()
        ));
    }
    Ok(Some(delivery_ms))
}

/// What the sender of a message is told: its offset, or how it can be recalled while it waits.
pub(super) fn receipt(message_id: &str, shard: u32, queue: QueueId, offset: u64) -> SendResultEntry {
    let told = SendResultEntry {
        status: answer::ok(),
        message_id: message_id.to_owned(),
        ..Default::default()
    };
    let Some(waits_for) = queue.waits_for() else {
        return SendResultEntry {
            offset: offset as i64,
            ..told
        };
    };
    let handle = RecallHandle {
        shard,
        queue: waits_for,
        timer: offset,
        message_id: message_id.to_owned(),
    };
    SendResultEntry {
        recall_handle: handle.encode(),
        ..told
    }
}

const VERSION: u8 = 1;
const HEAD: usize = 21;

/// What names a message that waits, readable by every node. Opaque to clients.
///
/// Layout before base64url: `u8 version (1) | u32 shard | u64 queue | u64 timer | message id`, big endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecallHandle {
    /// Shard of the queue.
    pub shard: u32,
    /// The queue that the message will come to.
    pub queue: QueueId,
    /// Its number among those that ever waited for the queue.
    pub timer: u64,
    /// Its id.
    pub message_id: String,
}

impl RecallHandle {
    /// As clients get it.
    pub fn encode(&self) -> String {
        self.encode_as(VERSION)
    }

    /// The same of another kind of handle.
    pub(super) fn encode_as(&self, version: u8) -> String {
        let mut bytes = Vec::with_capacity(HEAD + self.message_id.len());
        bytes.push(version);
        bytes.extend(self.shard.to_be_bytes());
        bytes.extend(self.queue.0.to_be_bytes());
        bytes.extend(self.timer.to_be_bytes());
        bytes.extend(self.message_id.as_bytes());
        BASE64URL_NOPAD.encode(&bytes)
    }

    /// Reads a handle; nothing if it is none of ours.
    pub fn decode(text: &str) -> Option<Self> {
        Self::decode_as(VERSION, text)
    }

    /// The same of another kind of handle.
    pub(super) fn decode_as(version: u8, text: &str) -> Option<Self> {
        if text.len() > BASE64URL_NOPAD.encode_len(HEAD + MAX_MESSAGE_ID_BYTES) {
            return None;
        }
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
        let (head, message_id) = bytes.split_at_checked(HEAD)?;
        let long = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let queue = QueueId(long(5));
        if head[0] != version || queue.waits_for().is_some() {
            return None;
        }
        Some(Self {
            shard: u32::from_be_bytes(head[1..5].try_into().expect("four bytes")),
            queue,
            timer: long(13),
            message_id: String::from_utf8(message_id.to_vec()).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost_types::Timestamp;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(shard: u32, topic: u32, number in 0..9u32, timer: u64, message_id in ".{0,30}") {
            let handle = RecallHandle { shard, queue: QueueId::new(topic, number), timer, message_id };
            prop_assert_eq!(RecallHandle::decode(&handle.encode()), Some(handle));
        }

        #[test]
        fn garbage_is_no_handle(text in ".{0,80}") {
            if let Some(handle) = RecallHandle::decode(&text) {
                prop_assert_eq!(handle.encode(), text);
            }
        }
    }

    fn asked(seconds: i64, nanos: i32) -> Result<Option<u64>, Code> {
        let properties = SystemProperties {
            delivery_timestamp: Some(Timestamp { seconds, nanos }),
            ..Default::default()
        };
        delivery_ms(&properties, 1_000_500, Duration::from_secs(60)).map_err(|refused| refused.code)
    }

    #[test]
    fn a_date_is_taken_up_to_the_longest_delay_and_no_odd_one() {
        assert_eq!(asked(1_060, 500_000_000), Ok(Some(1_060_500)));
        assert_eq!(asked(1_060, 501_000_000), Err(Code::IllegalDeliveryTime));
        // What is over is delivered at once.
        assert_eq!(asked(0, 0), Ok(Some(0)));
        for (seconds, nanos) in [
            (-1, 0),
            (i64::MIN, 0),
            (i64::MAX, 999_999_999),
            (253_402_300_800, 0),
            (1_000, -1),
            (1_000, 1_000_000_000),
        ] {
            assert_eq!(asked(seconds, nanos), Err(Code::IllegalDeliveryTime));
        }
    }

    #[test]
    fn a_transaction_has_no_date() {
        let properties = SystemProperties {
            delivery_timestamp: Some(Timestamp::default()),
            message_type: MessageType::Transaction as i32,
            ..Default::default()
        };
        let refused = delivery_ms(&properties, 0, Duration::ZERO).unwrap_err();
        assert_eq!(refused.code, Code::MessagePropertyConflictWithType);
    }
}
