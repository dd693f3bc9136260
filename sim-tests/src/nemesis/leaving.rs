//! Orderly stops, as of a node that is updated: it is told, hands over what it leads, writes its state out, ends, and is
//! started again.

use std::time::Duration;

use madsim::{
    rand::{Rng, thread_rng},
    time::TimeHandle,
};
use tokio::time::sleep;

use super::{Scene, last};
use crate::{
    atlas,
    host::{HAND_OVER_TIMEOUT, Host},
    oracle::flushed,
};

/// A node that is told to stop has ended after this: `flotilla serve` gives it 15 seconds for its leaderships, and it has to write
/// its state out.
const ENDS: Duration = Duration::from_secs(20);
/// In a cluster that is whole, with nothing else going on, what it led has another leader after this, for each shard: an
/// election without the wait before it, which is 600 ms and more.
const HANDED_OVER: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(5);

pub(super) async fn leave(scene: &Scene) -> bool {
    // A leader most of the time: nothing happens when another one goes.
    let leader = scene.leader(scene.any_shard());
    let leader = leader.filter(|_| thread_rng().gen_bool(0.8));
    let victim = leader.unwrap_or_else(|| scene.anybody());
    let Some(_hold) = scene.atlas.hold(victim.id) else {
        return false;
    };
    let Some(node) = victim.node() else { return false };
    let led: Vec<u32> = (0..=scene.plan.shards)
        .filter(|shard| node.leads(*shard))
        .collect();
    // With one nemesis there is no other fault now.
    let is_calm = scene.plan.at_once == 1
        && scene.plan.loss == 0.0
        && scene.hosts.len() >= 3
        && atlas::whole(&scene.hosts);
    let told = TimeHandle::current().elapsed();
    victim.tell_to_leave();
    let (mut ended, mut handed_over) = (None, None);
    while TimeHandle::current().elapsed() < told + ENDS && (ended.is_none() || handed_over.is_none()) {
        sleep(LOOK).await;
        let now = TimeHandle::current().elapsed() - told;
        let has_another = |shard: &u32| is_led_without(scene, victim, *shard);
        if handed_over.is_none() && led.iter().all(has_another) {
            handed_over = Some(now);
        }
        if ended.is_none() && victim.exited() {
            ended = Some(now);
        }
    }
    let synced = node.hello().synced;
    // An election writes votes, which take as long as the machines of this world take for it.
    let slowness = scene.plan.slowness;
    let slow = 2 * Duration::from_millis(slowness.long_ms.max(slowness.longest_ms));
    let bound = (HANDED_OVER + slow) * u32::try_from(led.len().max(1)).unwrap_or(u32::MAX);
    let bound = is_calm.then_some(bound);
    judge(scene, victim, bound, ended, handed_over);
    // Whoever has used up its time ends as it is.
    if ended.is_some_and(|took| took < HAND_OVER_TIMEOUT) {
        let left = flushed::left_in_memory(victim, &node);
        left.into_iter().for_each(|what| scene.history.broken(what));
    }
    // What it has said that it wrote is there whatever happens to the machine now.
    if ended.is_some() && thread_rng().gen_bool(0.5) {
        victim.crash();
    } else {
        victim.kill();
    }
    last(100..5_000).await;
    victim.restart();
    for _ in 0..1_000 {
        sleep(Duration::from_millis(10)).await;
        let Some(again) = victim.node() else { continue };
        if again.hello().opened < synced {
            scene.history.broken(format!(
                "P1: node {} had synced {synced} batches when it was told to stop, and starts with {}",
                victim.id,
                again.hello().opened
            ));
        }
        break;
    }
    true
}

/// Another node leads a shard and has applied all that was answered before.
fn is_led_without(scene: &Scene, victim: &Host, shard: u32) -> bool {
    let others = scene.hosts.iter().filter(|host| host.id != victim.id);
    let mut others = others.filter_map(Host::node);
    others.any(|node| node.leads(shard))
}

fn judge(
    scene: &Scene,
    victim: &Host,
    bound: Option<Duration>,
    ended: Option<Duration>,
    handed_over: Option<Duration>,
) {
    let id = victim.id;
    if ended.is_none() {
        scene.history.broken(format!(
            "P11: node {id} was told to stop, and runs {ENDS:?} later"
        ));
    }
    let took = handed_over.unwrap_or(ENDS);
    scene.coverage.count(match took.as_millis() {
        0..250 => "handed over in 250 ms",
        250..1_000 => "handed over in 1 s",
        1_000..3_000 => "handed over in 3 s",
        _ => "handed over late",
    });
    if let Some(bound) = bound.filter(|bound| took > *bound + LOOK) {
        scene.history.broken(format!(
            "P11: node {id} stopped in an orderly way, and what it led had no other leader after {bound:?}, but after {took:?}"
        ));
    }
}
