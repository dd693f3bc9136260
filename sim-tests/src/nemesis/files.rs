//! Damage to any kind of file that a node keeps: a bit goes over, the file is cut, or it is gone (a bad sector, a file system
//! repaired by force, a hand that slipped).
//!
//! All files count, of the last segment of the log what something durable behind it proves: its last batch cannot be told from
//! one that was being written when the power went (docs/on-disk-format.md), so nobody could know that it is damaged.

use madsim::rand::{Rng, seq::SliceRandom, thread_rng};
use raft_store::disk::sim::SimDisk;

use super::{
    Scene,
    disk::{await_permission, find_out, flip_for_a_while, must_refuse},
    last, process,
};
use crate::{atlas::Hold, host::Host};

/// As a segment begins, and each batch in it.
const SEGMENT_HEAD: usize = 64;
const BATCH_HEAD: usize = 48;
const BATCH_MAGIC: &[u8] = b"FLBT";
/// What was written within half a second, more or less, bytes.
const NEAR: u64 = 4_096;

pub(super) async fn harm(scene: &Scene) -> bool {
    let leader = scene.leader(scene.any_shard());
    let leader = leader.filter(|_| thread_rng().gen_bool(0.5));
    let victim = leader.unwrap_or_else(|| scene.anybody());
    let Some(_hold) = scene.atlas.hold(victim.id) else {
        return false;
    };
    // Where nobody else may be down, nobody else is.
    let another_may_fall_behind = !scene.plan.majority_is_up() && thread_rng().gen_bool(0.4);
    let behind = match another_may_fall_behind {
        true => Behind::someone(scene).await,
        false => None,
    };
    if !await_permission(scene, victim).await {
        return false;
    }
    if behind.is_none() && thread_rng().gen_bool(0.3) {
        return flip_near_the_end(scene, victim).await;
    }
    let disk = victim.disk();
    // Whoever is behind needs what was written last.
    let newest =
        newest_closed(&disk).filter(|_| thread_rng().gen_bool(if behind.is_some() { 0.7 } else { 0.2 }));
    let how = thread_rng().gen_range(0..3);
    let middle = a_middle_segment(&disk).filter(|_| how == 2 && thread_rng().gen_bool(0.5));
    let Some((file, len)) = middle.or(newest).or_else(|| any(&disk)) else {
        return false;
    };
    // What a cut takes away of the last segment is proved by nothing that is left.
    if how == 0 || is_last_segment(&disk, &file) {
        let (byte, bit) = (thread_rng().gen_range(0..len), thread_rng().gen_range(0..8));
        scene.coverage.count(&format!("flipped: {}", kind(&file)));
        drop(behind);
        flip_for_a_while(scene, victim, &file, (byte, bit)).await;
        return true;
    }
    victim.kill();
    victim.damage();
    let is_gap = how == 2 && stands_between(&disk, &file);
    if how == 1 {
        disk.cut_file(&file, thread_rng().gen_range(0..len));
        scene.coverage.count(&format!("cut: {}", kind(&file)));
    } else {
        disk.delete_file(&file);
        scene.coverage.count(&format!("gone: {}", kind(&file)));
    }
    last(100..2_000).await;
    victim.restart();
    drop(behind);
    if is_gap {
        must_refuse(scene, victim, &file, || true).await;
    }
    find_out(victim).await;
    true
}

/// A bit goes over close to the end of the log, while the node is down: nobody else has heard yet of what it wrote last.
async fn flip_near_the_end(scene: &Scene, victim: &Host) -> bool {
    victim.kill();
    let disk = victim.disk();
    let found = last_segment(&disk);
    if let Some((file, len)) = &found {
        let byte = thread_rng().gen_range(len.saturating_sub(NEAR)..*len);
        victim.damage();
        tracing::debug!(node = victim.id, file, byte, len, "a bit goes over");
        disk.flip_bit(file, byte, thread_rng().gen_range(0..8));
        scene.coverage.count("flipped: near the end of the log");
    }
    last(100..1_000).await;
    victim.restart();
    let Some((file, _)) = found else { return false };
    must_refuse(scene, victim, &file, || true).await;
    true
}

/// Another node that is down while the damage is done, and is started when this is dropped: it has to be told what was written
/// meanwhile, from where that is damaged.
struct Behind<'a> {
    host: &'a Host,
    _hold: Hold,
}

impl<'a> Behind<'a> {
    async fn someone(scene: &'a Scene) -> Option<Behind<'a>> {
        let host = scene.anybody();
        let hold = scene.atlas.hold(host.id)?;
        process::die(host);
        last(500..10_000).await;
        scene.coverage.count("damage with another node behind");
        Some(Behind { host, _hold: hold })
    }
}

impl Drop for Behind<'_> {
    fn drop(&mut self) {
        self.host.restart();
    }
}

fn segments(disk: &SimDisk) -> Vec<String> {
    let files = disk.files().into_iter();
    files.filter(|name| name.ends_with(".seg")).collect()
}

/// Whether there are segments before this one, and behind it.
fn stands_between(disk: &SimDisk, file: &str) -> bool {
    let segments = segments(disk);
    let is_end = |end: Option<&String>| end.is_some_and(|end| end == file);
    file.ends_with(".seg") && !is_end(segments.iter().min()) && !is_end(segments.iter().max())
}

/// A segment with others before it and behind it, and how much of it counts, bytes.
fn a_middle_segment(disk: &SimDisk) -> Option<(String, u64)> {
    let segments = segments(disk).into_iter();
    let middle: Vec<String> = segments.filter(|file| stands_between(disk, file)).collect();
    let file = middle.choose(&mut thread_rng())?.clone();
    let len = written(&disk.read_durable(&file)?)?;
    Some((file, len as u64))
}

/// The closed segment that was written last, and how much of it counts, bytes.
fn newest_closed(disk: &SimDisk) -> Option<(String, u64)> {
    let mut segments = segments(disk);
    segments.sort_unstable();
    segments.pop();
    let file = segments.pop()?;
    let len = written(&disk.read_durable(&file)?)?;
    Some((file, len as u64))
}

/// The segment that is written to, and how much of it is proved to have been written, bytes.
fn last_segment(disk: &SimDisk) -> Option<(String, u64)> {
    let file = segments(disk).into_iter().max()?;
    let len = proved(&disk.read_durable(&file)?) as u64;
    (len > 0).then_some((file, len))
}

/// What follows the last byte that is not zero was never written.
fn written(bytes: &[u8]) -> Option<usize> {
    Some(bytes.iter().rposition(|byte| *byte != 0)? + 1)
}

fn kind(file: &str) -> &str {
    let known = ["spare", "next", ".seg", ".idx"];
    known.into_iter().find(|part| file.contains(part)).unwrap_or(file)
}

pub(super) fn is_last_segment(disk: &SimDisk, file: &str) -> bool {
    let last = disk
        .files()
        .into_iter()
        .filter(|name| name.ends_with(".seg"))
        .max();
    last.as_deref() == Some(file)
}

/// Any file, each kind as likely as the others, and how much of it counts, bytes.
pub(super) fn any(disk: &SimDisk) -> Option<(String, u64)> {
    let files = disk.files();
    let mut kinds: Vec<&str> = files.iter().map(|file| kind(file)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let chosen = *kinds.choose(&mut thread_rng())?;
    let of_kind: Vec<&String> = files.iter().filter(|file| kind(file) == chosen).collect();
    let file = of_kind.choose(&mut thread_rng())?.to_string();
    let bytes = disk.read_durable(&file)?;
    let len = if is_last_segment(disk, &file) {
        proved(&bytes)
    } else {
        written(&bytes)?
    };
    (len > 0).then_some((file, len as u64))
}

/// How much of the last segment is proved to have been written, by batches that name later ones than these as synced. What
/// follows may be of the segment that the file was before.
fn proved(bytes: &[u8]) -> usize {
    let (mut at, mut ends, mut durable) = (SEGMENT_HEAD, Vec::new(), 0);
    let sequence = bytes.get(16..24);
    while bytes.get(at..at + 4) == Some(BATCH_MAGIC)
        && at + BATCH_HEAD <= bytes.len()
        && bytes.get(at + 8..at + 16) == sequence
    {
        let number = u64_at(bytes, at + 16);
        durable = durable.max(u64_at(bytes, at + 24));
        let records = u32::from_le_bytes(bytes[at + 32..at + 36].try_into().expect("four bytes"));
        at = (at + BATCH_HEAD + records as usize).next_multiple_of(8);
        ends.push((number, at));
    }
    let proved = ends.iter().rev().find(|(number, _)| *number <= durable);
    proved.map_or(0, |(_, end)| *end)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(number: u64, durable: u64, records: usize) -> Vec<u8> {
        let mut bytes = vec![0; (BATCH_HEAD + records).next_multiple_of(8)];
        bytes[..4].copy_from_slice(BATCH_MAGIC);
        bytes[16..24].copy_from_slice(&number.to_le_bytes());
        bytes[24..32].copy_from_slice(&durable.to_le_bytes());
        bytes[32..36].copy_from_slice(&(records as u32).to_le_bytes());
        bytes
    }

    #[test]
    fn a_batch_is_proved_by_a_later_one_that_names_it_as_synced() {
        let mut segment = vec![0; SEGMENT_HEAD];
        segment.extend(batch(7, 6, 10));
        assert_eq!(proved(&segment), 0, "what it names is in the segment before");
        segment.extend(batch(8, 6, 20));
        assert_eq!(proved(&segment), 0);
        segment.extend(batch(9, 7, 0));
        assert_eq!(proved(&segment), SEGMENT_HEAD + 64);
        // Of another segment, whose file this was.
        let mut stale = batch(3, 2, 10);
        stale[8] = 1;
        segment.extend(stale);
        segment.extend([0; 4_096]);
        assert_eq!(proved(&segment), SEGMENT_HEAD + 64);
    }
}
