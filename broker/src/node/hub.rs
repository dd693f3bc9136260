//! Who waits for a message right now: the only thing about delivery that lives in
//! a leader's memory alone.
//!
//! A waiter is woken by hints and looks for itself; a lost hint costs time, never
//! a message, because every wait has an end.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
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
    /// Rings when there may be something to receive.
    pub bell: Arc<Notify>,
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
            } else {
                // A hint this waiter took and did not use belongs to the next one.
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
