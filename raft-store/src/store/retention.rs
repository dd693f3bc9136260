//! Giving up the oldest segments of the log.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{Store, StoreError};
use crate::{
    blocking::{Work, blocking},
    engine::EngineError,
    log::{PurgePoints, ReadError, RecycleError},
    replica::PurgeError,
};

/// Why segments stay.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// A shard's state still refers to a record in them: it must be copied forward, or trimmed, first.
    #[error("shard {shard} still needs entry {oldest}; the segments hold its entries up to {last}")]
    Needed {
        /// The shard.
        shard: u32,
        /// The oldest entry it needs.
        oldest: u64,
        /// The last entry in the segments.
        last: u64,
    },
    /// A shard with entries in them is not open here, so nobody knows what it needs.
    #[error("shard {0} is not open")]
    NotOpen(u32),
    /// A replica does not let go of its log yet.
    #[error(transparent)]
    Purge(#[from] PurgeError),
    /// The state could not be asked.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log could not be recycled.
    #[error(transparent)]
    Recycle(#[from] RecycleError),
}

impl Store {
    /// Gives up the oldest closed segments, as many as nothing needs any more; returns the last one of them.
    pub async fn recycle_unneeded(&self) -> Result<Option<u64>, RetentionError> {
        let mut oldest = BTreeMap::new();
        let mut through = None;
        'segments: for segment in self.log().segments().iter().filter(|segment| !segment.open) {
            for (&shard, &(_, last)) in &segment.shards {
                let needed = match oldest.entry(shard) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(unknown) => *unknown.insert(self.oldest_needed(shard).await?),
                };
                if needed <= last {
                    break 'segments;
                }
            }
            through = Some(segment.sequence);
        }
        if let Some(sequence) = through {
            self.recycle_through(sequence).await?;
        }
        Ok(through)
    }

    /// Gives up all closed segments up to `sequence`, if nothing in them is needed any more: every shard's entries in
    /// them are applied, flushed, and older than the oldest entry its state refers to, or a snapshot under way. Returns the purge points.
    pub async fn recycle_through(&self, sequence: u64) -> Result<PurgePoints, RetentionError> {
        let _recycling = self.inner.traffic.recycling().await;
        let highest = self.log().highest_through(sequence);
        for (shard, last) in highest {
            let oldest = self.oldest_needed(shard).await?;
            if oldest <= last {
                return Err(RetentionError::Needed { shard, oldest, last });
            }
        }
        let points = self.log().purge_points_through(sequence)?;
        let mut purges = Vec::new();
        for (shard, last) in &points {
            let replica = self.replica(*shard).ok_or(RetentionError::NotOpen(*shard))?;
            purges.push((replica, last.index));
        }
        for (replica, last) in purges {
            replica.purge_to(last).await?;
        }
        self.log().recycle_through(sequence).await?;
        Ok(points)
    }

    /// The oldest entry that a shard's state, or a snapshot of it under way, refers to; else the first that is not applied.
    async fn oldest_needed(&self, shard: u32) -> Result<u64, RetentionError> {
        let replica = self.replica(shard).ok_or(RetentionError::NotOpen(shard))?;
        // Not on a thread of the runtime: a snapshot that is being put in has to be waited for.
        let oldest = blocking(Work::Read, move || replica.oldest_needed()).await;
        plant!(SegmentRecycledEarly => return Ok(u64::MAX));
        Ok(oldest?)
    }
}

impl From<EngineError> for StoreError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Corrupt(what) => StoreError::Corrupt(what),
            EngineError::Failed(what) => StoreError::Failed(what),
            EngineError::Newer(what) => StoreError::Newer(what),
        }
    }
}
