//! What the leaders of shards would have to forget for another node's log to be within its bound.
//!
//! All replicas have the same entries, and not in equally many bytes: segments begin at other entries, what was rebuilt has one
//! shard after the other, and the bounds may differ. A leader that went by its own log alone would leave others above their
//! bound for as long as nothing is written. So each node says in its status, which the others ask for all the time, what is in
//! the oldest segments that it has too many of, and a leader forgets as much as the largest log needs.
//!
//! - A need is never for more than those segments, which is what the node would forget if it led. Asking again asks for no more: what was
//!   forgotten and still waits to be given back is among them.
//! - A need counts while its node is heard of, for [`ALIVE_FOR_MS`] at most.
//! - It counts of voters that are caught up. A learner, and one that is behind, may get another log yet: until then its log may be
//!   too large, and nobody forgets anything for that.
//! - Nor does a node ask for anything in a shard of which it has damaged records: its whole log may be given up for them. And
//!   one that is being filled asks for nothing at all: it has one whole shard, and nothing yet of another one, so that even
//!   the newest of what it has looks like the oldest.
//! - Where more than half of a log must stay, the leader's or that of who asks, nothing is copied for it: copies would be in each
//!   other's way without end.
//! - What a rebuilt log begins with goes first, so for a while some shards keep less than others, as if that node led them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flotilla_proto::peer::Need;
use raft_store::ReplicaStatus;

use crate::node::{
    ALIVE_FOR_MS, Node,
    membership::{self, SignOfLife},
    node_of,
    shard::DataShard,
};

/// What a node's log has too much of.
#[derive(Debug, Default, Clone)]
pub(crate) struct TooMany {
    /// The last entry of each shard in the segments that have to go.
    pub(super) through: BTreeMap<u32, u64>,
    /// The same, of what may be copied if it must stay: nothing where most of the log must, as copies would be in the way again
    /// before long.
    pub(super) copied: BTreeMap<u32, u64>,
}

/// What has to go of a shard led here for the logs of other nodes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Elsewhere {
    /// The last entry of it; 0 if nothing has to.
    pub(super) through: u64,
    /// The last entry that is to be copied, if it must stay; 0 if none is.
    pub(super) copied_through: u64,
}

/// What this node tells the leaders of other nodes.
pub(in crate::node) fn of(node: &Node) -> Vec<Need> {
    let is_filled = |shard: &Arc<DataShard>| {
        let status = shard.replica.status();
        status.voters.iter().flatten().any(|&id| id == status.replica)
    };
    if !node.shards().iter().all(is_filled) {
        return Vec::new();
    }
    // Whoever asks, and however often, costs no look at the segments.
    let too_many = node.inner.too_many.lock().expect("no panic while held").clone();
    let damaged = node.damaged_shards();
    let led_elsewhere = |shard: u32| node.shard(shard).is_some_and(|shard| !shard.leads());
    let copied = too_many.copied;
    too_many
        .through
        .into_iter()
        .filter(|(shard, _)| led_elsewhere(*shard) && !damaged.contains(shard))
        .map(|(shard, through)| Need {
            shard,
            through,
            copied_through: copied.get(&shard).copied().unwrap_or(0),
        })
        .collect()
}

/// What has to go of a shard led here for another node's log.
pub(super) fn elsewhere(node: &Node, shard: &DataShard) -> Elsewhere {
    plant!(OthersNeedsIgnored => return Elsewhere::default());
    let status = shard.replica.status();
    let now_ms = node.clock().steady_ms();
    let heard = node.inner.heard.lock().expect("no panic while held");
    largest(&status, node.silence(), &heard, now_ms)
}

/// The largest need of the shard's voters that are caught up, of what was heard lately.
fn largest(
    status: &ReplicaStatus,
    silence: Duration,
    heard: &BTreeMap<u32, SignOfLife>,
    now_ms: u64,
) -> Elsewhere {
    let voters = status.voters.iter().flatten();
    let caught_up = voters.filter(|&&id| membership::caught_up(status, id, silence));
    let lately = caught_up
        .filter_map(|&id| heard.get(&node_of(id)))
        .filter(|sign| sign.at_ms + ALIVE_FOR_MS > now_ms);
    let needs = lately.filter_map(|sign| sign.needs.get(&status.shard));
    // A log may hold entries that nobody has agreed on yet: nothing is forgotten for them before it is there.
    let agreed = status.applied.map_or(0, |applied| applied.index);
    let mut largest = Elsewhere::default();
    for need in needs {
        let through = need.through.min(agreed);
        largest.through = through.max(largest.through);
        largest.copied_through = need.copied_through.min(through).max(largest.copied_through);
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::replica_of;

    const SILENCE: Duration = Duration::from_secs(1);

    /// Of the leader of shard 4 on node 1, with followers that have everything.
    fn leading() -> ReplicaStatus {
        let followers = [2, 3].map(|node| replica_of(node, 1));
        ReplicaStatus {
            shard: 4,
            replica: replica_of(1, 1),
            is_leader: true,
            last_log: Some(1_000),
            applied: Some(raft_store::LogId {
                term: 1,
                node: replica_of(1, 1),
                index: 1_000,
            }),
            voters: vec![(1..=3).map(|node| replica_of(node, 1)).collect()],
            replication: followers.map(|id| (id, Some(1_000))).into(),
            heard_ms_ago: followers.map(|id| (id, 0)).into(),
            ..ReplicaStatus::default()
        }
    }

    fn need(shard: u32, through: u64) -> (u32, Need) {
        let need = Need {
            shard,
            through,
            copied_through: through,
        };
        (shard, need)
    }

    /// What nodes 2 and 3 need of the shard, and of another one, said at 5 s.
    fn said(two: u64, three: u64) -> BTreeMap<u32, SignOfLife> {
        let sign = |through| SignOfLife {
            at_ms: 5_000,
            full: false,
            leaving: false,
            leads: [].into(),
            damaged: [].into(),
            needs: [need(4, through), need(5, 999)].into(),
        };
        [(2, sign(two)), (3, sign(three))].into()
    }

    #[test]
    fn the_largest_need_counts_for_a_while() {
        let needed = |at_ms| largest(&leading(), SILENCE, &said(70, 80), at_ms).through;
        assert_eq!(needed(5_000), 80);
        assert_eq!(needed(5_000 + ALIVE_FOR_MS - 1), 80);
        assert_eq!(needed(5_000 + ALIVE_FOR_MS), 0, "it may be over by now");
        assert_eq!(
            largest(&leading(), SILENCE, &BTreeMap::new(), 5_000),
            Elsewhere::default()
        );
        assert_eq!(
            largest(&leading(), SILENCE, &said(70, u64::MAX), 5_000).through,
            1_000,
            "not agreed on yet"
        );
    }

    #[test]
    fn nothing_is_copied_for_a_log_most_of_which_must_stay() {
        let mut heard = said(70, 80);
        let crowded = heard.get_mut(&3).and_then(|sign| sign.needs.get_mut(&4)).unwrap();
        crowded.copied_through = 0;
        let needed = largest(&leading(), SILENCE, &heard, 5_000);
        assert_eq!((needed.through, needed.copied_through), (80, 70));
    }

    #[test]
    fn the_need_of_one_that_is_behind_or_silent_or_no_voter_does_not_count() {
        let needed = |status: &ReplicaStatus| largest(status, SILENCE, &said(70, 80), 5_000).through;
        let third = replica_of(3, 1);
        let mut behind = leading();
        behind.replication.insert(third, Some(500));
        assert_eq!(needed(&behind), 70);
        let mut silent = leading();
        silent.heard_ms_ago.insert(third, 1_001);
        assert_eq!(needed(&silent), 70);
        let mut learner = leading();
        learner.voters[0].remove(&third);
        learner.learners.insert(third);
        assert_eq!(needed(&learner), 70);
        let mut replaced = leading();
        replaced.voters[0] = [1, 2].map(|node| replica_of(node, 1)).into();
        replaced.voters[0].insert(replica_of(3, 2));
        assert_eq!(needed(&replaced), 70, "nothing was heard of its new replica yet");
    }
}
