//! `DeleteConsumerGroup`: the name is free at once; the id stays until the data shards have dropped
//! its subscriptions. Its dead letters stay: they are messages nobody has handled.

use std::sync::Arc;

use flotilla_proto::record::{ConsumerGroup, DeleteConsumerGroup};
use queue_core::KeyValue;

use super::{Done, refuse};
use crate::meta::{MetaRefusal, MetaReply, MetaState};

pub(in crate::meta) fn apply(
    state: &mut MetaState,
    kv: &mut dyn KeyValue,
    command: &DeleteConsumerGroup,
) -> Done {
    let is_meant = |group: &Arc<ConsumerGroup>| command.id == 0 || group.id == command.id;
    let Some(group) = state.group(&command.name).filter(is_meant) else {
        return refuse(MetaRefusal::NotFound);
    };
    state.delete_group(kv, &group)?;
    Ok(Ok(MetaReply::Done))
}
