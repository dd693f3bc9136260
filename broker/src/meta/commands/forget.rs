//! `ForgetTopic`, `ForgetConsumerGroup`: no data shard holds anything of a deleted one any more.

use queue_core::KeyValue;

use super::{Done, invalid, refuse};
use crate::meta::{MetaRefusal, MetaReply, MetaState};

pub(in crate::meta) fn topic(state: &mut MetaState, kv: &mut dyn KeyValue, id: u32) -> Done {
    match state.topic_by_id(id) {
        None => refuse(MetaRefusal::NotFound),
        Some(topic) if !topic.deleted => refuse(invalid(format!("topic {} is not deleted", topic.name))),
        Some(_) => {
            state.remove_topic(kv, id)?;
            Ok(Ok(MetaReply::Done))
        }
    }
}

pub(in crate::meta) fn group(state: &mut MetaState, kv: &mut dyn KeyValue, id: u32) -> Done {
    match state.group_by_id(id) {
        None => refuse(MetaRefusal::NotFound),
        Some(group) if !group.deleted => {
            refuse(invalid(format!("consumer group {} is not deleted", group.name)))
        }
        Some(_) => {
            state.remove_group(kv, id)?;
            Ok(Ok(MetaReply::Done))
        }
    }
}
