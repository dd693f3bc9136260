//! Looks into the leaders: every queue has its turn (P11). While receives of a consumer group are answered from some queues of a
//! topic, another queue of the same topic and shard that has new messages is not passed by for long.
//!
//! Of queues in one shard only: what keeps one of them from being read keeps all of them. Which receive looks at which queue nobody
//! sees from here, so messages are counted, of which a receive takes a few.

use std::collections::BTreeMap;

use broker::node::{Node, kv::Reading};
use queue_core::{GroupId, QueueId, Source};

use crate::plan::Wanted;

/// A queue's turn comes in every round; once it may be spent on a look at another node.
const ROUNDS: u64 = 2;

/// One queue for one consumer group, at the node that leads it: node, shard, topic, consumer group and queue.
type Key = (u32, u32, u32, u32, QueueId);

/// How far a consumer group is on a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// What comes next.
    cursor: u64,
    /// Of what was before it, messages that were passed over, by a filter or because their message group is locked: no receive was
    /// spent on them.
    filtered: u64,
    /// The end of the queue.
    next: u64,
    /// Changes whenever something is delivered, be it again, or ends.
    given: u64,
    /// Queues of the topic, here and elsewhere, each of which has its turn between two of this one.
    queues: u64,
}

/// What was seen of queues so far.
#[derive(Default)]
pub struct Turns {
    /// Clients that read at the same time, and may overtake each other.
    readers: u64,
    /// Messages that a receive takes at most.
    batch: u64,
    /// At the last look, and how many messages others gave since something moved here.
    seen: BTreeMap<Key, (Place, u64)>,
}

impl Turns {
    /// Of queues that so many clients of each consumer group read at the same time, so many messages at a time at most.
    #[must_use]
    pub fn new(readers: u32, batch: u32) -> Turns {
        Turns {
            readers: readers.into(),
            batch: batch.into(),
            seen: BTreeMap::new(),
        }
    }

    /// Looks at all queues where they are led, for consumer groups with these names, and what they want if not everything.
    pub fn look(&mut self, nodes: &[Node], groups: &[(String, Option<Wanted>)], wrong: &mut Vec<String>) {
        let mut now = BTreeMap::new();
        for node in nodes {
            let meta = node.meta();
            let groups = groups
                .iter()
                .filter_map(|(name, wanted)| Some((meta.group(name)?, *wanted)));
            let groups: Vec<(GroupId, Option<Wanted>)> = groups
                .map(|(group, wanted)| (GroupId(group.id), wanted))
                .collect();
            // What cannot be read is nobody's turn.
            if !node.store().damages().is_empty() {
                continue;
            }
            for shard in node.shards().iter().filter(|shard| shard.leads()) {
                shard.replica.read_state(|state| {
                    shard.machine.read(|core| {
                        let mut given: BTreeMap<(GroupId, QueueId), u64> = BTreeMap::new();
                        for (group, queue, row) in core.all_in_flight() {
                            let sum = given.entry((group, queue)).or_default();
                            *sum = sum.wrapping_add(row.nonce);
                        }
                        for (queue, view) in core.queues() {
                            for &(group, wanted) in &groups {
                                let topic = meta.topic_by_id(queue.topic());
                                let cursor = core.cursor(group, queue).unwrap_or(view.first);
                                let new = (view.next - cursor) as usize;
                                let new = core
                                    .stored_from(&Reading(state), queue, cursor, new)
                                    .unwrap_or_default();
                                let is_wanted = |tag| wanted.is_none_or(|wanted| wanted.takes_hash(tag));
                                // In order, those wait whose message group is locked.
                                let in_order = core.is_fifo(group).then(|| {
                                    let all = (usize::MAX, usize::MAX, new.len());
                                    let found = core.in_order(&Reading(state), (group, queue), 0, all);
                                    let candidates = found.unwrap_or_default().candidates.into_iter();
                                    let free = candidates.filter(|it| it.from == Source::New);
                                    free.map(|it| it.stored).collect::<Vec<_>>()
                                });
                                let new = in_order.unwrap_or(new);
                                let has_any = new.iter().any(|stored| is_wanted(stored.tag));
                                let place = Place {
                                    queues: topic.map_or(0, |topic| topic.queue_shards.len() as u64),
                                    cursor,
                                    filtered: core
                                        .subscription(group, queue)
                                        .map_or(0, |known| known.filtered + known.blocked),
                                    next: if has_any { view.next } else { cursor },
                                    given: given.get(&(group, queue)).copied().unwrap_or_default(),
                                };
                                now.insert((node.id(), shard.id, queue.topic(), group.0, queue), place);
                            }
                        }
                    })
                });
            }
        }
        self.see(now, wrong);
    }

    fn see(&mut self, now: BTreeMap<Key, Place>, wrong: &mut Vec<String>) {
        /// Of a topic's queues in a shard, for a consumer group.
        fn together((node, shard, topic, group, _): Key) -> (u32, u32, u32, u32) {
            (node, shard, topic, group)
        }
        let mut moved: BTreeMap<_, u64> = BTreeMap::new();
        for (key, place) in &now {
            let given = |place: &Place| place.cursor - place.filtered;
            let before = self
                .seen
                .get(key)
                .map_or(given(place), |(before, _)| given(before));
            *moved.entry(together(*key)).or_default() += given(place).saturating_sub(before);
        }
        let before = std::mem::take(&mut self.seen);
        for (key, place) in now {
            let passed = match before.get(&key) {
                Some((before, passed))
                    if (before.cursor, before.given) == (place.cursor, place.given)
                        && before.cursor < before.next =>
                {
                    passed + moved[&together(key)]
                }
                _ => 0,
            };
            if passed > self.batch * (ROUNDS * place.queues + self.readers - 1) {
                let (node, shard, _, group, queue) = key;
                wrong.push(format!(
                    "P11: {queue:?} of shard {shard} has something for consumer group {group} at {}, and {passed} messages of \
                     other queues of its topic came from node {node} since something came of it",
                    place.cursor
                ));
            }
            self.seen.insert(key, (place, passed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two queues of a topic; of the first `taken` messages are delivered between two looks.
    fn judged(looks: u64, taken: u64, other: impl Fn(u64) -> Place) -> usize {
        let (mut turns, mut wrong) = (Turns::new(1, 8), Vec::new());
        for look in 0..looks {
            let busy = Place {
                cursor: look * taken,
                filtered: 0,
                next: 1_000,
                given: look,
                queues: 2,
            };
            let queues = [(0, busy), (1, other(look))];
            let key = |queue| (1, 1, 1, 1, QueueId::new(1, queue));
            turns.see(
                queues.map(|(queue, place)| (key(queue), place)).into(),
                &mut wrong,
            );
        }
        wrong.len()
    }

    fn waits(next: u64) -> Place {
        Place {
            cursor: 7,
            filtered: 0,
            next,
            given: 0,
            queues: 2,
        }
    }

    #[test]
    fn a_queue_that_is_passed_by_for_long_is_found() {
        assert_eq!(judged(5, 8, |_| waits(8)), 0, "4 receives");
        assert_eq!(judged(6, 8, |_| waits(8)), 1, "5 receives");
    }

    #[test]
    fn a_queue_without_new_messages_or_with_deliveries_is_not_passed_by() {
        assert_eq!(judged(100, 8, |_| waits(7)), 0);
        let moves = |look| Place {
            cursor: look / 5,
            filtered: 0,
            ..waits(1_000)
        };
        assert_eq!(judged(100, 8, moves), 0);
        let again = |look| Place {
            given: look / 5,
            ..waits(8)
        };
        assert_eq!(judged(100, 8, again), 0, "it is delivered again");
    }
}
