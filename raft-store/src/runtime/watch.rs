//! A value that can be watched.
//!
//! tokio's own watch picks among notification slots with randomness that is global to the process, so that a
//! simulation with the same seed would differ from run to run. This one wakes watchers in the order they came.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
    task::{Poll, Waker},
};

struct Shared<T> {
    value: RwLock<T>,
    watchers: Mutex<Watchers>,
}

#[derive(Default)]
struct Watchers {
    version: u64,
    senders: usize,
    receivers: usize,
    next_id: u64,
    waiting: BTreeMap<u64, Waker>,
}

impl<T> Shared<T> {
    fn watchers(&self) -> MutexGuard<'_, Watchers> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, T> {
        self.value.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The side that changes the value.
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// The side that sees it change.
pub(crate) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    id: u64,
    seen: u64,
}

/// A watched value, and one receiver that has seen it.
pub(crate) fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let watchers = Watchers {
        senders: 1,
        ..Watchers::default()
    };
    let sender = Sender(Arc::new(Shared {
        value: RwLock::new(value),
        watchers: Mutex::new(watchers),
    }));
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Sender<T> {
    /// Changes the value; receivers are told when `modify` says so, which is also returned.
    pub(crate) fn modify(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let mut value = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
        if !modify(&mut value) {
            return false;
        }
        // The version moves while the value is locked: who reads both never sees one without the other.
        let woken = {
            let mut watchers = self.0.watchers();
            watchers.version += 1;
            std::mem::take(&mut watchers.waiting)
        };
        drop(value);
        woken.into_values().for_each(Waker::wake);
        true
    }

    /// The value now.
    pub(crate) fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.0.read()
    }

    /// A receiver that has seen the value as it is now.
    pub(crate) fn subscribe(&self) -> Receiver<T> {
        let mut watchers = self.0.watchers();
        watchers.receivers += 1;
        watchers.next_id += 1;
        Receiver {
            shared: self.0.clone(),
            id: watchers.next_id,
            seen: watchers.version,
        }
    }

    #[cfg(madsim)]
    pub(crate) fn has_receivers(&self) -> bool {
        self.0.watchers().receivers > 0
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.watchers().senders += 1;
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let woken = {
            let mut watchers = self.0.watchers();
            watchers.senders -= 1;
            if watchers.senders > 0 {
                return;
            }
            std::mem::take(&mut watchers.waiting)
        };
        woken.into_values().for_each(Waker::wake);
    }
}

impl<T> Receiver<T> {
    /// Waits for a value not seen yet. `false` when no sender is left.
    pub(crate) async fn changed(&mut self) -> bool {
        poll_fn(|context| {
            let mut watchers = self.shared.watchers();
            if watchers.version != self.seen {
                self.seen = watchers.version;
                return Poll::Ready(true);
            }
            if watchers.senders == 0 {
                return Poll::Ready(false);
            }
            watchers.waiting.insert(self.id, context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The value now, not marked as seen.
    #[cfg(any(test, madsim))]
    pub(crate) fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.shared.read()
    }

    /// The value now, marked as seen.
    #[cfg(madsim)]
    pub(crate) fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.shared.read();
        self.seen = self.shared.watchers().version;
        value
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        let mut watchers = self.shared.watchers();
        watchers.receivers += 1;
        watchers.next_id += 1;
        Self {
            shared: self.shared.clone(),
            id: watchers.next_id,
            seen: self.seen,
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut watchers = self.shared.watchers();
        watchers.receivers -= 1;
        watchers.waiting.remove(&self.id);
    }
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_receiver_sees_every_change_once() {
        let (sender, mut receiver) = channel(1);
        assert_eq!(receiver.changed().now_or_never(), None);
        sender.modify(|value| {
            *value = 2;
            true
        });
        assert_eq!(receiver.changed().now_or_never(), Some(true));
        assert_eq!(*receiver.borrow(), 2);
        assert_eq!(receiver.changed().now_or_never(), None);
    }

    #[test]
    fn a_change_that_is_none_wakes_nobody() {
        let (sender, mut receiver) = channel(1);
        sender.modify(|_| false);
        assert_eq!(receiver.changed().now_or_never(), None);
    }

    #[test]
    fn the_last_sender_ends_the_watch_after_its_last_value() {
        let (sender, mut receiver) = channel(1);
        let other = sender.clone();
        drop(sender);
        assert_eq!(receiver.changed().now_or_never(), None);
        other.modify(|_| true);
        drop(other);
        assert_eq!(receiver.changed().now_or_never(), Some(true));
        assert_eq!(receiver.changed().now_or_never(), Some(false));
    }

    #[test]
    fn a_waiting_receiver_is_woken() {
        let (sender, mut receiver) = channel(1);
        let mut waiting = Box::pin(receiver.changed());
        assert_eq!((&mut waiting).now_or_never(), None);
        sender.modify(|_| true);
        assert_eq!(waiting.now_or_never(), Some(true));
    }
}
