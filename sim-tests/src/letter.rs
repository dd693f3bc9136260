//! What simulated producers send. All of it follows from the message id, so whoever gets a message knows what it must be,
//! byte by byte, as a dead letter too.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use flotilla_proto::rocketmq as mq;

use crate::{answers::digest, readers::message_group_of, trace::fnv_of};

/// One message, without its id and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The body.
    pub body: Bytes,
    tag: Option<String>,
    message_group: Option<String>,
    keys: Vec<String>,
    properties: BTreeMap<String, String>,
    is_packed: bool,
    trace: Option<String>,
    born: Option<(String, i64)>,
}

/// Hosts of clients begin so, as nodes see them (`host/ports.rs`).
const A_CLIENT: &str = "client-1";

impl Letter {
    /// The message of this id; its body has at most `most` bytes, and at least one.
    #[must_use]
    pub fn of(id: &str, most: usize) -> Letter {
        let seed = fnv_of(id.as_bytes());
        let part = part_of(id);
        let more = more_of(id);
        Letter {
            body: body(seed, 1 + (seed % most as u64) as usize),
            tag: tag_of(id),
            message_group: message_group_of(id).map(str::to_owned),
            keys: (0..part(3) % 3)
                .map(|number| format!("key-{number}-{}", part(4)))
                .collect(),
            properties: (0..part(5) % 3)
                .map(|number| (format!("name-{number}"), property(part(6))))
                .collect(),
            is_packed: more(0) < 64,
            trace: (more(1) < 64).then(|| format!("00-{:032x}-{:016x}-01", more(2), more(3))),
            born: says_its_birth(id).then(|| {
                let born_ms = 1_700_000_000_000 + (seed % 1_000_000) as i64;
                (format!("host-{}", part(7)), born_ms)
            }),
        }
    }

    /// Whether this came of that, with what whoever stored it had to put in.
    #[must_use]
    pub fn is_of(&self, sent: &Letter) -> bool {
        let is_born = match (&self.born, &sent.born) {
            (Some((host, _)), None) => host.starts_with(A_CLIENT),
            (came, sent) => came == sent,
        };
        let unborn = |letter: &Letter| Letter {
            born: None,
            ..letter.clone()
        };
        is_born && unborn(self) == unborn(sent)
    }

    /// As it is sent.
    #[must_use]
    pub fn to_wire(&self, id: &str) -> mq::Message {
        let properties = mq::SystemProperties {
            message_id: id.into(),
            message_type: match self.message_group {
                Some(_) => mq::MessageType::Fifo.into(),
                None => mq::MessageType::Normal.into(),
            },
            message_group: self.message_group.clone(),
            body_digest: (more_of(id)(5) < 64).then(|| digest(&self.body)),
            body_encoding: match self.is_packed {
                true => mq::Encoding::Gzip.into(),
                false => mq::Encoding::Identity.into(),
            },
            tag: self.tag.clone(),
            keys: self.keys.clone(),
            trace_context: self.trace.clone(),
            born_host: self.born.clone().map(|(host, _)| host).unwrap_or_default(),
            born_timestamp: self.born.as_ref().map(|(_, ms)| prost_types::Timestamp {
                seconds: ms / 1_000,
                nanos: (ms % 1_000) as i32 * 1_000_000,
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
        let born_ms = |born: prost_types::Timestamp| born.seconds * 1_000 + i64::from(born.nanos / 1_000_000);
        Letter {
            body: message.body.clone(),
            tag: system.tag,
            message_group: system.message_group,
            keys: system.keys,
            properties: message.user_properties.clone().into_iter().collect(),
            is_packed: system.body_encoding == i32::from(mq::Encoding::Gzip),
            trace: system.trace_context,
            born: system
                .born_timestamp
                .map(|born| (system.born_host, born_ms(born))),
        }
    }
}

/// The tag of the message of this id.
#[must_use]
pub fn tag_of(id: &str) -> Option<String> {
    let part = part_of(id);
    (part(1) < 128).then(|| format!("tag-{}", part(2)))
}

/// Bytes that are drawn for this message.
fn part_of(id: &str) -> impl Fn(u64) -> u64 {
    let seed = fnv_of(id.as_bytes());
    move |at| (seed >> (8 * at)) % 256
}

/// Further bytes that are drawn for this message.
fn more_of(id: &str) -> impl Fn(u64) -> u64 {
    let seed = fnv_of(format!("more of {id}").as_bytes());
    move |at| (seed >> (8 * at)) % 256
}

/// Whether the sender says when and where the message of this id was born. Some leave it to the server.
#[must_use]
pub fn says_its_birth(id: &str) -> bool {
    more_of(id)(4) < 192
}

/// Of any length, and of any characters that a property may have.
fn property(drawn: u64) -> String {
    match drawn {
        0..64 => String::new(),
        64..128 => format!("straße {drawn} 東京"),
        _ => format!("value {drawn}"),
    }
}

/// What makes a message one that no topic of normal messages takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// It is a FIFO message, or where all are it is none.
    Group,
    /// It is to be delivered later.
    Delay,
    /// Its body is another one than its checksum says.
    Digest,
    /// Its body is packed in a way that nobody knows.
    Encoding,
    /// It has no body.
    Body,
    /// Its tag is two.
    Tag,
    /// One of its keys is blank.
    Key,
    /// One of its properties has a name that the service uses itself.
    Property,
    /// It has no id.
    Id,
}

impl Wrong {
    /// All of them.
    pub const ALL: [Wrong; 9] = [
        Wrong::Group,
        Wrong::Delay,
        Wrong::Digest,
        Wrong::Encoding,
        Wrong::Body,
        Wrong::Tag,
        Wrong::Key,
        Wrong::Property,
        Wrong::Id,
    ];

    /// Makes a good message wrong.
    pub fn spoil(self, message: &mut mq::Message) {
        let all = message.system_properties.get_or_insert_default();
        match self {
            Wrong::Group => {
                all.message_group = match all.message_group {
                    None => Some("group".into()),
                    // Where every message has one.
                    Some(_) => None,
                };
                all.message_type = match all.message_group {
                    Some(_) => mq::MessageType::Fifo.into(),
                    None => mq::MessageType::Normal.into(),
                };
            }
            Wrong::Delay => {
                all.message_type = mq::MessageType::Delay.into();
                all.delivery_timestamp = all.born_timestamp.or(Some(prost_types::Timestamp::default()));
            }
            Wrong::Digest => all.body_digest = Some(digest(b"another")),
            Wrong::Encoding => all.body_encoding = 7,
            Wrong::Body => message.body = Bytes::new(),
            Wrong::Tag => all.tag = Some("one|two".into()),
            Wrong::Key => all.keys.push(" ".into()),
            Wrong::Property => _ = message.user_properties.insert("KEYS".into(), "x".into()),
            Wrong::Id => all.message_id.clear(),
        }
    }

    /// How it is refused.
    #[must_use]
    pub fn code(self) -> mq::Code {
        match self {
            Wrong::Group | Wrong::Delay => mq::Code::MessagePropertyConflictWithType,
            Wrong::Digest | Wrong::Encoding => mq::Code::MessageCorrupted,
            Wrong::Body => mq::Code::MessageBodyEmpty,
            Wrong::Tag => mq::Code::IllegalMessageTag,
            Wrong::Key => mq::Code::IllegalMessageKey,
            Wrong::Property => mq::Code::IllegalMessagePropertyKey,
            Wrong::Id => mq::Code::IllegalMessageId,
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
            assert_eq!(Letter::from_wire(&letter.to_wire(&id)), letter);
            let another = Letter::of(&format!("t/{}", number + 1), 300);
            assert!(!another.is_of(&letter) && letter.is_of(&letter));
        }
    }

    #[test]
    fn a_message_that_is_spoiled_is_another_one() {
        let good = Letter::of("t/1", 300).to_wire("t/1");
        for wrong in Wrong::ALL {
            let mut spoiled = good.clone();
            wrong.spoil(&mut spoiled);
            assert_ne!(spoiled, good, "{wrong:?}");
        }
    }

    #[test]
    fn what_its_sender_did_not_say_is_put_in_by_whoever_stores_it_and_nothing_else_is() {
        let letter = |born: bool| {
            let all = (0..).map(|number| Letter::of(&format!("t/{number}"), 300));
            all.into_iter()
                .find(|letter| letter.born.is_some() == born)
                .expect("one of many")
        };
        let born_at = |letter: &Letter, host: &str| Letter {
            born: Some((host.to_owned(), 7)),
            ..letter.clone()
        };
        let unborn = letter(false);
        assert!(born_at(&unborn, "client-1003").is_of(&unborn));
        assert!(!born_at(&unborn, "10.0.0.1").is_of(&unborn));
        assert!(!born_at(&unborn, "").is_of(&unborn));
        assert!(!born_at(&letter(true), "client-1003").is_of(&letter(true)));
        let traced = Letter {
            trace: Some("x".into()),
            ..unborn.clone()
        };
        assert!(!traced.is_of(&unborn));
    }
}
