//! What a node remembers of how each consumer group reads each topic: whose turn it is, and what other nodes had.
//!
//! Memory only, and only to look in the right place: what is forgotten costs a look.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use super::hub::Pair;
use crate::limits::MAX_REMEMBERED_POLLS;

/// A node that consumers ask themselves is looked at this often, milliseconds: its hints are rarely needed.
const LOOK_SERVED_EVERY_MS: u64 = 5_000;
/// Any other node is looked at this often: a lost hint then costs little.
const LOOK_EVERY_MS: u64 = 1_000;
/// After a receive of a client, the node is taken for one that the consumer group asks itself for so long.
const SERVED_FOR_MS: u64 = 1_000;

/// The polls of all consumer groups. Times are of the node's steady clock.
#[derive(Default)]
pub struct Polls {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    polls: BTreeMap<Pair, Poll>,
    /// Where the turns of the next one begin, so that forgetting does not favour a queue.
    next_first: usize,
}

#[derive(Default)]
struct Poll {
    turn: usize,
    /// When a client asked this node last.
    asked_ms: Option<u64>,
    begun: bool,
    elsewhere: BTreeMap<u32, Elsewhere>,
}

/// What another node had when it was last looked at.
#[derive(Debug, Clone, Copy, Default)]
struct Elsewhere {
    looked_ms: u64,
    /// When it is to be looked at again.
    due_ms: u64,
    /// Clients ask it themselves.
    served: bool,
}

/// What a look at another node told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// It had messages.
    pub found: bool,
    /// Clients of the consumer group ask it themselves.
    pub served: bool,
    /// When a message that waits for its retry can be had there.
    pub visible_ms: Option<u64>,
}

/// Where a receive begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// The number of the queue among those led here.
    pub start: usize,
    /// Another node, before any queue here.
    pub first: Option<u32>,
}

impl Polls {
    /// A client's receive begins: with one of the `here` queues that this node leads, each in turn. Other nodes lead the
    /// number of queues given; those that no client asks have their turns among the queues here, and it is for finding
    /// out which these are that a node is looked at first now and then.
    pub fn turn(&self, pair: Pair, now_ms: u64, here: usize, elsewhere: &BTreeMap<u32, usize>) -> Turn {
        let mut known = self.lock();
        let poll = known.of(pair);
        poll.asked_ms = Some(now_ms);
        // Who leads nothing any more is not remembered: it may come back, and know nothing of what it was to tell.
        poll.elsewhere.retain(|node, _| elsewhere.contains_key(node));
        let turn = poll.turn;
        poll.turn = turn.wrapping_add(1);
        let start = turn % here.max(1);
        let unknown = elsewhere.keys().copied().find(|node| {
            let known = poll.elsewhere.get(node);
            known.is_none_or(|known| known.looked_ms + LOOK_SERVED_EVERY_MS <= now_ms)
        });
        if unknown.is_some() {
            return Turn {
                start,
                first: unknown,
            };
        }
        let unserved = elsewhere
            .iter()
            .filter(|(node, _)| poll.elsewhere.get(node).is_some_and(|known| !known.served));
        let slots = here + unserved.clone().map(|(_, queues)| queues).sum::<usize>();
        let mut slot = turn % slots.max(1);
        if slot < here {
            return Turn {
                start: slot,
                first: None,
            };
        }
        slot -= here;
        for (&node, &queues) in unserved {
            if slot < queues {
                return Turn {
                    start,
                    first: Some(node),
                };
            }
            slot -= queues;
        }
        Turn { start, first: None }
    }

    /// A look of another node begins: the queue, as for a client, and whether clients ask this node themselves.
    pub fn looked_at(&self, pair: Pair, now_ms: u64) -> (usize, bool) {
        let mut known = self.lock();
        let poll = known.of(pair);
        let turn = poll.turn;
        poll.turn = turn.wrapping_add(1);
        let served = poll.asked_ms.is_some_and(|asked| asked + SERVED_FOR_MS > now_ms);
        (turn, served)
    }

    /// The node among these that is to be looked at now, the longest due first. Nobody else is told before it is due
    /// again, which is later by `spread_ms`.
    pub fn due(&self, pair: Pair, nodes: &BTreeMap<u32, usize>, now_ms: u64, spread_ms: u64) -> Option<u32> {
        let mut known = self.lock();
        let poll = known.of(pair);
        let due_ms = |node: &u32| poll.elsewhere.get(node).map_or(0, |known| known.due_ms);
        let (at_ms, node) = nodes.keys().map(|node| (due_ms(node), *node)).min()?;
        if at_ms > now_ms {
            return None;
        }
        poll.look_begins(node, now_ms, spread_ms);
        Some(node)
    }

    /// The same for a node whose turn it is.
    pub fn look_begins(&self, pair: Pair, node: u32, now_ms: u64, spread_ms: u64) {
        self.lock().of(pair).look_begins(node, now_ms, spread_ms);
    }

    /// When one of these nodes is to be looked at again.
    pub fn next_due(&self, pair: Pair, nodes: &BTreeMap<u32, usize>) -> Option<u64> {
        let known = self.lock();
        let poll = known.polls.get(&pair)?;
        let due_ms = |node: &u32| poll.elsewhere.get(node).map_or(0, |known| known.due_ms);
        nodes.keys().map(due_ms).min()
    }

    /// What a look told that has just ended.
    pub fn look_ended(&self, pair: Pair, node: u32, now_ms: u64, seen: Seen) {
        let mut known = self.lock();
        let Some(place) = known.elsewhere(pair, node) else {
            return;
        };
        if seen.served && !place.served {
            place.due_ms = place.due_ms.max(place.looked_ms + LOOK_SERVED_EVERY_MS);
        }
        place.served = seen.served;
        if seen.found {
            place.due_ms = now_ms;
        }
        place.due_ms = place.due_ms.min(seen.visible_ms.unwrap_or(u64::MAX));
    }

    /// A node did not answer in time: as long as it may stand still it is looked at as rarely as one that needs it least.
    pub fn look_stuck(&self, pair: Pair, node: u32, now_ms: u64) {
        if let Some(place) = self.lock().elsewhere(pair, node) {
            place.served = true;
            place.looked_ms = now_ms;
            place.due_ms = now_ms + LOOK_SERVED_EVERY_MS;
        }
    }

    /// Another node says that it has something.
    pub fn told(&self, pair: Pair, node: u32) {
        if let Some(place) = self.lock().elsewhere(pair, node) {
            place.due_ms = 0;
        }
    }

    /// True if the consumer group is known to have begun on every queue of the topic.
    pub fn begun(&self, pair: Pair) -> bool {
        self.lock().polls.get(&pair).is_some_and(|poll| poll.begun)
    }

    /// The consumer group has begun on every queue of the topic.
    pub fn set_begun(&self, pair: Pair) {
        self.lock().of(pair).begun = true;
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no panic while held")
    }
}

impl Known {
    fn elsewhere(&mut self, pair: Pair, node: u32) -> Option<&mut Elsewhere> {
        self.polls.get_mut(&pair)?.elsewhere.get_mut(&node)
    }

    fn of(&mut self, pair: Pair) -> &mut Poll {
        if self.polls.len() >= MAX_REMEMBERED_POLLS && !self.polls.contains_key(&pair) {
            self.polls.clear();
        }
        let next_first = &mut self.next_first;
        self.polls.entry(pair).or_insert_with(|| {
            *next_first = next_first.wrapping_add(1);
            Poll {
                turn: *next_first,
                ..Poll::default()
            }
        })
    }
}

impl Poll {
    fn look_begins(&mut self, node: u32, now_ms: u64, spread_ms: u64) {
        let place = self.elsewhere.entry(node).or_default();
        let every_ms = match place.served {
            true => LOOK_SERVED_EVERY_MS,
            false => LOOK_EVERY_MS,
        };
        place.looked_ms = now_ms;
        place.due_ms = now_ms + every_ms + spread_ms;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const PAIR: Pair = (1, 2);
    const OTHER: Pair = (1, 3);
    const NOTHING: Seen = Seen {
        found: false,
        served: false,
        visible_ms: None,
    };

    /// A look at this node that found nothing.
    fn look(polls: &Polls, node: u32, now_ms: u64, served: bool) {
        polls.look_begins(PAIR, node, now_ms, 0);
        polls.look_ended(PAIR, node, now_ms, Seen { served, ..NOTHING });
    }

    #[test]
    fn two_consumer_groups_in_lockstep_give_every_queue_its_turn() {
        let polls = Polls::default();
        let mut starts = [BTreeSet::new(), BTreeSet::new()];
        for _ in 0..4 {
            for (pair, starts) in [PAIR, OTHER].into_iter().zip(&mut starts) {
                starts.insert(polls.turn(pair, 0, 4, &[].into()).start);
            }
        }
        let all: BTreeSet<usize> = (0..4).collect();
        assert_eq!(starts, [all.clone(), all]);
    }

    #[test]
    fn a_node_that_no_client_asks_has_its_turns_among_the_queues_here() {
        let polls = Polls::default();
        let elsewhere = [(8, 2), (9, 3)].into();
        let unknown = polls.turn(PAIR, 0, 3, &elsewhere).first;
        assert_eq!(unknown, Some(8), "one has to look there to know");
        look(&polls, 8, 0, false);
        look(&polls, 9, 0, true);
        let turns: Vec<Turn> = (0..10).map(|_| polls.turn(PAIR, 1, 3, &elsewhere)).collect();
        let first: Vec<u32> = turns.iter().filter_map(|turn| turn.first).collect();
        assert_eq!(first, [8; 4], "two of five");
        for queue in 0..3 {
            let here = turns
                .iter()
                .filter(|turn| turn.first.is_none() && turn.start == queue);
            assert_eq!(here.count(), 2);
        }
    }

    #[test]
    fn clients_that_ask_every_node_need_a_hop_in_five_seconds_only() {
        let polls = Polls::default();
        let elsewhere = [(8, 2), (9, 3)].into();
        let mut hops = 0;
        for now_ms in 0..10_000 {
            if let Some(node) = polls.turn(PAIR, now_ms, 3, &elsewhere).first {
                look(&polls, node, now_ms, true);
                hops += 1;
            }
        }
        assert_eq!(hops, 2 * 2);
    }

    #[test]
    fn a_node_is_looked_at_again_when_it_is_due_or_said_so_or_had_something() {
        let polls = Polls::default();
        let nodes = [(8, 1), (9, 1)].into();
        assert_eq!(polls.due(PAIR, &nodes, 0, 0), Some(8));
        assert_eq!(polls.due(PAIR, &nodes, 0, 0), Some(9));
        assert_eq!(polls.due(PAIR, &nodes, LOOK_EVERY_MS - 1, 0), None);
        polls.told(PAIR, 9);
        assert_eq!(polls.due(PAIR, &nodes, 1, 0), Some(9));
        let found = Seen {
            found: true,
            ..NOTHING
        };
        polls.look_ended(PAIR, 9, 2, found);
        assert_eq!(polls.due(PAIR, &nodes, 2, 0), Some(9), "there may be more");
        let waits = Seen {
            visible_ms: Some(500),
            ..NOTHING
        };
        polls.look_ended(PAIR, 9, 3, waits);
        assert_eq!(polls.next_due(PAIR, &nodes), Some(500));
        assert_eq!(polls.due(PAIR, &nodes, LOOK_EVERY_MS, 40), Some(9));
        assert_eq!(polls.due(PAIR, &nodes, LOOK_EVERY_MS, 40), Some(8));
        assert_eq!(polls.next_due(PAIR, &nodes), Some(2 * LOOK_EVERY_MS + 40));
    }

    #[test]
    fn a_node_that_does_not_answer_has_no_turns_and_is_looked_at_now_and_then() {
        let polls = Polls::default();
        let nodes = [(8, 3)].into();
        look(&polls, 8, 0, false);
        polls.look_begins(PAIR, 8, 100, 0);
        polls.look_stuck(PAIR, 8, 2_100);
        let firsts = (2_100..2_100 + LOOK_SERVED_EVERY_MS).map(|now| polls.turn(PAIR, now, 3, &nodes).first);
        assert_eq!(firsts.flatten().count(), 0);
        assert_eq!(polls.next_due(PAIR, &nodes), Some(2_100 + LOOK_SERVED_EVERY_MS));
        let turn = polls.turn(PAIR, 2_100 + LOOK_SERVED_EVERY_MS, 3, &nodes);
        assert_eq!(turn.first, Some(8));
    }

    #[test]
    fn a_node_that_ceased_to_lead_is_looked_at_when_it_comes_back() {
        let polls = Polls::default();
        let nodes = [(8, 1)].into();
        look(&polls, 8, 0, true);
        assert_eq!(polls.due(PAIR, &nodes, 10, 0), None);
        polls.turn(PAIR, 20, 1, &[].into());
        assert_eq!(polls.due(PAIR, &nodes, 30, 0), Some(8));
    }

    #[test]
    fn a_node_says_whether_clients_ask_it_themselves() {
        let polls = Polls::default();
        assert!(!polls.looked_at(PAIR, 0).1);
        polls.turn(PAIR, 10, 1, &[].into());
        assert!(polls.looked_at(PAIR, 9 + SERVED_FOR_MS).1);
        assert!(!polls.looked_at(PAIR, 10 + SERVED_FOR_MS).1);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_forgetting_favours_no_queue() {
        let polls = Polls::default();
        let mut starts = BTreeSet::new();
        for group in 0..=MAX_REMEMBERED_POLLS as u32 {
            starts.insert(polls.turn((1, group), 0, 4, &[].into()).start);
        }
        assert_eq!(starts.len(), 4);
        assert_eq!(polls.lock().polls.len(), 1);
    }
}
