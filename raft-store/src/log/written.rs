//! What the segments say: the state of each shard and where its entries are, as a pure function of the records.
//!
//! The same function runs over records just written and over records found when a log is opened, so what is believed
//! before a crash and after it cannot differ.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::ShardState;
use super::extent::Extent;
use super::extent::Extents;
use super::extent::Imported;
use super::extent::Position;
use super::segment::decode_shard_head;
use crate::limits::RECORD_HEAD_BYTES;
use crate::log_id::LogId;
use crate::record::Kind;
use crate::record::RecordHead;
use crate::record::RecordView;

/// One shard, as the records tell it.
#[derive(Clone, Debug, Default)]
pub(super) struct WrittenShard {
    pub(super) state: ShardState,
    pub(super) entries: Extents,
    pub(super) imported: Imported,
}

/// What a segment's records take away from the segments before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cut {
    /// Everything of the shard.
    pub(super) dropped: bool,
    /// Entries from this index on.
    pub(super) from: Option<u64>,
}

/// All shards, as the records tell them.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    pub(super) shards: BTreeMap<u32, WrittenShard>,
    /// Of the segment that is being written or scanned.
    pub(super) cuts: BTreeMap<u32, Cut>,
}

impl Written {
    /// Takes in a record that stands at `offset` of a segment.
    ///
    /// # Errors
    ///
    /// What is wrong with a record that cannot follow those before it.
    pub(super) fn take(
        &mut self,
        segment: u64,
        offset: u32,
        record: &RecordView,
    ) -> Result<(), &'static str> {
        let id = record.log_id;
        if record.kind == Kind::ReplicaDropped {
            self.shards.remove(&record.shard);
            self.cuts.insert(
                record.shard,
                Cut {
                    dropped: true,
                    from: None,
                },
            );
            return Ok(());
        }
        let shard = self.shards.entry(record.shard).or_default();
        match record.kind {
            Kind::Normal | Kind::Blank | Kind::Membership => {
                let bytes = (RECORD_HEAD_BYTES + record.payload.len()) as u32;
                if shard.state.last.is_some_and(|last| last.index + 1 != id.index) {
                    return Err("an entry that does not follow the one before it");
                }
                shard.entries.push(
                    segment,
                    id.index,
                    Position {
                        offset,
                        bytes,
                        term: id.term,
                        node: id.node,
                    },
                )?;
                shard.state.last = Some(id);
            }
            Kind::Imported => {
                let head = RecordHead::parse(&record.payload).map_err(|corrupt| corrupt.0)?;
                let position = Position {
                    offset: offset + RECORD_HEAD_BYTES as u32,
                    bytes: record.payload.len() as u32,
                    term: head.log_id.term,
                    node: head.log_id.node,
                };
                shard.imported.push(segment, head.log_id.index, position);
            }
            // Copied: the payload is part of a whole batch's memory.
            Kind::Vote => shard.state.vote = Some(Bytes::copy_from_slice(&record.payload)),
            Kind::Committed => shard.state.committed = Some(id),
            Kind::TruncateAfter => {
                let keep = (!record.payload.is_empty()).then_some(id);
                shard.state.truncate_after(keep);
                let from = keep.map_or(0, |keep| keep.index + 1);
                shard.entries.cut_from(from);
                let cut = self.cuts.entry(record.shard).or_default();
                cut.from = Some(cut.from.map_or(from, |earlier| earlier.min(from)));
            }
            Kind::Purge => shard.state.purge(id),
            Kind::ShardHead => shard.state = decode_shard_head(record)?,
            Kind::ReplicaDropped => unreachable!("handled above"),
        }
        Ok(())
    }

    /// Takes in what a closed segment takes away from those before it.
    pub(super) fn apply_cuts(&mut self, cuts: &BTreeMap<u32, Cut>) {
        for (shard, cut) in cuts {
            if cut.dropped {
                self.shards.remove(shard);
            }
            if let (Some(from), Some(shard)) = (cut.from, self.shards.get_mut(shard)) {
                shard.entries.cut_from(from);
            }
        }
    }

    /// Adds a closed segment's extent.
    pub(super) fn push_extent(
        &mut self,
        shard: u32,
        imported: bool,
        extent: Extent,
    ) -> Result<(), &'static str> {
        let shard = self.shards.entry(shard).or_default();
        match imported {
            true => shard.imported.push_extent(extent),
            false => shard.entries.push_extent(extent)?,
        }
        Ok(())
    }

    /// The first index from `from` to `last` that has neither an imported record nor, up to `own`, an entry.
    pub(super) fn first_missing(&self, shard: u32, from: u64, last: u64, own: Option<u64>) -> Option<u64> {
        let own = own.map_or(0, |own| own + 1);
        let mut next = from;
        while next <= last {
            let stored = self.shards.get(&shard).and_then(|shard| {
                let imported = shard.imported.end_of(next);
                imported.or_else(|| shard.entries.end_of(next).map(|end| end.min(own)))
            });
            match stored {
                Some(end) if end > next => next = end,
                _ => return Some(next),
            }
        }
        None
    }

    /// All extents in one segment: (shard, imported, extent).
    pub(super) fn extents_in(&self, segment: u64) -> impl Iterator<Item = (u32, bool, &Extent)> {
        self.extents()
            .filter(move |(_, _, extent)| extent.segment == segment)
    }

    /// All extents: (shard, imported, extent).
    pub(super) fn extents(&self) -> impl Iterator<Item = (u32, bool, &Extent)> {
        self.shards.iter().flat_map(|(&id, shard)| {
            let entries = shard.entries.iter().map(move |extent| (id, false, extent));
            entries.chain(shard.imported.iter().map(move |extent| (id, true, extent)))
        })
    }

    /// All extents in one segment, to change where their positions are: (shard, imported, extent).
    pub(super) fn extents_in_mut(&mut self, segment: u64) -> impl Iterator<Item = (u32, bool, &mut Extent)> {
        self.shards.iter_mut().flat_map(move |(&id, shard)| {
            let entries = shard.entries.iter_mut().map(move |extent| (id, false, extent));
            let imported = shard.imported.iter_mut().map(move |extent| (id, true, extent));
            entries
                .chain(imported)
                .filter(move |(_, _, extent)| extent.segment == segment)
        })
    }

    pub(super) fn forget_segment(&mut self, segment: u64) {
        for shard in self.shards.values_mut() {
            shard.entries.forget_segment(segment);
            shard.imported.forget_segment(segment);
        }
    }

    /// Checks that each shard's Raft log is whole. On failure: the shard, and a segment near the gap.
    pub(super) fn check(&self) -> Result<(), (u32, u64)> {
        for (&id, shard) in &self.shards {
            let behind = |last: Option<LogId>| last.map_or(0, |last| last.index + 1);
            // Where nothing was purged the first entry there ever was is here.
            let mut next = plant!(LogWithoutItsBeginning => shard.entries.iter().next().map_or(0, |first| first.first), else behind(shard.state.purged));
            let mut near = 0;
            for extent in shard.entries.iter() {
                near = extent.segment;
                if extent.first > next {
                    return Err((id, near));
                }
                next = next.max(extent.end());
            }
            if next != behind(shard.state.last) {
                return Err((id, near));
            }
        }
        Ok(())
    }
}

impl ShardState {
    pub(super) fn truncate_after(&mut self, keep: Option<LogId>) {
        let keep = match (keep, self.purged) {
            (Some(keep), Some(purged)) if keep.index < purged.index => Some(purged),
            (None, purged) => purged,
            (keep, _) => keep,
        };
        if self
            .last
            .is_some_and(|last| keep.is_none_or(|keep| last.index > keep.index))
        {
            self.last = keep;
        }
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        if self.purged.is_none_or(|purged| purged.index < upto.index) {
            self.purged = Some(upto);
        }
        if self.last.is_none_or(|last| last.index < upto.index) {
            self.last = Some(upto);
        }
    }
}
