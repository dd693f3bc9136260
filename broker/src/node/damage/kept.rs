//! Damage that outlives a restart: a node that gives its data directory up writes down which records it cannot read. If the
//! others cannot do without the directory after all, the node serves what is whole again, and knows from the start what is
//! not; nobody counts on it.
//!
//! File `DAMAGED`: one line for each record, `SHARD INDEX`.

use std::{collections::BTreeSet, io};

use raft_store::{
    blocking::{Work, blocking},
    disk::{Disk, mark, read_small},
};

use super::super::Node;
use crate::limits::REPAIRS_AT_ONCE;

const FILE: &str = "DAMAGED";
const MAX_BYTES: u64 = 64 * 1024;
/// A replica that is not here after so many looks, one a second, does not come.
const MAX_LOOKS: u32 = 600;

/// Writes down durably which records cannot be read; the first so many.
pub(super) fn keep(disk: &dyn Disk, damaged: impl Iterator<Item = (u32, u64)>) -> io::Result<()> {
    let mut text = String::new();
    for (shard, index) in damaged {
        let line = format!("{shard} {index}\n");
        if text.len() + line.len() > MAX_BYTES as usize {
            break;
        }
        text.push_str(&line);
    }
    mark(disk, FILE, text.as_bytes())
}

/// What was written down before the start; nothing if no such file is there. A line that cannot be read is passed over:
/// whoever meets the record notes it again.
pub(in crate::node) fn load(disk: &dyn Disk) -> io::Result<Option<BTreeSet<(u32, u64)>>> {
    let Some(content) = read_small(disk, FILE, MAX_BYTES)? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&content);
    let records = text.lines().filter_map(|line| {
        let (shard, index) = line.split_once(' ')?;
        Some((shard.parse().ok()?, index.parse().ok()?))
    });
    Ok(Some(records.collect()))
}

/// Reads some of the records that were written down, once their replica is here: what is damaged still is noted by that, and
/// counts as damaged until then.
pub(super) async fn look_again(node: &Node, looks: u32) {
    let suspected = || node.inner.suspected.lock().expect("no panic while held");
    let some: Vec<_> = suspected().iter().copied().take(REPAIRS_AT_ONCE).collect();
    for (shard, index) in some {
        if let Some(replica) = node.store().replica(shard) {
            let _ = blocking(Work::Read, move || replica.read_payload(index)).await;
            suspected().remove(&(shard, index));
        }
    }
    if looks > MAX_LOOKS && !suspected().is_empty() {
        tracing::warn!("records that were damaged before belong to shards that are not here");
        suspected().clear();
    }
}

/// Nothing is damaged any more.
pub(super) fn forget(disk: &dyn Disk) -> io::Result<()> {
    match disk.remove(FILE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => disk.sync_dir(""),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use raft_store::disk::SimDisk;

    use super::*;

    #[test]
    fn what_is_written_down_is_found_again_and_garbage_passed_over() {
        let disk: Arc<dyn Disk> = SimDisk::new(1).mount();
        assert_eq!(load(&*disk).unwrap(), None);
        keep(&*disk, [(1, 7), (2, u64::MAX)].into_iter()).unwrap();
        let file = disk.open(FILE, true).unwrap();
        let end = file.len().unwrap();
        file.write_at(b"3 x\n\xff\n4", end).unwrap();
        assert_eq!(load(&*disk).unwrap(), Some([(1, 7), (2, u64::MAX)].into()));
        keep(&*disk, (0..1_000_000).map(|index| (1, index))).unwrap();
        let length = disk.open(FILE, true).unwrap().len().unwrap();
        assert!(length <= MAX_BYTES, "{length}");
        assert!(load(&*disk).unwrap().unwrap().len() > 5_000);
        forget(&*disk).unwrap();
        forget(&*disk).unwrap();
        assert_eq!(load(&*disk).unwrap(), None);
    }
}
