//! Bodies of planted bugs: one shard's part of the state engine.

use super::{APPLIED, OURS, ShardState, Standing, full_key};
use crate::engine::{Change, EngineError, WriteBatch};

/// Two writes where one would do: where the state will stand, ahead of the state.
pub(super) fn standing_first(
    shard: &ShardState,
    before: &Standing,
    after: &Standing,
) -> Result<(), EngineError> {
    let mut first = WriteBatch::default();
    shard.put_standing(&mut first, after, after.membership != before.membership);
    shard.engine.write(first)
}

/// The applied index is thought to be a matter of speed: seven of eight are not written.
pub(super) fn leave_standing_out(
    shard: &ShardState,
    batch: &mut WriteBatch,
    before: &Standing,
    after: &Standing,
) {
    let eighth = after
        .applied
        .is_some_and(|applied| applied.index.is_multiple_of(8));
    if before.membership == after.membership && !eighth {
        let applied = full_key(shard.shard, OURS, APPLIED);
        batch
            .changes
            .retain(|change| !matches!(change, Change::Put(key, _) if *key == applied));
    }
}
