//! Bodies of planted bugs: what a leader has its queues forget.

use queue_core::{Fault, QueueId};

use super::{first_kept, is_dead_letters, trim};
use crate::{meta::MetaState, node::shard::DataShard};

/// Trims dead letters, too, that are at or below entry `through`.
pub(super) async fn forget_dead_letters(
    shard: &DataShard,
    meta: &MetaState,
    through: u64,
) -> Result<(), Fault> {
    let queues: Vec<QueueId> = shard.machine.read(|core| core.queues_from(QueueId(0)).collect());
    let mut trims = Vec::new();
    for queue in queues.into_iter().filter(|&queue| is_dead_letters(meta, queue)) {
        let first = first_kept(shard, queue, |stored| stored.position.index <= through)?;
        trims.extend(first.map(|first| (queue, first)));
    }
    let _ = trim(shard, trims).await;
    Ok(())
}
