//! Where entries stand: runs of consecutive indexes of one shard in one segment.

use std::collections::BTreeMap;

use crate::log_id::LogId;

/// Where one entry's record stands in its segment, and what its log id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) offset: u32,
    pub(super) bytes: u32,
    pub(super) term: u64,
    pub(super) node: u64,
}

impl Position {
    pub(super) fn log_id(&self, index: u64) -> LogId {
        LogId::at(self.term, self.node, index)
    }

    pub(super) fn end(&self) -> u32 {
        self.offset + self.bytes
    }
}

/// Where the positions of an extent are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// Here: the segment is open, or its sidecar could not be used.
    Memory(Vec<Position>),
    /// In the segment's index sidecar, from this slot on.
    Sidecar { slot: u32 },
}

/// Consecutive entries of one shard in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) segment: u64,
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) table: Table,
}

/// Where to find the positions of some consecutive entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Spot {
    Memory { segment: u64, positions: Vec<Position> },
    Sidecar { segment: u64, slot: u32, count: u64 },
}

impl Spot {
    pub(super) fn segment(&self) -> u64 {
        match self {
            Spot::Memory { segment, .. } | Spot::Sidecar { segment, .. } => *segment,
        }
    }
}

impl Extent {
    /// The index after the last one.
    pub(super) fn end(&self) -> u64 {
        self.first + self.count
    }

    fn contains(&self, index: u64) -> bool {
        self.first <= index && index < self.end()
    }

    /// The spot of up to `limit` entries from `index` on.
    pub(super) fn spot(&self, index: u64, limit: u64) -> Spot {
        let skip = index - self.first;
        let count = limit.min(self.count - skip);
        match &self.table {
            Table::Memory(positions) => Spot::Memory {
                segment: self.segment,
                positions: positions[skip as usize..(skip + count) as usize].to_vec(),
            },
            Table::Sidecar { slot } => Spot::Sidecar {
                segment: self.segment,
                slot: slot + skip as u32,
                count,
            },
        }
    }

    /// Adds the position if it follows directly.
    fn extend(&mut self, segment: u64, index: u64, position: Position) -> bool {
        match &mut self.table {
            Table::Memory(positions) if self.segment == segment && self.first + self.count == index => {
                positions.push(position);
                self.count += 1;
                true
            }
            _ => false,
        }
    }

    fn one(segment: u64, index: u64, position: Position) -> Extent {
        Extent {
            segment,
            first: index,
            count: 1,
            table: Table::Memory(vec![position]),
        }
    }
}

/// The entries of a shard's Raft log: extents that do not overlap, by first index.
#[derive(Clone, Debug, Default)]
pub(super) struct Extents(BTreeMap<u64, Extent>);

impl Extents {
    /// Adds an entry. It must lie behind all others.
    pub(super) fn push(&mut self, segment: u64, index: u64, position: Position) -> Result<(), &'static str> {
        if let Some(mut last) = self.0.last_entry() {
            if last.get().end() > index {
                return Err("an entry where there is one already");
            }
            if last.get_mut().extend(segment, index, position) {
                return Ok(());
            }
        }
        self.0.insert(index, Extent::one(segment, index, position));
        Ok(())
    }

    /// Adds a whole extent behind all others.
    pub(super) fn push_extent(&mut self, extent: Extent) -> Result<(), &'static str> {
        if self
            .0
            .last_key_value()
            .is_some_and(|(_, last)| last.end() > extent.first)
        {
            return Err("entries where there are some already");
        }
        self.0.insert(extent.first, extent);
        Ok(())
    }

    /// Forgets the entries from `index` on.
    pub(super) fn cut_from(&mut self, index: u64) {
        self.0.split_off(&index);
        if let Some(mut last) = self.0.last_entry() {
            let last = last.get_mut();
            if last.end() > index {
                last.count = index - last.first;
                if let Table::Memory(positions) = &mut last.table {
                    positions.truncate(last.count as usize);
                }
            }
        }
    }

    pub(super) fn find(&self, index: u64, limit: u64) -> Option<Spot> {
        let (_, extent) = self.0.range(..=index).next_back()?;
        extent.contains(index).then(|| extent.spot(index, limit))
    }

    /// The end of the extent that has this index.
    pub(super) fn end_of(&self, index: u64) -> Option<u64> {
        let (_, extent) = self.0.range(..=index).next_back()?;
        extent.contains(index).then(|| extent.end())
    }

    pub(super) fn forget_segment(&mut self, segment: u64) {
        self.0.retain(|_, extent| extent.segment != segment);
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Extent> {
        self.0.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Extent> {
        self.0.values_mut()
    }
}

/// Entries that came with snapshots. They may overlap; what came later counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Imported(Vec<Extent>);

impl Imported {
    pub(super) fn push(&mut self, segment: u64, index: u64, position: Position) {
        if let Some(last) = self.0.last_mut()
            && last.extend(segment, index, position)
        {
            return;
        }
        self.0.push(Extent::one(segment, index, position));
    }

    pub(super) fn push_extent(&mut self, extent: Extent) {
        self.0.push(extent);
    }

    pub(super) fn find(&self, index: u64) -> Option<Spot> {
        let extent = self.0.iter().rev().find(|extent| extent.contains(index))?;
        Some(extent.spot(index, 1))
    }

    /// The end of the extent that has this index.
    pub(super) fn end_of(&self, index: u64) -> Option<u64> {
        let extent = self.0.iter().rev().find(|extent| extent.contains(index))?;
        Some(extent.end())
    }

    pub(super) fn forget_segment(&mut self, segment: u64) {
        self.0.retain(|extent| extent.segment != segment);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Extent> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Extent> {
        self.0.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(offset: u32) -> Position {
        Position {
            offset,
            bytes: 40,
            term: 1,
            node: 1,
        }
    }

    #[test]
    fn a_cut_shortens_the_extent_it_meets_and_drops_those_behind() {
        let mut extents = Extents::default();
        for index in 0..30 {
            extents
                .push(index / 10, index, position(index as u32 * 40))
                .unwrap();
        }
        extents.cut_from(15);
        assert_eq!(
            extents
                .iter()
                .map(|e| (e.segment, e.first, e.count))
                .collect::<Vec<_>>(),
            [(0, 0, 10), (1, 10, 5)]
        );
        assert!(extents.find(15, 1).is_none());
        extents.push(3, 15, position(7)).unwrap();
        assert_eq!(
            extents.find(15, 9),
            Some(Spot::Memory {
                segment: 3,
                positions: vec![position(7)]
            })
        );
        assert!(extents.push(3, 15, position(8)).is_err());
        extents.cut_from(0);
        assert_eq!(extents.iter().count(), 0);
    }

    #[test]
    fn a_later_import_hides_an_earlier_one() {
        let mut imported = Imported::default();
        imported.push(1, 5, position(1));
        imported.push(1, 6, position(2));
        imported.push(1, 5, position(3));
        assert_eq!(
            imported.find(5),
            Some(Spot::Memory {
                segment: 1,
                positions: vec![position(3)]
            })
        );
        assert_eq!(
            imported.find(6),
            Some(Spot::Memory {
                segment: 1,
                positions: vec![position(2)]
            })
        );
        assert_eq!(imported.find(7), None);
    }
}
