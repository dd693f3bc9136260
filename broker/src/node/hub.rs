//! Who waits for a message right now: the only thing about delivery that lives in
//! a leader's memory alone.
//!
//! Receives wait here, and other nodes ask to be told, because receives wait there. A message is offered to the receive
//! that has waited longest here, and to another node only when none waits. A waiter is woken by hints and looks for
//! itself; a lost hint costs time, never a message, because every wait has an end.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures::FutureExt;
use tokio::sync::{Notify, Semaphore};

use crate::limits::{MAX_FILTER_READS, MAX_INTERESTS, MAX_WAITING_RECEIVES};

pub mod tails;

use tails::Tails;

/// A topic and a consumer group, by their ids.
pub type Pair = (u32, u32);

/// Wakes the receives of a node, and knows which other nodes want to be told.
pub struct Hub {
    /// Receives that may wait here.
    places: usize,
    ears: Mutex<Ears>,
    /// Receives that wait here.
    waiting: AtomicUsize,
    /// Taken by receives that read messages to evaluate a condition.
    pub(super) filter_reads: Semaphore,
    /// Those, and interests of other nodes: with none there is nobody to look for.
    listening: AtomicUsize,
    /// Rings when another node is to be told something.
    due: Notify,
    tails: Arc<Tails>,
}

#[derive(Default)]
struct Ears {
    topics: BTreeMap<u32, BTreeMap<u32, Ear>>,
    interests: usize,
    /// What other nodes are to be told.
    due: BTreeMap<u32, BTreeSet<Pair>>,
}

impl Ears {
    fn ear(&mut self, (topic, group): Pair) -> Option<&mut Ear> {
        self.topics.get_mut(&topic)?.get_mut(&group)
    }

    fn forget_interests(&mut self) {
        self.interests = 0;
        self.topics.retain(|_, groups| {
            groups.retain(|_, ear| {
                ear.nodes.clear();
                !ear.is_deaf()
            });
            !groups.is_empty()
        });
    }

    fn forget_if_deaf(&mut self, (topic, group): Pair) {
        let Some(groups) = self.topics.get_mut(&topic) else {
            return;
        };
        if groups.get(&group).is_some_and(Ear::is_deaf) {
            groups.remove(&group);
        }
        if groups.is_empty() {
            self.topics.remove(&topic);
        }
    }
}

/// Who listens for one consumer group on one topic.
#[derive(Default)]
struct Ear {
    bell: Arc<Notify>,
    /// Receives that wait here.
    seats: usize,
    /// Nodes that asked to be told, once for each time they asked, the first first.
    nodes: VecDeque<u32>,
}

impl Ear {
    /// Tells one of those who listen; the other node to be told, if it is one.
    fn offer(&mut self) -> Option<u32> {
        if self.seats == 0 {
            return self.nodes.pop_front();
        }
        self.bell.notify_one();
        None
    }

    fn is_deaf(&self) -> bool {
        self.seats == 0 && self.nodes.is_empty()
    }
}

/// A receive's place among the waiters; dropping it leaves.
pub struct Seat {
    hub: Arc<Hub>,
    pair: Pair,
    bell: Arc<Notify>,
    /// There may be something that this receive leaves to others.
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

    /// Whatever hint there was has been followed: there is nothing more.
    pub fn looked(&self) {
        self.hinted.store(false, Ordering::Relaxed);
    }

    /// There was something, and there may be more.
    pub fn found(&self) {
        self.hinted.store(true, Ordering::Relaxed);
    }
}

impl Default for Hub {
    fn default() -> Self {
        Self::new(MAX_WAITING_RECEIVES)
    }
}

impl Hub {
    /// With so many places.
    pub fn new(places: usize) -> Self {
        Self {
            places,
            ears: Mutex::default(),
            waiting: AtomicUsize::default(),
            filter_reads: Semaphore::new(MAX_FILTER_READS),
            listening: AtomicUsize::default(),
            due: Notify::default(),
            tails: Arc::default(),
        }
    }

    /// Those who wait for what comes to one queue, whoever it is for.
    pub fn tails(&self) -> &Arc<Tails> {
        &self.tails
    }

    /// Takes a place, or nothing when the node's bound is reached.
    pub fn sit(self: &Arc<Self>, pair: Pair) -> Option<Seat> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.places {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        self.listening.fetch_add(1, Ordering::Relaxed);
        let mut ears = self.lock();
        let ear = ears.topics.entry(pair.0).or_default().entry(pair.1).or_default();
        ear.seats += 1;
        Some(Seat {
            hub: Arc::clone(self),
            pair,
            bell: Arc::clone(&ear.bell),
            hinted: AtomicBool::new(false),
        })
    }

    /// Another node has receives that wait, and will be told once of something that nobody here waits for. Over the
    /// bound all that is to be told is forgotten: most of so much is for topics and consumer groups that nobody reads any
    /// more, and who still waits asks again after a while.
    pub fn tell_later(&self, node: u32, pair: Pair) {
        let mut ears = self.lock();
        let ears = &mut *ears;
        if ears.interests >= MAX_INTERESTS {
            self.listening.fetch_sub(ears.interests, Ordering::Relaxed);
            ears.forget_interests();
        }
        let ear = ears.topics.entry(pair.0).or_default().entry(pair.1).or_default();
        if !ear.nodes.contains(&node) {
            ear.nodes.push_back(node);
            ears.interests += 1;
            self.listening.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One message came to the topic: one waiter of each consumer group may have it.
    pub fn ring(&self, topic: u32) {
        if self.listening.load(Ordering::Relaxed) > 0 {
            self.offer_to_all(&mut self.lock(), topic);
        }
    }

    /// Something changed for one consumer group of a topic.
    pub fn ring_group(&self, pair: Pair) {
        if self.listening.load(Ordering::Relaxed) > 0 {
            self.offer(&mut self.lock(), pair);
        }
    }

    /// Leaders changed or the node stops: everybody looks again.
    pub fn ring_all(&self) {
        self.tails.ring_all();
        let mut ears = self.lock();
        for ear in ears.topics.values().flat_map(BTreeMap::values) {
            ear.bell.notify_waiters();
        }
        let topics: Vec<u32> = ears.topics.keys().copied().collect();
        for topic in topics {
            self.offer_to_all(&mut ears, topic);
        }
    }

    fn offer(&self, ears: &mut Ears, pair: Pair) {
        let ear = ears.ear(pair);
        if let Some(node) = ear.and_then(Ear::offer) {
            self.tell(ears, node, pair);
        }
        ears.forget_if_deaf(pair);
    }

    fn offer_to_all(&self, ears: &mut Ears, topic: u32) {
        let groups = ears.topics.get(&topic);
        let groups: Vec<u32> = groups.map_or_else(Vec::new, |groups| groups.keys().copied().collect());
        for group in groups {
            self.offer(ears, (topic, group));
        }
    }

    fn tell(&self, ears: &mut Ears, node: u32, pair: Pair) {
        ears.due.entry(node).or_default().insert(pair);
        ears.interests -= 1;
        self.listening.fetch_sub(1, Ordering::Relaxed);
        self.due.notify_one();
    }

    /// True if a receive waits here for this.
    pub fn is_waited_for(&self, pair: Pair) -> bool {
        self.lock().ear(pair).is_some_and(|ear| ear.seats > 0)
    }

    /// Receives that wait now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes what is to be told to nodes that are not `busy`, at most `limit` for each.
    pub(super) fn take_due(&self, busy: &BTreeSet<u32>, limit: usize) -> BTreeMap<u32, Vec<Pair>> {
        let mut ears = self.lock();
        let (later, now) = mem::take(&mut ears.due)
            .into_iter()
            .partition(|(node, _)| busy.contains(node));
        ears.due = later;
        let take = |(node, mut pairs): (u32, BTreeSet<Pair>)| {
            if let Some(&first_left) = pairs.iter().nth(limit) {
                ears.due.insert(node, pairs.split_off(&first_left));
            }
            (node, pairs.into_iter().collect())
        };
        let now: BTreeMap<u32, BTreeSet<Pair>> = now;
        now.into_iter().map(take).collect()
    }

    /// Waits until another node is to be told something, from the last time on that this was ready.
    pub(super) async fn due(&self) {
        self.due.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Ears> {
        self.ears.lock().expect("no panic while held")
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.waiting.fetch_sub(1, Ordering::Relaxed);
        self.hub.listening.fetch_sub(1, Ordering::Relaxed);
        let mut ears = self.hub.lock();
        let ear = ears.ear(self.pair).expect("it is there while somebody sits");
        ear.seats -= 1;
        // One that was given after the last waiter's last look, and taken by nobody.
        let left_over = ear.seats == 0 && self.bell.notified().now_or_never().is_some();
        if *self.hinted.get_mut() || left_over {
            // A hint that this waiter took and did not follow belongs to the next one, here or on another node. No other: a
            // waiter that wakes another for nothing is woken by that one in turn, for ever.
            self.hub.offer(&mut ears, self.pair);
        } else {
            ears.forget_if_deaf(self.pair);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: Pair = (1, 2);

    fn due(hub: &Hub) -> BTreeMap<u32, Vec<Pair>> {
        hub.take_due(&BTreeSet::new(), 10)
    }

    #[test]
    fn the_last_waiter_leaves_nothing_behind() {
        let hub = Arc::new(Hub::default());
        let (a, b) = (hub.sit(PAIR).unwrap(), hub.sit(PAIR).unwrap());
        assert_eq!(hub.waiting(), 2);
        drop(a);
        drop(b);
        assert_eq!((hub.waiting(), hub.listening.load(Ordering::Relaxed)), (0, 0));
        assert!(hub.lock().topics.is_empty());
    }

    #[test]
    fn those_who_once_asked_for_what_nobody_sends_any_more_do_not_keep_others_from_being_told() {
        let hub = Hub::default();
        for gone in 0..MAX_INTERESTS as u32 {
            hub.tell_later(8, (10 + gone, 1));
        }
        assert_eq!(hub.lock().interests, MAX_INTERESTS);
        hub.tell_later(8, PAIR);
        assert_eq!(hub.lock().interests, 1);
        hub.ring(PAIR.0);
        assert_eq!(due(&hub), [(8, vec![PAIR])].into());
        assert_eq!(hub.listening.load(Ordering::Relaxed), 0);
        assert!(hub.lock().topics.is_empty());
    }

    #[test]
    fn a_hint_that_the_last_waiter_leaves_lying_is_for_another_node() {
        let hub = Arc::new(Hub::default());
        let last = hub.sit(PAIR).unwrap();
        hub.tell_later(8, PAIR);
        hub.ring(PAIR.0);
        assert_eq!(due(&hub), [].into(), "it is for whoever waits here");
        drop(last);
        assert_eq!(due(&hub), [(8, vec![PAIR])].into());
    }

    #[test]
    fn a_waiter_that_leaves_wakes_another_only_for_a_hint_it_did_not_follow() {
        let hub = Arc::new(Hub::default());
        let (stays, leaves) = (hub.sit(PAIR).unwrap(), hub.sit(PAIR).unwrap());
        drop(leaves);
        assert_eq!(stays.hint().now_or_never(), None);
        let followed = hub.sit(PAIR).unwrap();
        hub.ring(1);
        assert_eq!(followed.hint().now_or_never(), Some(()));
        followed.looked();
        drop(followed);
        assert_eq!(stays.hint().now_or_never(), None);
        let cut_off = hub.sit(PAIR).unwrap();
        hub.ring(1);
        assert_eq!(cut_off.hint().now_or_never(), Some(()));
        drop(cut_off);
        assert_eq!(stays.hint().now_or_never(), Some(()));
    }

    #[test]
    fn whoever_found_something_wakes_the_next_because_there_may_be_more() {
        let hub = Arc::new(Hub::default());
        let (stays, found) = (hub.sit(PAIR).unwrap(), hub.sit(PAIR).unwrap());
        found.found();
        drop(found);
        assert_eq!(stays.hint().now_or_never(), Some(()));
        hub.tell_later(9, PAIR);
        stays.found();
        drop(stays);
        assert_eq!(due(&hub), [(9, vec![PAIR])].into());
    }

    #[test]
    fn seats_are_bounded() {
        let hub = Arc::new(Hub::default());
        let seats: Vec<_> = (0..MAX_WAITING_RECEIVES)
            .map(|_| hub.sit((1, 1)).unwrap())
            .collect();
        assert!(hub.sit((1, 1)).is_none());
        drop(seats);
        assert!(hub.sit((1, 1)).is_some());
    }

    #[test]
    fn another_node_is_told_once_and_only_when_nobody_waits_here() {
        let hub = Arc::new(Hub::default());
        hub.tell_later(8, PAIR);
        hub.tell_later(8, PAIR);
        hub.tell_later(9, PAIR);
        let here = hub.sit(PAIR).unwrap();
        hub.ring(1);
        assert_eq!(due(&hub), [].into());
        assert_eq!(here.hint().now_or_never(), Some(()));
        here.looked();
        drop(here);
        hub.ring(2);
        hub.ring_group((1, 3));
        assert_eq!(due(&hub), [].into(), "that is something else");
        for node in [8, 9] {
            hub.ring(1);
            assert_eq!(due(&hub), [(node, vec![PAIR])].into());
        }
        hub.ring(1);
        assert_eq!(due(&hub), [].into(), "both have been told");
        assert_eq!(hub.listening.load(Ordering::Relaxed), 0);
        assert!(hub.lock().topics.is_empty());
    }

    #[test]
    fn what_a_busy_node_is_to_be_told_waits_and_is_told_in_parts() {
        let hub = Hub::default();
        for group in 0..5 {
            hub.tell_later(8, (1, group));
        }
        hub.ring(1);
        assert_eq!(hub.take_due(&[8].into(), 2), [].into());
        let parts: Vec<_> = (0..4)
            .map(|_| hub.take_due(&[].into(), 2).remove(&8).unwrap_or_default().len())
            .collect();
        assert_eq!(parts, [2, 2, 1, 0]);
    }
}
