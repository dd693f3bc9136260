//! What of the log must stay because a snapshot is under way, and for how long at most.
//!
//! A hold is given up by itself: when its transfer has not moved for a while, when it was held for too long or while too
//! much was written, and when the disk has no room. Then the transfer fails where it misses something, and begins anew; the
//! records that have arrived need not be sent again. Only what is all there, and being installed, is kept for as long as that
//! takes: nobody would ask for it again before the state that refers to it is in use.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    limits::{SNAPSHOT_HOLD_BYTES, SNAPSHOT_IMAGE_MS, SNAPSHOT_STALL_MS},
    log::NodeLog,
    runtime::{Moment, now},
};

struct Held {
    /// The first record that must stay.
    from: u64,
    /// A hold counts from when its transfer first moves: one that only tries, again and again, holds nothing.
    moved: Option<Moment>,
    /// A sender's hold ends some time, and some bytes, after this.
    begun: Option<(Moment, u64)>,
    /// Counts whatever else is so.
    pinned: bool,
}

/// The holds of one shard.
#[derive(Default)]
pub(super) struct Holds(Mutex<(u64, BTreeMap<u64, Held>)>);

impl Holds {
    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Held>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first record that must stay, if any must.
    pub(super) fn oldest(&self, log: &NodeLog) -> Option<u64> {
        if self.lock().1.is_empty() {
            return None;
        }
        if !log.has_room() {
            return self.first(|held| held.pinned);
        }
        self.oldest_at(now(), log.stats().bytes_written)
    }

    /// The same at a moment when so many bytes were written to the log.
    pub(super) fn oldest_at(&self, at: Moment, written: u64) -> Option<u64> {
        let within = |since: Moment, ms: u64| at.saturating_duration_since(since) < Duration::from_millis(ms);
        let counts = |held: &Held| {
            held.pinned
                || held.moved.is_some_and(|moved| within(moved, SNAPSHOT_STALL_MS))
                    && held.begun.is_none_or(|(moment, bytes)| {
                        within(moment, SNAPSHOT_IMAGE_MS)
                            && written.saturating_sub(bytes) < SNAPSHOT_HOLD_BYTES
                    })
        };
        self.first(counts)
    }

    fn first(&self, counts: impl Fn(&Held) -> bool) -> Option<u64> {
        let held = self.lock();
        let counting = held.1.values().filter(|held| counts(held));
        counting.map(|held| held.from).min()
    }

    fn take(self: &Arc<Self>, new: Held) -> Hold {
        let mut held = self.lock();
        held.0 += 1;
        let number = held.0;
        held.1.insert(number, new);
        Hold {
            holds: self.clone(),
            number,
        }
    }

    /// For a sender: what it has not sent yet.
    pub(super) fn to_send(self: &Arc<Self>, from: u64, log: &NodeLog) -> Hold {
        self.take(Held {
            from,
            moved: None,
            begun: Some((now(), log.stats().bytes_written)),
            pinned: false,
        })
    }

    /// For a receiver: what it got, which its state does not refer to yet.
    pub(super) fn to_keep(self: &Arc<Self>, from: u64) -> Hold {
        self.take(Held {
            from,
            moved: Some(now()),
            begun: None,
            pinned: false,
        })
    }
}

/// Keeps records from being given up; until it is dropped, or given up itself.
pub(crate) struct Hold {
    holds: Arc<Holds>,
    number: u64,
}

impl Hold {
    /// The transfer has moved: what lies before `from` may go.
    pub(crate) fn moved(&self, from: u64) {
        if let Some(held) = self.holds.lock().1.get_mut(&self.number) {
            held.from = held.from.max(from);
            held.moved = Some(now());
        }
    }

    /// From now on it counts, however long it takes and however full the disk is; or, from now on, it does not.
    pub(crate) fn pin(&self, pinned: bool) {
        if let Some(held) = self.holds.lock().1.get_mut(&self.number) {
            held.pinned = pinned;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.lock().1.remove(&self.number);
    }
}
