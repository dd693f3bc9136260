//! What the simulator's oracles read of the state, and nobody else.

use crate::{
    core::Core,
    ids::{GroupId, QueueId},
};

impl Core {
    /// The message ids that are remembered, the latest first: a number that grows with each, where the message stands, and
    /// its id.
    pub fn remembered(&self) -> impl Iterator<Item = (u64, QueueId, u64, &[u8])> + '_ {
        self.dedup.latest_first()
    }

    /// Offsets that a consumer group has in flight on a queue.
    pub fn offsets_in_flight(&self, group: GroupId, queue: QueueId) -> impl Iterator<Item = u64> + '_ {
        let known = self.subscriptions.get(&(queue, group)).into_iter();
        known.flat_map(|known| known.in_flight().keys().copied())
    }
}
