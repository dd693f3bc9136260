//! Writes a shard's state, and the records it still refers to, into a file.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
};

use super::{DIRECTORY, SnapshotFile, StateImage, file::Writer, head_of};
use crate::{
    disk::Disk, health::Health, limits::SNAPSHOT_SCAN_PAIRS, log::ReadError, machine::StateRead,
    state::ShardView,
};

/// Writes `image` to a file of this name, synced together with its name. Blocks on the disk.
pub(crate) fn export(
    disk: &Arc<dyn Disk>,
    name: &str,
    image: &StateImage,
    health: &Health,
) -> io::Result<SnapshotFile> {
    let applied = image
        .standing
        .applied
        .ok_or_else(|| io::Error::other("nothing was applied yet"))?;
    disk.create_dir(DIRECTORY)?;
    let standing = image.standing.clone();
    // Planted: the index of now for the state of before.
    #[cfg(madsim)]
    let standing = claimed(image, standing);
    let mut writer = Writer::create(disk.open(name, true)?, &head_of(image.shard, &standing))?;
    write_records(&mut writer, image, applied.index, health)?;
    write_pairs(&mut writer, image, health)?;
    let (size, crc) = writer.finish()?;
    disk.sync_dir(DIRECTORY)?;
    let id = format!("{applied}-{size}-{crc:08x}");
    Ok(SnapshotFile {
        disk: disk.clone(),
        name: name.to_owned(),
        size,
        id,
        standing,
        keep: AtomicBool::new(false),
    })
}

/// The planted bug of a snapshot that is older than its index.
#[cfg(madsim)]
fn claimed(image: &StateImage, mut standing: crate::state::Standing) -> crate::state::Standing {
    if plant::is(plant::Bug::SnapshotClaimsMore) {
        let committed = image.log.shard(image.shard).committed;
        standing.applied = standing
            .applied
            .max(committed.map(crate::types::convert::to_raft));
    }
    standing
}

/// The planted bugs of snapshots that leave something out: keys by their first byte, as the queue core has them.
#[cfg(madsim)]
fn left_out(key: &[u8]) -> bool {
    let kind = key.first();
    (plant::is(plant::Bug::SnapshotWithoutLeases) && kind == Some(&b'f'))
        || (plant::is(plant::Bug::SnapshotWithoutDedup) && kind == Some(&b'd'))
}

fn write_records(writer: &mut Writer, image: &StateImage, last: u64, health: &Health) -> io::Result<()> {
    // Planted: a state without what it refers to.
    #[cfg(madsim)]
    if plant::is(plant::Bug::SnapshotWithoutMessages) {
        return Ok(());
    }
    for index in image.oldest.map_or(last + 1, |oldest| oldest)..=last {
        match image.log.read_record(image.shard, index) {
            Ok(record) => writer.record(&record)?,
            // Retention went on while the file was being written. Whatever the record was for is trimmed by
            // an entry that the receiver gets after the snapshot.
            Err(ReadError::NotFound { .. }) => {}
            Err(error) => return Err(health.read(error)),
        }
    }
    Ok(())
}

fn write_pairs(writer: &mut Writer, image: &StateImage, health: &Health) -> io::Result<()> {
    let state = ShardView::new(image.shard, &*image.view);
    let mut from: Vec<u8> = Vec::new();
    loop {
        let pairs = state
            .scan(&from, &[], SNAPSHOT_SCAN_PAIRS)
            .map_err(|e| health.engine(e))?;
        for (key, value) in &pairs {
            #[cfg(madsim)]
            if left_out(key) {
                continue;
            }
            writer.pair(key, value)?;
        }
        match pairs.last() {
            Some((key, _)) if pairs.len() == SNAPSHOT_SCAN_PAIRS => {
                from = [key, &[0][..]].concat();
            }
            _ => return Ok(()),
        }
    }
}
