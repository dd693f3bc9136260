//! Records that are stored here and cannot be read, for as long as they are not repaired.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{limits::MAX_DAMAGES, log::ReadError};

/// A stored record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Whose record.
    pub shard: u32,
    /// Its index in the shard's log.
    pub index: u64,
    /// Where it stands: the segment, and the byte in it.
    pub segment: u64,
    /// See `segment`.
    pub position: u64,
    /// What is wrong with it.
    pub reason: String,
}

#[derive(Default)]
struct Known {
    open: BTreeMap<(u32, u64), Damage>,
    repaired: u64,
}

/// What is known of a store's damage.
#[derive(Default)]
pub(crate) struct Damages {
    known: Mutex<Known>,
    /// One record is repaired at a time.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

impl Damages {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what a read has found, if it is damage. What is one too many is found again when others are repaired; of each
    /// shard one is always known, since a node does not lead what is damaged.
    pub(crate) fn note(&self, error: &ReadError) {
        let ReadError::Corrupt {
            shard,
            index,
            segment,
            position,
            reason,
        } = error
        else {
            return;
        };
        let mut known = self.lock();
        let key = (*shard, *index);
        let of_shard = (*shard, 0)..=(*shard, u64::MAX);
        let is_full = known.open.len() >= MAX_DAMAGES && known.open.range(of_shard).next().is_some();
        if is_full || known.open.contains_key(&key) {
            return;
        }
        tracing::warn!(%error, "a stored record cannot be read; another node is asked for it");
        let damage = Damage {
            shard: *shard,
            index: *index,
            segment: *segment,
            position: *position,
            reason: reason.clone(),
        };
        known.open.insert(key, damage);
    }

    /// The record can be read again, or is not needed any more.
    pub(crate) fn gone(&self, shard: u32, index: u64) {
        self.lock().open.remove(&(shard, index));
    }

    /// A record was repaired.
    pub(crate) fn repaired(&self) {
        self.lock().repaired += 1;
    }

    pub(crate) fn list(&self) -> Vec<Damage> {
        self.lock().open.values().cloned().collect()
    }

    pub(crate) fn repairs(&self) -> u64 {
        self.lock().repaired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_damage_in_one_shard_does_not_hide_that_of_another() {
        let damages = Damages::default();
        let note = |shard, index| {
            damages.note(&ReadError::Corrupt {
                shard,
                index,
                segment: 1,
                position: 0,
                reason: "a test".into(),
            });
        };
        (0..=MAX_DAMAGES as u64).for_each(|index| note(1, index));
        note(2, 5);
        note(2, 6);
        assert_eq!(damages.list().len(), MAX_DAMAGES + 1);
        assert!(damages.list().iter().any(|damage| damage.shard == 2));
    }
}
