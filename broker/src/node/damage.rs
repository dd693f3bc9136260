//! What a node does about records that it has stored and cannot read.
//!
//! They are repaired with other nodes' (raft-store does it), again and again. Meanwhile the node serves what is whole, leads
//! none of the shards concerned, and says so. Only what cannot be repaired is given up, with the whole data directory, and
//! only if every shard has a majority of whole, caught-up voters without this node.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use flotilla_proto::peer::{Led, StatusResponse};
use raft_store::{Damage, ReplicaStatus};

use super::{Node, StopReason, bootstrap, membership, node_of};
use crate::limits::REPAIRS_AT_ONCE;

pub(super) mod kept;

const EVERY: Duration = Duration::from_secs(1);
/// Damage is known to the other nodes for so long before the directory may be given up for it: two nodes that are damaged
/// never count on each other.
const GIVE_UP_AFTER_MS: u64 = 10_000;
/// After the others could not do without it although they had said so, it serves for so long before it asks again.
const GIVE_UP_AGAIN_AFTER_MS: u64 = 600_000;
/// How often it is asked whether the directory may be given up, and said if not.
const ASK_EVERY_MS: u64 = 10_000;

/// Runs until the node stops. One that `came_back` was given up before, and could not be spared.
pub(super) async fn run(node: Node, came_back: bool) {
    let mut stop = node.inner.stop.subscribe();
    let mut since: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    let mut last_tried = (0, 0);
    let mut asked_ms = 0;
    let mut is_kept = came_back;
    let after_ms = match came_back {
        true => GIVE_UP_AGAIN_AFTER_MS,
        false => GIVE_UP_AFTER_MS,
    };
    for looks in 0.. {
        kept::look_again(&node, looks).await;
        if is_kept && node.damaged_shards().is_empty() {
            is_kept = kept::forget(&*node.inner.disk).map_err(cannot_keep).is_err();
        }
        tokio::select! {
            biased;
            _ = stop.wait_for(Option::is_some) => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let before = node.store().repairs();
        mend_some(&node, &mut last_tried).await;
        let goes_on = node.store().repairs() > before;
        let now = node.clock().steady_ms();
        let damages = node.store().damages();
        let left: BTreeSet<_> = damages.iter().map(key).collect();
        since.retain(|key, _| left.contains(key));
        for key in left {
            since.entry(key).or_insert(now);
        }
        let lasting = damages
            .iter()
            .find(|damage| since[&key(damage)] + after_ms <= now);
        if let Some(damage) = lasting.filter(|_| !goes_on && asked_ms + ASK_EVERY_MS <= now) {
            asked_ms = now;
            give_up(&node, damage, damages.len()).await;
        }
    }
}

/// What is damaged is found again, if later.
pub(super) fn cannot_keep(error: io::Error) {
    tracing::warn!(%error, "the file DAMAGED cannot be used");
}

fn key(damage: &Damage) -> (u32, u64) {
    (damage.shard, damage.index)
}

/// Tries to repair some of what is damaged, going on behind what was tried last.
async fn mend_some(node: &Node, last_tried: &mut (u32, u64)) {
    let all: Vec<_> = node.store().damages().iter().map(key).collect();
    let behind = all.iter().position(|key| key > last_tried).unwrap_or(0);
    for &(shard, index) in all
        .iter()
        .cycle()
        .skip(behind)
        .take(all.len().min(REPAIRS_AT_ONCE))
    {
        *last_tried = (shard, index);
        if let Some(replica) = node.store().replica(shard) {
            replica.repair(index).await;
        }
    }
}

/// Gives the data directory up for what cannot be repaired, if the cluster can do without it.
async fn give_up(node: &Node, damage: &Damage, count: usize) {
    let Damage {
        shard,
        index,
        segment,
        position,
        reason,
    } = damage;
    match dispensable(node).await {
        Ok(()) => {
            let damages = node.store().damages();
            let kept = kept::keep(&*node.inner.disk, damages.iter().map(key));
            kept.unwrap_or_else(cannot_keep);
            node.stop(StopReason::GivenUp(format!(
                "record {index} of shard {shard} cannot be read (segment {segment}, byte {position}: {reason}) and no other \
                 node can give it"
            )));
        }
        Err(why) => tracing::error!(
            shard,
            index,
            segment,
            position,
            reason,
            count,
            why,
            "stored records cannot be read, no other node can give them, and the node cannot be rebuilt now: it serves what is \
             whole. Start the nodes that do not run, or replace those that are damaged, one at a time"
        ),
    }
}

/// Whether the cluster stays whole without what this node has stored.
async fn dispensable(node: &Node) -> Result<(), String> {
    let mut answers = bootstrap::ask_all(node).await;
    answers.insert(node.id(), node.shown());
    spared(node.id(), answers.values())
}

/// Whether each shard's leader says that a majority of whole, caught-up voters remains without the node.
///
/// # Errors
/// Which shard would not have one.
pub fn spared<'a>(
    node: u32,
    answers: impl Iterator<Item = &'a StatusResponse> + Clone,
) -> Result<(), String> {
    let clusters: BTreeSet<u64> = answers.clone().map(|answer| answer.cluster).collect();
    if clusters.iter().filter(|&&cluster| cluster != 0).count() > 1 {
        return Err("nodes of different clusters answer".into());
    }
    let shards = answers.clone().map(|answer| answer.shards).max().unwrap_or(0);
    if shards == 0 {
        return Err("no other node that knows the cluster answers".into());
    }
    for shard in 0..shards {
        let leads = answers.clone().flat_map(|answer| &answer.leads);
        let newest = leads
            .filter(|led| led.shard == shard && led.quorum)
            .max_by_key(|led| led.term);
        match newest {
            None => return Err(format!("shard {shard} has no leader with a majority")),
            Some(led) if !led.spares.contains(&node) => {
                return Err(format!(
                    "without it shard {shard} would have no majority of whole, caught-up replicas"
                ));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

impl Node {
    /// The shards of which records are damaged here.
    pub(crate) fn damaged_shards(&self) -> BTreeSet<u32> {
        let suspected = self.inner.suspected.lock().expect("no panic while held");
        let suspected = suspected.iter().map(|&(shard, _)| shard);
        let damages = self.store().damages();
        damages
            .iter()
            .map(|damage| damage.shard)
            .chain(suspected)
            .collect()
    }

    /// The same of any node, as heard last.
    pub(crate) fn damaged_on(&self, node: u32) -> BTreeSet<u32> {
        if node == self.id() {
            return self.damaged_shards();
        }
        let heard = self.inner.heard.lock().expect("no panic while held");
        heard
            .get(&node)
            .map(|sign| sign.damaged.clone())
            .unwrap_or_default()
    }

    /// The nodes on which records of a shard are damaged.
    pub(super) fn damaged_in(&self, shard: u32) -> BTreeSet<u32> {
        let meta = self.meta();
        let nodes = meta.nodes().keys().copied();
        nodes
            .filter(|&node| self.damaged_on(node).contains(&shard))
            .collect()
    }

    /// Those, and the nodes of which nothing was heard lately: a leader that has just begun counts on nobody.
    fn not_known_whole(&self, shard: u32) -> BTreeSet<u32> {
        let now = self.clock().steady_ms();
        let silent = |node: &u32| {
            let heard = self.inner.heard.lock().expect("no panic while held");
            let lately = |sign: &membership::SignOfLife| sign.at_ms + super::ALIVE_FOR_MS > now;
            *node != self.id() && !heard.get(node).is_some_and(lately)
        };
        let meta = self.meta();
        let silent = meta.nodes().keys().copied().filter(silent);
        silent.chain(self.damaged_in(shard)).collect()
    }

    /// The shards that this node leads, as other nodes are told.
    pub(super) fn leaderships(&self) -> Vec<Led> {
        let led = membership::led(self).into_iter();
        led.filter_map(|(shard, replica)| {
            // One look: that it leads and in which term must belong together.
            let status = replica.status();
            status.is_leader.then(|| Led {
                shard,
                term: status.term,
                quorum: super::health::has_quorum(&status),
                spares: spares(
                    &status,
                    &self.not_known_whole(shard),
                    self.meta().nodes().keys().copied(),
                    self.silence(),
                ),
            })
        })
        .collect()
    }
}

/// The nodes without which a majority of whole voters that have everything committed remains.
fn spares(
    status: &ReplicaStatus,
    damaged: &BTreeSet<u32>,
    nodes: impl Iterator<Item = u32>,
    silence: Duration,
) -> Vec<u32> {
    let committed = status.committed.map_or(0, |at| at.index);
    let has_all = |id: u64| {
        let matched = status.replication.get(&id).copied().flatten();
        id == status.replica || membership::heard(status, id, silence) && matched >= Some(committed)
    };
    let whole = |id: u64| !damaged.contains(&node_of(id)) && has_all(id);
    nodes
        .filter(|&node| {
            status.voters.iter().all(|voters| {
                let others = voters.iter().filter(|&&id| node_of(id) != node && whole(id));
                others.count() > voters.len() / 2
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::replica_of, *};

    fn status(heard: &[u32]) -> ReplicaStatus {
        let others = heard.iter().map(|&node| replica_of(node, 1));
        ReplicaStatus {
            replica: replica_of(1, 1),
            is_leader: true,
            committed: Some(raft_store::LogId {
                term: 3,
                node: replica_of(1, 1),
                index: 100,
            }),
            voters: vec![(1..=3).map(|node| replica_of(node, 1)).collect()],
            replication: others.clone().map(|id| (id, Some(100))).collect(),
            heard_ms_ago: others.map(|id| (id, 100)).collect(),
            ..ReplicaStatus::default()
        }
    }

    fn spared_by(status: &ReplicaStatus, damaged: &[u32]) -> Vec<u32> {
        spares(
            status,
            &damaged.iter().copied().collect(),
            1..=3,
            Duration::from_secs(1),
        )
    }

    #[test]
    fn one_node_of_three_can_be_spared_while_both_others_have_everything() {
        assert_eq!(spared_by(&status(&[2, 3]), &[]), [1, 2, 3]);
        assert_eq!(spared_by(&status(&[2, 3]), &[2]), [2]);
        assert!(spared_by(&status(&[2, 3]), &[2, 3]).is_empty());
        assert_eq!(
            spared_by(&status(&[2]), &[]),
            [3],
            "it does not run, nothing is lost with it"
        );
        assert!(spared_by(&status(&[2]), &[2]).is_empty());
        let mut behind = status(&[2, 3]);
        behind.replication.insert(replica_of(3, 1), Some(99));
        assert_eq!(spared_by(&behind, &[]), [3]);
        behind.voters.push([replica_of(1, 1), replica_of(2, 1)].into());
        assert_eq!(spared_by(&behind, &[]), [3]);
    }

    #[test]
    fn a_node_is_given_up_only_if_every_shard_can_spare_it() {
        let led = |shard, term, spares: &[u32]| Led {
            shard,
            term,
            quorum: true,
            spares: spares.to_vec(),
        };
        let answer = |leads| StatusResponse {
            shards: 2,
            leads,
            ..StatusResponse::default()
        };
        let ask = |answers: &[StatusResponse]| spared(2, answers.iter());
        assert!(ask(&[]).is_err());
        assert!(ask(&[StatusResponse::default()]).is_err());
        assert!(
            ask(&[answer(vec![led(0, 1, &[2])])]).is_err(),
            "nobody leads shard 1"
        );
        let of = |cluster| StatusResponse {
            cluster,
            ..answer(vec![led(0, 1, &[2]), led(1, 1, &[2])])
        };
        assert_eq!(ask(&[of(7), of(0)]), Ok(()));
        assert!(ask(&[of(7), of(8)]).is_err(), "strangers have no say");
        let both = [answer(vec![led(0, 1, &[2])]), answer(vec![led(1, 5, &[1, 2])])];
        assert_eq!(ask(&both), Ok(()));
        let moved = [both[0].clone(), both[1].clone(), answer(vec![led(1, 6, &[1])])];
        assert!(ask(&moved).is_err(), "the leader of the highest term counts");
    }
}
