//! An old directory is put back: an operator restores a backup, a stale snapshot of a volume is attached. The node has
//! forgotten what it promised since, under its own name. The others know better, refuse it for good, and a person gives it an
//! empty one (ADR 8).

use std::time::Duration;

use madsim::rand::{Rng, seq::SliceRandom, thread_rng};
use tokio::time::sleep;

use super::{
    Scene, await_true,
    disk::{await_permission, await_whole},
    last,
};
use crate::{
    atlas::{self, Hold},
    host::{Hardware, Host},
};

/// Until a directory that the catalogue knows to be an older one is found out.
const FOUND_OUT: Duration = Duration::from_secs(60);
/// Until a new directory is of the cluster, and from then until it has all that the others have.
const FILLED: Duration = Duration::from_secs(20);
/// For what is over soon.
const LOOK_CLOSELY: Duration = Duration::from_millis(2);
const LOOK: Duration = Duration::from_millis(20);

pub(super) async fn put_back(scene: &Scene) -> bool {
    let victim = scene.anybody();
    let Some(_hold) = scene.atlas.hold(victim.id) else {
        return false;
    };
    if victim.damaged() || victim.node().is_none() {
        return false;
    }
    let backup = match thread_rng().gen_bool(0.5) {
        true => backup_of_the_beginning(scene, victim).await,
        false => {
            let backup = victim.backup();
            last(500..20_000).await;
            Some(backup)
        }
    };
    let Some(backup) = backup else { return false };
    // Whoever has heard of the newer state must not forget it now: a restore while others are down is two failures at once.
    let others: Vec<Hold> = scene
        .hosts
        .iter()
        .filter_map(|host| scene.atlas.hold(host.id))
        .collect();
    if others.len() + 1 < scene.hosts.len() || !await_whole(scene, victim).await {
        return false;
    }
    victim.crash();
    victim.damage();
    let _newer = victim.exchange(backup);
    last(100..3_000).await;
    victim.restart();
    judge(scene, victim).await;
    true
}

/// A copy of a new directory, as soon as it has its name, or is of the cluster, and before there is anything else in it; returned
/// when it is older than what is there.
async fn backup_of_the_beginning(scene: &Scene, victim: &Host) -> Option<Hardware> {
    if !await_permission(scene, victim).await {
        return None;
    }
    victim.crash();
    victim.wipe();
    last(50..2_000).await;
    victim.restart();
    let first = *["IDENTITY", "IDENTITY", "NODE"]
        .choose(&mut thread_rng())
        .expect("there are some");
    for _ in 0..FILLED.as_millis() / LOOK_CLOSELY.as_millis() {
        if victim.disk().read_durable(first).is_some() {
            break;
        }
        sleep(LOOK_CLOSELY).await;
    }
    let backup = victim.backup();
    let is_filled = await_true(LOOK, FILLED, || atlas::whole(&scene.hosts)).await;
    scene.coverage.count("backup of a new directory");
    is_filled.then_some(backup)
}

/// What the catalogue knows a directory to have had, it must have.
async fn judge(scene: &Scene, victim: &Host) {
    let looks = FOUND_OUT.as_millis() / LOOK.as_millis();
    let mut is_older = false;
    for _ in 0..looks {
        // Condemned, or an empty one in its place already.
        if victim.condemned() || !victim.damaged() {
            scene.coverage.count("old directory refused");
            return;
        }
        if let Some(node) = victim.node() {
            let hello = node.hello();
            let listed = |host: &Host| host.node()?.meta().nodes().get(&victim.id).cloned();
            let others = scene.hosts.iter().filter(|host| host.id != victim.id);
            let known = others
                .filter_map(listed)
                .filter(|it| it.directory == hello.directory && it.session != hello.session);
            is_older = known.map(|it| it.synced).max() > Some(hello.opened);
            let nothing_lost = !is_older && node.ready().is_ok() && atlas::whole(&scene.hosts);
            if nothing_lost {
                // Nothing that anybody heard of was written since the copy was made.
                scene.coverage.count("old directory as good as new");
                victim.undamaged();
                return;
            }
        }
        sleep(LOOK).await;
    }
    if is_older {
        scene.history.broken(format!(
            "P5: the directory of node {} was put back to an older state, and nobody found out within {FOUND_OUT:?}",
            victim.id
        ));
    }
}

/// Only the state is of an earlier time, or gone: half a restore. The log has every promise, so what it can be made from
/// again is made again; what it cannot is damage that the node sees.
pub(super) async fn lose_state(scene: &Scene) -> bool {
    let victim = scene.anybody();
    let Some(_hold) = scene.atlas.hold(victim.id) else {
        return false;
    };
    let earlier = thread_rng().gen_bool(0.5).then(|| victim.backup());
    if earlier.is_some() {
        last(500..20_000).await;
    }
    if !await_permission(scene, victim).await {
        return false;
    }
    victim.crash();
    victim.damage();
    victim.lose_state(earlier);
    last(100..2_000).await;
    victim.restart();
    // A start sees it, or there is nothing to see.
    let is_up = || victim.condemned() || victim.node().is_some_and(|node| node.ready().is_ok());
    for _ in 0..FOUND_OUT.as_millis() / LOOK.as_millis() {
        if is_up() {
            break;
        }
        sleep(LOOK).await;
    }
    let is_made_again = victim.damaged() && !victim.condemned() && is_up();
    scene.coverage.count(if is_made_again {
        "state made again"
    } else {
        "state given up"
    });
    if is_made_again {
        victim.undamaged();
    }
    true
}
