//! Reading entries: from memory where they are recent, otherwise from their segments.
//!
//! What the disk returns is believed only when its checksum is right and it is the very record that was looked for.

use std::io;

use bytes::Bytes;

use super::error::ReadError;
use super::extent::Position;
use super::extent::Spot;
use super::extent::Table;
use super::scan;
use super::scan::ScanError;
use super::scan::Target;
use super::segment::SEGMENT_HEAD_BYTES;
use super::segment::SegmentHead;
use super::segment::sidecar_name;
use super::shared::Inner;
use super::shared::Shared;
use super::sidecar;
use super::sidecar::Place;
use super::written::Written;
use crate::disk::DiskFile;
use crate::disk::is_unreadable;
use crate::limits::READ_GAP_BYTES;
use crate::limits::READ_POSITIONS;
use crate::limits::READ_SPAN_BYTES;
use crate::log_id::LogId;
use crate::record::Record;

/// Where entries were found.
enum Found {
    Memory(Vec<Bytes>),
    Disk(Spot),
}

/// One read goes wrong in these ways; what it means depends on what happened to the segment meanwhile.
pub(super) enum Trouble {
    Io(io::Error),
    /// A position in the sidecar is not what was written.
    Position,
    /// A record of a kind that only a newer release knows.
    Newer(u8),
    Record {
        index: u64,
        position: u64,
        reason: &'static str,
    },
}

impl From<io::Error> for Trouble {
    fn from(e: io::Error) -> Trouble {
        Trouble::Io(e)
    }
}

impl Shared {
    pub(super) fn read(
        &self,
        shard: u32,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Vec<Bytes>, ReadError> {
        let mut records: Vec<Bytes> = Vec::new();
        let (mut next, mut bytes) = (from, 0);
        loop {
            let found = {
                let inner = self.lock();
                let state = inner.seen.get(&shard).map(|seen| &seen.state);
                let last = state.and_then(|state| state.last);
                let purged = state.and_then(|state| state.purged);
                if next >= to || last.is_none_or(|last| next > last.index) {
                    return Ok(records);
                }
                if purged.is_some_and(|purged| next <= purged.index) {
                    return Err(ReadError::NotFound { shard, index: next });
                }
                let to = to.min(last.map_or(0, |last| last.index + 1));
                inner.find(shard, next, to, max_bytes.saturating_sub(bytes))
            };
            let more = match found {
                None => return Err(ReadError::NotFound { shard, index: next }),
                Some(Found::Memory(more)) => more,
                Some(Found::Disk(spot)) => self.fetch(shard, next, &spot, max_bytes.saturating_sub(bytes))?,
            };
            for record in more {
                if !records.is_empty() && bytes + record.len() > max_bytes {
                    return Ok(records);
                }
                bytes += record.len();
                next += 1;
                records.push(record);
            }
            if bytes >= max_bytes {
                return Ok(records);
            }
        }
    }

    pub(super) fn read_record(&self, shard: u32, index: u64) -> Result<Bytes, ReadError> {
        let found = self.lock().find_one(shard, index);
        match found {
            None => Err(ReadError::NotFound { shard, index }),
            Some(Found::Memory(mut records)) => Ok(records.swap_remove(0)),
            Some(Found::Disk(spot)) => Ok(self.fetch(shard, index, &spot, 0)?.swap_remove(0)),
        }
    }

    pub(super) fn is_recent(&self, shard: u32, index: u64) -> bool {
        self.lock().recent.get(shard, index).is_some()
    }

    pub(super) fn log_id(&self, shard: u32, index: u64) -> Result<Option<LogId>, ReadError> {
        let spot = {
            let inner = self.lock();
            let Some(state) = inner.seen.get(&shard).map(|seen| &seen.state) else {
                return Ok(None);
            };
            if let Some(known) = [state.last, state.purged]
                .into_iter()
                .flatten()
                .find(|id| id.index == index)
            {
                return Ok(Some(known));
            }
            let inside = state.last.is_some_and(|last| index < last.index)
                && state.purged.is_none_or(|purged| index > purged.index);
            if !inside {
                return Ok(None);
            }
            if let Some(id) = inner.recent.log_id(shard, index) {
                return Ok(Some(id));
            }
            let written = inner.written.shards.get(&shard);
            written.and_then(|shard| shard.entries.find(index, 1))
        };
        let Some(spot) = spot else { return Ok(None) };
        let position = self.positions(shard, index, &spot)?[0];
        Ok(Some(position.log_id(index)))
    }

    /// The positions of a spot, healed if its sidecar is bad.
    pub(super) fn positions(&self, shard: u32, index: u64, spot: &Spot) -> Result<Vec<Position>, ReadError> {
        let trouble = match self.look_up(shard, index, spot) {
            Ok(positions) => return Ok(positions),
            Err(trouble) => trouble,
        };
        let spot = self.explain(shard, index, spot, trouble)?;
        self.look_up(shard, index, &spot).or_else(|trouble| {
            self.explain(shard, index, &spot, trouble)?;
            Err(ReadError::NotFound { shard, index })
        })
    }

    /// Reads the entries of a spot from the disk: as many as make `max_bytes`, and at least one.
    pub(super) fn fetch(
        &self,
        shard: u32,
        first: u64,
        spot: &Spot,
        max_bytes: usize,
    ) -> Result<Vec<Bytes>, ReadError> {
        let positions = self.positions(shard, first, spot)?;
        let trouble = match self.load(shard, first, spot.segment(), &positions, max_bytes) {
            Ok(records) => return Ok(records),
            Err(trouble) => trouble,
        };
        let error = match self.explain(shard, first, spot, trouble) {
            Ok(_) => return Err(ReadError::NotFound { shard, index: first }),
            Err(error) => error,
        };
        match &error {
            ReadError::Corrupt { index, .. } if *index == first => self
                .stand_in(shard, positions[0].log_id(first))
                .map_or(Err(error), |record| Ok(vec![record])),
            _ => Err(error),
        }
    }

    /// The same entry at another place: one that cannot be repaired where it stands is imported.
    fn stand_in(&self, shard: u32, id: LogId) -> Option<Bytes> {
        let spot = self.lock().written.shards.get(&shard)?.imported.find(id.index)?;
        let position = self.positions(shard, id.index, &spot).ok()?[0];
        let same = position.log_id(id.index) == id;
        let mut records = same.then(|| self.load(shard, id.index, spot.segment(), &[position], 0))?;
        records.as_mut().ok()?.pop()
    }

    fn look_up(&self, shard: u32, index: u64, spot: &Spot) -> Result<Vec<Position>, Trouble> {
        match spot {
            Spot::Memory { positions, .. } => Ok(positions.clone()),
            Spot::Sidecar { segment, slot, count } => {
                let file = self.handles.sidecar(*segment)?;
                let place = Place {
                    directory: self.options.directory,
                    segment: *segment,
                    shard,
                };
                match sidecar::read_positions(&*file, place, index, *slot, *count) {
                    Err(e) if is_unreadable(&e) => Err(Trouble::Position),
                    positions => positions?.ok_or(Trouble::Position),
                }
            }
        }
    }

    /// Reads records that lie close together with one call each time.
    pub(super) fn load(
        &self,
        shard: u32,
        first: u64,
        segment: u64,
        positions: &[Position],
        max_bytes: usize,
    ) -> Result<Vec<Bytes>, Trouble> {
        let file = self.handles.segment(segment)?;
        let mut records = Vec::new();
        let (mut at, mut bytes) = (0, 0);
        while at < positions.len() && (at == 0 || bytes < max_bytes) {
            let start = positions[at];
            let mut end = at + 1;
            bytes += start.bytes as usize;
            while end < positions.len() && bytes < max_bytes {
                let (before, next) = (positions[end - 1], positions[end]);
                let near = next.offset >= before.end() && next.offset - before.end() <= READ_GAP_BYTES;
                if !near || next.end() - start.offset > READ_SPAN_BYTES {
                    break;
                }
                bytes += next.bytes as usize;
                end += 1;
            }
            load_span(
                &*file,
                shard,
                first + at as u64,
                &positions[at..end],
                &mut records,
            )?;
            at = end;
        }
        Ok(records)
    }

    /// What a failed read means. `Ok` with a spot to try once more; the error otherwise.
    fn explain(&self, shard: u32, index: u64, spot: &Spot, trouble: Trouble) -> Result<Spot, ReadError> {
        let segment = spot.segment();
        if !self.lock().segments.contains_key(&segment) {
            // It was recycled while it was being read.
            return Err(ReadError::NotFound { shard, index });
        }
        match trouble {
            Trouble::Record {
                index,
                position,
                reason,
            } => Err(ReadError::Corrupt {
                shard,
                index,
                segment,
                position,
                reason: reason.to_owned(),
            }),
            Trouble::Io(e) if e.kind() == io::ErrorKind::NotFound => self.heal(shard, index, segment),
            Trouble::Io(source) => Err(ReadError::Io { segment, source }),
            Trouble::Newer(kind) => Err(ReadError::Newer { segment, kind }),
            Trouble::Position => self.heal(shard, index, segment),
        }
    }

    /// A closed segment's sidecar cannot be used: finds the positions again by a scan, and keeps them in memory. The
    /// sidecar goes, so that it is made again when the log is opened next.
    fn heal(&self, shard: u32, index: u64, segment: u64) -> Result<Spot, ReadError> {
        tracing::warn!(segment, "an index sidecar is bad; scanning its segment");
        let end = self.lock().segments.get(&segment).and_then(|segment| segment.end);
        let gone = ReadError::NotFound { shard, index };
        let Some(end) = end else { return Err(gone) };
        let scanned = self.scan_closed(segment, end).map_err(|e| match e {
            ScanError::Io(source) => ReadError::Io { segment, source },
            ScanError::Corrupt { position, reason, .. } => ReadError::Corrupt {
                shard,
                index,
                segment,
                position,
                reason,
            },
            ScanError::Newer { kind, .. } => ReadError::Newer { segment, kind },
        })?;
        let mut inner = self.lock();
        if !inner.segments.contains_key(&segment) {
            return Err(gone);
        }
        inner.written.adopt_positions(segment, &scanned);
        // A missing or still bad sidecar does no harm.
        drop(self.disk.remove(&sidecar_name(segment)));
        self.handles.forget(segment);
        match inner.find_one(shard, index) {
            Some(Found::Disk(spot)) => Ok(spot),
            _ => Err(gone),
        }
    }

    fn scan_closed(&self, sequence: u64, end: u64) -> Result<Written, ScanError> {
        let file = self.handles.segment(sequence)?;
        scan_closed(&*file, self.options.directory, sequence, end)
    }
}

/// Everything a closed segment says by itself.
pub(super) fn scan_closed(
    file: &dyn DiskFile,
    directory: u64,
    sequence: u64,
    end: u64,
) -> Result<Written, ScanError> {
    let mut head = [0; SEGMENT_HEAD_BYTES];
    file.read_exact_at(&mut head, 0)?;
    let head = SegmentHead::parse(&head).map_err(|_| ScanError::Corrupt {
        position: 0,
        shards: Vec::new(),
        reason: "bad head of the segment".to_owned(),
    })?;
    let mut written = Written::default();
    let target = Target {
        directory,
        sequence,
        previous_batch: head.previous_batch,
        end: Some(end),
    };
    scan::scan(file, target, |offset, record| {
        written.take(sequence, offset, record)
    })?;
    Ok(written)
}

/// What should stand there is not to be had, however often it is read.
fn is_lost(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof || is_unreadable(error)
}

fn load_span(
    file: &dyn DiskFile,
    shard: u32,
    first: u64,
    positions: &[Position],
    records: &mut Vec<Bytes>,
) -> Result<(), Trouble> {
    let (start, end) = (positions[0].offset, positions[positions.len() - 1].end());
    let mut span = vec![0; (end - start) as usize];
    match file.read_exact_at(&mut span, u64::from(start)) {
        // One of them at least; which one is found by reading each alone.
        Err(e)
            if plant!(CutSegmentBlamesTheFirst => is_unreadable(&e), else is_lost(&e))
                && positions.len() > 1 =>
        {
            for (index, position) in (first..).zip(positions) {
                load_span(file, shard, index, &[*position], records)?;
            }
            return Ok(());
        }
        Err(e) if is_lost(&e) => {
            let is_short = e.kind() == io::ErrorKind::UnexpectedEof;
            return Err(Trouble::Record {
                index: first,
                position: u64::from(start),
                reason: if is_short {
                    "the segment is too short"
                } else {
                    "the disk cannot read it"
                },
            });
        }
        other => other?,
    }
    let span = Bytes::from(span);
    for (index, position) in (first..).zip(positions) {
        let from = (position.offset - start) as usize;
        let record = span.slice(from..from + position.bytes as usize);
        let trouble = |reason| Trouble::Record {
            index,
            position: u64::from(position.offset),
            reason,
        };
        if let Some(kind) = Record::newer_kind(&record) {
            return Err(Trouble::Newer(kind));
        }
        let view =
            plant!(ReadWithoutChecksum => super::planted::unchecked(&record), else Record::decode(&record));
        let view = view.map_err(|corrupt| trouble(corrupt.0))?;
        if !view.kind.is_entry() || view.shard != shard || view.log_id != position.log_id(index) {
            return Err(trouble("another record stands in its place"));
        }
        records.push(record);
    }
    Ok(())
}

impl Inner {
    /// Finds entries of the Raft log from `from` to before `to`: some, at least one.
    fn find(&self, shard: u32, from: u64, to: u64, max_bytes: usize) -> Option<Found> {
        if self.recent.get(shard, from).is_some() {
            let mut bytes = 0;
            let mut records = Vec::new();
            for index in from..to {
                let Some(record) = self.recent.get(shard, index) else {
                    break;
                };
                bytes += record.len();
                records.push(record.clone());
                if bytes >= max_bytes {
                    break;
                }
            }
            return Some(Found::Memory(records));
        }
        // Up to where memory takes over.
        let to = self
            .recent
            .first(shard)
            .filter(|&first| first > from)
            .map_or(to, |first| first.min(to));
        let limit = (to - from).min(READ_POSITIONS);
        self.written
            .shards
            .get(&shard)?
            .entries
            .find(from, limit)
            .map(Found::Disk)
    }

    /// Finds one entry wherever it is, also below the purge point; there an imported one counts more, since only that
    /// one is known to be what was agreed.
    fn find_one(&self, shard: u32, index: u64) -> Option<Found> {
        let state = &self.seen.get(&shard)?.state;
        if state.last.is_none_or(|last| index > last.index) {
            let written = self.written.shards.get(&shard)?;
            return written.imported.find(index).map(Found::Disk);
        }
        let purged = state.purged.is_some_and(|purged| index <= purged.index);
        let written = self.written.shards.get(&shard);
        let imported = written.and_then(|written| written.imported.find(index));
        if let (true, Some(spot)) = (purged, &imported) {
            return Some(Found::Disk(spot.clone()));
        }
        if let Some(record) = self.recent.get(shard, index) {
            return Some(Found::Memory(vec![record.clone()]));
        }
        let spot = written
            .and_then(|written| written.entries.find(index, 1))
            .or(imported);
        spot.map(Found::Disk)
    }
}

impl Written {
    /// Puts the positions of a segment back into memory, from a scan of it.
    fn adopt_positions(&mut self, segment: u64, scanned: &Written) {
        for (shard, imported, extent) in self.extents_in_mut(segment) {
            let mut same = scanned
                .extents_in(segment)
                .filter(|(other, kind, _)| (*other, *kind) == (shard, imported));
            let whole = same.find(|(_, _, whole)| whole.first <= extent.first && extent.end() <= whole.end());
            if let Some((_, _, whole)) = whole
                && let Table::Memory(positions) = &whole.table
            {
                let skip = (extent.first - whole.first) as usize;
                extent.table = Table::Memory(positions[skip..skip + extent.count as usize].to_vec());
            }
        }
    }
}
