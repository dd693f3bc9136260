//! What is checked of a send before anything is done: that the messages are whole, of one topic, and of kinds that it takes.

use flotilla_proto::{
    record,
    rocketmq::{Code, Message, MessageType, SendMessageRequest},
};

use crate::{
    limits::MAX_SEND_MESSAGES,
    service::{Caller, answer::Refused, names, transaction::check_half},
};

pub(super) fn check_request(caller: &Caller, request: &SendMessageRequest) -> Result<String, Refused> {
    names::check_caller(caller)?;
    let Some(first) = request.messages.first() else {
        return Err(Refused::new(Code::MessageCorrupted, "the request has no message"));
    };
    if request.messages.len() > MAX_SEND_MESSAGES {
        return Err(Refused::new(
            Code::BadRequest,
            format!("one request has at most {MAX_SEND_MESSAGES} messages"),
        ));
    }
    let name = names::full_name(caller, first.topic.as_ref());
    names::check_topic(&name)?;
    for message in &request.messages {
        if names::full_name(caller, message.topic.as_ref()) != name {
            return Err(Refused::new(
                Code::MessageCorrupted,
                "the messages of one request have one topic",
            ));
        }
        names::check_message(message)?;
    }
    Ok(name)
}

pub(super) fn check_kinds(topic: &record::Topic, messages: &[Message]) -> Result<(), Refused> {
    for properties in messages
        .iter()
        .filter_map(|message| message.system_properties.as_ref())
    {
        let kind = names::kind(properties);
        if !names::accepts(topic.message_type, kind) {
            return Err(Refused::new(
                Code::MessagePropertyConflictWithType,
                format!(
                    "topic {} does not take {} messages",
                    topic.name,
                    kind.as_str_name()
                ),
            ));
        }
        if properties.priority.is_some() && kind != MessageType::Priority {
            return Err(Refused::new(
                Code::MessagePropertyConflictWithType,
                format!(
                    "a message with a priority is of type PRIORITY: it has no part of {} messages",
                    kind.as_str_name()
                ),
            ));
        }
        if kind == MessageType::Transaction {
            check_half(properties)?;
        } else if kind == MessageType::Lite {
            return Err(Refused::new(
                Code::NotImplemented,
                format!("this release does not store {} messages yet", kind.as_str_name()),
            ));
        }
    }
    let message_group = |message: &Message| {
        let properties = message.system_properties.as_ref();
        properties.and_then(|properties| properties.message_group.clone())
    };
    let group = messages.first().and_then(message_group);
    if messages.iter().any(|message| message_group(message) != group) {
        return Err(Refused::new(
            Code::BadRequest,
            "the messages of one request have one message group, or none",
        ));
    }
    Ok(())
}
