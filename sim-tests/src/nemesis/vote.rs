//! Whoever elected a leader loses power in the moment in which it leads, and elects again without it: a vote that was
//! answered before it was durable is then given twice.

use std::time::Duration;

use madsim::rand::{Rng, thread_rng};
use tokio::time::sleep;

use super::{Scene, last, network};
use crate::{atlas::Hold, host::Host};

/// How long an election may take.
const ELECTION: Duration = Duration::from_secs(5);
/// How often the hosts are asked who leads: less than a sync takes.
const LOOK: Duration = Duration::from_millis(1);

pub(super) async fn crash_voters(scene: &Scene) -> bool {
    let held: Vec<Hold> = scene
        .hosts
        .iter()
        .filter_map(|host| scene.atlas.hold(host.id))
        .collect();
    let shard = scene.any_shard();
    let (true, Some(before)) = (held.len() == scene.hosts.len(), scene.leader(shard)) else {
        return false;
    };
    // Slower than an election, so that its votes are not durable by chance.
    set_syncs(scene, Duration::from_millis(thread_rng().gen_range(30..200)));
    before.crash();
    let after = elected(scene, shard).await;
    let electors: Vec<&Host> = scene
        .hosts
        .iter()
        .filter(|host| host.id != before.id && after.is_some_and(|after| after.id != host.id))
        .collect();
    electors.iter().for_each(|host| host.crash());
    let cut = after.map(|after| network::cut_off(scene, after));
    set_syncs(scene, Duration::from_micros(scene.plan.sync_us));
    for host in electors.into_iter().chain([before]) {
        host.restart();
    }
    if let Some(cut) = cut {
        last(2_000..8_000).await;
        cut.mend();
    }
    after.is_some()
}

/// Who leads next, now that nobody does.
async fn elected(scene: &Scene, shard: u32) -> Option<&Host> {
    for _ in 0..ELECTION.as_millis() / LOOK.as_millis() {
        sleep(LOOK).await;
        if let Some(after) = scene.leader(shard) {
            return Some(after);
        }
    }
    None
}

fn set_syncs(scene: &Scene, delay: Duration) {
    for host in scene.hosts.iter() {
        host.disk().set_sync_delay(Some(delay));
    }
}
