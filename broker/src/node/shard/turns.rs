//! Whose turn it is to deliver of a queue to a consumer group: one at a time, so that nothing is chosen twice.
//!
//! Whoever is refused leaves its hint to who has the turn: what it was told of may have come after the other one's look.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Mutex,
};

use queue_core::{GroupId, QueueId};

use crate::node::hub::Hub;

/// Deliveries under way, and whether somebody was refused meanwhile.
#[derive(Default)]
pub(super) struct Turns {
    taken: Mutex<BTreeMap<(GroupId, QueueId), bool>>,
}

/// A turn; dropping it gives it back.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    hub: &'a Hub,
    key: (GroupId, QueueId),
}

impl Turns {
    /// Takes the turn, unless somebody has it.
    pub(super) fn take<'a>(&'a self, hub: &'a Hub, group: GroupId, queue: QueueId) -> Option<Turn<'a>> {
        let key = (group, queue);
        match self.taken.lock().expect("no panic while held").entry(key) {
            Entry::Occupied(mut taken) => {
                taken.insert(true);
                None
            }
            Entry::Vacant(free) => {
                free.insert(false);
                Some(Turn {
                    turns: self,
                    hub,
                    key,
                })
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut taken = self.turns.taken.lock().expect("no panic while held");
        let refused = taken.remove(&self.key).unwrap_or(false);
        drop(taken);
        if refused {
            let (group, queue) = self.key;
            self.hub.ring_group((queue.topic(), group.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt;

    use super::*;

    #[test]
    fn who_was_refused_a_turn_is_told_when_it_is_given_back() {
        let (hub, turns) = (Arc::new(Hub::default()), Turns::default());
        let (group, queue) = (GroupId(2), QueueId::new(1, 0));
        let seat = hub.sit((1, 2)).unwrap();
        let take = || turns.take(&hub, group, queue);
        let turn = take().expect("nobody has it");
        assert!(take().is_none());
        assert_eq!(seat.hint().now_or_never(), None);
        drop(turn);
        assert_eq!(seat.hint().now_or_never(), Some(()));
        // Nobody was refused this one, and another queue has turns of its own.
        let turn = take().expect("it was given back");
        assert!(turns.take(&hub, group, QueueId::new(1, 1)).is_some());
        drop(turn);
        assert_eq!(seat.hint().now_or_never(), None);
    }
}
