//! The shards' places in a store: taken before a replica is open, so that nobody opens it twice, and none any more once the store
//! closes.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::StoreError;
use crate::replica::Replica;

enum Slot {
    /// A replica is being opened here, or dropped.
    Taken,
    Open(Replica),
}

#[derive(Default)]
struct Places {
    slots: BTreeMap<u32, Slot>,
    closing: bool,
}

/// The places of a store.
#[derive(Default)]
pub(super) struct Slots {
    places: Mutex<Places>,
    /// Told whenever a place is not taken any more.
    settled: Notify,
}

impl Slots {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a shard's place until the value is gone.
    pub(super) fn take(&self, shard: u32) -> Result<Taken<'_>, StoreError> {
        let mut places = self.places();
        if places.closing {
            return Err(StoreError::Closing);
        }
        if places.slots.contains_key(&shard) {
            return Err(StoreError::AlreadyOpen(shard));
        }
        places.slots.insert(shard, Slot::Taken);
        Ok(Taken { slots: self, shard })
    }

    /// The open replica of a shard.
    pub(super) fn replica(&self, shard: u32) -> Option<Replica> {
        match self.places().slots.get(&shard) {
            Some(Slot::Open(replica)) => Some(replica.clone()),
            _ => None,
        }
    }

    /// All open replicas.
    pub(super) fn open(&self) -> Vec<Replica> {
        let places = self.places();
        let open = |slot: &Slot| match slot {
            Slot::Open(replica) => Some(replica.clone()),
            Slot::Taken => None,
        };
        places.slots.values().filter_map(open).collect()
    }

    /// Takes a replica that was shut down off the list.
    pub(super) fn forget(&self, replica: &Replica) {
        let mut places = self.places();
        let known = places.slots.get(&replica.shard());
        if matches!(known, Some(Slot::Open(open)) if open.is(replica)) {
            places.slots.remove(&replica.shard());
        }
    }

    /// No place is taken from now on.
    pub(super) fn close(&self) {
        self.places().closing = true;
    }

    /// Waits until none is taken: what is half open would go on without a log. That takes as long as opening does: whoever has
    /// less time gives up the wait.
    pub(super) async fn settled(&self) {
        loop {
            let settled = self.settled.notified();
            let is_settled = !self
                .places()
                .slots
                .values()
                .any(|slot| matches!(slot, Slot::Taken));
            if is_settled {
                return;
            }
            settled.await;
        }
    }
}

/// Holds a shard's place while its replica opens, or is dropped.
pub(super) struct Taken<'a> {
    slots: &'a Slots,
    shard: u32,
}

impl Taken<'_> {
    /// The replica is open.
    pub(super) fn done(self, replica: Replica) {
        self.slots.places().slots.insert(self.shard, Slot::Open(replica));
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut places = self.slots.places();
        if matches!(places.slots.get(&self.shard), Some(Slot::Taken)) {
            places.slots.remove(&self.shard);
        }
        self.slots.settled.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_place_is_taken_once_and_again_when_it_is_left() {
        let slots = Slots::default();
        let taken = slots.take(1);
        assert!(taken.is_ok());
        assert!(matches!(slots.take(1), Err(StoreError::AlreadyOpen(1))));
        assert!(slots.take(2).is_ok());
        drop(taken);
        assert!(slots.take(1).is_ok());
    }

    #[test]
    fn closing_waits_for_what_is_being_opened_and_lets_nothing_else_begin() {
        let slots = Slots::default();
        let (first, second) = (slots.take(1), slots.take(2));
        slots.close();
        let mut closing = Box::pin(slots.settled());
        assert_eq!(closing.as_mut().now_or_never(), None);
        assert!(matches!(slots.take(3), Err(StoreError::Closing)));
        drop(first);
        assert_eq!(closing.as_mut().now_or_never(), None);
        drop(second);
        assert_eq!(closing.as_mut().now_or_never(), Some(()));
        assert!(matches!(slots.take(1), Err(StoreError::Closing)));
    }
}
