//! `DeleteTopic`: the name is free at once; the id stays until the data shards have dropped the queues.

use std::sync::Arc;

use flotilla_proto::record::{DeleteTopic, Topic};
use queue_core::KeyValue;

use super::{Done, invalid, refuse};
use crate::meta::{DEAD_LETTER_PREFIX, MetaRefusal, MetaReply, MetaState};

pub(in crate::meta) fn apply(state: &mut MetaState, kv: &mut dyn KeyValue, command: &DeleteTopic) -> Done {
    let is_meant = |topic: &Arc<Topic>| command.id == 0 || topic.id == command.id;
    let Some(topic) = state.topic(&command.name).filter(is_meant) else {
        return refuse(MetaRefusal::NotFound);
    };
    let owner = topic
        .name
        .strip_prefix(DEAD_LETTER_PREFIX)
        .and_then(|group| state.group(group));
    if let Some(owner) = owner {
        return refuse(invalid(format!(
            "the dead-letter topic belongs to consumer group {}: delete that first",
            owner.name
        )));
    }
    state.delete_topic(kv, &topic)?;
    Ok(Ok(MetaReply::Done))
}
