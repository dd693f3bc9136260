//! Disks that are slow, full, broken, new, or that lie.

use std::time::Duration;

use madsim::rand::{Rng, seq::SliceRandom, thread_rng};
use raft_store::disk::sim::{Fault, Operation, SimDisk};
use tokio::time::sleep;

use super::{Scene, files::is_last_segment, last, rebuilding::lose_power_while_filled};
use crate::host::Host;

pub(super) async fn slow(scene: &Scene) -> bool {
    let disk = scene.anybody().disk();
    let slow = Duration::from_millis(thread_rng().gen_range(20..300));
    disk.set_sync_delay(Some(slow));
    last(500..10_000).await;
    disk.set_sync_delay(Some(Duration::from_micros(scene.plan.sync_us)));
    true
}

/// There is room for a little more, or for nothing.
pub(super) async fn full(scene: &Scene) -> bool {
    let disk = scene.anybody().disk();
    fill(scene, &disk);
    last(500..10_000).await;
    disk.set_capacity(u64::MAX);
    true
}

/// From now on there is room for less than a segment more.
pub(super) fn fill(scene: &Scene, disk: &SimDisk) {
    let used: usize = disk
        .files()
        .iter()
        .filter_map(|name| Some(disk.read_file(name)?.len()))
        .sum();
    disk.set_capacity(used as u64 + thread_rng().gen_range(0..scene.plan.segment_bytes));
}

/// A write or a sync fails: the node may answer nothing any more, and has to stop. Somebody starts it again.
pub(super) async fn error(scene: &Scene) -> bool {
    let Some((victim, _hold)) = scene.anybody_on() else {
        return false;
    };
    victim.may_stop();
    let operation = if thread_rng().gen_bool(0.5) {
        Operation::Write
    } else {
        Operation::Sync
    };
    let disk = victim.disk();
    disk.inject(operation, thread_rng().gen_range(1..50), Fault::Error);
    let failed = await_exit(victim, Duration::from_secs(10)).await;
    disk.clear_faults();
    // What a failed sync should have made durable may be gone: as good as a power loss.
    victim.crash();
    last(100..3_000).await;
    victim.restart();
    failed
}

pub(super) async fn await_exit(host: &Host, patience: Duration) -> bool {
    const LOOK: Duration = Duration::from_millis(5);
    let mut looks = patience.as_millis() / LOOK.as_millis();
    while !host.exited() && looks > 0 {
        looks -= 1;
        sleep(LOOK).await;
    }
    host.exited()
}

/// Other nodes may still have to be filled again after what they lost.
pub(super) async fn await_permission(scene: &Scene, victim: &Host) -> bool {
    await_word(|| scene.atlas.may_forget(victim.id, &scene.hosts)).await
}

/// A moment at which every replica has everything is rare while there is traffic, so one is waited for.
pub(super) async fn await_whole(scene: &Scene, victim: &Host) -> bool {
    await_word(|| scene.atlas.may_forget_unawares(victim.id, &scene.hosts)).await
}

async fn await_word(allowed: impl Fn() -> bool) -> bool {
    const LOOK: Duration = Duration::from_millis(10);
    const LOOKS: u32 = 500;
    for _ in 0..LOOKS {
        if allowed() {
            return true;
        }
        sleep(LOOK).await;
    }
    false
}

/// The machine is replaced: it comes back under the same address with nothing. Sometimes a leader that may
/// have to help it with a snapshot has a slow disk: then it knows of more than it has synced, and so applied.
pub(super) async fn wipe(scene: &Scene) -> bool {
    let victim = scene.anybody();
    let Some(_hold) = scene.atlas.hold(victim.id) else {
        return false;
    };
    if !await_permission(scene, victim).await {
        return false;
    }
    victim.crash();
    victim.wipe();
    last(100..8_000).await;
    let helper = scene.leader(scene.any_shard()).map(Host::disk);
    let helper = helper.filter(|_| thread_rng().gen_bool(0.5));
    if let Some(disk) = &helper {
        disk.set_sync_delay(Some(Duration::from_millis(thread_rng().gen_range(20..300))));
    }
    victim.restart();
    if thread_rng().gen_bool(0.6) {
        lose_power_while_filled(scene, victim).await;
    }
    if let Some(disk) = helper {
        last(500..5_000).await;
        disk.set_sync_delay(Some(Duration::from_micros(scene.plan.sync_us)));
    }
    true
}

/// Waits for the node to find out, then for the cluster to make it whole, so that nobody harms it, or another, before.
const FOUND_OUT: Duration = Duration::from_secs(10);

/// A bit of a file goes over. Not in the last batch of the log: that cannot be told from one that was being written when the
/// power went (docs/on-disk-format.md).
pub(super) async fn flip(scene: &Scene) -> bool {
    let victim = scene.anybody();
    let Some(_hold) = scene.atlas.hold(victim.id) else {
        return false;
    };
    let disk = victim.disk();
    if old_file(&disk).is_none() || !await_permission(scene, victim).await {
        return false;
    }
    // Chosen now: what was there before the wait may have been given back.
    let Some((file, len)) = old_file(&disk) else {
        return false;
    };
    let (byte, bit) = (thread_rng().gen_range(0..len), thread_rng().gen_range(0..8));
    flip_for_a_while(scene, victim, &file, (byte, bit)).await;
    true
}

/// Flips a bit. Sometimes it was wrong on its way from the medium only: what nobody met is right again then.
pub(super) async fn flip_for_a_while(scene: &Scene, victim: &Host, file: &str, (byte, bit): (u64, u8)) {
    let disk = victim.disk();
    let stored = || Some(*disk.read_file(file)?.get(usize::try_from(byte).ok()?)?);
    let before = stored();
    victim.damage();
    disk.flip_bit(file, byte, bit);
    last(0..FOUND_OUT.as_millis() as u64).await;
    let is_wrong = || {
        let now_and_before = stored().zip(before);
        now_and_before.is_some_and(|(now, before)| now == before ^ (1 << bit))
    };
    if !victim.condemned() {
        victim.kill();
    }
    // Whatever a start makes of it: what it does not believe it writes over.
    let is_proved = is_last_segment(&disk, file) && is_wrong();
    start_anew(victim).await;
    if is_proved {
        return must_refuse(scene, victim, file, || true).await;
    }
    if READ_AT_START.contains(&file) {
        // Unless it was written anew before the process ended.
        return must_refuse(scene, victim, file, is_wrong).await;
    }
    if thread_rng().gen_bool(0.5) {
        return;
    }
    last(0..2_000).await;
    if victim.condemned() || !victim.damaged() {
        return;
    }
    // Whoever still starts may have read it, and whoever has noted it repairs it: the damage is theirs to find.
    if victim
        .node()
        .is_none_or(|node| !node.store().damages().is_empty())
    {
        return;
    }
    // Written anew, repaired or given back: then it is as it should be.
    if is_wrong() {
        disk.flip_bit(file, byte, bit);
    }
    victim.undamaged();
}

/// A start reads all of these, so it finds whatever is wrong with them.
const READ_AT_START: [&str; 2] = ["IDENTITY", "NODE"];
/// A start has read them after this.
const STARTED: Duration = Duration::from_secs(10);

/// A process that was just started on a file that is not as it was written, as long as it is not, does not take part.
pub(super) async fn must_refuse(scene: &Scene, victim: &Host, file: &str, is_wrong: impl Fn() -> bool) {
    const LOOK: Duration = Duration::from_millis(20);
    for _ in 0..STARTED.as_millis() / LOOK.as_millis() {
        // Condemned, or an empty directory in its place already.
        if victim.condemned() || !victim.damaged() {
            return scene.coverage.count("damaged directory refused");
        }
        if victim.node().is_some() && is_wrong() {
            let id = victim.id;
            return scene.history.broken(format!(
                "P11: node {id} was started with a file {file} that is not as it was written, and takes part"
            ));
        }
        sleep(LOOK).await;
    }
}

/// A closed segment, its sidecar or the identity, and how long it is.
fn old_file(disk: &SimDisk) -> Option<(String, u64)> {
    let files = disk.files();
    let last = files.iter().filter(|name| name.ends_with(".seg")).max()?.clone();
    let old = files.iter().filter(|name| {
        (name.ends_with(".seg") && **name < last) || name.ends_with(".idx") || *name == "IDENTITY"
    });
    let old: Vec<&String> = old.collect();
    let file = (*old.choose(&mut thread_rng())?).clone();
    let bytes = disk.read_file(&file)?;
    // What follows the last byte that is not zero was never written.
    let len = bytes.iter().rposition(|byte| *byte != 0)? as u64 + 1;
    Some((file, len))
}

/// A write is lost or goes astray. Nobody can know that of the last one before a power loss, so for once everybody else must have
/// everything. Whoever writes goes on, so that something stands behind what is missing.
pub(super) async fn lie(scene: &Scene) -> bool {
    const MORE_SYNCS: u64 = 4;
    let victim = scene.anybody();
    let Some(_hold) = scene.atlas.hold(victim.id) else {
        return false;
    };
    if !await_whole(scene, victim).await {
        return false;
    }
    victim.damage();
    let disk = victim.disk();
    let lie = if thread_rng().gen_bool(0.5) {
        Fault::Lost
    } else {
        Fault::Misdirected
    };
    disk.inject(Operation::Write, thread_rng().gen_range(1..20), lie);
    let mut told_at = None;
    for _ in 0..1_000 {
        sleep(Duration::from_millis(10)).await;
        if victim.condemned() {
            break;
        }
        let syncs = disk.counts().syncs;
        if disk.faults_waiting() == 0 && syncs >= *told_at.get_or_insert(syncs) + MORE_SYNCS {
            break;
        }
    }
    let lied = disk.faults_waiting() == 0;
    disk.clear_faults();
    find_out(victim).await;
    lied
}

/// Damage is found when something is read: at the latest by a start. One that nobody ever reads harms nobody.
pub(super) async fn find_out(victim: &Host) {
    last(0..FOUND_OUT.as_millis() as u64).await;
    start_anew(victim).await;
}

/// Kills the process and starts it again, unless it has found damage by itself.
async fn start_anew(victim: &Host) {
    if !victim.condemned() {
        victim.kill();
        last(100..1_000).await;
        victim.restart();
    }
}
