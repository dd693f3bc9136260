//! What simulated producers send. All of it follows from the message id, so whoever gets a message knows what it must be,
//! byte by byte, as a dead letter too.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use flotilla_proto::rocketmq as mq;

use crate::trace::fnv_of;

/// One message, without its id and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The body.
    pub body: Bytes,
    tag: Option<String>,
    keys: Vec<String>,
    properties: BTreeMap<String, String>,
    born_host: String,
    born_ms: i64,
}

impl Letter {
    /// The message of this id; its body has at most `most` bytes, and at least one.
    #[must_use]
    pub fn of(id: &str, most: usize) -> Letter {
        let seed = fnv_of(id.as_bytes());
        let part = |at: u64| (seed >> (8 * at)) % 256;
        Letter {
            body: body(seed, 1 + (seed % most as u64) as usize),
            tag: (part(1) < 128).then(|| format!("tag-{}", part(2))),
            keys: (0..part(3) % 3)
                .map(|number| format!("key-{number}-{}", part(4)))
                .collect(),
            properties: (0..part(5) % 3)
                .map(|number| (format!("name-{number}"), format!("value {}", part(6))))
                .collect(),
            born_host: format!("host-{}", part(7)),
            born_ms: 1_700_000_000_000 + (seed % 1_000_000) as i64,
        }
    }

    /// As it is sent.
    #[must_use]
    pub fn to_wire(&self, id: &str, message_group: Option<&str>) -> mq::Message {
        let message_type = match message_group {
            Some(_) => mq::MessageType::Fifo,
            None => mq::MessageType::Normal,
        };
        let properties = mq::SystemProperties {
            message_id: id.into(),
            message_type: message_type.into(),
            message_group: message_group.map(Into::into),
            body_encoding: mq::Encoding::Identity.into(),
            tag: self.tag.clone(),
            keys: self.keys.clone(),
            born_host: self.born_host.clone(),
            born_timestamp: Some(prost_types::Timestamp {
                seconds: self.born_ms / 1_000,
                nanos: (self.born_ms % 1_000) as i32 * 1_000_000,
            }),
            ..Default::default()
        };
        mq::Message {
            system_properties: Some(properties),
            user_properties: self.properties.clone().into_iter().collect(),
            body: self.body.clone(),
            ..Default::default()
        }
    }

    /// As it came.
    #[must_use]
    pub fn from_wire(message: &mq::Message) -> Letter {
        let system = message.system_properties.clone().unwrap_or_default();
        let born = system.born_timestamp.unwrap_or_default();
        Letter {
            body: message.body.clone(),
            tag: system.tag,
            keys: system.keys,
            properties: message.user_properties.clone().into_iter().collect(),
            born_host: system.born_host,
            born_ms: born.seconds * 1_000 + i64::from(born.nanos / 1_000_000),
        }
    }
}

/// Bytes in which every place looks different (Marsaglia's xorshift).
fn body(seed: u64, size: usize) -> Bytes {
    let mut state = seed | 1;
    let mut bytes = BytesMut::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.put_u64_le(state);
    }
    bytes.truncate(size);
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_comes_as_it_was_sent_and_no_two_are_equal() {
        for number in 0..100 {
            let id = format!("t/{number}");
            let letter = Letter::of(&id, 300);
            assert!((1..=300).contains(&letter.body.len()));
            assert_eq!(Letter::from_wire(&letter.to_wire(&id, None)), letter);
            assert_ne!(Letter::of(&format!("t/{}", number + 1), 300), letter);
        }
    }
}
