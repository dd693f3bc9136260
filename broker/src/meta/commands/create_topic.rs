//! `CreateTopic`: a name, an id that was never used, and a home for each queue.

use flotilla_proto::{
    record::{CreateTopic, Topic},
    rocketmq::MessageType,
};
use queue_core::{KeyValue, limits::LANES};

use super::{Done, check_name, invalid, refuse};
use crate::meta::{DEAD_LETTER_PREFIX, MetaRefusal, MetaReply, MetaState, limits};

pub(in crate::meta) fn apply(
    state: &mut MetaState,
    kv: &mut dyn KeyValue,
    time_ms: u64,
    command: &CreateTopic,
) -> Done {
    if let Some(existing) = state.topic(&command.name) {
        return if command.if_absent {
            Ok(Ok(MetaReply::Topic(existing)))
        } else {
            refuse(MetaRefusal::Exists)
        };
    }
    if let Err(refusal) = check(state, command) {
        return refuse(refusal);
    }
    let id = state.next_topic_id(kv)?;
    let shards = state.data_shards();
    let is_by_priority = command.message_type == MessageType::Priority as i32;
    // Queues go round the shards; starting at the id spreads topics of one queue, too. Lanes have one home: what comes first is
    // decided in one place.
    let one_home = plant!(LanesInSeveralShards => false, else is_by_priority);
    let step = |queue: u32| if one_home { 0 } else { u64::from(queue) };
    let queue_shards =
        (0..command.queues).map(|queue| 1 + ((u64::from(id) + step(queue)) % u64::from(shards)) as u32);
    let topic = Topic {
        id,
        name: command.name.clone(),
        message_type: command.message_type,
        queue_shards: queue_shards.collect(),
        deleted: false,
        created_ms: time_ms,
        ageing_ms: command.ageing_ms,
    };
    Ok(Ok(MetaReply::Topic(state.put_topic(kv, topic)?)))
}

fn check(state: &MetaState, command: &CreateTopic) -> Result<(), MetaRefusal> {
    check_name(&command.name)?;
    if command.name.starts_with(DEAD_LETTER_PREFIX) {
        return Err(invalid(
            "a dead-letter topic comes with its consumer group: create that",
        ));
    }
    if MessageType::try_from(command.message_type).is_err() {
        return Err(invalid(format!(
            "message type {} is not known",
            command.message_type
        )));
    }
    if command.queues == 0 || command.queues > limits::MAX_QUEUES_PER_TOPIC {
        return Err(invalid(format!(
            "a topic has 1 to {} queues",
            limits::MAX_QUEUES_PER_TOPIC
        )));
    }
    check_lanes(command)?;
    check_room(state, command.queues as usize)
}

/// What holds for a topic whose messages come by their priority, and only for such a one.
fn check_lanes(command: &CreateTopic) -> Result<(), MetaRefusal> {
    match command.message_type == MessageType::Priority as i32 {
        true if command.queues != LANES => Err(invalid(format!(
            "a PRIORITY topic has {LANES} queues, which are its lanes: leave their number out"
        ))),
        true if command.ageing_ms > limits::MAX_AGEING_MS => Err(invalid(format!(
            "ageing is by at most {} ms for a lane",
            limits::MAX_AGEING_MS
        ))),
        false if command.ageing_ms > 0 => Err(invalid("only the messages of a PRIORITY topic age")),
        _ => Ok(()),
    }
}

/// Whether one more topic with this many queues has room.
pub(super) fn check_room(state: &MetaState, queues: usize) -> Result<(), MetaRefusal> {
    let (topics, used) = state.count_topics();
    if topics >= limits::MAX_TOPICS {
        return Err(MetaRefusal::Limit(format!(
            "the cluster has {topics} topics, its maximum"
        )));
    }
    if state.ids_are_used_up() {
        return Err(MetaRefusal::Limit(
            "this cluster has used up its ids of topics or consumer groups".into(),
        ));
    }
    if used + queues > limits::MAX_QUEUES_TOTAL {
        return Err(MetaRefusal::Limit(format!(
            "the cluster has {used} queues of at most {}: delete topics or ask for fewer queues",
            limits::MAX_QUEUES_TOTAL
        )));
    }
    Ok(())
}
