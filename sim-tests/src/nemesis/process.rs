//! Processes that die, together or alone, with the power or without, and processes that stand still.

use madsim::rand::{Rng, seq::SliceRandom, thread_rng};

use super::{Scene, last};
use crate::{atlas::Hold, host::Host};

/// Power loss or only `kill -9`, as chance has it.
pub(super) fn die(host: &Host) {
    if thread_rng().gen_bool(0.7) {
        host.crash();
    } else {
        host.kill();
    }
}

pub(super) async fn kill_leader(scene: &Scene) -> bool {
    let Some(victim) = scene.leader(scene.any_shard()) else {
        return false;
    };
    let Some(_hold) = scene.atlas.hold(victim.id) else {
        return false;
    };
    die(victim);
    last(200..6_000).await;
    victim.restart();
    true
}

pub(super) async fn kill_some(scene: &Scene) -> bool {
    let mut hosts: Vec<&Host> = scene.hosts.iter().collect();
    hosts.shuffle(&mut thread_rng());
    hosts.truncate(thread_rng().gen_range(2..=scene.hosts.len()));
    kill(scene, hosts).await
}

pub(super) async fn kill_all(scene: &Scene) -> bool {
    kill(scene, scene.hosts.iter().collect()).await
}

/// All at once, and each comes back when it likes.
async fn kill(scene: &Scene, hosts: Vec<&Host>) -> bool {
    let held: Vec<(&Host, Hold)> = hosts
        .into_iter()
        .filter_map(|host| Some((host, scene.atlas.hold(host.id)?)))
        .collect();
    for (host, _) in &held {
        die(host);
    }
    let any = !held.is_empty();
    for (host, _hold) in held {
        last(100..1_500).await;
        host.restart();
    }
    any
}

pub(super) async fn pause(scene: &Scene) -> bool {
    let victim = scene.anybody();
    let Some(_hold) = scene.atlas.hold(victim.id) else {
        return false;
    };
    victim.pause();
    last(200..12_000).await;
    victim.resume();
    true
}
