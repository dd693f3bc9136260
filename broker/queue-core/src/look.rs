//! What the simulator's oracles read of the state, and nobody else.

use bytes::Bytes;

use crate::{
    core::{Core, in_flight_view},
    ids::{GroupId, QueueId},
    kv::KeyValue,
    view::InFlightView,
};

impl Core {
    /// The message ids that are remembered from a number on: a number that grows with each, where the message stands, and its id.
    pub fn remembered_from(&self, kv: &dyn KeyValue, number: u64) -> Vec<(u64, QueueId, u64, Bytes)> {
        self.dedup.from(kv, number)
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
