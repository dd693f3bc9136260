//! `SetParking`: whether a message group stops at a message whose attempts are used up, or goes on without it.

use flotilla_proto::record::{ConsumerGroup, SetParking};
use queue_core::KeyValue;

use super::{Done, invalid, refuse};
use crate::meta::{MetaRefusal, MetaReply, MetaState};

pub(in crate::meta) fn apply(state: &mut MetaState, kv: &mut dyn KeyValue, command: &SetParking) -> Done {
    let Some(group) = state.group_by_id(command.id).filter(|group| !group.deleted) else {
        return refuse(MetaRefusal::NotFound);
    };
    // Decided before it was changed by somebody else: what comes late must not undo what came after it.
    if group.version != command.version {
        return refuse(invalid(
            "the consumer group was changed meanwhile; look at it, and ask again",
        ));
    }
    if command.park && !group.fifo {
        return refuse(invalid(NOT_IN_ORDER));
    }
    let changed = ConsumerGroup {
        park: command.park,
        version: group.version + 1,
        ..ConsumerGroup::clone(&group)
    };
    let group = state.put_group(kv, changed)?;
    // Shards that were told believe no catalogue that does not know of it.
    state.count_change(kv)?;
    Ok(Ok(MetaReply::Group(group)))
}

/// Why message groups of a consumer group cannot be parked.
pub(super) const NOT_IN_ORDER: &str =
    "only a consumer group that consumes in order (fifo) can stop at a message that cannot be consumed";
