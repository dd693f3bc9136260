//! `Forget`: no data shard holds anything of what was deleted any more. `DropDeadLetters`: dead-letter topics without
//! dead letters are deleted when their consumer group is forgotten.

use std::collections::BTreeSet;

use flotilla_proto::record::{DropDeadLetters, Forget};
use queue_core::KeyValue;

use super::{Done, invalid, refuse};
use crate::meta::{DEAD_LETTER_PREFIX, MetaReply, MetaState, limits};

/// What is forgotten already is no harm: a leader before may have asked for the same.
pub(in crate::meta) fn apply(state: &mut MetaState, kv: &mut dyn KeyValue, command: &Forget) -> Done {
    let (topics, groups) = (&command.topics, &command.groups);
    if topics.len() > limits::MAX_FORGET || groups.len() > limits::MAX_FORGET {
        return refuse(invalid("too much to be forgotten at once"));
    }
    let known = topics.iter().filter_map(|&id| state.topic_by_id(id));
    if let Some(topic) = known.into_iter().find(|topic| !topic.deleted) {
        return refuse(invalid(format!("topic {} is not deleted", topic.name)));
    }
    let known = groups.iter().filter_map(|&id| state.group_by_id(id));
    if let Some(group) = known.into_iter().find(|group| !group.deleted) {
        return refuse(invalid(format!("consumer group {} is not deleted", group.name)));
    }
    for &id in topics {
        state.remove_topic(kv, id)?;
    }
    for &id in groups {
        state.remove_group(kv, id)?;
    }
    Ok(Ok(MetaReply::Done))
}

/// Deletes those that belong to no consumer group. A group that is deleted but not forgotten may still fill its own.
pub(in crate::meta) fn dead_letters(
    state: &mut MetaState,
    kv: &mut dyn KeyValue,
    command: &DropDeadLetters,
) -> Done {
    if command.topics.len() > limits::MAX_FORGET {
        return refuse(invalid("too many dead-letter topics at once"));
    }
    let dying: BTreeSet<String> = state.deleted_groups().map(|group| group.name.clone()).collect();
    for &id in &command.topics {
        let Some(topic) = state.topic_by_id(id).filter(|topic| !topic.deleted) else {
            continue;
        };
        let Some(owner) = topic.name.strip_prefix(DEAD_LETTER_PREFIX) else {
            return refuse(invalid(format!("{} is no dead-letter topic", topic.name)));
        };
        if state.group(owner).is_none() && !dying.contains(owner) {
            state.delete_topic(kv, &topic)?;
        }
    }
    Ok(Ok(MetaReply::Done))
}
