//! Another cluster's machine at a node's address: staging's volume on a production host, an address that was given to
//! somebody else. It has the same node number and the same replica ids, and is started with the addresses of this cluster. It may
//! only say that it does not belong here (ADR 8), and nothing may be accepted from it.
//!
//! Clients do not find it: they have no cluster, and nothing that this cluster does could keep them from sending to another.

use std::time::Duration;

use madsim::net::NetSim;
use tokio::time::sleep;

use super::{Scene, last, process};
use crate::host::{Guise, Hardware};

/// A cluster of one node forms within this.
const FORMED: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);

pub(super) async fn visit(scene: &Scene) -> bool {
    let place = scene.anybody();
    let Some(_hold) = scene.atlas.hold(place.id) else {
        return false;
    };
    process::die(place);
    let own = place.exchange(Hardware::new(&scene.plan));
    // It formed its cluster elsewhere.
    NetSim::current().clog_node(place.machine());
    place.disguise(Guise::Founder);
    place.restart();
    for _ in 0..FORMED.as_millis() / LOOK.as_millis() {
        if place.visitor_is_ready() {
            break;
        }
        sleep(LOOK).await;
    }
    let formed = place.visitor_is_ready();
    place.kill();
    NetSim::current().unclog_node(place.machine());
    if formed {
        place.disguise(Guise::Visitor);
        place.restart();
        last(2_000..20_000).await;
        place.crash();
    }
    place.exchange(own);
    place.disguise(Guise::Own);
    last(100..2_000).await;
    place.restart();
    formed
}
