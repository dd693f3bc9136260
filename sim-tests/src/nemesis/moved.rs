//! A leadership that goes to and fro between two nodes with slow disks: of what was asked for together some is in the log by then, and
//! some is not, and what is tried again at the next leader may find no room there.

use std::time::Duration;

use madsim::rand::{Rng, seq::SliceRandom, thread_rng};
use tokio::time::timeout;

use super::{Scene, last, tail::replica};
use crate::host::Host;

/// How long a leader takes at most to ask another one.
const ASKS: Duration = Duration::from_secs(2);
/// How long a sync takes, milliseconds: many requests come meanwhile.
const SYNC_MS: std::ops::Range<u64> = 20..300;

pub(super) async fn to_and_fro(scene: &Scene) -> bool {
    let shard = thread_rng().gen_range(1..=scene.plan.shards);
    let Some(leader) = scene.leader(shard) else {
        return false;
    };
    let others: Vec<&Host> = scene.hosts.iter().filter(|host| host.id != leader.id).collect();
    let Some(other) = others.choose(&mut thread_rng()).copied() else {
        return false;
    };
    let disks = [leader.disk(), other.disk()];
    let slow = Duration::from_millis(thread_rng().gen_range(SYNC_MS));
    disks.iter().for_each(|disk| disk.set_sync_delay(Some(slow)));
    let mut moved = false;
    for _ in 0..thread_rng().gen_range(2..=5) {
        last(200..2_000).await;
        let to = if is_led_by(leader, shard) { other } else { leader };
        moved |= give(scene, shard, to).await;
    }
    let usual = Duration::from_micros(scene.plan.sync_us);
    disks.iter().for_each(|disk| disk.set_sync_delay(Some(usual)));
    moved
}

fn is_led_by(host: &Host, shard: u32) -> bool {
    host.node().is_some_and(|node| node.leads(shard))
}

/// Has whoever leads a shard give it to this node; whether it was asked to.
pub(super) async fn give(scene: &Scene, shard: u32, to: &Host) -> bool {
    let leader = scene.leader(shard).filter(|leader| leader.id != to.id);
    let here = leader.and_then(Host::node).and_then(|node| replica(&node, shard));
    let there = to.node().and_then(|node| replica(&node, shard));
    let (Some(here), Some(there)) = (here, there) else {
        return false;
    };
    let status = here.status();
    if !status.voters.iter().all(|voters| voters.contains(&there.id())) {
        return false;
    }
    scene.coverage.count("leadership moved by hand");
    matches!(timeout(ASKS, here.transfer_leader(there.id())).await, Ok(Ok(())))
}
