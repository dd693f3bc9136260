//! Chains: what else goes wrong while a node is filled again, or is helped with a snapshot because what it lacks is gone from
//! the log.

use std::time::Duration;

use broker::node::{META_SHARD, node_of};
use madsim::rand::{Rng, seq::SliceRandom, thread_rng};
use raft_store::{ReplicaStatus, blocking::Work};

use super::{Scene, await_true, disk, last, moved, network, process};
use crate::{atlas, host::Host, oracle::cluster::replicas};

/// Until the leader of some shard has the node's new replica as a learner.
const LEARNS: Duration = Duration::from_secs(20);
/// Until what a node lacks was purged from a leader's log.
const PURGED: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(10);
/// For what is over soon.
const LOOK_CLOSELY: Duration = Duration::from_millis(2);
/// Until the first joint change to a replica that is a learner.
const CHANGES: Duration = Duration::from_secs(3);
/// Until a part of a snapshot's state has arrived at whoever is sent one, if it is sent one.
const STAGES: Duration = Duration::from_secs(3);
/// Where parts are small, a shard's state has so many, more or less, and some shards come at the same time.
const PARTS: u64 = 30;
/// Of the work of putting a snapshot in, each shard's, the power fails in one of so many pieces.
const PIECES: u64 = 6;
/// How few milliseconds the next disk of a node that loses one in a joint change takes: it is to be known before there is a
/// leader that finds the change.
const AT_ONCE_MS: std::ops::Range<u64> = 10..300;

/// After so long without a word nobody believes that a process runs.
const COUNTS_AS_DOWN_MS: std::ops::Range<u64> = 3_000..4_000;

/// A node loses its disk, and again, or its power, before its new replicas are voters: the replacement is as bad as what
/// it replaces, as from one batch of disks.
pub(super) async fn lose_again(scene: &Scene) -> bool {
    let victim = scene.anybody();
    let Some(_hold) = scene.atlas.hold(victim.id) else {
        return false;
    };
    if !disk::await_permission(scene, victim).await {
        return false;
    }
    victim.crash();
    victim.wipe();
    last(50..2_000).await;
    let mut again = thread_rng().gen_bool(0.4) && lose_while_asking(scene, victim).await;
    if !again {
        victim.restart();
    }
    for _ in 0..thread_rng().gen_range(1..=3) {
        let lost = match thread_rng().gen_range(0..3) {
            0 => lose_power_while_filled(scene, victim).await,
            // Where nobody else may be down, no leader dies.
            1 if !scene.plan.majority_is_up() => leave_half_done(scene, victim).await,
            _ => lose_as_learner(scene, victim).await,
        };
        if !lost {
            break;
        }
        again = true;
    }
    again
}

/// A node that lost its directory asks for its place through a node that does not reach the catalogue's leader, and loses the new
/// directory, too. The next one asks through another node, and has its place before the first request arrives.
async fn lose_while_asking(scene: &Scene, victim: &Host) -> bool {
    let others = || scene.hosts.iter().filter(|host| host.id != victim.id);
    // The first that answers is asked.
    let via = others().find(|host| host.node().is_some());
    let Some(via) = via else {
        return false;
    };
    let elsewhere =
        |host: &&Host| host.id != via.id && scene.leader(META_SHARD).is_some_and(|it| it.id == host.id);
    if scene.leader(META_SHARD).is_some_and(|leader| leader.id == via.id) {
        let Some(other) = others().find(|host| host.id != via.id && host.node().is_some()) else {
            return false;
        };
        moved::give(scene, META_SHARD, other).await;
    }
    await_true(LOOK, CHANGES, || others().any(|host| elsewhere(&host))).await;
    let Some(leader) = others().find(elsewhere) else {
        return false;
    };
    let to_the_leader = network::cut_link(via, leader);
    victim.restart();
    last(100..1_000).await;
    victim.crash();
    victim.wipe();
    let to_the_first = [network::cut_link(victim, via), network::cut_link(via, victim)];
    last(10..300).await;
    victim.restart();
    let has_its_place = || victim.disk().read_file("NODE").is_some();
    let has_place = await_true(LOOK, CHANGES, has_its_place).await;
    // Who lives with another directory is not replaced by a request that is late: it has to be down for that.
    let is_down = has_place && thread_rng().gen_bool(0.6);
    if is_down {
        victim.crash();
        last(COUNTS_AS_DOWN_MS).await;
    }
    to_the_leader.mend();
    if is_down {
        last(10..1_000).await;
        victim.restart();
        scene
            .coverage
            .count("late request for the place of a node that is down");
    }
    last(10..1_000).await;
    to_the_first.into_iter().for_each(network::CutOff::mend);
    scene.coverage.count("directory lost while it asks for its place");
    true
}

async fn lose_as_learner(scene: &Scene, victim: &Host) -> bool {
    if !await_true(LOOK, LEARNS, || is_learner(scene, victim)).await {
        return false;
    }
    last(0..1_500).await;
    victim.crash();
    if thread_rng().gen_bool(0.6) && scene.atlas.may_forget(victim.id, &scene.hosts) {
        victim.wipe();
        scene.coverage.count("learner wiped");
    } else {
        scene.coverage.count("learner dies");
    }
    last(50..2_000).await;
    victim.restart();
    true
}

/// The power fails while a snapshot is put in: between two of the writes of that, or between what it does to the log and to the
/// state.
pub(super) async fn lose_power_while_filled(scene: &Scene, victim: &Host) -> bool {
    let work = if thread_rng().gen_bool(0.2) {
        Work::Stage
    } else {
        Work::Install
    };
    let piece = match work {
        Work::Install => install_piece(),
        _ => thread_rng().gen_range(0..PIECES),
    };
    victim.doom(Some((work, piece)));
    await_true(LOOK, LEARNS, || victim.lost_power() || atlas::whole(&scene.hosts)).await;
    victim.doom(None);
    if !victim.lost_power() {
        return false;
    }
    scene.coverage.count("learner loses power while it is filled");
    // Somebody looks after the machine.
    await_true(LOOK, LEARNS, || !victim.lost_power()).await;
    true
}

/// In which piece of the work of putting snapshots in the power is to fail. Each is put in in two, and most of the time in the second of
/// the first: nothing else has made durable by then what has to be.
pub(crate) fn install_piece() -> u64 {
    match thread_rng().gen_bool(0.5) {
        true => 1,
        false => thread_rng().gen_range(0..PIECES),
    }
}

/// A leader dies in the middle of a joint change to the node's new replica, and that is of no use any more: the next leader
/// finds a change that was begun, to what nobody wants.
async fn leave_half_done(scene: &Scene, victim: &Host) -> bool {
    if !await_true(LOOK, LEARNS, || is_learner(scene, victim)).await {
        return false;
    }
    let mut changing = None;
    await_true(LOOK_CLOSELY, CHANGES, || {
        changing = leads_joint_change(scene, victim);
        changing.is_some()
    })
    .await;
    let held = changing.and_then(|leader| Some((leader, scene.atlas.hold(leader.id)?)));
    let Some((leader, _hold)) = held else {
        return false;
    };
    process::die(leader);
    victim.crash();
    if scene.atlas.may_forget(victim.id, &scene.hosts) {
        victim.wipe();
    }
    scene.coverage.count("joint change left half done");
    last(AT_ONCE_MS).await;
    victim.restart();
    last(50..3_000).await;
    leader.restart();
    true
}

/// A node needs a snapshot, because what it lacks was purged or because it has nothing, and whoever sends it dies, once or
/// twice.
pub(super) async fn sender_dies(scene: &Scene) -> bool {
    let victim = scene.anybody();
    let Some(_hold) = scene.atlas.hold(victim.id) else {
        return false;
    };
    let shard = match thread_rng().gen_bool(0.5) {
        true => fall_behind(scene, victim).await,
        false => come_back_empty(scene, victim).await,
    };
    let Some(shard) = shard else { return false };
    if scene.plan.limits.forget() && thread_rng().gen_bool(0.3) {
        lose_power_while_filled(scene, victim).await;
        return true;
    }
    for _ in 0..thread_rng().gen_range(1..=2) {
        match thread_rng().gen_bool(0.2) {
            true => last(0..1_500).await,
            false => await_stage(victim).await,
        }
        if thread_rng().gen_bool(0.5) {
            stall(scene, victim, shard).await;
            continue;
        }
        let Some(sender) = scene.leader(shard) else {
            continue;
        };
        let Some(_hold) = scene.atlas.hold(sender.id) else {
            continue;
        };
        process::die(sender);
        scene.coverage.count("snapshot sender dies");
        last(100..3_000).await;
        sender.restart();
    }
    true
}

/// What is sent comes to a halt; when it might go on another node leads, whose state is a newer one.
async fn stall(scene: &Scene, victim: &Host, shard: u32) {
    let Some(sender) = scene.leader(shard).filter(|sender| sender.id != victim.id) else {
        return;
    };
    let others = scene
        .hosts
        .iter()
        .filter(|host| ![victim.id, sender.id].contains(&host.id));
    let others: Vec<&Host> = others.collect();
    let Some(next) = others.choose(&mut thread_rng()) else {
        return;
    };
    let cut = network::cut_link(sender, victim);
    last(500..4_000).await;
    moved::give(scene, shard, next).await;
    last(300..1_000).await;
    cut.mend();
    scene
        .coverage
        .count("snapshot sender is cut off and leads no more");
}

/// Waits until some of a snapshot's state, but hardly all of it, has arrived, if any is on its way. What comes last of it are the
/// messages that consumers have and the places of all: rows that are gone soon.
async fn await_stage(victim: &Host) {
    let enough = victim.work_count(Work::Stage) + thread_rng().gen_range(2..=PARTS);
    await_true(LOOK_CLOSELY, STAGES, || victim.work_count(Work::Stage) >= enough).await;
}

/// A node is cut off until what it lacks of some shard was purged.
async fn fall_behind(scene: &Scene, victim: &Host) -> Option<u32> {
    let cut = network::cut_off(scene, victim);
    let mut lacks = None;
    await_true(LOOK, PURGED, || {
        lacks = lacks_what_was_purged(scene, victim);
        lacks.is_some()
    })
    .await;
    cut.mend();
    lacks
}

async fn come_back_empty(scene: &Scene, victim: &Host) -> Option<u32> {
    if !disk::await_permission(scene, victim).await {
        return None;
    }
    victim.crash();
    victim.wipe();
    last(50..2_000).await;
    victim.restart();
    let learns = await_true(LOOK, LEARNS, || is_learner(scene, victim)).await;
    // Of the catalogue there is little to send.
    learns.then(|| thread_rng().gen_range(1..=scene.plan.shards))
}

/// Somebody has to be filled from a node whose disk is full: what a sender needs to write must be nothing.
pub(super) async fn full_sender(scene: &Scene) -> bool {
    let victim = scene.anybody();
    let Some(_hold) = scene.atlas.hold(victim.id) else {
        return false;
    };
    if !disk::await_permission(scene, victim).await {
        return false;
    }
    victim.crash();
    victim.wipe();
    let senders = scene.hosts.iter().filter(|host| host.id != victim.id);
    let led = |host: &&Host| (0..=scene.plan.shards).any(|shard| is_led_by(host, shard));
    let full: Vec<_> = senders.filter(led).map(Host::disk).collect();
    for disk in &full {
        disk::fill(scene, disk);
    }
    last(50..1_000).await;
    victim.restart();
    if await_true(LOOK, LEARNS, || is_learner(scene, victim)).await {
        scene.coverage.count("snapshot from a full node");
    }
    last(1_000..10_000).await;
    for disk in &full {
        disk.set_capacity(u64::MAX);
    }
    !full.is_empty()
}

fn is_led_by(host: &Host, shard: u32) -> bool {
    host.node().is_some_and(|node| node.leads(shard))
}

/// Some leader has a replica of the node as a learner.
fn is_learner(scene: &Scene, victim: &Host) -> bool {
    let nodes = scene.hosts.iter().filter_map(Host::node);
    nodes.flat_map(|node| replicas(&node)).any(|replica| {
        let status = replica.status();
        status.is_leader && status.learners.iter().any(|id| node_of(*id) == victim.id)
    })
}

/// A shard whose leader can no longer send from its log what the node lacks.
fn lacks_what_was_purged(scene: &Scene, victim: &Host) -> Option<u32> {
    let node = victim.node()?;
    let behind = replicas(&node).into_iter().map(|replica| replica.status());
    let lacks = |shard: u32, last_log: Option<u64>| {
        let leader = scene
            .leader(shard)
            .filter(|leader| leader.id != victim.id)?
            .node()?;
        let all = replicas(&leader);
        let status = all.iter().find(|replica| replica.shard() == shard)?.status();
        (status.is_leader && status.purged.map(|at| at.index) > last_log).then_some(shard)
    };
    behind
        .filter_map(|status| lacks(status.shard, status.last_log))
        .next()
}

/// Who leads a shard in the middle of a joint change to the node's replica that another node has, too.
fn leads_joint_change<'a>(scene: &'a Scene, victim: &Host) -> Option<&'a Host> {
    let changes = |host: &Host, shard: Option<u32>| {
        let replicas = host.node().map(|node| replicas(&node)).unwrap_or_default();
        let statuses = replicas.into_iter().map(|replica| replica.status());
        let of_victim =
            |status: &ReplicaStatus| status.voters.iter().flatten().any(|id| node_of(*id) == victim.id);
        statuses
            .filter(|status| status.voters.len() > 1 && of_victim(status))
            .find(|status| shard.map_or(status.is_leader, |shard| shard == status.shard))
            .map(|status| status.shard)
    };
    let others = || scene.hosts.iter().filter(|host| host.id != victim.id);
    let (leader, shard) = others().find_map(|host| Some((host, changes(host, None)?)))?;
    let is_known = others().any(|host| host.id != leader.id && changes(host, Some(shard)).is_some());
    is_known.then_some(leader)
}
