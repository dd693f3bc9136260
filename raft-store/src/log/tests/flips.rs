//! One bit is wrong, anywhere in any file.

use std::collections::BTreeMap;

use super::model::History;
use super::model::Op;
use super::model::SHARDS;
use super::model::options;
use super::world::World;
use super::world::story;
use crate::disk::SimDisk;
use crate::log::NodeLog;
use crate::log::OpenError;
use crate::log::ReadError;

/// A closed log with open and closed segments, sidecars and a spare.
async fn closed_log() -> (SimDisk, History) {
    let sim = SimDisk::new(3);
    let mut world = World::open(sim.mount(), options()).await.unwrap();
    world.run(&story()).await.unwrap();
    world
        .run(&[
            Op::Append {
                shard: 1,
                count: 2,
                size_bytes: 90,
            },
            Op::Wait,
        ])
        .await
        .unwrap();
    world.log.close().await;
    (sim, world.history)
}

/// Opens the log and reads everything. What is served must be right. True when something was reported.
async fn reported(sim: &SimDisk, history: &History, context: &str) -> bool {
    let log = match NodeLog::open(sim.mount(), options()).await {
        Ok(log) => log,
        Err(OpenError::Corrupt { .. }) => return true,
        Err(e) => panic!("{context}: {e}"),
    };
    let mut reported = false;
    let expected = history.now();
    for shard in SHARDS {
        let expected = expected.shard(shard);
        let mut found = log.shard(shard);
        found.committed = None;
        assert_eq!(found, expected.state, "{context}: shard {shard}");
        for (index, record) in &expected.entries {
            match log.read(shard, *index, index + 1, 0) {
                Ok(found) => assert_eq!(found, [record], "{context}: entry {index} of shard {shard}"),
                Err(ReadError::Corrupt { .. }) => reported = true,
                Err(e) => panic!("{context}: {e}"),
            }
        }
    }
    reported
}

#[tokio::test]
async fn a_flipped_bit_is_harmless_or_reported_and_never_served() {
    let (sim, history) = closed_log().await;
    let names = sim.files();
    assert!(names.iter().any(|name| name.ends_with(".idx")), "{names:?}");
    let (mut harmless, mut noticed) = (0, 0);
    for name in names {
        let bytes = sim.read_file(&name).unwrap();
        let written = bytes
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        for byte in (0..written.min(8 << 10)).step_by(3) {
            let sim = sim.fork();
            sim.flip_bit(&name, byte as u64, (byte % 8) as u8);
            let reported = reported(&sim, &history, &format!("{name}, byte {byte}")).await;
            assert!(
                !(reported && name.ends_with(".idx")),
                "{name}, byte {byte}: a sidecar can be made again"
            );
            if reported {
                noticed += 1;
            } else {
                harmless += 1;
            }
        }
    }
    assert!(
        noticed > 1000 && harmless > 200,
        "{noticed} noticed, {harmless} harmless"
    );
}

#[tokio::test]
async fn a_sector_that_cannot_be_read_is_harmless_or_reported() {
    const SECTOR: usize = 512;
    let (sim, history) = closed_log().await;
    for name in sim.files() {
        let len = sim.read_file(&name).unwrap().len();
        for byte in (0..len).step_by(SECTOR) {
            let sim = sim.fork();
            sim.break_sector(&name, byte as u64);
            let context = format!("{name}, byte {byte}");
            let reported = reported(&sim, &history, &context).await;
            assert!(
                !(reported && name.ends_with(".idx")),
                "{context}: a sidecar can be made again"
            );
        }
    }
}

#[tokio::test]
async fn every_bit_of_the_last_batch_is_proven_by_the_mark_behind_it() {
    let (sim, history) = closed_log().await;
    let name = sim
        .files()
        .into_iter()
        .rfind(|name| name.ends_with(".seg"))
        .unwrap();
    let bytes = sim.read_file(&name).unwrap();
    let heads: Vec<usize> = (0..bytes.len() - 4)
        .step_by(8)
        .filter(|&at| bytes[at..].starts_with(b"FLBT"))
        .collect();
    let own: Vec<usize> = heads
        .into_iter()
        .filter(|&at| bytes[at + 8..at + 16] == bytes[16..24])
        .collect();
    let [.., last, mark] = own[..] else {
        panic!("too few batches")
    };
    for bit in last * 8..mark * 8 {
        let sim = sim.fork();
        sim.flip_bit(&name, bit as u64 / 8, (bit % 8) as u8);
        assert!(reported(&sim, &history, &format!("bit {bit}")).await, "bit {bit}");
    }
}

#[tokio::test]
async fn sidecars_that_are_gone_are_made_again() {
    let (sim, history) = closed_log().await;
    let sidecars: Vec<String> = sim
        .files()
        .into_iter()
        .filter(|name| name.ends_with(".idx"))
        .collect();
    for name in &sidecars {
        sim.delete_file(name);
    }
    assert!(!reported(&sim, &history, "no sidecars").await);
    assert_eq!(
        sim.files()
            .into_iter()
            .filter(|name| name.ends_with(".idx"))
            .collect::<Vec<_>>(),
        sidecars
    );
}

#[tokio::test]
async fn corrupt_entries_are_found_by_looking_for_them() {
    let (sim, _) = closed_log().await;
    let log = NodeLog::open(sim.mount(), options()).await.unwrap();
    let segments = log.segments();
    for segment in &segments {
        assert_eq!(log.verify(segment.sequence).unwrap(), BTreeMap::new());
    }
    drop(log);
    let victim = segments
        .iter()
        .find(|segment| segment.shards.len() > 1)
        .expect("a segment of several shards");
    let name = format!("log/{:08}.seg", victim.sequence);
    let bytes = sim.read_file(&name).unwrap();
    // The payload of an entry says what it is; break the first one in the segment.
    let at = bytes
        .windows(6)
        .position(|window| window == b"shard ")
        .expect("an entry");
    let text = String::from_utf8_lossy(&bytes[at..at + 40]).into_owned();
    let shard: u32 = text[6..7].parse().unwrap();
    sim.flip_bit(&name, at as u64, 3);
    let log = NodeLog::open(sim.mount(), options()).await.unwrap();
    let corrupt = log.verify(victim.sequence).unwrap();
    assert_eq!(corrupt.keys().copied().collect::<Vec<_>>(), [shard], "{text}");
    assert!(matches!(
        log.read_record(shard, corrupt[&shard]),
        Err(ReadError::Corrupt { .. })
    ));
}
