//! Orderly stops, as of a node that is updated: it is told, hands over what it leads, writes its state out, ends, and is
//! started again.

use std::time::Duration;

use broker::node::Node;
use madsim::{
    rand::{Rng, thread_rng},
    time::TimeHandle,
};
use tokio::time::sleep;

use super::{Scene, await_true, last};
use crate::{
    atlas,
    host::{HAND_OVER_TIMEOUT, Host},
    oracle::{cluster::replicas, flushed},
};

/// A node that is told to stop has ended after this: `flotilla serve` gives it 15 seconds for its leaderships, and it has to write
/// its state out.
const ENDS: Duration = Duration::from_secs(20);
/// In a cluster that is not whole nobody may be able to take over: who has ended is started again after this at the latest.
const NOBODY_TAKES_OVER: Duration = Duration::from_secs(3);
/// In a cluster that is whole, with nothing else going on, what it led has another leader after this, for each shard: an
/// election without the wait before it, which is 600 ms and more.
const HANDED_OVER: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(5);
/// Who has the votes for it leads after this: they are written by who gave them.
const ELECTED: Duration = Duration::from_secs(1);
/// Leaderships that were given to a node are there after this, most of the time.
const GATHERED: Duration = Duration::from_millis(400);
/// A stop waits so long for a cluster that is whole.
const WHOLE_WITHIN: Duration = Duration::from_secs(3);
/// Share of the stops in a cluster that is whole during which another node stands still.
const STANDS_STILL: f64 = 0.6;
/// For how long it has done so by then, milliseconds: it still counts as heard, and no longer once a hand-over to it has failed.
const STILL_MS: std::ops::Range<u64> = 100..700;

pub(super) async fn leave(scene: &Scene) -> bool {
    // With one nemesis there is no other fault now.
    let is_alone = scene.plan.at_once == 1 && scene.hosts.len() >= 3 && await_whole(scene).await;
    let victim = choose(scene);
    let Some(_hold) = scene.atlas.hold(victim.id) else {
        return false;
    };
    let Some(node) = victim.node() else { return false };
    let is_calm = is_alone && scene.plan.loss == 0.0;
    // An election writes votes, which take as long as the machines of this world take for it.
    let slowness = scene.plan.slowness;
    let slow = 2 * Duration::from_millis(slowness.long_ms.max(slowness.longest_ms));
    // Sometimes somebody stands still who looks as good a successor as the others, for a while.
    let may_stand_still = is_alone && slowness.longest_ms == 0 && thread_rng().gen_bool(STANDS_STILL);
    let still = scene.hosts.iter().rfind(|host| host.id != victim.id);
    let still = still.filter(|_| may_stand_still);
    if let Some(still) = still {
        gather(scene, &node).await;
        still.pause();
        last(STILL_MS).await;
    }
    let led = led(scene, &node);
    let most = if is_alone { ENDS } else { NOBODY_TAKES_OVER };
    let (ended, handed_over) = await_end(scene, (victim, most), still, &led).await;
    let synced = node.hello().synced;
    let bound = (HANDED_OVER + slow) * u32::try_from(led.len().max(1)).unwrap_or(u32::MAX);
    let bound = (is_calm && still.is_none()).then_some(bound);
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

/// What the fault before has left is soon over, most of the time.
async fn await_whole(scene: &Scene) -> bool {
    await_true(LOOK, WHOLE_WITHIN, || atlas::whole(&scene.hosts)).await
}

/// A leader most of the time: nothing happens when another one goes. Often whoever leads most.
fn choose(scene: &Scene) -> &Host {
    let drawn = thread_rng().gen_range(0..10);
    let led = |host: &&Host| host.node().map_or(0, |node| led(scene, &node).len());
    let chosen = match drawn {
        0..4 => scene.leader(scene.any_shard()),
        4..8 => scene.hosts.iter().max_by_key(led),
        _ => None,
    };
    chosen.unwrap_or_else(|| scene.anybody())
}

/// Has a node lead everything, as if it had been the only one for a while.
async fn gather(scene: &Scene, node: &Node) {
    let others = scene.hosts.iter().filter_map(Host::node);
    let others = others.filter(|other| other.id() != node.id());
    let led: Vec<_> = others.flat_map(|other| replicas(&other)).collect();
    for replica in led.iter().filter(|replica| replica.status().is_leader) {
        let here = replicas(node);
        if let Some(to) = here.iter().find(|here| here.shard() == replica.shard()) {
            // It may have lost the shard meanwhile.
            let _ = replica.transfer_leader(to.id()).await;
        }
    }
    sleep(GATHERED).await;
}

/// The shards that a node leads.
fn led(scene: &Scene, node: &Node) -> Vec<u32> {
    (0..=scene.plan.shards)
        .filter(|shard| node.leads(*shard))
        .collect()
}

/// Tells it to stop; when it has ended, and when others have what it led, if they have at most so long after that.
async fn await_end(
    scene: &Scene,
    (victim, most): (&Host, Duration),
    still: Option<&Host>,
    led: &[u32],
) -> (Option<Duration>, Option<Duration>) {
    let told = TimeHandle::current().elapsed();
    victim.tell_to_leave();
    let (mut ended, mut handed_over) = (None, None);
    let over = |ended: Option<Duration>, handed_over: Option<Duration>| {
        let elapsed = TimeHandle::current().elapsed() - told;
        elapsed >= ENDS || ended.is_some_and(|ended| handed_over.is_some() || elapsed >= ended + most)
    };
    while !over(ended, handed_over) {
        sleep(LOOK).await;
        let now = TimeHandle::current().elapsed() - told;
        let has_another = |shard: &u32| is_led_without(scene, victim, *shard);
        if handed_over.is_none() && led.iter().all(has_another) {
            handed_over = Some(now);
        }
        if ended.is_none() && victim.exited() {
            ended = Some(now);
            if let Some(still) = still {
                judge_the_rest(scene, (victim, still), led).await;
                still.resume();
            }
        }
    }
    if let Some(still) = still.filter(|_| ended.is_none()) {
        still.resume();
    }
    (ended, handed_over)
}

/// One hand-over went to somebody who stood still. By then that is known, and the others go to those who take over.
///
/// Those that the other one should lead may have been on their way there already, and the last votes may still be.
async fn judge_the_rest(scene: &Scene, (victim, still): (&Host, &Host), led: &[u32]) {
    let left = || left_without(scene, (victim, still), led);
    await_true(LOOK, ELECTED, || left().len() <= 1).await;
    scene.coverage.count("stopped beside one that stood still");
    let left = left();
    if left.len() > 1 {
        scene.history.broken(format!(
            "P11: node {} stopped in an orderly way while one other node stood still, and nobody took over its shards {left:?}",
            victim.id
        ));
    }
}

/// What a node led that neither another one leads now nor the one that stands still should lead.
fn left_without(scene: &Scene, (victim, still): (&Host, &Host), led: &[u32]) -> Vec<u32> {
    let should_lead = |shard: u32| shard % scene.plan.nodes + 1 == still.id;
    let others = scene.hosts.iter().filter(|host| host.id != victim.id);
    let replicas: Vec<_> = others
        .filter_map(Host::node)
        .flat_map(|node| replicas(&node))
        .collect();
    let taken = |shard: &&u32| {
        let mut of_shard = replicas.iter().filter(|replica| replica.shard() == **shard);
        of_shard.any(|replica| replica.status().is_leader)
    };
    let left = led.iter().filter(|&shard| !taken(&shard) && !should_lead(*shard));
    left.copied().collect()
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
