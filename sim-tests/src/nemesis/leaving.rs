//! Orderly stops, as of a node that is updated: it is told, hands over what it leads, writes its state out, ends, and is
//! started again.

use std::{collections::BTreeMap, time::Duration};

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
/// Leaderships that were given to a node are there after this, most of the time.
const GATHERED: Duration = Duration::from_millis(400);
/// A stop waits so long for a cluster that is whole.
const WHOLE_WITHIN: Duration = Duration::from_secs(3);
/// Share of the stops in a cluster that is whole during which another node stands still, or this node's disk.
const STANDS_STILL: f64 = 0.4;
const DISK_STANDS_STILL: f64 = 0.3;
/// For how long it has done so by then, milliseconds: it still counts as heard, and no longer once a hand-over to it has failed.
const STILL_MS: std::ops::Range<u64> = 100..700;

/// A disk that stands still does so for longer than a hand-over may take, milliseconds: who leaves cannot take down another one's vote,
/// and then it can.
const DISK_STILL_MS: std::ops::Range<u64> = 2_200..3_000;

/// For how long syncs take so long that begin: each takes longer than that, so one does.
const DISK_STANDS_FOR: Duration = Duration::from_millis(500);

/// What goes wrong during a stop.
#[derive(Clone, Copy)]
enum Trouble<'a> {
    /// Another node stands still.
    Still(&'a Host),
    /// The disk of the one that stops does.
    Disk,
}

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
    let trouble = draw_trouble(scene, victim).filter(|_| is_alone && slowness.longest_ms == 0);
    if let Some(trouble) = trouble {
        gather(scene, &node).await;
        begin(trouble, victim).await;
    }
    let led = led(&node);
    let most = if is_alone { ENDS } else { NOBODY_TAKES_OVER };
    let (ended, handed_over) = await_end(scene, (victim, &node, most), trouble, &led).await;
    if ended.is_none() && lost_power(victim, &node) {
        // What was told to stop ended as it was, and its next life was told nothing.
        scene.coverage.count("stop cut short by a power failure");
        return true;
    }
    let synced = node.hello().synced;
    let bound = (HANDED_OVER + slow) * u32::try_from(led.len().max(1)).unwrap_or(u32::MAX);
    let bound = (is_calm && trouble.is_none()).then_some(bound);
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

fn draw_trouble<'a>(scene: &'a Scene, victim: &Host) -> Option<Trouble<'a>> {
    let drawn = thread_rng().gen_range(0.0..1.0);
    if drawn < STANDS_STILL {
        let still = scene.hosts.iter().rfind(|host| host.id != victim.id);
        return still.map(Trouble::Still);
    }
    (drawn < STANDS_STILL + DISK_STANDS_STILL).then_some(Trouble::Disk)
}

/// Sometimes somebody stands still who looks as good a successor as the others, for a while.
async fn begin(trouble: Trouble<'_>, victim: &Host) {
    match trouble {
        Trouble::Still(still) => {
            still.pause();
            last(STILL_MS).await;
        }
        Trouble::Disk => {
            let still = Duration::from_millis(thread_rng().gen_range(DISK_STILL_MS));
            victim.disk().set_sync_delay(Some(still));
        }
    }
}

fn end(trouble: Trouble<'_>) {
    if let Trouble::Still(still) = trouble {
        still.resume();
    }
}

/// A leader most of the time: nothing happens when another one goes. Often whoever leads most.
fn choose(scene: &Scene) -> &Host {
    let drawn = thread_rng().gen_range(0..10);
    let led = |host: &&Host| host.node().map_or(0, |node| led(&node).len());
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

fn led(node: &Node) -> Led {
    let statuses = replicas(node).into_iter().map(|replica| replica.status());
    statuses
        .filter(|status| node.leads(status.shard))
        .map(|status| (status.shard, status.term))
        .collect()
}

/// Whether the power has failed since, and with it this life of the process has ended.
fn lost_power(victim: &Host, node: &Node) -> bool {
    let is_another = |now: Node| now.hello().session != node.hello().session;
    victim.lost_power() || victim.node().is_some_and(is_another)
}

/// Tells it to stop; when it has ended, and when others have what it led, if they have at most so long after that.
async fn await_end(
    scene: &Scene,
    (victim, node, most): (&Host, &Node, Duration),
    trouble: Option<Trouble<'_>>,
    led: &Led,
) -> (Option<Duration>, Option<Duration>) {
    let told = TimeHandle::current().elapsed();
    victim.tell_to_leave();
    let (mut ended, mut handed_over) = (None, None);
    let over = |ended: Option<Duration>, handed_over: Option<Duration>| {
        let elapsed = TimeHandle::current().elapsed() - told;
        elapsed >= ENDS
            || ended.is_some_and(|ended| handed_over.is_some() || elapsed >= ended + most)
            || ended.is_none() && lost_power(victim, node)
    };
    let usual = Some(Duration::from_micros(scene.plan.sync_us));
    while !over(ended, handed_over) {
        sleep(LOOK).await;
        let now = TimeHandle::current().elapsed() - told;
        let has_another = |shard: &u32| is_led_without(scene, victim, *shard);
        if now >= DISK_STANDS_FOR {
            victim.disk().set_sync_delay(usual);
        }
        if handed_over.is_none() && led.keys().all(has_another) {
            handed_over = Some(now);
        }
        if ended.is_none() && victim.exited() {
            ended = Some(now);
            if let Some(trouble) = trouble {
                judge_the_rest(scene, (victim, trouble), led);
                end(trouble);
            }
        }
    }
    if let Some(trouble) = trouble.filter(|_| ended.is_none()) {
        end(trouble);
    }
    (ended, handed_over)
}

/// The shards that a node leads, and the term of each.
type Led = BTreeMap<u32, u64>;

/// One hand-over failed. By then that is known, and the others go to those who take over: who gives one away waits until another one
/// stands for election. Nobody else does, because the leader was silent for a moment only.
///
/// Of those that a node which stands still should lead one may have been on its way there already.
fn judge_the_rest(scene: &Scene, (victim, trouble): (&Host, Trouble<'_>), led: &Led) {
    let (still, may_be_left) = match trouble {
        Trouble::Still(still) => (Some(still.id), 1),
        Trouble::Disk => (None, 0),
    };
    scene.coverage.count(match still {
        Some(_) => "stopped beside one that stood still",
        None => "stopped with a disk that stood still",
    });
    let others = scene
        .hosts
        .iter()
        .filter(|host| host.id != victim.id && Some(host.id) != still);
    let mut terms: Led = BTreeMap::new();
    for replica in others.filter_map(Host::node).flat_map(|node| replicas(&node)) {
        let newest = terms.entry(replica.shard()).or_default();
        *newest = replica.status().term.max(*newest);
    }
    let should_lead = |shard: u32| Some(shard % scene.plan.nodes + 1) == still;
    let left = kept(led, &terms);
    let left: Vec<u32> = left.into_iter().filter(|shard| !should_lead(*shard)).collect();
    if left.len() > may_be_left {
        scene.history.broken(format!(
            "P11: node {} stopped in an orderly way, and gave {left:?} to nobody, because another hand-over failed",
            victim.id
        ));
    }
}

/// What a node led for which nobody has stood since: others know of no later term.
fn kept(led: &Led, others: &Led) -> Vec<u32> {
    let is_given = |shard: u32, term: u64| others.get(&shard).is_some_and(|newest| *newest > term);
    let kept = led.iter().filter(|&(&shard, &term)| !is_given(shard, term));
    kept.map(|(&shard, _)| shard).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_given_when_somebody_has_stood_for_it_since() {
        let led: Led = [(0, 3), (1, 5), (2, 7)].into();
        assert_eq!(kept(&led, &[(0, 4), (1, 6), (2, 8)].into()), [0; 0]);
        assert_eq!(kept(&led, &[(0, 4), (1, 5)].into()), [1, 2]);
        assert_eq!(kept(&Led::new(), &Led::new()), [0; 0]);
    }
}
