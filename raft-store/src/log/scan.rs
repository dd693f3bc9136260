//! Reading a segment from its start, batch by batch, and deciding where it ends.
//!
//! A closed segment must be good up to the end that the next segment's head names. The open one may end in a torn
//! tail: a last batch that was being written when the machine stopped, and was never acknowledged. It is told from
//! corruption by the batch heads behind it: each names the last batch that was synced when it was written, and a batch
//! that was synced may not be missing.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;

use super::segment::BATCH_ALIGN;
use super::segment::BATCH_HEAD_BYTES;
use super::segment::BatchHead;
use super::segment::SEGMENT_HEAD_BYTES;
use super::segment::batch_bytes;
use crate::disk::DiskFile;
use crate::disk::is_unreadable;
use crate::record::Kind;
use crate::record::Record;
use crate::record::RecordHead;
use crate::record::RecordView;

/// Bytes read at once while scanning.
const WINDOW_BYTES: usize = 1 << 20;

/// Which segment to scan, and what is known about it.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) directory: u64,
    pub(super) sequence: u64,
    /// The number of the last batch before the segment.
    pub(super) previous_batch: u64,
    /// Where it ends; `None` for the last segment.
    pub(super) end: Option<u64>,
}

/// What a scan found.
#[derive(Debug)]
pub(super) struct Scanned {
    /// Where the good batches end.
    pub(super) end: u64,
    /// The number of the last good batch.
    pub(super) last_batch: u64,
    /// The highest batch number seen anywhere in the segment, torn batches included.
    pub(super) highest_batch: u64,
    /// From here on nothing proves that it was synced.
    pub(super) unproven: u64,
    /// A torn tail was left out.
    pub(super) torn: bool,
}

#[derive(Debug)]
pub(super) enum ScanError {
    Io(io::Error),
    Corrupt {
        position: u64,
        shards: Vec<u32>,
        reason: String,
    },
    /// A record of a kind that only a newer release knows.
    Newer {
        position: u64,
        kind: u8,
    },
}

/// Why there is no batch that can be read.
enum Bad {
    Reason(&'static str),
    Newer(u8),
}

impl From<&'static str> for Bad {
    fn from(reason: &'static str) -> Bad {
        Bad::Reason(reason)
    }
}

impl From<io::Error> for ScanError {
    fn from(e: io::Error) -> ScanError {
        if is_unreadable(&e) {
            return corrupt(0, "the disk cannot read the segment");
        }
        ScanError::Io(e)
    }
}

fn corrupt(position: u64, reason: impl Into<String>) -> ScanError {
    ScanError::Corrupt {
        position,
        shards: Vec::new(),
        reason: reason.into(),
    }
}

/// Gives each record of the segment's good batches to `take`, with its offset.
pub(super) fn scan(
    file: &dyn DiskFile,
    target: Target,
    mut take: impl FnMut(u32, &RecordView) -> Result<(), &'static str>,
) -> Result<Scanned, ScanError> {
    let mut window = Window::new(file, target.end)?;
    let mut at = SEGMENT_HEAD_BYTES as u64;
    let mut number = target.previous_batch;
    let mut durable = number;
    // Batches that nothing yet proves durable: number and where they start.
    let mut unproven: VecDeque<(u64, u64)> = VecDeque::new();
    let bad = loop {
        if target.end == Some(at) {
            break None;
        }
        let batch = match window.batch(at, target, number)? {
            Ok(batch) => batch,
            Err(Bad::Reason(reason)) => break Some(reason),
            Err(Bad::Newer(kind)) => return Err(ScanError::Newer { position: at, kind }),
        };
        for (offset, record) in &batch.records {
            take(*offset, record).map_err(|reason| ScanError::Corrupt {
                position: u64::from(*offset),
                shards: vec![record.shard],
                reason: reason.to_owned(),
            })?;
        }
        number = batch.head.number;
        durable = durable.max(batch.head.durable);
        unproven.push_back((number, at));
        while unproven.front().is_some_and(|(number, _)| *number <= durable) {
            unproven.pop_front();
        }
        at += batch_bytes(u64::from(batch.head.bytes));
    };
    let mut highest_batch = number;
    if let Some(reason) = bad {
        if target.end.is_some() {
            return Err(window.corrupt_at(at, reason));
        }
        if at == SEGMENT_HEAD_BYTES as u64 {
            // The head batch was synced before the segment got its name.
            return Err(window.corrupt_at(at, reason));
        }
        for head in window.heads_from(at, target)? {
            let durable = plant!(TornTailAsCorruption => head.durable.max(head.number), else head.durable);
            if plant!(CorruptionAsTornTail => false, else durable > number) {
                return Err(window.corrupt_at(at, reason));
            }
            highest_batch = highest_batch.max(head.number);
        }
    }
    Ok(Scanned {
        end: at,
        last_batch: number,
        highest_batch,
        unproven: unproven.front().map_or(at, |(_, start)| *start),
        torn: highest_batch > number,
    })
}

struct Batch {
    head: BatchHead,
    records: Vec<(u32, RecordView)>,
}

/// A file, read through a buffer.
struct Window<'a> {
    file: &'a dyn DiskFile,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    fn new(file: &dyn DiskFile, end: Option<u64>) -> io::Result<Window<'_>> {
        let len = file.len()?;
        Ok(Window {
            file,
            len: end.map_or(len, |end| end.min(len)),
            start: 0,
            bytes: Vec::new(),
        })
    }

    /// `count` bytes at `at`; `None` when the segment ends first.
    fn bytes(&mut self, at: u64, count: usize) -> io::Result<Option<&[u8]>> {
        if at + count as u64 > self.len {
            return Ok(None);
        }
        let inside = at >= self.start && at + count as u64 <= self.start + self.bytes.len() as u64;
        if !inside {
            let wanted = count.max(WINDOW_BYTES).min((self.len - at) as usize);
            self.bytes.resize(wanted, 0);
            self.start = at;
            self.file.read_exact_at(&mut self.bytes, at)?;
        }
        let from = (at - self.start) as usize;
        Ok(Some(&self.bytes[from..from + count]))
    }

    /// The batch at `at`, or why there is none.
    fn batch(&mut self, at: u64, target: Target, after: u64) -> io::Result<Result<Batch, Bad>> {
        let Some(head) = self.bytes(at, BATCH_HEAD_BYTES)? else {
            return Ok(Err("no room for a batch".into()));
        };
        let Some(head) = BatchHead::parse(head, target.directory, target.sequence) else {
            return Ok(Err("no head of a batch".into()));
        };
        if head.number <= after {
            return Ok(Err("a batch of an earlier time".into()));
        }
        let first = at + BATCH_HEAD_BYTES as u64;
        let whole = batch_bytes(u64::from(head.bytes)) - BATCH_HEAD_BYTES as u64;
        let Some(bytes) = self.bytes(first, whole as usize)? else {
            return Ok(Err("a batch longer than the segment".into()));
        };
        let (bytes, padding) = bytes.split_at(head.bytes as usize);
        if padding.iter().any(|&byte| byte != 0) {
            return Ok(Err("padding is not zero".into()));
        }
        let bytes = Bytes::copy_from_slice(bytes);
        Ok(decode_batch(head, first, &bytes))
    }

    /// All heads of batches of this segment from `at` on, whether their batches are whole or not.
    fn heads_from(&mut self, at: u64, target: Target) -> io::Result<Vec<BatchHead>> {
        let mut heads = Vec::new();
        let mut at = at.next_multiple_of(BATCH_ALIGN);
        while let Some(bytes) = self.bytes(at, BATCH_HEAD_BYTES)? {
            heads.extend(BatchHead::parse(bytes, target.directory, target.sequence));
            at += BATCH_ALIGN;
        }
        Ok(heads)
    }

    /// Corruption at `at`; names the shard if a record's head still can be read there.
    fn corrupt_at(&mut self, at: u64, reason: &str) -> ScanError {
        let mut error = corrupt(at, reason);
        let record_at = at + BATCH_HEAD_BYTES as u64;
        if let (ScanError::Corrupt { shards, .. }, Ok(Some(bytes))) = (
            &mut error,
            self.bytes(record_at, crate::limits::RECORD_HEAD_BYTES),
        ) && let Ok(head) = RecordHead::parse(bytes)
        {
            shards.push(head.shard);
        }
        error
    }
}

fn decode_batch(head: BatchHead, first: u64, bytes: &Bytes) -> Result<Batch, Bad> {
    let mut records = Vec::new();
    let (mut at, mut crc) = (0, 0);
    while at < bytes.len() {
        if let Some(kind) = Record::newer_kind(&bytes[at..]) {
            return Err(Bad::Newer(kind));
        }
        let record_head = RecordHead::parse(&bytes[at..]).map_err(|corrupt| corrupt.0)?;
        let end = at + record_head.record_bytes();
        if end > bytes.len() {
            return Err("a record longer than its batch".into());
        }
        let record = Record::decode(&bytes.slice(at..end)).map_err(|corrupt| corrupt.0)?;
        if let (Kind::Imported, Some(kind)) = (record.kind, Record::newer_kind(&record.payload)) {
            return Err(Bad::Newer(kind));
        }
        crc = crc32c::crc32c_append(crc, &bytes[at + 4..at + 8]);
        records.push((first as u32 + at as u32, record));
        at = end;
    }
    if records.len() != head.count as usize || crc != head.records_crc {
        return Err("records and the head of their batch differ".into());
    }
    Ok(Batch { head, records })
}
