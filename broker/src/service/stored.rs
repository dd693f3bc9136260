//! Messages on their way in and out: what clients send, what the log keeps, what
//! consumers get.

use bytes::Bytes;
use flotilla_proto::{
    record::{Property, StoredMessage},
    rocketmq::{DeadLetterQueue, Encoding, Message, Resource, SystemProperties},
};
use prost::Message as _;
use prost_types::Timestamp;

use super::{Caller, digest, handle::Handle, names};
use crate::node::shard::Delivery;

/// What the log keeps of a message that was checked before.
pub fn to_stored(caller: &Caller, topic: &str, message: Message, now_ms: u64, host: &str) -> (String, Bytes) {
    let properties = message.system_properties.unwrap_or_default();
    let message_type = names::kind(&properties) as i32;
    let born_ms = properties.born_timestamp.as_ref().map_or(now_ms, to_ms);
    let born_host = if properties.born_host.is_empty() {
        caller.remote_host.clone()
    } else {
        properties.born_host
    };
    let encoding = match Encoding::try_from(properties.body_encoding) {
        Ok(Encoding::Gzip) => Encoding::Gzip,
        _ => Encoding::Identity,
    };
    let stored = StoredMessage {
        body: message.body,
        message_id: properties.message_id.clone(),
        tag: properties.tag,
        keys: properties.keys,
        properties: message
            .user_properties
            .into_iter()
            .map(|(key, value)| Property { key, value })
            .collect(),
        body_encoding: encoding as i32,
        message_type,
        born_ms,
        born_host,
        store_host: host.to_owned(),
        message_group: properties.message_group,
        trace_context: properties.trace_context,
        topic: topic.to_owned(),
        resource_namespace: message
            .topic
            .map(|topic| topic.resource_namespace)
            .unwrap_or_default(),
        delivery_ms: properties.delivery_timestamp.as_ref().map(to_ms),
        priority: properties.priority,
    };
    (properties.message_id, stored.encode_to_vec().into())
}

/// A delivered message, with everything that one SDK or another cannot do without.
pub fn to_client(topic: &Resource, full_topic: &str, shard: u32, group: u32, delivery: Delivery) -> Message {
    let stored = delivery.message;
    let handle = Handle {
        shard,
        queue: delivery.queue,
        group,
        offset: delivery.offset,
        nonce: delivery.nonce,
    };
    let body = plant!(BodyTruncated => super::planted::without_its_end(stored.body), else stored.body);
    let digest = digest::of(&body);
    let stored_ms = plant!(StoredWhenBorn => stored.born_ms, else delivery.stored_ms);
    let dead_letter_queue = (stored.topic != full_topic).then(|| DeadLetterQueue {
        topic: plant!(DeadLetterNamesItself => full_topic.to_owned(), else stored.topic.clone()),
        message_id: stored.message_id.clone(),
    });
    let keys = plant!(DeadLetterLosesItsKeys => super::planted::keys_of_no_letter(stored.keys, &dead_letter_queue), else stored.keys);
    let system_properties = SystemProperties {
        tag: stored.tag,
        keys,
        message_id: stored.message_id,
        body_digest: Some(digest),
        body_encoding: stored.body_encoding,
        message_type: stored.message_type,
        born_timestamp: Some(to_timestamp(stored.born_ms)),
        born_host: stored.born_host,
        store_timestamp: Some(to_timestamp(stored_ms)),
        store_host: stored.store_host,
        receipt_handle: Some(handle.encode()),
        queue_id: delivery.queue.number() as i32,
        queue_offset: Some(delivery.offset as i64),
        delivery_attempt: Some(delivery.attempt as i32),
        message_group: stored.message_group,
        trace_context: stored.trace_context,
        dead_letter_queue,
        delivery_timestamp: stored.delivery_ms.map(to_timestamp),
        priority: stored.priority,
        ..Default::default()
    };
    Message {
        topic: Some(topic.clone()),
        user_properties: stored.properties.into_iter().map(|p| (p.key, p.value)).collect(),
        system_properties: Some(system_properties),
        body,
    }
}

/// Milliseconds as a protobuf timestamp.
pub fn to_timestamp(ms: u64) -> Timestamp {
    Timestamp {
        seconds: (ms / 1000) as i64,
        nanos: (ms % 1000) as i32 * 1_000_000,
    }
}

/// A protobuf timestamp in milliseconds; what lies before 1970 is 0.
pub fn to_ms(stamp: &Timestamp) -> u64 {
    let seconds = u64::try_from(stamp.seconds).unwrap_or(0);
    seconds
        .saturating_mul(1000)
        .saturating_add(u64::try_from(stamp.nanos).unwrap_or(0) / 1_000_000)
}
