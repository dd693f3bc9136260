//! Who waits for the next message of a queue, whoever it is for: pulls. They lease nothing, so what comes is for all of
//! them, and they take no place and no hint from receives (`hub.rs`).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use queue_core::QueueId;
use tokio::sync::{Notify, Semaphore, futures::Notified};

use crate::limits::{MAX_PULL_READS, MAX_WAITING_PULLS};

/// Wakes the pulls of a node when something was applied here, which its leader has then, too.
pub struct Tails {
    places: usize,
    queues: Mutex<BTreeMap<QueueId, Tail>>,
    waiting: AtomicUsize,
    /// Taken by pulls that read messages.
    pub(in crate::node) reads: Semaphore,
}

#[derive(Default)]
struct Tail {
    bell: Arc<Notify>,
    seats: usize,
}

/// A pull's place among those that wait; dropping it leaves.
pub struct TailSeat {
    tails: Arc<Tails>,
    queue: QueueId,
    bell: Arc<Notify>,
}

impl TailSeat {
    /// Waits for a message that comes after this call.
    pub fn hint(&self) -> Notified<'_> {
        self.bell.notified()
    }
}

impl Default for Tails {
    fn default() -> Self {
        Self::new(MAX_WAITING_PULLS)
    }
}

impl Tails {
    /// With so many places.
    fn new(places: usize) -> Self {
        Self {
            places,
            queues: Mutex::default(),
            waiting: AtomicUsize::default(),
            reads: Semaphore::new(MAX_PULL_READS),
        }
    }

    /// Takes a place, or nothing when the node's bound is reached.
    pub fn sit(self: &Arc<Self>, queue: QueueId) -> Option<TailSeat> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.places {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let mut queues = self.lock();
        let tail = queues.entry(queue).or_default();
        tail.seats += 1;
        Some(TailSeat {
            tails: Arc::clone(self),
            queue,
            bell: Arc::clone(&tail.bell),
        })
    }

    /// Pulls that wait now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// A message came.
    pub(in crate::node) fn ring(&self, queue: QueueId) {
        if self.waiting() > 0
            && let Some(tail) = self.lock().get(&queue)
        {
            tail.bell.notify_waiters();
        }
    }

    /// Leaders changed or the node stops: everybody looks again.
    pub(super) fn ring_all(&self) {
        for tail in self.lock().values() {
            tail.bell.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<QueueId, Tail>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TailSeat {
    fn drop(&mut self) {
        self.tails.waiting.fetch_sub(1, Ordering::Relaxed);
        let mut queues = self.tails.lock();
        let tail = queues
            .get_mut(&self.queue)
            .expect("it is there while somebody sits");
        tail.seats -= 1;
        if tail.seats == 0 {
            queues.remove(&self.queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn all_who_wait_for_a_queue_are_woken_and_nobody_else() {
        let tails = Arc::new(Tails::new(3));
        let [one, two] = [QueueId::new(1, 0), QueueId::new(1, 1)];
        let seats = [one, one, two].map(|queue| tails.sit(queue).unwrap());
        assert!(tails.sit(one).is_none(), "places are bounded");
        let hints: Vec<_> = seats.iter().map(TailSeat::hint).collect();
        tails.ring(one);
        let woken = hints.into_iter().map(|hint| hint.now_or_never().is_some());
        assert_eq!(woken.collect::<Vec<_>>(), [true, true, false]);
        let hint = seats[2].hint();
        tails.ring_all();
        assert!(hint.now_or_never().is_some());
        drop(seats);
        assert!(tails.lock().is_empty() && tails.waiting() == 0);
    }
}
