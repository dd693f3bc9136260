//! Looking for corruption before anyone needs the record: reads every entry of a segment.

use std::collections::BTreeMap;

use super::error::ReadError;
use super::extent::Extent;
use super::shared::Shared;
use crate::limits::READ_POSITIONS;
use crate::limits::READ_SPAN_BYTES;

impl Shared {
    /// The first corrupt entry of each shard in the segment.
    pub(super) fn verify(&self, sequence: u64) -> Result<BTreeMap<u32, u64>, ReadError> {
        let extents: Vec<(u32, Extent)> = {
            let inner = self.lock();
            inner
                .written
                .extents_in(sequence)
                .map(|(shard, _, extent)| (shard, extent.clone()))
                .collect()
        };
        let mut corrupt = BTreeMap::new();
        for (shard, extent) in extents {
            match self.verify_extent(shard, &extent) {
                // Recycled, truncated or dropped meanwhile.
                Ok(()) | Err(ReadError::NotFound { .. }) => {}
                Err(ReadError::Corrupt { index, .. }) => {
                    let first = corrupt.entry(shard).or_insert(index);
                    *first = index.min(*first);
                }
                Err(e @ (ReadError::Io { .. } | ReadError::Newer { .. })) => return Err(e),
            }
        }
        Ok(corrupt)
    }

    fn verify_extent(&self, shard: u32, extent: &Extent) -> Result<(), ReadError> {
        let mut index = extent.first;
        while index < extent.end() {
            let spot = extent.spot(index, READ_POSITIONS);
            index += self.fetch(shard, index, &spot, READ_SPAN_BYTES as usize)?.len() as u64;
        }
        Ok(())
    }
}
