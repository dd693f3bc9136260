//! Outages of minutes: longer than the dedup window, than any lease, and than a leader waits for anybody. A power cut in the
//! data centre, a node that waits for a spare part.

use madsim::rand::{Rng, thread_rng};

use super::{Scene, last, process};
use crate::{atlas::Hold, host::Host};

/// The dedup window is two minutes.
const OUTAGE_MS: std::ops::Range<u64> = 125_000..300_000;

/// All nodes are down, all but one, or one.
pub(super) async fn long(scene: &Scene) -> bool {
    let left = scene.anybody().id;
    let who: Vec<&Host> = match thread_rng().gen_range(0..3) {
        0 => scene.hosts.iter().collect(),
        1 => scene.hosts.iter().filter(|host| host.id != left).collect(),
        _ => scene.hosts.iter().filter(|host| host.id == left).collect(),
    };
    let held: Vec<Hold> = who.iter().filter_map(|host| scene.atlas.hold(host.id)).collect();
    if held.len() < who.len() || who.is_empty() {
        return false;
    }
    for host in &who {
        process::die(host);
    }
    scene.coverage.count(match who.len() {
        all if all == scene.hosts.len() => "outage of all",
        1 => "outage of one",
        _ => "outage of all but one",
    });
    last(OUTAGE_MS).await;
    for host in who {
        last(0..2_000).await;
        host.restart();
    }
    true
}
