//! `DeleteTopic`: the name is free at once; the id stays until the data shards have dropped the queues.

use flotilla_proto::record::DeleteTopic;
use queue_core::KeyValue;

use super::{Done, invalid, refuse};
use crate::meta::{DEAD_LETTER_PREFIX, MetaRefusal, MetaReply, MetaState};

pub(in crate::meta) fn apply(state: &mut MetaState, kv: &mut dyn KeyValue, command: &DeleteTopic) -> Done {
    let Some(topic) = state.topic(&command.name) else {
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
