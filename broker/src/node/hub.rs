//! Who waits for a message right now: the only thing about delivery that lives in
//! a leader's memory alone.
//!
//! A waiter is woken by hints and looks for itself; a lost hint costs time, never
//! a message, because every wait has an end.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use crate::limits::MAX_WAITING_RECEIVES;

/// Wakes the receives of a node.
#[derive(Default)]
pub struct Hub {
    topics: Mutex<BTreeMap<u32, BTreeMap<u32, Seats>>>,
    waiting: AtomicUsize,
}

/// The waiters of one consumer group on one topic.
#[derive(Clone, Default)]
struct Seats {
    bell: Arc<Notify>,
    taken: usize,
}

/// A receive's place among the waiters; dropping it leaves.
pub struct Seat {
    hub: Arc<Hub>,
    topic: u32,
    group: u32,
    bell: Arc<Notify>,
    /// A hint was taken, and what it is about has not been looked at.
    hinted: AtomicBool,
}

impl Seat {
    /// Waits for a hint that there may be something to receive, given after this call.
    pub fn hint(&self) -> impl Future<Output = ()> + '_ {
        let rung = self.bell.notified();
        async {
            rung.await;
            self.hinted.store(true, Ordering::Relaxed);
        }
    }

    /// Whatever hint there was has been followed.
    pub fn looked(&self) {
        self.hinted.store(false, Ordering::Relaxed);
    }
}

impl Hub {
    /// Takes a place, or nothing when the node's bound is reached.
    pub fn sit(self: &Arc<Self>, topic: u32, group: u32) -> Option<Seat> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING_RECEIVES {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let mut topics = self.topics.lock().expect("no panic while held");
        let seats = topics.entry(topic).or_default().entry(group).or_default();
        seats.taken += 1;
        Some(Seat {
            hub: Arc::clone(self),
            topic,
            group,
            bell: Arc::clone(&seats.bell),
            hinted: AtomicBool::new(false),
        })
    }

    /// One message came to the topic: one waiter of each consumer group may have it.
    pub fn ring(&self, topic: u32) {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let topics = self.topics.lock().expect("no panic while held");
        for seats in topics.get(&topic).into_iter().flat_map(BTreeMap::values) {
            seats.bell.notify_one();
        }
    }

    /// Something changed for one consumer group of a topic.
    pub fn ring_group(&self, topic: u32, group: u32) {
        let topics = self.topics.lock().expect("no panic while held");
        if let Some(seats) = topics.get(&topic).and_then(|groups| groups.get(&group)) {
            seats.bell.notify_one();
        }
    }

    /// Leaders changed or the node stops: everybody looks again.
    pub fn ring_all(&self) {
        let topics = self.topics.lock().expect("no panic while held");
        for seats in topics.values().flat_map(BTreeMap::values) {
            seats.bell.notify_waiters();
            seats.bell.notify_one();
        }
    }

    /// Receives that wait now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.waiting.fetch_sub(1, Ordering::Relaxed);
        let mut topics = self.hub.topics.lock().expect("no panic while held");
        let Some(groups) = topics.get_mut(&self.topic) else {
            return;
        };
        if let Some(seats) = groups.get_mut(&self.group) {
            seats.taken -= 1;
            if seats.taken == 0 {
                groups.remove(&self.group);
            } else if *self.hinted.get_mut() {
                // A hint that this waiter took and did not follow belongs to the next one. No other: whoever is woken
                // looks at other nodes too, and the waiters there would wake those here, for ever.
                seats.bell.notify_one();
            }
        }
        if groups.is_empty() {
            topics.remove(&self.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn the_last_waiter_leaves_nothing_behind() {
        let hub = Arc::new(Hub::default());
        let (a, b) = (hub.sit(1, 2).unwrap(), hub.sit(1, 2).unwrap());
        assert_eq!(hub.waiting(), 2);
        drop(a);
        drop(b);
        assert_eq!(hub.waiting(), 0);
        assert!(hub.topics.lock().unwrap().is_empty());
    }

    #[test]
    fn a_waiter_that_leaves_wakes_another_only_for_a_hint_it_did_not_follow() {
        let hub = Arc::new(Hub::default());
        let (stays, leaves) = (hub.sit(1, 2).unwrap(), hub.sit(1, 2).unwrap());
        drop(leaves);
        assert_eq!(stays.hint().now_or_never(), None);
        let followed = hub.sit(1, 2).unwrap();
        hub.ring(1);
        assert_eq!(followed.hint().now_or_never(), Some(()));
        followed.looked();
        drop(followed);
        assert_eq!(stays.hint().now_or_never(), None);
        let cut_off = hub.sit(1, 2).unwrap();
        hub.ring(1);
        assert_eq!(cut_off.hint().now_or_never(), Some(()));
        drop(cut_off);
        assert_eq!(stays.hint().now_or_never(), Some(()));
    }

    #[test]
    fn seats_are_bounded() {
        let hub = Arc::new(Hub::default());
        let seats: Vec<_> = (0..MAX_WAITING_RECEIVES)
            .map(|_| hub.sit(1, 1).unwrap())
            .collect();
        assert!(hub.sit(1, 1).is_none());
        drop(seats);
        assert!(hub.sit(1, 1).is_some());
    }
}
