//! Another cluster's machine at a node's address: staging's volume on a production host, an address that was given to
//! somebody else. It has the same node number and the same replica ids, and is started with the addresses of this cluster. It may
//! only say that it does not belong here (ADR 8), and nothing may be accepted from it.
//!
//! Clients do not find it: they have no cluster, and nothing that this cluster does could keep them from sending to another.

use std::time::Duration;

use madsim::{
    net::NetSim,
    rand::{Rng, seq::SliceRandom, thread_rng},
};
use tokio::time::sleep;

use super::{Scene, disk::await_exit, last, process, release::content};
use crate::{
    atlas::Hold,
    host::{Guise, Hardware, Host},
};

/// A cluster of one node forms within this.
const FORMED: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);
/// How often is looked what is said of a visitor.
const LISTEN: Duration = Duration::from_millis(500);

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
        if is_ready(place) {
            break;
        }
        sleep(LOOK).await;
    }
    let formed = is_ready(place);
    place.kill();
    NetSim::current().unclog_node(place.machine());
    if formed {
        place.disguise(Guise::Visitor);
        place.restart();
        let stay = Duration::from_millis(thread_rng().gen_range(2_000..20_000));
        for _ in 0..stay.as_millis() / LISTEN.as_millis() {
            sleep(LISTEN).await;
            judge(scene, place);
        }
        place.crash();
    }
    place.exchange(own);
    place.disguise(Guise::Own);
    last(100..2_000).await;
    place.restart();
    formed
}

fn is_ready(place: &Host) -> bool {
    place.visitor().is_some_and(|node| node.ready().is_ok())
}

/// Who refuses a visitor says that it is of another cluster: whoever reads anything else about it might believe that its data is
/// of no use any more.
fn judge(scene: &Scene, place: &Host) {
    let Some(visitor) = place.visitor() else { return };
    let directory = format!(
        "data directory {:016x} of node {}",
        visitor.hello().directory,
        place.id
    );
    let others = scene.hosts.iter().filter(|host| host.id != place.id);
    for node in others.filter_map(Host::node) {
        let reason = node.strangers().remove(&place.id);
        let Some(reason) = reason.filter(|reason| reason.contains(&directory)) else {
            continue;
        };
        scene.coverage.count("visitor refused");
        if !reason.contains(&format!("{directory} belongs to cluster")) {
            scene.history.broken(format!(
                "P5: another cluster's node is at the place of node {}, and node {} says of it: {reason}",
                place.id,
                node.id()
            ));
        }
    }
}

/// Two nodes come back with each other's disks: volumes were attached the wrong way round. Neither may be opened, for it
/// would speak in the other's name; with the right ones both are well.
pub(super) async fn swap(scene: &Scene) -> bool {
    let two: Vec<&Host> = scene.hosts.choose_multiple(&mut thread_rng(), 2).collect();
    let held: Vec<Hold> = two.iter().filter_map(|host| scene.atlas.hold(host.id)).collect();
    if held.len() < 2 || two.iter().any(|host| host.damaged()) {
        return false;
    }
    two.iter().for_each(|host| process::die(host));
    // A directory that is nobody's yet, because its node is being rebuilt, is as good as empty.
    if two.iter().any(|host| host.disk().read_file("NODE").is_none()) {
        two.iter().for_each(|host| host.restart());
        return false;
    }
    exchange(two[0], two[1]);
    let before: Vec<_> = two.iter().map(|host| content(&host.disk())).collect();
    last(100..1_000).await;
    for host in &two {
        host.restart();
        host.may_stop();
    }
    for (host, before) in two.iter().zip(before) {
        let ended = await_exit(host, Duration::from_secs(10)).await;
        let said = host.last_words();
        if !ended || !said.contains("belongs to node") {
            scene.history.broken(format!(
                "P11: node {} was started on the directory of another node, and did not refuse it: {said:?}",
                host.id
            ));
        }
        if content(&host.disk()) != before {
            scene.history.broken(format!(
                "P11: node {} has changed another node's directory",
                host.id
            ));
        }
    }
    two.iter().for_each(|host| host.kill());
    exchange(two[0], two[1]);
    for host in two {
        last(100..1_000).await;
        host.restart();
    }
    true
}

fn exchange(one: &Host, other: &Host) {
    let nothing = Hardware::nothing();
    let of_one = one.exchange(nothing);
    one.exchange(other.exchange(of_one));
}
