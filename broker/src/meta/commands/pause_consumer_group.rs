//! `PauseConsumerGroup`: nothing more is delivered to a consumer group, or it goes on.

use flotilla_proto::record::{ConsumerGroup, PauseConsumerGroup};
use queue_core::KeyValue;

use super::{Done, refuse};
use crate::meta::{MetaRefusal, MetaReply, MetaState};

pub(in crate::meta) fn apply(
    state: &mut MetaState,
    kv: &mut dyn KeyValue,
    command: &PauseConsumerGroup,
) -> Done {
    let Some(group) = state.group_by_id(command.id).filter(|group| !group.deleted) else {
        return refuse(MetaRefusal::NotFound);
    };
    // Decided before it was changed by somebody else: what comes late must not undo what came after it.
    if group.version != command.version {
        let changed = "the consumer group was changed meanwhile; look at it, and ask again";
        return refuse(MetaRefusal::Invalid(changed.into()));
    }
    let changed = ConsumerGroup {
        paused: command.paused,
        version: group.version + 1,
        ..ConsumerGroup::clone(&group)
    };
    let group = state.put_group(kv, changed)?;
    // From now on shards that were told believe no catalogue that does not know of it.
    state.count_change(kv)?;
    Ok(Ok(MetaReply::Group(group)))
}
