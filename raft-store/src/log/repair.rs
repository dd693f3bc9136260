//! Writing a record once more where it stood and can no longer be read.
//!
//! Only the very record that was written there fits: log id and length are in the index, and the record carries its own
//! checksum. Its batch, and its wrapping if it came with a snapshot, are whole again with it. Where the disk does not take
//! it, because the rest of a sector cannot be read either, it is imported instead, as records of a snapshot are.

use std::io;

use bytes::Bytes;

use super::error::LogStopped;
use super::error::ReadError;
use super::error::RepairError;
use super::error::StopReason;
use super::extent::Position;
use super::extent::Spot;
use super::shared::Inner;
use super::shared::Shared;
use crate::log_id::LogId;
use crate::record::Record;

/// Keeps a segment from being recycled until it is dropped.
struct Pin<'a>(&'a Shared);

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.0.lock().pinned = None;
    }
}

impl Shared {
    /// The log ids of the shard's records at the index that cannot be read.
    pub(super) fn damaged(&self, shard: u32, index: u64) -> Result<Vec<LogId>, ReadError> {
        let places = self.damaged_places(shard, index)?;
        Ok(places
            .into_iter()
            .map(|(_, position)| position.log_id(index))
            .collect())
    }

    fn damaged_places(&self, shard: u32, index: u64) -> Result<Vec<(u64, Position)>, ReadError> {
        let spots = self.lock().spots(shard, index);
        let mut places = Vec::new();
        for spot in spots {
            let position = match self.positions(shard, index, &spot) {
                Err(ReadError::NotFound { .. }) => continue, // recycled meanwhile
                positions => positions?[0],
            };
            let segment = spot.segment();
            if let Err(ReadError::Corrupt { .. }) = self.fetch(shard, index, &spot, 0) {
                places.push((segment, position));
            }
        }
        Ok(places)
    }

    /// Writes the record wherever it should stand and cannot be read.
    pub(super) fn rewrite(&self, shard: u32, record: &Bytes) -> Result<(), RepairError> {
        let view = Record::decode(record).map_err(|_| RepairError::Misfit)?;
        let id = view.log_id;
        if !view.kind.is_entry() || view.shard != shard {
            return Err(RepairError::Misfit);
        }
        for (segment, position) in self.damaged_places(shard, id.index)? {
            if position.log_id(id.index) != id {
                continue; // what an earlier leader had there
            }
            if position.bytes as usize != record.len() {
                return Err(RepairError::Misfit);
            }
            self.rewrite_at(shard, id.index, segment, position, record)?;
        }
        Ok(())
    }

    fn rewrite_at(
        &self,
        shard: u32,
        index: u64,
        segment: u64,
        position: Position,
        record: &Bytes,
    ) -> Result<(), RepairError> {
        let Some(_pin) = self.pin(segment)? else {
            return Ok(()); // recycled meanwhile
        };
        let disk = |source| RepairError::Disk { segment, source };
        let file = self.handles.segment(segment).map_err(disk)?;
        // A place that cannot be written stays as it is: damaged.
        file.write_at(record, u64::from(position.offset)).map_err(disk)?;
        if let Err(error) = file.sync() {
            self.stop(
                StopReason::failed("syncing a repaired record", &error),
                Vec::new(),
            );
            return Err(disk(error));
        }
        match self.load(shard, index, segment, &[position], 0) {
            Ok(_) => Ok(()),
            Err(_) => Err(disk(io::Error::other(
                "it cannot be read after it was written once more",
            ))),
        }
    }

    fn pin(&self, segment: u64) -> Result<Option<Pin<'_>>, LogStopped> {
        let mut inner = self.lock();
        if let Some(reason) = &inner.stopped {
            return Err(LogStopped(reason.clone()));
        }
        if !inner.segments.contains_key(&segment) {
            return Ok(None);
        }
        assert!(
            inner.pinned.replace(segment).is_none(),
            "one record is repaired at a time"
        );
        Ok(Some(Pin(self)))
    }
}

impl Inner {
    /// Every place of the index that is read: of the shard's own entry, and of one that came with a snapshot. Below the purge
    /// point that one alone is known to be what was agreed.
    fn spots(&self, shard: u32, index: u64) -> Vec<Spot> {
        let Some(written) = self.written.shards.get(&shard) else {
            return Vec::new();
        };
        let purged = self.seen.get(&shard).and_then(|seen| seen.state.purged);
        let is_purged = purged.is_some_and(|purged| index <= purged.index);
        let imported = written.imported.find(index);
        let own = written
            .entries
            .find(index, 1)
            .filter(|_| !is_purged || imported.is_none());
        own.into_iter().chain(imported).collect()
    }
}
