//! Damage that outlives a restart: a node that gives its data directory up writes down which records it cannot read. If the
//! others cannot do without the directory after all, the node serves what is whole again, and knows from the start what is
//! not; nobody counts on it.
//!
//! File `DAMAGED`: one line for each record, `SHARD INDEX`.

use std::{io, sync::Arc};

use raft_store::disk::Disk;

use super::super::{Node, reading::off_the_runtime};

const FILE: &str = "DAMAGED";
const MAX_BYTES: u64 = 64 * 1024;

/// Writes down durably which records cannot be read; the first so many.
pub(super) fn keep(disk: &Arc<dyn Disk>, damaged: impl Iterator<Item = (u32, u64)>) -> io::Result<()> {
    let mut text = String::new();
    for (shard, index) in damaged {
        let line = format!("{shard} {index}\n");
        if text.len() + line.len() > MAX_BYTES as usize {
            break;
        }
        text.push_str(&line);
    }
    let file = disk.open(FILE, true)?;
    file.set_len(0)?;
    file.write_at(text.as_bytes(), 0)?;
    file.sync()?;
    disk.sync_dir("")
}

/// What was written down before the start and has not been looked at since.
#[derive(Default)]
pub(super) struct Kept {
    is_there: bool,
    records: Vec<(u32, u64)>,
}

impl Kept {
    /// Reads what was written down. A line that cannot be read is passed over: whoever meets the record notes it again.
    pub(super) fn load(disk: &dyn Disk) -> io::Result<Self> {
        if !disk.exists(FILE)? {
            return Ok(Self::default());
        }
        let file = disk.open(FILE, false)?;
        let mut bytes = vec![0; file.len()?.min(MAX_BYTES) as usize];
        let read = file.read_at(&mut bytes, 0)?;
        let text = String::from_utf8_lossy(&bytes[..read]);
        let records = text.lines().filter_map(|line| {
            let (shard, index) = line.split_once(' ')?;
            Some((shard.parse().ok()?, index.parse().ok()?))
        });
        Ok(Self {
            is_there: true,
            records: records.collect(),
        })
    }

    /// Reads those of the records whose replica is here by now: what is damaged still is noted by that. When nothing is damaged
    /// any more the file goes.
    pub(super) async fn look_again(&mut self, node: &Node) -> io::Result<()> {
        let mut later = Vec::new();
        for (shard, index) in std::mem::take(&mut self.records) {
            match node.store().replica(shard) {
                Some(replica) => drop(off_the_runtime(move || replica.read_payload(index)).await),
                None => later.push((shard, index)),
            }
        }
        self.records = later;
        if self.is_there && self.records.is_empty() && node.store().damages().is_empty() {
            node.inner.disk.remove(FILE)?;
            node.inner.disk.sync_dir("")?;
            self.is_there = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use raft_store::disk::SimDisk;

    use super::*;

    #[test]
    fn what_is_written_down_is_found_again_and_garbage_passed_over() {
        let disk: Arc<dyn Disk> = SimDisk::new(1).mount();
        assert!(!Kept::load(&*disk).unwrap().is_there);
        keep(&disk, [(1, 7), (2, u64::MAX)].into_iter()).unwrap();
        let file = disk.open(FILE, true).unwrap();
        let end = file.len().unwrap();
        file.write_at(b"3 x\n\xff\n4", end).unwrap();
        let kept = Kept::load(&*disk).unwrap();
        assert!(kept.is_there);
        assert_eq!(kept.records, [(1, 7), (2, u64::MAX)]);
        keep(&disk, (0..1_000_000).map(|index| (1, index))).unwrap();
        let length = disk.open(FILE, true).unwrap().len().unwrap();
        assert!(length <= MAX_BYTES, "{length}");
        assert!(Kept::load(&*disk).unwrap().records.len() > 5_000);
    }
}
