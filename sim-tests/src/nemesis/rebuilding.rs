//! Chains: what else goes wrong while a node is filled again, or is helped with a snapshot because what it lacks is gone from
//! the log.

use std::time::Duration;

use broker::node::node_of;
use madsim::rand::{Rng, thread_rng};
use tokio::time::sleep;

use super::{Scene, disk, last, network, process};
use crate::{host::Host, oracle::cluster::replicas};

/// Until the leader of some shard has the node's new replica as a learner.
const LEARNS: Duration = Duration::from_secs(20);
/// Until what a node lacks was purged from a leader's log.
const PURGED: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(10);

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
    victim.restart();
    let mut again = false;
    for _ in 0..thread_rng().gen_range(1..=3) {
        if !await_true(LEARNS, || is_learner(scene, victim)).await {
            break;
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
        again = true;
    }
    again
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
    for _ in 0..thread_rng().gen_range(1..=2) {
        last(0..1_500).await;
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

/// A node is cut off until what it lacks of some shard was purged.
async fn fall_behind(scene: &Scene, victim: &Host) -> Option<u32> {
    let cut = network::cut_off(scene, victim);
    let mut lacks = None;
    await_true(PURGED, || {
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
    let learns = await_true(LEARNS, || is_learner(scene, victim)).await;
    learns.then(|| scene.any_shard())
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
    if await_true(LEARNS, || is_learner(scene, victim)).await {
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

async fn await_true(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    for _ in 0..patience.as_millis() / LOOK.as_millis() {
        if condition() {
            return true;
        }
        sleep(LOOK).await;
    }
    false
}
