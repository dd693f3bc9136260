//! A release that is taken back: a newer one ran here and has written formats of its own, and this one is started on them. It
//! must see that, say so and touch nothing: the newer one can be started again (docs/on-disk-format.md, "Newer releases").
//!
//! There is no second program here, so the newer release is played: the version of one file is raised, with a checksum that
//! holds, and put back for its return.

use std::time::Duration;

use madsim::rand::{Rng, seq::SliceRandom, thread_rng};
use raft_store::disk::sim::SimDisk;

use super::{Scene, disk::await_exit, last};

pub(super) async fn take_back(scene: &Scene) -> bool {
    let victim = scene.anybody();
    let Some(_hold) = scene.atlas.hold(victim.id) else {
        return false;
    };
    if victim.damaged() {
        return false;
    }
    victim.kill();
    let disk = victim.disk();
    let Some((file, before, newer)) = newer(&disk) else {
        last(100..1_000).await;
        victim.restart();
        return false;
    };
    disk.write_file(&file, &newer);
    let stored = content(&disk);
    victim.restart();
    victim.may_stop();
    let ended = await_exit(victim, Duration::from_secs(10)).await;
    let said = victim.last_words();
    victim.kill();
    if !ended || !said.contains("version") {
        scene.history.broken(format!(
            "P11: node {} was started on the file {file} of a newer release, and did not refuse it: {said:?}",
            victim.id
        ));
    }
    if content(&disk) != stored {
        scene.history.broken(format!(
            "P11: node {} has changed what a newer release wrote",
            victim.id
        ));
    }
    scene.coverage.count(&format!("newer release: {}", kind(&file)));
    disk.write_file(&file, &before);
    last(100..2_000).await;
    victim.restart();
    true
}

fn kind(file: &str) -> &str {
    if file.ends_with(".seg") { ".seg" } else { file }
}

pub(super) fn content(disk: &SimDisk) -> Vec<(String, Option<Vec<u8>>)> {
    let files = disk.files().into_iter();
    files.map(|name| (name.clone(), disk.read_file(&name))).collect()
}

/// A file that names a version; its bytes, and those that a newer release would have written.
fn newer(disk: &SimDisk) -> Option<(String, Vec<u8>, Vec<u8>)> {
    let last_segment = disk
        .files()
        .into_iter()
        .filter(|name| name.ends_with(".seg"))
        .max()?;
    let files = ["IDENTITY".to_owned(), "NODE".to_owned(), last_segment];
    let file = files.choose(&mut thread_rng())?.clone();
    let before = disk.read_file(&file)?;
    let mut bytes = before.clone();
    let version = thread_rng().gen_range(2..200);
    match file.as_str() {
        "IDENTITY" => {
            bytes[8] = version;
            let end = bytes.len() - 4;
            let crc = crc32c::crc32c(&bytes[..end]);
            bytes[end..].copy_from_slice(&crc.to_le_bytes());
        }
        "NODE" => {
            bytes[8] = version;
            let crc = crc32c::crc32c(&bytes[8..]);
            bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        }
        _ => {
            bytes[8] = version;
            let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..64]);
            bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        }
    }
    Some((file, before, bytes))
}
