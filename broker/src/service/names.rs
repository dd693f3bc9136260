//! Which names, texts and sizes a client may use. Source: behaviour of the reference
//! server, section "SendMessage" of the protocol notes.

use flotilla_proto::{
    record,
    rocketmq::{Code, Encoding, Message, MessageType, Resource, SystemProperties},
};
use prost_types::Timestamp;

use super::{Caller, answer::Refused, digest};
use crate::limits::{
    MAX_BODY_BYTES, MAX_BORN_HOST_BYTES, MAX_CLIENT_ID_BYTES, MAX_GROUP_NAME, MAX_KEYS,
    MAX_MESSAGE_GROUP_BYTES, MAX_MESSAGE_ID_BYTES, MAX_NAMESPACE_BYTES, MAX_PROPERTIES, MAX_PROPERTIES_BYTES,
    MAX_SHOWN_CHARACTERS, MAX_SYSTEM_TOPIC_NAME, MAX_TIMESTAMP_SECONDS, MAX_TOPIC_NAME,
    MAX_TRACE_CONTEXT_BYTES,
};

const SYSTEM_TOPICS: &[&str] = &[
    "TBW102",
    "SCHEDULE_TOPIC_XXXX",
    "BenchmarkTest",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRACE_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
    "CHECKPOINT_TOPIC",
];
const SYSTEM_TOPIC_PREFIX: &str = "rmq_sys_";
const SYSTEM_GROUP_PREFIX: &str = "CID_RMQ_SYS_";
const LONG_NAME_PREFIXES: &[&str] = &["%DLQ%", "%RETRY%"];

/// Property keys that the protocol keeps for itself.
const RESERVED_KEYS: &[&str] = &[
    "KEYS",
    "TAGS",
    "WAIT",
    "DELAY",
    "RETRY_TOPIC",
    "REAL_TOPIC",
    "REAL_QID",
    "TRAN_MSG",
    "PGROUP",
    "MIN_OFFSET",
    "MAX_OFFSET",
    "BUYER_ID",
    "ORIGIN_MESSAGE_ID",
    "TRANSFER_FLAG",
    "CORRECTION_FLAG",
    "MQ2_FLAG",
    "RECONSUME_TIME",
    "MSG_REGION",
    "TRACE_ON",
    "UNIQ_KEY",
    "EXTEND_UNIQ_INFO",
    "MAX_RECONSUME_TIMES",
    "CONSUME_START_TIME",
    "INNER_NUM",
    "INNER_BASE",
    "CHECK_IMMUNITY_TIME_IN_SECONDS",
    "TRAN_PREPARED_QUEUE_OFFSET",
    "__transactionId__",
    "TRANSACTION_CHECK_TIMES",
    "INSTANCE_ID",
    "CORRELATION_ID",
    "REPLY_TO_CLIENT",
    "TTL",
    "ARRIVE_TIME",
    "PUSH_REPLY_TIME",
    "CLUSTER",
    "MSG_TYPE",
    "POP_CK",
    "POP_CK_OFFSET",
    "1ST_POP_TIME",
    "__SHARDINGKEY",
    "PROPERTY_FORWARD_QUEUE_ID",
    "REDIRECT",
    "INNER_MULTI_DISPATCH",
    "INNER_MULTI_QUEUE_OFFSET",
    "TRACE_CONTEXT",
    "TIMER_DELAY_SEC",
    "TIMER_DELIVER_MS",
    "__BORNHOST",
    "BORN_TIMESTAMP",
];

/// The name under which the catalogue knows a topic or consumer group of a namespace.
/// Some SDKs leave the resource's namespace empty and send it in the metadata only.
pub fn full_name(caller: &Caller, resource: Option<&Resource>) -> String {
    let Some(resource) = resource else {
        return String::new();
    };
    let namespace = if resource.resource_namespace.is_empty() {
        &caller.namespace
    } else {
        &resource.resource_namespace
    };
    if namespace.is_empty() {
        return resource.name.clone();
    }
    // Dead-letter topics are named after the consumer group's full name.
    for prefix in LONG_NAME_PREFIXES {
        if let Some(group) = resource.name.strip_prefix(prefix) {
            return format!("{prefix}{namespace}%{group}");
        }
    }
    format!("{namespace}%{}", resource.name)
}

/// Checks that the caller says who it is. Other nodes have checked before they passed a request on.
pub fn check_caller(caller: &Caller) -> Result<(), Refused> {
    if caller.client_id.trim().is_empty() && !caller.forwarded {
        return Err(Refused::new(
            Code::ClientIdRequired,
            "the metadata x-mq-client-id is missing or blank",
        ));
    }
    if caller.client_id.len() > MAX_CLIENT_ID_BYTES {
        return Err(Refused::new(
            Code::BadRequest,
            format!("the metadata x-mq-client-id has at most {MAX_CLIENT_ID_BYTES} bytes"),
        ));
    }
    if caller.namespace.len() > MAX_NAMESPACE_BYTES {
        return Err(Refused::new(
            Code::BadRequest,
            format!("the metadata x-mq-namespace has at most {MAX_NAMESPACE_BYTES} bytes"),
        ));
    }
    Ok(())
}

/// Checks that a request is no larger than one of its kind ever is. What is not looked at otherwise (endpoints, attempt
/// ids, lists that the protocol allows) would be kept for as long as the request waits.
pub fn check_size(request: &impl prost::Message, at_most: usize) -> Result<(), Refused> {
    let bytes = request.encoded_len();
    if bytes > at_most {
        return Err(Refused::new(
            Code::BadRequest,
            format!("the request has {bytes} bytes; one of its kind has at most {at_most}"),
        ));
    }
    Ok(())
}

/// The beginning of a text that is wrong, for the sentence that says so.
fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN_CHARACTERS).collect()
}

fn well_formed(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'%' | b'|' | b'_' | b'-'))
}

/// Checks a topic's full name.
pub fn check_topic(name: &str) -> Result<(), Refused> {
    let refuse = |why: &str| {
        Err(Refused::new(
            Code::IllegalTopic,
            format!("topic name {name:?} {why}"),
        ))
    };
    let long = LONG_NAME_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let limit = if long {
        MAX_SYSTEM_TOPIC_NAME
    } else {
        MAX_TOPIC_NAME
    };
    if name.len() > limit {
        return Err(Refused::new(
            Code::IllegalTopic,
            format!("a topic name has at most {limit} characters"),
        ));
    }
    if !well_formed(name) {
        return refuse("must consist of letters, digits, '%', '|', '_' and '-'");
    }
    if SYSTEM_TOPICS.contains(&name) || name.starts_with(SYSTEM_TOPIC_PREFIX) {
        return refuse("is kept for the system");
    }
    Ok(())
}

/// Checks a consumer group's full name.
pub fn check_group(name: &str) -> Result<(), Refused> {
    let refuse = |why: String| Err(Refused::new(Code::IllegalConsumerGroup, why));
    if name.len() > MAX_GROUP_NAME {
        return refuse(format!(
            "a consumer group's name has at most {MAX_GROUP_NAME} characters"
        ));
    }
    if !well_formed(name) {
        return refuse(format!(
            "consumer group name {name:?} must consist of letters, digits, '%', '|', '_' and '-'"
        ));
    }
    if name.starts_with(SYSTEM_GROUP_PREFIX) {
        return refuse(format!("consumer group name {name:?} is kept for the system"));
    }
    Ok(())
}

/// Which kind of message this is, by what it carries.
pub fn kind(properties: &SystemProperties) -> MessageType {
    if properties.message_type == MessageType::Transaction as i32 {
        MessageType::Transaction
    } else if properties.delivery_timestamp.is_some() {
        MessageType::Delay
    } else if properties.message_group.is_some() {
        MessageType::Fifo
    } else if properties.lite_topic.is_some() {
        MessageType::Lite
    } else if properties.priority.is_some() {
        MessageType::Priority
    } else {
        MessageType::Normal
    }
}

/// True if a topic of this type takes messages of this kind. Type 0 is MIXED.
pub fn accepts(topic_type: i32, kind: MessageType) -> bool {
    match MessageType::try_from(topic_type) {
        Ok(MessageType::Unspecified) => matches!(
            kind,
            MessageType::Normal | MessageType::Fifo | MessageType::Delay | MessageType::Transaction
        ),
        Ok(own) => own == kind,
        Err(_) => false,
    }
}

/// True if the topic's messages come by their priority: its queues are lanes.
pub fn is_by_priority(topic: &record::Topic) -> bool {
    topic.message_type == MessageType::Priority as i32
}

/// Checks everything about one message that does not depend on the topic.
pub fn check_message(message: &Message) -> Result<(), Refused> {
    let Some(properties) = &message.system_properties else {
        return Err(Refused::new(
            Code::MessageCorrupted,
            "the message has no system properties",
        ));
    };
    if message.body.is_empty() {
        return Err(Refused::new(Code::MessageBodyEmpty, "the body is empty"));
    }
    if message.body.len() > MAX_BODY_BYTES {
        return Err(Refused::new(
            Code::MessageBodyTooLarge,
            format!(
                "the body has {} bytes; at most {MAX_BODY_BYTES} are allowed",
                message.body.len()
            ),
        ));
    }
    if properties.message_id.trim().is_empty() || properties.message_id.len() > MAX_MESSAGE_ID_BYTES {
        return Err(Refused::new(
            Code::IllegalMessageId,
            format!("a message id has 1 to {MAX_MESSAGE_ID_BYTES} bytes and is not blank"),
        ));
    }
    if MessageType::try_from(properties.message_type).is_err() {
        return Err(Refused::new(
            Code::BadRequest,
            format!("message type {} is not known", properties.message_type),
        ));
    }
    check_texts(properties)?;
    check_origin(properties)?;
    check_body(message, properties)?;
    check_user_properties(message, properties)
}

fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

fn check_texts(properties: &SystemProperties) -> Result<(), Refused> {
    if let Some(tag) = &properties.tag
        && (tag.trim().is_empty() || tag.contains('|') || has_control(tag))
    {
        return Err(Refused::new(
            Code::IllegalMessageTag,
            "a tag is not blank and contains neither '|' nor control characters",
        ));
    }
    if properties.keys.len() > MAX_KEYS {
        return Err(Refused::new(
            Code::IllegalMessageKey,
            format!("a message has at most {MAX_KEYS} keys"),
        ));
    }
    if properties
        .keys
        .iter()
        .any(|key| key.trim().is_empty() || has_control(key))
    {
        return Err(Refused::new(
            Code::IllegalMessageKey,
            "a key is not blank and contains no control characters",
        ));
    }
    if let Some(group) = &properties.message_group
        && (group.trim().is_empty() || group.len() >= MAX_MESSAGE_GROUP_BYTES || has_control(group))
    {
        return Err(Refused::new(
            Code::IllegalMessageGroup,
            format!(
                "a message group is not blank, shorter than {MAX_MESSAGE_GROUP_BYTES} bytes, without control characters"
            ),
        ));
    }
    Ok(())
}

/// What a producer says of where a message comes from is passed on as it is, so it is bounded like everything else.
fn check_origin(properties: &SystemProperties) -> Result<(), Refused> {
    if properties.born_host.len() > MAX_BORN_HOST_BYTES || has_control(&properties.born_host) {
        return Err(Refused::new(
            Code::BadRequest,
            format!("a born host has at most {MAX_BORN_HOST_BYTES} bytes, without control characters"),
        ));
    }
    if properties
        .born_timestamp
        .as_ref()
        .is_some_and(|born| !is_time(born))
    {
        return Err(Refused::new(
            Code::BadRequest,
            "the born timestamp is not one between the years 1970 and 9999",
        ));
    }
    if let Some(trace) = &properties.trace_context
        && (trace.len() > MAX_TRACE_CONTEXT_BYTES || has_control(trace))
    {
        return Err(Refused::new(
            Code::MessagePropertiesTooLarge,
            format!(
                "a trace context has at most {MAX_TRACE_CONTEXT_BYTES} bytes, without control characters"
            ),
        ));
    }
    Ok(())
}

/// A timestamp that every SDK can read.
pub(super) fn is_time(stamp: &Timestamp) -> bool {
    (0..=MAX_TIMESTAMP_SECONDS).contains(&stamp.seconds) && (0..1_000_000_000).contains(&stamp.nanos)
}

/// The body is what its sender says: in an encoding that consumers know, and with its checksum, if there is one.
fn check_body(message: &Message, properties: &SystemProperties) -> Result<(), Refused> {
    if Encoding::try_from(properties.body_encoding).is_err() {
        return Err(Refused::new(
            Code::MessageCorrupted,
            format!(
                "body encoding {} is not known; IDENTITY and GZIP are",
                properties.body_encoding
            ),
        ));
    }
    let digest = plant!(ChecksumNotChecked => &None, else &properties.body_digest);
    match digest {
        Some(digest) if !digest::fits(digest, &message.body) => Err(Refused::new(
            Code::MessageCorrupted,
            format!(
                "the body does not have the checksum {:?} of type {}",
                shown(&digest.checksum),
                digest.r#type
            ),
        )),
        _ => Ok(()),
    }
}

fn check_user_properties(message: &Message, properties: &SystemProperties) -> Result<(), Refused> {
    let too_large = |what: String| Err(Refused::new(Code::MessagePropertiesTooLarge, what));
    if message.user_properties.len() > MAX_PROPERTIES {
        return too_large(format!("at most {MAX_PROPERTIES} user properties are allowed"));
    }
    for (key, value) in &message.user_properties {
        let reserved = RESERVED_KEYS.contains(&key.as_str())
            || key.starts_with("TIMER_")
            || key.starts_with("DLQ_ORIGIN_");
        if reserved || key.is_empty() || has_control(key) || has_control(value) {
            return Err(Refused::new(
                Code::IllegalMessagePropertyKey,
                format!(
                    "user property {:?} is reserved, empty, or has control characters",
                    shown(key)
                ),
            ));
        }
    }
    let own: usize = message
        .user_properties
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    let system = properties.tag.as_ref().map_or(0, String::len)
        + properties.keys.iter().map(String::len).sum::<usize>();
    if own + system > MAX_PROPERTIES_BYTES {
        return too_large(format!(
            "properties, tag and keys have at most {MAX_PROPERTIES_BYTES} bytes together"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
