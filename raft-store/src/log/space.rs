//! Room for the next segments: spares made ahead, and purged segments kept for reuse.
//!
//! A sync into space that was written before costs about half of one that grows a file, and a disk that is full shows
//! it here, between batches, and not in the middle of one. A spare being made is `log/next-N`; once every byte of it
//! was written it is `log/spare-N`, and nothing needs to be done for it when the log is opened again.

use std::io;
use std::sync::Arc;

use super::LogOptions;
use super::segment::segment_name;
use super::segment::sidecar_name;
use crate::disk::Disk;
use crate::disk::DiskFile;
use crate::disk::is_full;
use crate::limits::MAX_SPARE_SEGMENTS;
use crate::limits::ZERO_STEP_BYTES;

/// A file that can become a segment.
pub(super) struct Spare {
    pub(super) name: String,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) len: u64,
    /// Bytes known to have been written.
    zeroed: u64,
}

/// Whether a segment can begin in this file: its head is written into a part of the first page, whose rest has to be read for that. Where
/// it cannot be, no life of the node would come further than this file.
fn can_begin(file: &dyn DiskFile, len: u64) -> bool {
    plant!(UnreadableSpareKept => return true);
    let mut page = vec![0; PAGE_BYTES.min(len as usize)];
    let read = file.read_exact_at(&mut page, 0);
    if let Err(error) = &read {
        tracing::warn!(%error, "a spare segment cannot be read and is given up; is the disk failing?");
    }
    read.is_ok()
}

/// As little as an operating system reads of a file.
const PAGE_BYTES: usize = 4_096;

pub(super) struct Space {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) options: LogOptions,
    spares: Vec<Spare>,
    next_number: u64,
    /// Counts syncs of files and directories.
    pub(super) syncs: u64,
}

impl Space {
    /// Takes over the spares that a former life left, and deletes what it left half done.
    pub(super) fn open(disk: Arc<dyn Disk>, options: LogOptions, names: &[String]) -> io::Result<Space> {
        let mut space = Space {
            disk,
            options,
            spares: Vec::new(),
            next_number: 1,
            syncs: 0,
        };
        for name in names {
            if name.starts_with("next-") {
                space.disk.remove(&format!("log/{name}"))?;
            }
            let Some(number) = name.strip_prefix("spare-").and_then(|n| n.parse::<u64>().ok()) else {
                continue;
            };
            space.next_number = space.next_number.max(number + 1);
            let name = format!("log/{name}");
            if space.spares.len() == MAX_SPARE_SEGMENTS {
                space.disk.remove(&name)?;
                continue;
            }
            let file = space.disk.open(&name, false)?;
            let len = file.len()?;
            if !space.is_worth_keeping(len) || !can_begin(&*file, len) {
                space.disk.remove(&name)?;
                continue;
            }
            space.spares.push(Spare {
                name,
                file,
                len,
                zeroed: len,
            });
        }
        Ok(space)
    }

    /// A shorter one, of the time when segments were smaller, would have to grow when it is needed, and the disk may be
    /// full then. A longer one, which a batch larger than a segment left, would take the room of other segments for as
    /// long as it waits.
    fn is_worth_keeping(&self, len: u64) -> bool {
        len == self.options.segment_bytes
    }

    pub(super) fn has_spare(&self) -> bool {
        !self.spares.is_empty()
    }

    pub(super) fn spare_bytes(&self) -> u64 {
        self.spares.iter().map(|spare| spare.len).sum()
    }

    /// Makes a spare ahead of need. False when the disk has no room for it.
    pub(super) fn make_ahead(&mut self) -> io::Result<bool> {
        let wanted = self.options.segment_bytes;
        if self.disk.free_bytes()? < wanted.saturating_add(self.options.keep_free_bytes) {
            return Ok(false);
        }
        match self.make(wanted) {
            Ok(spare) => self.spares.push(spare),
            Err(e) if is_full(&e) => return Ok(false),
            Err(e) => return Err(e),
        }
        Ok(true)
    }

    /// Makes a spare of what is to be kept free: the last resort. Half of it is left to the state engine.
    pub(super) fn make_last(&mut self) -> io::Result<()> {
        let left = self.options.keep_free_bytes / 2;
        if self.disk.free_bytes()? < self.options.segment_bytes.saturating_add(left) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let spare = self.make(self.options.segment_bytes)?;
        self.spares.push(spare);
        Ok(())
    }

    /// A spare of at least `len` bytes, made now if there is none.
    pub(super) fn take(&mut self, len: u64) -> io::Result<Spare> {
        let len = len.max(self.options.segment_bytes);
        // The one prepared furthest; never an empty one while another is ready.
        let best = (0..self.spares.len()).max_by_key(|&i| self.spares[i].zeroed);
        let mut spare = match best {
            Some(best) => self.spares.swap_remove(best),
            None => self.make(len)?,
        };
        if spare.len < len {
            spare.file.reserve(len)?;
            spare.len = len;
        }
        Ok(spare)
    }

    fn make(&mut self, len: u64) -> io::Result<Spare> {
        let name = format!("log/next-{}", self.next_number);
        self.next_number += 1;
        let file = self.disk.open(&name, true)?;
        if let Err(e) = file.reserve(len) {
            self.disk.remove(&name)?;
            return Err(e);
        }
        Ok(Spare {
            name,
            file,
            len,
            zeroed: 0,
        })
    }

    /// True when there is a spare whose space was not written yet.
    pub(super) fn can_zero(&self) -> bool {
        self.spares.iter().any(|spare| spare.zeroed < spare.len)
    }

    /// Writes zeros into a part of a spare.
    pub(super) fn zero_step(&mut self) -> io::Result<()> {
        let Some(spare) = self.spares.iter_mut().find(|spare| spare.zeroed < spare.len) else {
            return Ok(());
        };
        let step = (spare.len - spare.zeroed).min(ZERO_STEP_BYTES as u64);
        spare.file.write_at(&vec![0; step as usize], spare.zeroed)?;
        spare.file.sync()?;
        self.syncs += 1;
        spare.zeroed += step;
        if spare.zeroed == spare.len {
            let name = format!("log/spare-{}", self.next_number);
            self.next_number += 1;
            self.disk.rename(&spare.name, &name)?;
            spare.name = name;
        }
        Ok(())
    }

    /// Takes a purged segment out of the log, durably: it becomes a spare, or is deleted when there are enough.
    pub(super) fn recycle(&mut self, sequence: u64, len: u64) -> io::Result<()> {
        let (segment, sidecar) = (segment_name(sequence), sidecar_name(sequence));
        if self.disk.exists(&sidecar)? {
            self.disk.remove(&sidecar)?;
        }
        if self.spares.len() < MAX_SPARE_SEGMENTS && self.is_worth_keeping(len) {
            let name = format!("log/spare-{}", self.next_number);
            self.next_number += 1;
            self.disk.rename(&segment, &name)?;
            let file = self.disk.open(&name, false)?;
            self.spares.push(Spare {
                name,
                file,
                len,
                zeroed: len,
            });
        } else {
            self.disk.remove(&segment)?;
        }
        self.sync_dir()
    }

    pub(super) fn sync_dir(&mut self) -> io::Result<()> {
        plant!(DirectoryNotSynced => return Ok(()));
        self.syncs += 1;
        self.disk.sync_dir("log")
    }
}
