//! Keys and values of the meta shard's state.
//!
//! ```text
//! 'c'                  -> u8 version = 1 | encoded record.v1.MetaHead
//! 'n' | u32 BE node id -> u8 version = 1 | encoded record.v1.Node
//! 't' | u32 BE id      -> u8 version = 1 | encoded record.v1.Topic
//! 'g' | u32 BE id      -> u8 version = 1 | encoded record.v1.ConsumerGroup
//! ```

use bytes::{Buf, Bytes};
use prost::Message;
use queue_core::{Fault, KeyValue};

use super::limits::SCAN_LIMIT;

const VERSION: u8 = 1;

pub(super) const HEAD: &[u8] = b"c";
pub(super) const NODE: u8 = b'n';
pub(super) const TOPIC: u8 = b't';
pub(super) const GROUP: u8 = b'g';

/// The key of the thing with this number.
pub(super) fn numbered(kind: u8, id: u32) -> [u8; 5] {
    let mut key = [kind; 5];
    key[1..].copy_from_slice(&id.to_be_bytes());
    key
}

pub(super) fn put(kv: &mut dyn KeyValue, key: &[u8], value: &impl Message) -> Result<(), Fault> {
    let mut bytes = Vec::with_capacity(1 + value.encoded_len());
    bytes.push(VERSION);
    value.encode(&mut bytes).expect("a Vec grows");
    kv.put(key, &bytes)
}

pub(super) fn value<M: Message + Default>(mut bytes: Bytes) -> Result<M, Fault> {
    match bytes.first() {
        Some(&VERSION) => bytes.advance(1),
        Some(other) => {
            return Err(Fault::Newer(format!(
                "meta state of format version {other}: upgrade this node"
            )));
        }
        None => return Err(Fault::Corrupt("an empty value in the meta state".into())),
    }
    M::decode(bytes)
        .map_err(|error| Fault::Corrupt(format!("a value of the meta state cannot be decoded: {error}")))
}

/// All values of one kind, by ascending id.
pub(super) fn all<M: Message + Default>(kv: &dyn KeyValue, kind: u8) -> Result<Vec<M>, Fault> {
    let mut values = Vec::new();
    let mut from = vec![kind];
    loop {
        let pairs = kv.scan(&from, &[kind + 1], SCAN_LIMIT)?;
        let Some((last, _)) = pairs.last() else {
            return Ok(values);
        };
        from = last.to_vec();
        from.push(0);
        for (_, bytes) in pairs {
            values.push(value(bytes)?);
        }
    }
}
