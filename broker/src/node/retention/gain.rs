//! What copies are worth, and how often a message is copied.
//!
//! A copy goes to the end of the log, so what is copied while nothing is given back makes the log larger, and more of it due to
//! be copied. Two rules keep that from going on by itself: copies are made only where they pay, and none of what was copied since
//! the log's present segments began is copied again before those are gone.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use queue_core::Fault;
use raft_store::log::SegmentView;

use crate::node::{Node, kv::Reading, shard::DataShard};

/// Of the bytes that copies for room go over, one in so many comes free at least.
const ROOM_PAYS: u64 = 8;

/// Bytes that only a copy moves.
pub(super) fn must_stay(node: &Node) -> u64 {
    let of_shard = |shard: &Arc<DataShard>| shard.machine.read(|core| core.displaced_bytes());
    node.shards().iter().map(of_shard).sum()
}

/// What copies would give back of a log, now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gain {
    /// Bytes that only a copy moves.
    must_stay: u64,
    /// Bytes in the segments in which those stand, with what is over between them.
    held: u64,
}

impl Gain {
    pub(super) fn of(node: &Node, segments: &[SegmentView]) -> Result<Gain, Fault> {
        let mut oldest = BTreeMap::new();
        for shard in node.shards() {
            let live = shard
                .replica
                .read_state(|state| shard.machine.read(|core| core.oldest_live_index(&Reading(state))))?;
            oldest.extend(live.map(|live| (shard.id, live)));
        }
        Ok(Gain {
            must_stay: must_stay(node),
            held: held(segments, &oldest),
        })
    }

    /// Whether copies of what is in the way of things that are too old give back at least as much of the log as they write. Where
    /// nearly everything must stay, each copy would be all that is in the segments behind it, and due itself as soon as the
    /// next is written: and so on, as fast as the disk is.
    pub(super) fn pays_for_age(self) -> bool {
        plant!(CopiesForAgeWithoutEnd => return true);
        self.must_stay <= self.held / 2
    }

    /// Whether one in [`ROOM_PAYS`] of the bytes that copies for room go over comes free. Where more must stay the log is larger than its
    /// bound: no copy would change that.
    pub(super) fn pays_for_room(self) -> bool {
        plant!(CopiesForRoomWithoutEnd => return true);
        self.must_stay <= self.held - self.held / ROOM_PAYS
    }
}

/// Bytes in the segments from the first one on in which something stands that a shard still has; `oldest` is the entry where
/// that begins in each. What a segment has free is nothing that a copy gives back.
fn held(segments: &[SegmentView], oldest: &BTreeMap<u32, u64>) -> u64 {
    let is_free = |segment: &&SegmentView| {
        let mut shards = segment.shards.iter();
        shards.all(|(shard, (_, last))| oldest.get(shard).is_none_or(|oldest| oldest > last))
    };
    let held = segments.iter().skip_while(is_free);
    held.map(|segment| segment.filled).sum()
}

/// The last entry of each shard in these segments.
pub(super) fn last_entries<'a>(segments: impl Iterator<Item = &'a SegmentView>) -> BTreeMap<u32, u64> {
    let mut lasts: BTreeMap<u32, u64> = BTreeMap::new();
    for (&shard, &(_, last)) in segments.flat_map(|segment| &segment.shards) {
        let known = lasts.entry(shard).or_default();
        *known = last.max(*known);
    }
    lasts
}

/// Which segments the log had when it began to be turned over: a message is copied out of those only, so once until all of
/// them are given back, however long that takes.
#[derive(Debug, Default)]
pub(super) struct Turnover {
    /// Sequence of the last of them.
    last: AtomicU64,
}

impl Turnover {
    /// The last entry of each shard in the segments that may be copied from now.
    pub(super) fn bound(&self, segments: &[SegmentView]) -> BTreeMap<u32, u64> {
        let closed = || segments.iter().filter(|segment| !segment.open);
        let (Some(first), Some(newest)) = (closed().next(), closed().next_back()) else {
            return BTreeMap::new();
        };
        let mut last = self.last.load(Ordering::SeqCst);
        if plant!(CopiesAreCopiedAgain => true, else last < first.sequence) {
            last = newest.sequence;
            self.last.store(last, Ordering::SeqCst);
        }
        last_entries(closed().filter(|segment| segment.sequence <= last))
    }

    /// What may be copied now of what is to be.
    pub(super) fn allows(&self, segments: &[SegmentView], wanted: BTreeMap<u32, u64>) -> BTreeMap<u32, u64> {
        let bound = self.bound(segments);
        let allowed = wanted.into_iter().filter_map(|(shard, through)| {
            let bound = *bound.get(&shard)?;
            Some((shard, through.min(bound)))
        });
        allowed.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::segment, *};

    #[test]
    fn only_segments_in_which_something_stands_are_held() {
        let segments = [
            segment(1, false, &[(1, 5)]),
            segment(2, false, &[(1, 7), (2, 3)]),
            segment(3, false, &[]),
            segment(4, true, &[(1, 20)]),
        ];
        let held = |oldest: &[(u32, u64)]| held(&segments, &oldest.iter().copied().collect());
        assert_eq!(held(&[(1, 5), (2, 4)]), 27);
        assert_eq!(held(&[(1, 6)]), 18);
        assert_eq!(held(&[(1, 8), (2, 3)]), 18);
        assert_eq!(held(&[(1, 8), (2, 4)]), 0);
        assert_eq!(held(&[]), 0);
    }

    #[test]
    fn copies_for_age_free_half_of_what_they_go_over_and_copies_for_room_an_eighth() {
        let held = 80;
        let pays = |must_stay| {
            let gain = Gain { must_stay, held };
            (gain.pays_for_age(), gain.pays_for_room())
        };
        assert_eq!((pays(40), pays(41)), ((true, true), (false, true)));
        assert_eq!((pays(70), pays(71)), ((false, true), (false, false)));
    }

    #[test]
    fn what_was_copied_is_not_copied_again_before_the_segments_of_then_are_gone() {
        let turnover = Turnover::default();
        assert_eq!(turnover.bound(&[segment(1, true, &[(1, 2)])]), BTreeMap::new());
        let mut log = vec![
            segment(1, false, &[(1, 5), (2, 9)]),
            segment(2, false, &[(1, 7)]),
            segment(3, true, &[(1, 8)]),
        ];
        let both = BTreeMap::from([(1, 7), (2, 9)]);
        assert_eq!(turnover.bound(&log), both);
        log[2].open = false;
        log.push(segment(4, true, &[(1, 20)]));
        assert_eq!(turnover.bound(&log), both, "segment 3 has copies");
        let wanted = BTreeMap::from([(1, 8), (2, 3), (3, 1)]);
        assert_eq!(turnover.allows(&log, wanted), BTreeMap::from([(1, 7), (2, 3)]));
        log.drain(..1);
        assert_eq!(turnover.bound(&log), BTreeMap::from([(1, 7)]));
        log.drain(..1);
        assert_eq!(turnover.bound(&log), BTreeMap::from([(1, 8)]));
    }
}
