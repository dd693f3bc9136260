//! Keeps every led shard's voters as the catalogue says, and leaders where they belong.
//!
//! When a node's data directory was replaced, its replicas have new Raft ids: they are
//! added as learners, caught up, and take the old ids' place in one joint change. One
//! node at a time, so that a quorum of caught-up voters always exists.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
    time::Duration,
};

use flotilla_proto::peer::{Need, StatusRequest, StatusResponse};
use raft_store::{Replica, ReplicaStatus};

use super::{META_SHARD, Node, node_of, replica_of};
use crate::{meta::MetaState, peer::Body};

#[cfg(madsim)]
#[path = "../../../sim-tests/plant/bodies/membership.rs"]
mod planted;

const EVERY: Duration = Duration::from_millis(500);
const PING_FOR: Duration = Duration::from_millis(1_000);
/// A learner this many entries behind may become a voter: the rest takes less than a heartbeat.
const CAUGHT_UP_WITHIN: u64 = 64;
/// Rounds a leader waits before it moves to its preferred node, so that restarts settle first.
const CALM_ROUNDS: u32 = 6;
/// How often a node stands for election after its start, and how many times.
const FIRST_TRY_EVERY: Duration = Duration::from_millis(100);
const FIRST_TRIES: u32 = 50;
/// How long a hand-over of one shard may take at shutdown.
const HAND_OVER: Duration = Duration::from_secs(2);

/// Runs until the node stops.
pub(super) async fn run(node: Node) {
    let mut stop = node.inner.stop.subscribe();
    let mut calm = 0;
    let mut before = BTreeSet::new();
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(Option::is_some) => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        ping(&node);
        let meta = node.meta();
        if meta.cluster().is_none() {
            continue;
        }
        if node.inner.leaving.load(Ordering::SeqCst) {
            continue; // Whoever leads next does the rest.
        }
        let leads = led(&node);
        let shards: BTreeSet<u32> = leads.iter().map(|(shard, _)| *shard).collect();
        // What somebody has just handed over is not sent back: that node may be about to leave.
        let mut changed = shards != before;
        before = shards;
        for (shard, replica) in leads {
            changed |= reconcile(&node, &meta, shard, &replica).await;
        }
        calm = if changed || node.ready().is_err() {
            0
        } else {
            calm + 1
        };
        let mut avoided = node.full_nodes();
        if avoided.contains(&node.id()) || !node.damaged_shards().is_empty() {
            // Messages wait for a leader that has room, or that can read them.
            let alive = node.alive_nodes();
            avoided.extend(meta.nodes().keys().filter(|node| !alive.contains(node)));
            move_leaders(&node, &meta, &avoided, usize::MAX).await;
        } else if calm >= CALM_ROUNDS && move_leaders(&node, &meta, &avoided, 1).await {
            calm = 0;
        }
    }
}

/// After a start, lets the node that should lead a shard stand for election at once, again and again until somebody was
/// elected: when all nodes start together nobody has to wait for the silence of a leader that cannot be, and candidates
/// do not take each other's votes.
pub(super) async fn first_leader(node: Node, shard: u32, replica: Replica) {
    let before = replica.status().term;
    let mut stop = node.inner.stop.subscribe();
    for _ in 0..FIRST_TRIES {
        let status = replica.status();
        let elected = status.is_leader || status.term > before;
        if elected || preferred(&node.meta(), shard, &BTreeSet::new()) != Some(node.id()) {
            return;
        }
        if let Err(error) = replica.campaign().await {
            tracing::info!(shard, %error, "standing for election is left to the usual timeouts");
            return;
        }
        tokio::select! {
            biased;
            _ = stop.wait_for(Option::is_some) => return,
            () = tokio::time::sleep(FIRST_TRY_EVERY) => {}
        }
    }
}

/// What another node answered last.
#[derive(Debug, Clone)]
pub(crate) struct SignOfLife {
    /// When.
    pub(crate) at_ms: u64,
    /// Its disk had no room for messages.
    pub(crate) full: bool,
    /// It hands its leaderships over and stops.
    pub(crate) leaving: bool,
    /// The shards that it leads with a majority behind it.
    pub(crate) leads: BTreeSet<u32>,
    /// The shards of which it has records that it cannot read.
    pub(crate) damaged: BTreeSet<u32>,
    /// What of a shard has to be forgotten for the node's log to be within its bound.
    pub(crate) needs: BTreeMap<u32, Need>,
}

/// Asks every other node for a sign of life, without waiting for it here.
fn ping(node: &Node) {
    for &other in node.meta().nodes().keys().filter(|&&other| other != node.id()) {
        let node = node.clone();
        tokio::spawn(async move {
            let question = StatusRequest {
                me: Some(node.describe()),
                fresh: false,
                from: Some(node.hello()),
            };
            let answer = node
                .inner
                .transport
                .call(other, Body::Status(question), PING_FOR)
                .await;
            if let Ok(Body::StatusAnswer(status)) = answer {
                if !speaks_for(&node, other, &status) {
                    return;
                }
                for led in &status.leads {
                    node.hear_leader(led.shard, other, led.term);
                }
                let sign = SignOfLife {
                    at_ms: node.clock().steady_ms(),
                    full: status.full,
                    leaving: status.leaving,
                    leads: status
                        .leads
                        .iter()
                        .filter(|led| led.quorum)
                        .map(|led| led.shard)
                        .collect(),
                    damaged: status.damaged.iter().copied().collect(),
                    needs: status
                        .needs
                        .iter()
                        .filter(|need| node.shard(need.shard).is_some())
                        .map(|need| (need.shard, *need))
                        .collect(),
                };
                node.inner
                    .heard
                    .lock()
                    .expect("no panic while held")
                    .insert(other, sign);
            }
        });
    }
}

/// Whether a status is the word of that member of the cluster.
fn speaks_for(node: &Node, other: u32, status: &StatusResponse) -> bool {
    let Some(from) = &status.from else { return false };
    if from.node != other {
        return false;
    }
    if from.refused.is_some() {
        node.told(from);
        return false;
    }
    from.cluster != 0 && node.hear(from).is_ok()
}

/// The shards that this node leads, as far as it knows; also those in which it does not serve yet, because it has not caught
/// up. One without room on its disk never does, and has to hand over.
pub(super) fn led(node: &Node) -> Vec<(u32, Replica)> {
    let meta = node.meta_replica().cloned().map(|replica| (META_SHARD, replica));
    let data = node
        .shards()
        .into_iter()
        .map(|shard| (shard.id, shard.replica.clone()));
    meta.into_iter()
        .chain(data)
        .filter(|(shard, replica)| {
            let nobody_else = node.leader(*shard).is_none_or(|leader| leader == node.id());
            replica.status().is_leader && nobody_else
        })
        .collect()
}

/// The voters a shard should have.
fn wanted(meta: &MetaState) -> BTreeSet<u64> {
    meta.nodes()
        .values()
        .map(|node| replica_of(node.id, node.incarnation))
        .collect()
}

/// One step towards the wanted voters; true if there was something to do.
async fn reconcile(node: &Node, meta: &MetaState, shard: u32, replica: &Replica) -> bool {
    let status = replica.status();
    let wanted = wanted(meta);
    let next = step(&status.voters, &status.learners, &wanted, |id| {
        caught_up(&status, id, node.silence())
    });
    let next = plant!(OldReplicaStays => planted::nobody_leaves(next, &status.voters, &wanted), else next);
    let next =
        plant!(WrongReplicaRemoved => planted::another_leaves(next, &status.voters, &wanted), else next);
    match next {
        Step::Done => return false,
        Step::Wait => {}
        Step::AddLearner(new) => {
            tracing::info!(shard, replica = new, "adding a learner");
            if let Err(error) = replica.add_learner(new, node_of(new)).await {
                tracing::info!(shard, %error, "adding a learner is tried again");
            }
        }
        Step::RemoveLearners(learners) => {
            tracing::info!(
                shard,
                ?learners,
                "removing learners whose data directory was replaced"
            );
            if let Err(error) = replica.remove_learners(learners).await {
                tracing::info!(shard, %error, "removing learners is tried again");
            }
        }
        Step::ChangeVoters(voters) => {
            tracing::info!(shard, ?voters, "changing the voters");
            if let Err(error) = replica.change_voters(voters).await {
                tracing::info!(shard, %error, "changing the voters is tried again");
            }
        }
    }
    true
}

/// What to do next about the members of a shard.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Done,
    /// For a learner to catch up.
    Wait,
    AddLearner(u64),
    /// Replicas that nobody waits for any more: the directory was replaced again before it became a voter.
    RemoveLearners(BTreeSet<u64>),
    ChangeVoters(BTreeSet<u64>),
}

/// The next step from these voters (two sets in the middle of a joint change) and learners to the wanted voters.
fn step(
    voters: &[BTreeSet<u64>],
    learners: &BTreeSet<u64>,
    wanted: &BTreeSet<u64>,
    caught_up: impl Fn(u64) -> bool,
) -> Step {
    let [voters] = voters else {
        // A joint change was left half done by an earlier leader. It is finished as it was meant: what is wanted may be
        // another thing by now, with replicas that are not even learners.
        plant!(JointChangeLeftHalfDone => return Step::ChangeVoters(wanted.clone()));
        return Step::ChangeVoters(voters.last().cloned().unwrap_or_default());
    };
    // What a shard has may be newer than what this node's catalogue shows: nobody goes back to an older directory.
    let present = || voters.iter().chain(learners).copied();
    let newest = |id: u64| {
        present()
            .filter(|&other| node_of(other) == node_of(id))
            .fold(id, u64::max)
    };
    let wanted: &BTreeSet<u64> = &wanted.iter().map(|&id| newest(id)).collect();
    let replaced = |id: u64| {
        wanted
            .iter()
            .any(|&other| node_of(other) == node_of(id) && other > id)
    };
    let stale: BTreeSet<u64> = learners.iter().copied().filter(|&id| replaced(id)).collect();
    if plant!(StaleLearnersStay => false, else !stale.is_empty()) {
        return Step::RemoveLearners(stale);
    }
    if voters == wanted {
        return Step::Done;
    }
    let Some(&new) = wanted.iter().find(|id| !voters.contains(id)) else {
        return Step::ChangeVoters(wanted.clone());
    };
    if !learners.contains(&new) {
        return Step::AddLearner(new);
    }
    if !caught_up(new) {
        return Step::Wait;
    }
    let mut next: BTreeSet<u64> = voters
        .iter()
        .copied()
        .filter(|&id| node_of(id) != node_of(new))
        .collect();
    next.insert(new);
    Step::ChangeVoters(next)
}

/// Whether a replica has nearly everything, and has said so within `silence`: of one that has stopped the last that was
/// heard stays as it was.
pub(super) fn caught_up(status: &ReplicaStatus, replica: u64, silence: Duration) -> bool {
    let Some(&Some(matched)) = status.replication.get(&replica) else {
        return false;
    };
    heard(status, replica, silence)
        && matched.saturating_add(CAUGHT_UP_WITHIN) >= status.last_log.unwrap_or(0)
}

/// Whether a replica has answered this leader within `silence`.
pub(super) fn heard(status: &ReplicaStatus, replica: u64, silence: Duration) -> bool {
    let ago = status.heard_ms_ago.get(&replica).copied();
    ago.is_some_and(|ago| Duration::from_millis(ago) <= silence)
}

/// Where a shard's leader should be: evenly spread, the same on every node's list. A node to be avoided leads only where
/// nobody else can.
fn preferred(meta: &MetaState, shard: u32, avoided: &BTreeSet<u32>) -> Option<u32> {
    let nodes: Vec<u32> = meta.nodes().keys().copied().collect();
    let turns = (0..nodes.len()).map(|turn| nodes[(shard as usize + turn) % nodes.len()]);
    turns
        .clone()
        .find(|node| !avoided.contains(node))
        .or_else(|| turns.clone().next())
}

/// Gives shards that are led here to where their leaders should be; true if there were any.
async fn move_leaders(node: &Node, meta: &MetaState, avoided: &BTreeSet<u32>, at_most: usize) -> bool {
    let mut moved = 0;
    for (shard, replica) in led(node) {
        let avoided = &(avoided | &node.damaged_in(shard));
        let Some(better) = preferred(meta, shard, avoided).filter(|&better| better != node.id()) else {
            continue;
        };
        let status = replica.status();
        let target = successor(&status, better, node.silence());
        if let Some(target) = target.filter(|_| !node.leaving(better)) {
            tracing::info!(shard, to = better, "moving the leader to its preferred node");
            if let Err(error) = replica.transfer_leader(target).await {
                tracing::info!(shard, %error, "the leader did not move");
            }
            moved += 1;
            if moved == at_most {
                break;
            }
        }
    }
    moved > 0
}

/// The replica of `better` that can take over now.
fn successor(status: &ReplicaStatus, better: u32, silence: Duration) -> Option<u64> {
    status
        .replication
        .keys()
        .copied()
        .find(|&id| node_of(id) == better && is_voter(status, id) && caught_up(status, id, silence))
}

/// Only a voter can lead: a learner to which the leadership is given leaves the shard without a leader.
fn is_voter(status: &ReplicaStatus, id: u64) -> bool {
    status.voters.iter().any(|voters| voters.contains(&id))
}

/// Gives every led shard to its most advanced follower.
pub(super) async fn hand_over(node: &Node) {
    for (shard, replica) in led(node) {
        let status = replica.status();
        let best = status
            .replication
            .iter()
            .filter(|(id, _)| node_of(**id) != node.id())
            .filter(|(id, _)| is_voter(&status, **id))
            .filter(|(id, _)| heard(&status, **id, node.silence()) && !node.leaving(node_of(**id)))
            .max_by_key(|(_, matched)| **matched);
        let Some((&to, Some(_))) = best else { continue };
        if let Err(error) = replica.transfer_leader(to).await {
            tracing::info!(shard, %error, "the leadership was not handed over");
            continue;
        }
        let mut status = replica.subscribe();
        let moved = async { while status.current().is_leader && status.changed().await {} };
        if tokio::time::timeout(HAND_OVER, moved).await.is_err() {
            tracing::info!(shard, to = node_of(to), "the leadership was not taken over");
            plant!(OneFailedHandOverEndsAll => return);
        }
    }
}

#[cfg(test)]
mod tests;
