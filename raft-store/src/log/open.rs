//! Opening a log: reads the heads of closed segments and their sidecars, scans the last segment, and makes sure that
//! what was found is durable before anyone relies on it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::LogOptions;
use super::LogStats;
use super::error::OpenError;
use super::extent::Table;
use super::files::Current;
use super::files::Files;
use super::files::begin;
use super::read::scan_closed;
use super::recent::Recent;
use super::scan::ScanError;
use super::scan::Scanned;
use super::scan::Target;
use super::scan::scan;
use super::segment::BadSegmentHead;
use super::segment::FORMAT_VERSION;
use super::segment::SEGMENT_HEAD_BYTES;
use super::segment::SegmentHead;
use super::segment::segment_name;
use super::segment::sidecar_name;
use super::shared::Inner;
use super::shared::SeenShard;
use super::shared::Segment;
use super::sidecar;
use super::space::Space;
use super::written::Written;
use crate::disk::Disk;
use crate::disk::DiskFile;
use crate::disk::is_full;
use crate::disk::is_unreadable;
use crate::limits::MAX_SEGMENT_BYTES;
use crate::limits::MIN_SEGMENT_BYTES;

/// An opened log, before its writer runs.
pub(super) struct Opened {
    pub(super) files: Files,
    pub(super) inner: Inner,
}

/// Names of the files in the log's directory, by what they are.
struct Listing {
    segments: Vec<u64>,
    sidecars: Vec<u64>,
    names: Vec<String>,
}

fn io_error(operation: &'static str, name: impl Into<String>) -> impl FnOnce(io::Error) -> OpenError {
    let name = name.into();
    move |source| OpenError::Io {
        operation,
        name,
        source,
    }
}

fn corrupt(segment: u64, position: u64, shards: Vec<u32>, reason: impl Into<String>) -> OpenError {
    OpenError::Corrupt {
        segment,
        position,
        shards,
        reason: reason.into(),
    }
}

pub(super) fn open(disk: Arc<dyn Disk>, options: LogOptions) -> Result<Opened, OpenError> {
    if options.segment_bytes < MIN_SEGMENT_BYTES || options.segment_bytes > MAX_SEGMENT_BYTES {
        return Err(OpenError::Options("segment_bytes must be from 4 KiB to 1 GiB"));
    }
    check_release(&*disk)?;
    disk.create_dir("log")
        .map_err(io_error("make directory", "log"))?;
    let listing = list(&*disk)?;
    let spares = Space::open(disk.clone(), options.clone(), &listing.names);
    let mut space = spares.map_err(io_error("take over spare segments in", "log"))?;
    let (current, written, segments) = match listing.segments.is_empty() {
        true => create(&mut space, &listing)?,
        false => recover(&mut space, &listing)?,
    };
    let made = space.has_spare() || space.make_ahead().map_err(io_error("make a segment in", "log"))?;
    let inner = Inner {
        seen: seen(&written),
        written,
        recent: Recent::new(options.cache_bytes),
        queue: Default::default(),
        queued_bytes: 0,
        recycles: Default::default(),
        segments,
        pinned: None,
        stats: LogStats {
            syncs: space.syncs,
            ..LogStats::default()
        },
        spare_bytes: space.spare_bytes(),
        full: !made,
        stuck: false,
        reported: false,
        closing: false,
        stopped: None,
    };
    Ok(Opened {
        files: Files::new(space, current),
        inner,
    })
}

/// Refuses a log that a newer release has written to, and touches nothing.
pub(super) fn check_release(disk: &dyn Disk) -> Result<(), OpenError> {
    let Some(&last) = list(disk)?.segments.last() else {
        return Ok(());
    };
    let name = segment_name(last);
    let file = disk.open(&name, false).map_err(io_error("open", name))?;
    let mut bytes = [0; SEGMENT_HEAD_BYTES];
    // What else may be wrong with it is found when the log is opened.
    match file
        .read_exact_at(&mut bytes, 0)
        .map(|()| SegmentHead::parse(&bytes))
    {
        Ok(Err(BadSegmentHead::Version(found))) => Err(OpenError::Version {
            segment: last,
            found,
            known: FORMAT_VERSION,
        }),
        _ => Ok(()),
    }
}

fn seen(written: &Written) -> BTreeMap<u32, SeenShard> {
    let shards = written.shards.iter();
    shards
        .map(|(&id, shard)| {
            (
                id,
                SeenShard {
                    state: shard.state.clone(),
                    committed_unsaved: false,
                },
            )
        })
        .collect()
}

fn list(disk: &dyn Disk) -> Result<Listing, OpenError> {
    let names = disk.list("log").map_err(io_error("list", "log"))?;
    let numbers = |suffix: &str| {
        let stems = names.iter().filter_map(|name| name.strip_suffix(suffix));
        let mut numbers: Vec<u64> = stems.filter_map(|stem| stem.parse().ok()).collect();
        numbers.sort();
        numbers
    };
    let (segments, sidecars) = (numbers(".seg"), numbers(".idx"));
    Ok(Listing {
        segments,
        sidecars,
        names,
    })
}

fn create(
    space: &mut Space,
    listing: &Listing,
) -> Result<(Current, Written, BTreeMap<u64, Segment>), OpenError> {
    if let Some(&segment) = listing.sidecars.first() {
        return Err(corrupt(segment, 0, Vec::new(), "all segments are missing"));
    }
    let directory = space.options.directory;
    let head = SegmentHead {
        sequence: 1,
        directory,
        previous_end: 0,
        previous_batch: 0,
    };
    let current = begin(space, head, 0, &[], 0).map_err(io_error("make", segment_name(1)))?;
    let segments = BTreeMap::from([(
        1,
        Segment {
            len: current.len,
            end: None,
        },
    )]);
    Ok((current, Written::default(), segments))
}

fn recover(
    space: &mut Space,
    listing: &Listing,
) -> Result<(Current, Written, BTreeMap<u64, Segment>), OpenError> {
    let last = check_sequence(listing)?;
    let mut written = Written::default();
    let mut segments = BTreeMap::new();
    let mut before: Option<(u64, u64, SegmentHead)> = None;
    for &sequence in &listing.segments {
        let file = open_segment(space, sequence)?;
        let head = read_head(&*file, space.options.directory, sequence)?;
        if let Some((sequence, len, closed)) = before {
            let end = head.previous_end;
            let index = read_closed(space, sequence, &closed, end)?;
            let at_end = |reason| corrupt(sequence, end, Vec::new(), reason);
            written.apply_cuts(&index.cuts);
            for (shard, imported, extent) in index.extents {
                written.push_extent(shard, imported, extent).map_err(at_end)?;
            }
            segments.insert(sequence, Segment { len, end: Some(end) });
        }
        let len = file.len().map_err(io_error("measure", segment_name(sequence)))?;
        before = Some((sequence, len, head));
    }
    let (_, len, head) = before.expect("there is a segment");
    let file = open_segment(space, last)?;
    let scanned = scan_last(&*file, &head, &mut written)?;
    make_durable(space, &*file, last, &scanned)?;
    written
        .check()
        .map_err(|(shard, near)| corrupt(near.max(1), 0, vec![shard], "entries are missing"))?;
    forget_unfounded_commits(&mut written);
    segments.insert(last, Segment { len, end: None });
    let current = Current {
        sequence: last,
        file,
        len,
        end: scanned.end,
        number: scanned.highest_batch,
        durable: scanned.last_batch,
        durable_end: scanned.end,
        whole: scanned.last_batch,
        marked: false,
    };
    Ok((current, written, segments))
}

/// Checks that no segment is missing between the oldest and the last; returns the last.
fn check_sequence(listing: &Listing) -> Result<u64, OpenError> {
    for pair in listing.segments.windows(2) {
        if pair[0] + 1 != pair[1] {
            return Err(corrupt(pair[0] + 1, 0, Vec::new(), "the segment is missing"));
        }
    }
    let last = *listing.segments.last().expect("there is a segment");
    match listing.sidecars.last() {
        // A segment gets its sidecar when the next one exists.
        Some(&indexed) if indexed >= last => {
            Err(corrupt(indexed + 1, 0, Vec::new(), "the segment is missing"))
        }
        _ => Ok(last),
    }
}

fn open_segment(space: &Space, sequence: u64) -> Result<Arc<dyn DiskFile>, OpenError> {
    let name = segment_name(sequence);
    space.disk.open(&name, false).map_err(io_error("open", name))
}

fn read_head(file: &dyn DiskFile, directory: u64, sequence: u64) -> Result<SegmentHead, OpenError> {
    let mut bytes = [0; SEGMENT_HEAD_BYTES];
    match file.read_exact_at(&mut bytes, 0) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(corrupt(sequence, 0, Vec::new(), "shorter than a segment's head"));
        }
        Err(e) if is_unreadable(&e) => {
            return Err(corrupt(
                sequence,
                0,
                Vec::new(),
                "the disk cannot read the segment's head",
            ));
        }
        other => other.map_err(io_error("read", segment_name(sequence)))?,
    }
    let head = SegmentHead::parse(&bytes).map_err(|bad| match bad {
        BadSegmentHead::Corrupt(reason) => corrupt(sequence, 0, Vec::new(), reason),
        BadSegmentHead::Version(found) => OpenError::Version {
            segment: sequence,
            found,
            known: FORMAT_VERSION,
        },
    })?;
    if head.directory != directory {
        let found = head.directory;
        return Err(OpenError::OtherDirectory {
            segment: sequence,
            expected: directory,
            found,
        });
    }
    if head.sequence != sequence {
        return Err(corrupt(sequence, 0, Vec::new(), "the head of another segment"));
    }
    Ok(head)
}

/// What a closed segment's sidecar says; when it is missing or bad, what a scan says, and the sidecar is made again.
fn read_closed(
    space: &mut Space,
    sequence: u64,
    head: &SegmentHead,
    end: u64,
) -> Result<sidecar::Sidecar, OpenError> {
    let directory = space.options.directory;
    let name = sidecar_name(sequence);
    let read = match space.disk.open(&name, false) {
        Ok(file) => match sidecar::read(&*file, directory, sequence) {
            Err(e) if is_unreadable(&e) => Ok(None),
            read => read,
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    };
    let found = read.map_err(io_error("read", name.clone()))?;
    if let Some(found) = found.filter(|found| found.end == end) {
        return Ok(found);
    }
    tracing::warn!(segment = sequence, "no good index sidecar; scanning the segment");
    let file = open_segment(space, sequence)?;
    let scanned = scan_closed(&*file, directory, sequence, end).map_err(|e| scan_error(sequence, e))?;
    let bytes = sidecar::encode(directory, head.sequence, end, &scanned, &scanned.cuts);
    let kept = match write_sidecar(space, &name, &bytes) {
        Ok(()) => true,
        Err(e) if is_full(&e) => false,
        Err(e) => return Err(io_error("write", name)(e)),
    };
    let mut slot = 0;
    let mut extents = Vec::new();
    for (shard, imported, extent) in scanned.extents_in(sequence) {
        let mut extent = extent.clone();
        if kept {
            extent.table = Table::Sidecar { slot };
        }
        slot += extent.count as u32;
        extents.push((shard, imported, extent));
    }
    Ok(sidecar::Sidecar {
        end,
        extents,
        cuts: scanned.cuts,
    })
}

/// Writes a sidecar; when there is no room for it, leaves none.
pub(super) fn write_sidecar(space: &mut Space, name: &str, bytes: &[u8]) -> io::Result<()> {
    let file = space.disk.open(name, true)?;
    let written = file
        .set_len(0)
        .and_then(|()| file.write_at(bytes, 0))
        .and_then(|()| file.sync());
    space.syncs += 1;
    if let Err(e) = written {
        if is_full(&e) {
            space.disk.remove(name)?;
        }
        return Err(e);
    }
    // The name need not be durable: a missing sidecar is made again.
    Ok(())
}

fn scan_error(segment: u64, e: ScanError) -> OpenError {
    match e {
        ScanError::Io(source) => io_error("read", segment_name(segment))(source),
        ScanError::Corrupt {
            position,
            shards,
            reason,
        } => corrupt(segment, position, shards, reason),
        ScanError::Newer { position, kind } => OpenError::Kind {
            segment,
            position,
            kind,
        },
    }
}

fn scan_last(file: &dyn DiskFile, head: &SegmentHead, written: &mut Written) -> Result<Scanned, OpenError> {
    let sequence = head.sequence;
    let (directory, previous_batch) = (head.directory, head.previous_batch);
    let target = Target {
        directory,
        sequence,
        previous_batch,
        end: None,
    };
    let scanned = scan(file, target, |offset, record| {
        written.take(sequence, offset, record)
    });
    let scanned = scanned.map_err(|e| scan_error(sequence, e))?;
    if scanned.torn {
        tracing::info!(
            segment = sequence,
            position = scanned.end,
            "dropped a torn tail that was never acknowledged"
        );
    }
    Ok(scanned)
}

/// What was read may so far only be in the page cache: of a process that was killed before its sync, or whose sync
/// failed, after which another sync proves nothing. So what is not proven durable is written again, and synced.
fn make_durable(
    space: &mut Space,
    file: &dyn DiskFile,
    last: u64,
    scanned: &Scanned,
) -> Result<(), OpenError> {
    let name = segment_name(last);
    let unproven = plant!(PageCacheBelievedAtRestart => scanned.end, else scanned.unproven);
    let mut tail = vec![0; (scanned.end - unproven) as usize];
    match file.read_exact_at(&mut tail, unproven) {
        Err(e) if is_unreadable(&e) => {
            let reason = "the disk cannot read the segment";
            return Err(corrupt(last, unproven, Vec::new(), reason));
        }
        other => other.map_err(io_error("read", name.clone()))?,
    }
    file.write_at(&tail, unproven)
        .map_err(io_error("write", name.clone()))?;
    file.sync().map_err(io_error("sync", name))?;
    space.syncs += 1;
    space.sync_dir().map_err(io_error("sync directory", "log"))
}

/// A shard cannot be committed beyond its last entry.
fn forget_unfounded_commits(written: &mut Written) {
    for shard in written.shards.values_mut() {
        let state = &mut shard.state;
        if state
            .committed
            .is_some_and(|committed| state.last.is_none_or(|last| committed.index > last.index))
        {
            state.committed = None;
        }
    }
}
