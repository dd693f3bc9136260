//! The open segment: beginning one, adding batches, syncing. Owned by the writer; every call blocks.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::segment::BATCH_HEAD_BYTES;
use super::segment::SegmentHead;
use super::segment::batch_bytes;
use super::segment::encode_batch;
use super::segment::segment_name;
use super::space::Space;
use crate::disk::DiskFile;

/// The segment being written.
pub(super) struct Current {
    pub(super) sequence: u64,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) len: u64,
    /// Where the next batch goes.
    pub(super) end: u64,
    /// Number of the last batch written.
    pub(super) number: u64,
    /// Number of the last whole batch: what a crash tore has a number, too, and is not there after the next one.
    pub(super) whole: u64,
    /// Number of the last whole batch that was synced, and where it ends. Never that of a torn one: the next batch says that
    /// this one is there.
    pub(super) durable: u64,
    pub(super) durable_end: u64,
    /// A batch behind the last one with records proves that it was synced.
    pub(super) marked: bool,
}

impl Current {
    /// Bytes of records that still fit as one batch.
    pub(super) fn room(&self) -> u64 {
        (self.len - self.end).saturating_sub(BATCH_HEAD_BYTES as u64 + super::segment::BATCH_ALIGN)
    }
}

/// A segment that has been closed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closed {
    pub(super) sequence: u64,
    pub(super) end: u64,
}

/// The files the writer writes.
pub(super) struct Files {
    pub(super) space: Space,
    pub(super) current: Current,
    pub(super) bytes_written: u64,
    buffer: Vec<u8>,
}

impl Files {
    pub(super) fn new(space: Space, current: Current) -> Files {
        Files {
            space,
            current,
            bytes_written: 0,
            buffer: Vec::new(),
        }
    }

    /// Adds a batch; returns the offset of its first record. Not durable before [`Files::sync`].
    pub(super) fn write(&mut self, records: &[Bytes]) -> io::Result<u32> {
        let current = &mut self.current;
        let number = current.number + 1;
        self.buffer.clear();
        let directory = self.space.options.directory;
        encode_batch(
            &mut self.buffer,
            directory,
            current.sequence,
            number,
            current.durable,
            records,
        );
        let end = current.end + self.buffer.len() as u64;
        assert!(
            end <= current.len,
            "a batch was cut that does not fit its segment"
        );
        current.file.write_at(&self.buffer, current.end)?;
        let first = current.end as u32 + BATCH_HEAD_BYTES as u32;
        current.end = end;
        current.number = number;
        current.whole = number;
        current.marked = records.is_empty();
        self.bytes_written += self.buffer.len() as u64;
        Ok(first)
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        plant!(SyncDropped => (), else self.current.file.sync()?);
        self.space.syncs += 1;
        self.current.durable = self.current.whole;
        self.current.durable_end = self.current.end;
        Ok(())
    }

    /// Writes an empty batch that proves the one before it durable. It need not be synced itself.
    pub(super) fn mark(&mut self) -> io::Result<()> {
        if self.current.len - self.current.end >= BATCH_HEAD_BYTES as u64 {
            self.write(&[])?;
        }
        self.current.marked = true;
        Ok(())
    }

    /// Begins the next segment with the shards' heads and room for a batch of `need` bytes of records.
    pub(super) fn roll(&mut self, heads: &[Bytes], need: u64) -> io::Result<Closed> {
        let old = &self.current;
        let closed = Closed {
            sequence: old.sequence,
            end: old.durable_end,
        };
        let head = SegmentHead {
            sequence: old.sequence + 1,
            directory: self.space.options.directory,
            previous_end: plant!(SegmentEndNotSynced => old.end, else old.durable_end),
            previous_batch: old.number,
        };
        self.current = begin(&mut self.space, head, old.durable, heads, need)?;
        self.bytes_written += self.current.end;
        Ok(closed)
    }
}

/// Makes a segment: its content is durable before it gets its name, and the name is durable before it is used.
pub(super) fn begin(
    space: &mut Space,
    head: SegmentHead,
    durable: u64,
    heads: &[Bytes],
    need: u64,
) -> io::Result<Current> {
    let number = head.previous_batch + 1;
    let mut buffer = head.encode().to_vec();
    encode_batch(&mut buffer, head.directory, head.sequence, number, durable, heads);
    let spare = space.take(buffer.len() as u64 + batch_bytes(need))?;
    spare.file.write_at(&buffer, 0)?;
    plant!(NewSegmentNotSynced => (), else spare.file.sync()?);
    space.syncs += 1;
    space.disk.rename(&spare.name, &segment_name(head.sequence))?;
    space.sync_dir()?;
    let end = buffer.len() as u64;
    Ok(Current {
        sequence: head.sequence,
        file: spare.file,
        len: spare.len,
        end,
        number,
        durable: number,
        durable_end: end,
        whole: number,
        marked: true,
    })
}
