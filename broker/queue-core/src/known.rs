//! What is known of topics and queues, whichever way it came to be: what deletion has to find.

use std::collections::BTreeMap;

use crate::{
    core::Core,
    ids::{GroupId, QueueId},
    places::on,
    timers::Room,
};

impl Core {
    /// The queues of a topic that anything is known of, and whether they hold a message.
    pub fn queues_of(&self, topic: u32) -> BTreeMap<QueueId, bool> {
        let all = QueueId::new(topic, 0)..=QueueId::new(topic, u32::MAX);
        let subscribed = (*all.start(), GroupId(0))..=(*all.end(), GroupId(u32::MAX));
        let mut found: BTreeMap<QueueId, bool> = self
            .queues
            .range(all.clone())
            .map(|(&queue, ends)| (queue, ends.first < ends.next))
            .collect();
        for (&queue, room) in self.timers.rooms.range(all) {
            *found.entry(queue).or_default() |= room.waiting > 0;
        }
        for (&(queue, _), known) in self.subscriptions.range(subscribed) {
            let full = found.entry(queue).or_default();
            plant!(OrphanedDeadLettersDeleted => *full = false);
            *full |= !known.in_flight().is_empty();
        }
        found
    }

    /// The next topics from this one on that anything is known of, at most so many.
    pub fn topics_from(&self, topic: u32, limit: usize) -> Vec<u32> {
        let mut found = Vec::new();
        let mut from = Some(QueueId::new(topic, 0));
        while found.len() < limit
            && let Some(start) = from
        {
            let queue = self.queues.range(start..).next().map(|(&queue, _)| queue);
            let subscribed = self.subscriptions.range((start, GroupId(0))..).next();
            let waited_for = self.timers.rooms.range(start..).next();
            let Some(next) = queue
                .into_iter()
                .chain(waited_for.map(|(&queue, _)| queue))
                .chain(subscribed.map(|(&(queue, _), _)| queue))
                .min()
            else {
                break;
            };
            found.push(next.topic());
            from = next.topic().checked_add(1).map(|topic| QueueId::new(topic, 0));
        }
        found
    }

    /// Messages kept in a queue, in flight there and waiting for it: what dropping it costs.
    pub fn rows_of(&self, queue: QueueId) -> u64 {
        let kept = self.queues.get(&queue).map_or(0, |ends| ends.next - ends.first);
        let subscribed = self.subscriptions.range(on(queue));
        let waiting = self.timers.rooms.get(&queue).map_or(0, Room::rows);
        kept + waiting
            + subscribed
                .map(|(_, known)| 1 + known.in_flight().len() as u64)
                .sum::<u64>()
    }
}
