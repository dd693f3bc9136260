//! Sectors that cannot be read.

use std::collections::BTreeSet;

use super::world::SECTOR;

/// File and number of each.
#[derive(Clone, Default)]
pub(super) struct Broken(BTreeSet<(u64, u64)>);

impl Broken {
    pub(super) fn add(&mut self, file: u64, byte: u64) {
        self.0.insert((file, byte / SECTOR));
    }

    /// The file ends there: what comes behind will be others.
    pub(super) fn cut(&mut self, file: u64, len: u64) {
        self.0
            .retain(|&(of, sector)| of != file || sector < len.div_ceil(SECTOR));
    }

    /// Whether so many bytes of a file can be read.
    pub(super) fn may_read(&self, file: u64, offset: u64, len: usize) -> bool {
        let end = (offset + len as u64).div_ceil(SECTOR);
        self.0
            .range((file, offset / SECTOR)..(file, end))
            .next()
            .is_none()
    }

    /// Whether they can be written. A sector that is written as a whole is as good as new; of one that is not, the rest would
    /// have to be read.
    pub(super) fn may_write(&mut self, file: u64, offset: u64, len: usize) -> bool {
        let (first, end) = (offset.div_ceil(SECTOR), (offset + len as u64) / SECTOR);
        self.0
            .retain(|&(of, sector)| of != file || !(first..end).contains(&sector));
        self.may_read(file, offset, len)
    }
}
