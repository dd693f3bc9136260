//! A leader that is cut off writes on, for its clients still reach it, and nobody will ever agree to that. Meanwhile another node
//! is rebuilt and leads: its log begins behind those places, and what it has of them came with its snapshot. So the old
//! leader needs a snapshot, too, whose records have the places of its own.

use std::{collections::BTreeSet, time::Duration};

use broker::node::{Node, node_of};
use madsim::rand::{Rng, seq::SliceRandom, thread_rng};
use raft_store::Replica;
use tokio::time::{sleep, timeout};

use super::{Scene, await_true, disk::await_permission, last, network};
use crate::{host::Host, oracle::cluster::replicas};

/// Until the new replica of a node that was rebuilt votes.
const VOTES: Duration = Duration::from_secs(20);
/// No node has this number: whoever holds it is the only one of these faults.
const NOBODY: u32 = 0;
/// Entries that nobody else has, and how long they are waited for.
const TAIL: u64 = 4;
const WRITES: Duration = Duration::from_secs(2);
/// Until a node leads that was asked to.
const LEADS: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);

pub(super) async fn leave(scene: &Scene) -> bool {
    // One at a time: those that are left when two nodes are away are a majority, when four are they are not.
    let Some(_only) = scene.atlas.hold(NOBODY) else {
        return false;
    };
    let shard = thread_rng().gen_range(1..=scene.plan.shards);
    let Some(victim) = scene.leader(shard) else {
        return false;
    };
    let Some(_hold) = scene.atlas.hold(victim.id) else {
        return false;
    };
    let others: Vec<&Host> = scene.hosts.iter().filter(|host| host.id != victim.id).collect();
    let next = *others.choose(&mut thread_rng()).expect("there are others");
    let Some(_next_hold) = scene.atlas.hold(next.id) else {
        return false;
    };
    if !await_permission(scene, next).await {
        return false;
    }
    let cut = network::cut_off(scene, victim);
    write_on(victim, shard).await;
    next.crash();
    next.wipe();
    last(50..500).await;
    next.restart();
    let leads =
        await_true(LOOK, VOTES, || votes(&others, next, shard)).await && lead(&others, next, shard).await;
    cut.mend();
    if leads {
        scene
            .coverage
            .count("a rebuilt node leads, and an old leader is back");
    }
    leads
}

/// Waits until it has written something behind what others have, most of the time: the first entry of the next leader says nothing.
async fn write_on(victim: &Host, shard: u32) {
    let last_log = || {
        victim
            .node()
            .and_then(|node| replica(&node, shard))
            .map(|it| it.status().last_log)
    };
    let before = last_log();
    let has_grown = || last_log().flatten() >= before.flatten().map(|at| at + TAIL);
    await_true(LOOK, WRITES, has_grown).await;
    last(0..500).await;
}

pub(super) fn replica(node: &Node, shard: u32) -> Option<Replica> {
    replicas(node)
        .into_iter()
        .find(|replica| replica.shard() == shard)
}

/// Who leads, of these.
fn leader(others: &[&Host], shard: u32) -> Option<Node> {
    let mut nodes = others.iter().filter_map(|host| host.node());
    nodes.find(|node| node.leads(shard))
}

/// Whether the replica on a node's present disk is one of the voters.
fn votes(others: &[&Host], next: &Host, shard: u32) -> bool {
    let there = leader(others, shard)
        .and_then(|leader| Some((replica(&leader, shard)?, replica(&next.node()?, shard)?)));
    there.is_some_and(|(leader, next)| {
        let voters: Vec<BTreeSet<u64>> = leader.status().voters;
        voters.len() == 1 && voters[0].contains(&next.id())
    })
}

/// Has a node lead the shard, as an operator would who moves leaderships.
async fn lead(others: &[&Host], next: &Host, shard: u32) -> bool {
    const TRIES: u32 = 3;
    for _ in 0..TRIES {
        let Some(leader) = leader(others, shard) else {
            sleep(LEADS).await;
            continue;
        };
        let to = next
            .node()
            .and_then(|node| replica(&node, shard))
            .map(|replica| replica.id());
        let (Some(leader), Some(to)) = (replica(&leader, shard), to) else {
            return false;
        };
        if node_of(leader.id()) != next.id {
            let _ = timeout(LEADS, leader.transfer_leader(to)).await;
        }
        if await_true(LOOK, LEADS, || next.node().is_some_and(|node| node.leads(shard))).await {
            return true;
        }
    }
    false
}
