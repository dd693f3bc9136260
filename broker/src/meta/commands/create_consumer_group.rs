//! `CreateConsumerGroup`: a consumer group and its dead-letter topic.
//!
//! The dead-letter topic has one queue in each data shard, queue i in shard i + 1, so that a message
//! is dead-lettered inside its own shard, by one command. A topic left by a consumer group of the
//! same name that was deleted is taken over with what is in it.

use flotilla_proto::record::{ConsumerGroup, CreateConsumerGroup, StartAt, Topic};
use queue_core::KeyValue;

use super::{Done, check_backoff, check_name, create_topic::check_room, invalid, refuse};
use crate::{
    limits::MAX_MAX_ATTEMPTS,
    meta::{MetaRefusal, MetaReply, MetaState, dead_letter_topic, limits},
};

pub(in crate::meta) fn apply(
    state: &mut MetaState,
    kv: &mut dyn KeyValue,
    time_ms: u64,
    command: &CreateConsumerGroup,
) -> Done {
    if let Some(existing) = state.group(&command.name) {
        return if command.if_absent {
            Ok(Ok(MetaReply::Group(existing)))
        } else {
            refuse(MetaRefusal::Exists)
        };
    }
    if let Err(refusal) = check(state, command) {
        return refuse(refusal);
    }
    let dead_letters = dead_letter_topic(&command.name);
    if state.topic(&dead_letters).is_none() {
        let topic = Topic {
            id: state.next_topic_id(kv)?,
            name: dead_letters,
            message_type: 0,
            queue_shards: (1..=state.data_shards()).collect(),
            deleted: false,
            created_ms: time_ms,
            ageing_ms: 0,
        };
        state.put_topic(kv, topic)?;
    }
    let group = ConsumerGroup {
        id: state.next_group_id(kv)?,
        name: command.name.clone(),
        max_attempts: command.max_attempts,
        backoff: command.backoff.clone(),
        fifo: command.fifo,
        start_at: plant!(StartAtLastIgnored => StartAt::First as i32, else command.start_at),
        deleted: false,
        created_ms: time_ms,
        version: 1,
        paused: false,
        park: command.park,
    };
    Ok(Ok(MetaReply::Group(state.put_group(kv, group)?)))
}

fn check(state: &MetaState, command: &CreateConsumerGroup) -> Result<(), MetaRefusal> {
    let dead_letters = dead_letter_topic(&command.name);
    check_name(&command.name)?;
    check_name(&dead_letters)?;
    check_backoff(command.backoff.as_ref())?;
    if !(1..=MAX_MAX_ATTEMPTS).contains(&command.max_attempts) {
        return Err(invalid(format!("max_attempts must be 1 to {MAX_MAX_ATTEMPTS}")));
    }
    if StartAt::try_from(command.start_at).is_err() {
        return Err(invalid(format!("start_at {} is not known", command.start_at)));
    }
    if command.park && !command.fifo {
        return Err(invalid(super::set_parking::NOT_IN_ORDER));
    }
    let groups = state.count_groups();
    if groups >= limits::MAX_GROUPS {
        return Err(MetaRefusal::Limit(format!(
            "the cluster has {groups} consumer groups, its maximum"
        )));
    }
    let queues = match state.topic(&dead_letters) {
        Some(_) => 0,
        None => state.data_shards() as usize,
    };
    check_room(state, queues)
}
