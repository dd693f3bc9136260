//! I/O errors that do not take the machine with them.
//!
//! What they are in life: a process that ends at a failed fsync and that its supervisor starts again on the same kernel, as
//! PostgreSQL learned in 2018; a cable, a controller or a sector that gives back nothing, once or for good.

use std::time::Duration;

use madsim::rand::{Rng, seq::SliceRandom, thread_rng};
use raft_store::disk::sim::{Fault, Operation, SimDisk};
use tokio::time::sleep;

use super::{
    Scene,
    disk::{await_exit, await_permission, find_out},
    last,
};
use crate::host::Host;

/// A write, a sync or a change of names fails; the process ends and is started again, with the power on. What the failed
/// sync should have made durable can be read still, until the kernel needs the memory or the power goes.
pub(super) async fn keep_power(scene: &Scene) -> bool {
    let Some((victim, _hold)) = scene.anybody_on() else {
        return false;
    };
    victim.may_stop();
    let operations = [
        Operation::Write,
        Operation::Sync,
        Operation::Sync,
        Operation::Change,
    ];
    let operation = *operations.choose(&mut thread_rng()).expect("there are some");
    let disk = victim.disk();
    disk.inject(operation, thread_rng().gen_range(1..50), Fault::Error);
    let failed = await_exit(victim, Duration::from_secs(10)).await;
    disk.clear_faults();
    victim.kill();
    if thread_rng().gen_bool(0.3) {
        disk.forget_clean();
    }
    last(20..1_000).await;
    victim.restart();
    last(0..5_000).await;
    match thread_rng().gen_range(0..3) {
        0 => {}
        1 => disk.forget_clean(),
        _ => {
            victim.crash();
            last(100..1_000).await;
            victim.restart();
        }
    }
    failed
}

/// A read fails: once, which nobody may notice; twice, which is damage (the medium is tried again only once); or a sector
/// gives back nothing until it is written again.
pub(super) async fn read(scene: &Scene) -> bool {
    let victim = scene.anybody();
    let Some(_hold) = scene.atlas.hold(victim.id) else {
        return false;
    };
    match thread_rng().gen_range(0..3) {
        0 => {
            let disk = victim.disk();
            disk.inject(Operation::Read, thread_rng().gen_range(1..60), Fault::Error);
            let met = await_reads(victim, &disk).await;
            if met {
                scene.coverage.count("read fails once");
            }
            met
        }
        1 => twice(scene, victim).await,
        _ => sector(scene, victim).await,
    }
}

async fn twice(scene: &Scene, victim: &Host) -> bool {
    if !await_permission(scene, victim).await {
        return false;
    }
    victim.damage();
    let disk = victim.disk();
    let first = thread_rng().gen_range(1..60);
    disk.inject(Operation::Read, first, Fault::Error);
    disk.inject(Operation::Read, first + 1, Fault::Error);
    let met = await_reads(victim, &disk).await;
    last(0..20_000).await;
    // The medium has everything, so this is over once the node has forgotten it.
    let is_well = victim
        .node()
        .is_some_and(|node| node.store().damages().is_empty());
    if is_well && !victim.condemned() {
        victim.undamaged();
    }
    if met {
        scene.coverage.count("read fails twice");
    }
    met
}

/// Half of the time it is a start that reads. True if all faults that were waiting were met.
async fn await_reads(victim: &Host, disk: &SimDisk) -> bool {
    if thread_rng().gen_bool(0.5) {
        victim.kill();
        last(20..500).await;
        victim.restart();
    }
    for _ in 0..1_000 {
        if disk.faults_waiting() == 0 {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    let met = disk.faults_waiting() == 0;
    disk.clear_faults();
    met
}

/// What waits to be a segment, and how much of it a segment begins with, bytes.
fn spare(disk: &SimDisk) -> Option<(String, u64)> {
    const BEGINNING: u64 = 1_024;
    let mut files = disk.files().into_iter();
    let name = files.find(|name| name.starts_with("log/spare-"))?;
    Some((name, BEGINNING))
}

async fn sector(scene: &Scene, victim: &Host) -> bool {
    let disk = victim.disk();
    if !await_permission(scene, victim).await {
        return false;
    }
    // In a spare one is met when the next segment begins, or its first batches are written.
    let begins = spare(&disk).filter(|_| thread_rng().gen_bool(0.5));
    let Some((file, len)) = begins.or_else(|| super::files::any(&disk)) else {
        return false;
    };
    victim.damage();
    disk.break_sector(&file, thread_rng().gen_range(0..len));
    scene.coverage.count("sector breaks");
    find_out(victim).await;
    true
}

/// The state engine fails for a while, on a disk of its own or with a limit of its own. That is no damage: the node stops, and
/// has everything when the engine works again.
pub(super) async fn engine(scene: &Scene) -> bool {
    let Some((victim, _hold)) = scene.anybody_on() else {
        return false;
    };
    victim.may_stop();
    victim.engine_fails(true);
    let failed = await_exit(victim, Duration::from_secs(20)).await;
    victim.kill();
    if failed && thread_rng().gen_bool(0.5) {
        victim.restart();
        victim.may_stop();
        last(100..5_000).await;
        victim.kill();
    }
    victim.engine_fails(false);
    last(100..2_000).await;
    victim.restart();
    failed
}
