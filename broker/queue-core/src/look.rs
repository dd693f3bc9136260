//! What the simulator's oracles read of the state, and nobody else.

use crate::{
    core::{Core, in_flight_view},
    ids::{GroupId, QueueId},
    view::InFlightView,
};

impl Core {
    /// The message ids that are remembered, the latest first: a number that grows with each, where the message stands, and
    /// its id.
    pub fn remembered(&self) -> impl Iterator<Item = (u64, QueueId, u64, &[u8])> + '_ {
        self.dedup.latest_first()
    }

    /// All messages in flight.
    pub fn all_in_flight(&self) -> impl Iterator<Item = (GroupId, QueueId, InFlightView)> + '_ {
        self.subscriptions.iter().flat_map(|(&(queue, group), known)| {
            let rows = known.in_flight().iter();
            rows.map(move |(&offset, row)| (group, queue, in_flight_view(offset, row)))
        })
    }

    /// Offsets that a consumer group has in flight on a queue.
    pub fn offsets_in_flight(&self, group: GroupId, queue: QueueId) -> impl Iterator<Item = u64> + '_ {
        let known = self.subscriptions.get(&(queue, group)).into_iter();
        known.flat_map(|known| known.in_flight().keys().copied())
    }
}
