//! What the log does when nothing goes wrong.

use std::sync::Arc;
use std::sync::Mutex;

use bytes::Bytes;

use super::model::Op;
use super::model::entry;
use super::model::id;
use super::model::options;
use super::world::World;
use super::world::story;
use crate::disk::RealDisk;
use crate::disk::SimDisk;
use crate::log::LogOptions;
use crate::log::NodeLog;
use crate::log::OpenError;
use crate::log::ReadError;
use crate::log::StopReason;
use crate::log::segment::SegmentHead;
use crate::log::segment::encode_batch;
use crate::log_id::LogId;
use crate::record::Kind;
use crate::record::Record;
use crate::record::tests::of_kind;

async fn open(sim: &SimDisk) -> NodeLog {
    NodeLog::open(sim.mount(), options()).await.unwrap()
}

/// With a hundred durable entries of shard 1.
async fn filled(sim: &SimDisk) -> NodeLog {
    let log = open(sim).await;
    for index in 0..100 {
        log.append(1, vec![entry(1, id(1, index), 100)], |_| ()).unwrap();
    }
    log.save_vote(1, Bytes::from_static(b"durable")).await.unwrap();
    log
}

#[tokio::test]
async fn the_number_of_synced_batches_grows_with_whatever_is_acknowledged() {
    let log = open(&SimDisk::new(1)).await;
    for vote in 0..3_u8 {
        let before = log.synced();
        log.save_vote(1, Bytes::from(vec![vote])).await.unwrap();
        assert!(log.synced() > before);
    }
}

#[tokio::test]
async fn a_story_is_the_same_after_a_close_and_after_a_kill() {
    let sim = SimDisk::new(1);
    let mut world = World::open(sim.mount(), options()).await.unwrap();
    world.run(&story()).await.unwrap();
    assert_eq!(world.history.find(&world.log), world.history.acknowledged());
    assert!(world.log.segments().len() > 3, "{:?}", world.log.segments());
    world.log.clone().close().await;
    assert_eq!(world.log.stopped(), Some(StopReason::Closed));

    let mut world = World::reopen(sim.mount(), options(), &world.history)
        .await
        .unwrap();
    world.run(&story()).await.unwrap();
    let mut world = World::reopen(sim.mount(), options(), &world.history)
        .await
        .unwrap();
    world.run(&[Op::Wait]).await.unwrap();
    sim.crash(crate::disk::sim::Loss::All);
    World::reopen(sim.mount(), options(), &world.history)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_story_is_the_same_on_the_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
    let mut world = World::open(disk.clone(), options()).await.unwrap();
    for _ in 0..3 {
        world.run(&story()).await.unwrap();
        world.log.clone().close().await;
        world = World::reopen(disk.clone(), options(), &world.history)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn many_appends_share_a_sync_and_are_acknowledged_in_order() {
    let sim = SimDisk::new(1);
    let log = NodeLog::open(
        sim.mount(),
        LogOptions {
            segment_bytes: 1 << 20,
            ..options()
        },
    )
    .await
    .unwrap();
    let before = log.stats();
    let order = Arc::new(Mutex::new(Vec::new()));
    for index in 0..1000 {
        let order = order.clone();
        let record = entry(1, id(1, index), 50);
        log.append(1, vec![record], move |result| {
            order.lock().unwrap().push((index, result.is_ok()))
        })
        .unwrap();
    }
    log.save_vote(1, Bytes::from_static(b"v")).await.unwrap();
    assert_eq!(
        *order.lock().unwrap(),
        (0..1000).map(|i| (i, true)).collect::<Vec<_>>()
    );
    let after = log.stats();
    assert_eq!(after.records - before.records, 1001);
    assert!(after.batches - before.batches <= 3, "{after:?}");
    assert_eq!(after.queued_bytes, 0);
}

#[tokio::test]
async fn the_cache_keeps_its_bound_and_old_reads_leave_it_alone() {
    let sim = SimDisk::new(1);
    let log = open(&sim).await;
    for index in 0..200 {
        log.append(1, vec![entry(1, id(1, index), 100)], |_| ()).unwrap();
    }
    log.save_vote(1, Bytes::from_static(b"v")).await.unwrap();
    let cached = log.stats().cache_bytes;
    assert!(cached <= 4 << 10 && cached > 2 << 10, "{cached}");
    let reads = sim.counts().reads;
    log.read(1, 190, 200, usize::MAX).unwrap();
    assert_eq!(sim.counts().reads, reads, "the tail is in memory");
    let all = log.read(1, 0, 200, usize::MAX).unwrap();
    assert_eq!(all.len(), 200);
    assert!(sim.counts().reads > reads);
    assert_eq!(log.stats().cache_bytes, cached);
    let reads = sim.counts().reads;
    log.read(1, 190, 200, usize::MAX).unwrap();
    assert_eq!(sim.counts().reads, reads);
}

#[tokio::test]
async fn a_read_ends_at_its_byte_bound_but_never_empty() {
    let sim = SimDisk::new(1);
    let log = open(&sim).await;
    let records: Vec<Bytes> = (0..50).map(|index| entry(1, id(1, index), 100)).collect();
    let bytes = records[0].len();
    log.append(1, records.clone(), |_| ()).unwrap();
    log.save_vote(1, Bytes::from_static(b"v")).await.unwrap();
    for from in [0, 45] {
        assert_eq!(log.read(1, from, 50, 0).unwrap(), records[from as usize..][..1]);
        let some = log.read(1, from, 50, 3 * bytes + 20).unwrap();
        assert_eq!(some, records[from as usize..][..3]);
    }
    assert_eq!(log.read(1, 0, 7, usize::MAX).unwrap(), records[..7]);
    assert_eq!(log.read(1, 50, 60, usize::MAX).unwrap(), Vec::<Bytes>::new());
    assert_eq!(log.read(9, 0, 60, usize::MAX).unwrap(), Vec::<Bytes>::new());
}

#[tokio::test]
async fn purged_entries_leave_the_raft_log_but_stay_readable_until_recycled() {
    let sim = SimDisk::new(1);
    let log = open(&sim).await;
    for index in 0..100 {
        log.append(1, vec![entry(1, id(1, index), 100)], |_| ()).unwrap();
    }
    log.purge(1, id(1, 9)).await.unwrap();
    assert!(matches!(
        log.read(1, 9, 20, 1000),
        Err(ReadError::NotFound { shard: 1, index: 9 })
    ));
    assert_eq!(log.log_id(1, 8).unwrap(), None);
    assert_eq!(log.log_id(1, 9).unwrap(), Some(id(1, 9)));
    assert_eq!(log.read_record(1, 5).unwrap(), entry(1, id(1, 5), 100));

    let first = log.segments()[0].clone();
    let points = log.recycle_through(first.sequence).await.unwrap();
    let last = first.shards[&1].1;
    assert_eq!(points.get(&1), Some(&id(1, last)));
    assert_eq!(log.shard(1).purged, Some(id(1, last)));
    assert!(matches!(log.read_record(1, 5), Err(ReadError::NotFound { .. })));
    assert_eq!(
        log.read(1, last + 1, last + 2, 0).unwrap(),
        [entry(1, id(1, last + 1), 100)]
    );
    assert_eq!(log.segments()[0].sequence, first.sequence + 1);
}

#[tokio::test]
async fn a_purge_beyond_the_last_entry_moves_the_log_there() {
    let sim = SimDisk::new(1);
    let log = open(&sim).await;
    log.append(1, vec![entry(1, id(1, 0), 10)], |_| ()).unwrap();
    log.purge(1, id(3, 30)).await.unwrap();
    assert_eq!(log.shard(1).last, Some(id(3, 30)));
    log.append(1, vec![entry(1, id(3, 31), 10)], |_| ()).unwrap();
    log.close().await;
    let log = open(&sim).await;
    assert_eq!(
        (log.shard(1).purged, log.shard(1).last),
        (Some(id(3, 30)), Some(id(3, 31)))
    );
    assert_eq!(log.read(1, 31, 40, 1000).unwrap(), [entry(1, id(3, 31), 10)]);
}

#[tokio::test]
async fn imported_entries_are_not_the_raft_log_until_the_purge_point_passes_them() {
    let sim = SimDisk::new(1);
    let log = open(&sim).await;
    log.append(
        1,
        (0..10).map(|index| entry(1, id(1, index), 10)).collect(),
        |_| (),
    )
    .unwrap();
    let imported: Vec<Bytes> = (5..15).map(|index| entry(1, id(2, index), 20)).collect();
    log.import(1, imported.clone()).await.unwrap();
    assert_eq!(
        log.read_record(1, 7).unwrap(),
        entry(1, id(1, 7), 10),
        "still the Raft log's"
    );
    assert_eq!(log.read_record(1, 12).unwrap(), imported[7]);
    assert_eq!(log.shard(1).last, Some(id(1, 9)));
    log.purge(1, id(2, 14)).await.unwrap();
    let check = |log: &NodeLog| {
        assert_eq!(log.read_record(1, 7).unwrap(), imported[2]);
        assert_eq!(log.read_record(1, 4).unwrap(), entry(1, id(1, 4), 10));
        assert_eq!(log.shard(1).last, Some(id(2, 14)));
    };
    check(&log);
    drop(log);
    check(&open(&sim).await);
}

#[tokio::test]
async fn a_dropped_shard_leaves_nothing_and_can_begin_again() {
    let sim = SimDisk::new(1);
    let log = open(&sim).await;
    for index in 0..60 {
        log.append(1, vec![entry(1, id(1, index), 100)], |_| ()).unwrap();
        log.append(2, vec![entry(2, id(1, index), 10)], |_| ()).unwrap();
    }
    log.drop_shard(1).await.unwrap();
    assert_eq!((log.shard(1), log.shards()), (Default::default(), vec![2]));
    log.append(1, vec![entry(1, id(9, 0), 1)], |_| ()).unwrap();
    log.close().await;
    let log = open(&sim).await;
    assert_eq!(log.read(1, 0, 100, 10000).unwrap(), [entry(1, id(9, 0), 1)]);
    assert_eq!(log.read(2, 0, 100, 1 << 20).unwrap().len(), 60);
}

#[tokio::test]
async fn committed_is_saved_with_a_later_batch_and_at_the_close() {
    let sim = SimDisk::new(1);
    let log = open(&sim).await;
    log.append(1, vec![entry(1, id(1, 0), 1), entry(1, id(1, 1), 1)], |_| ())
        .unwrap();
    log.save_vote(1, Bytes::new()).await.unwrap();
    log.save_committed(1, id(1, 0));
    log.save_vote(1, Bytes::new()).await.unwrap();
    log.save_committed(1, id(1, 1));
    let log = open(&sim).await;
    assert_eq!(log.shard(1).committed, Some(id(1, 0)));
    log.save_committed(1, id(1, 1));
    log.close().await;
    assert_eq!(open(&sim).await.shard(1).committed, Some(id(1, 1)));
}

#[tokio::test]
async fn a_record_longer_than_a_segment_gets_a_longer_segment() {
    let sim = SimDisk::new(1);
    let log = open(&sim).await;
    let long = Record::encode(Kind::Normal, 1, id(1, 1), &vec![7; 1 << 20]);
    log.append(
        1,
        vec![entry(1, id(1, 0), 1), long.clone(), entry(1, id(1, 2), 1)],
        |_| (),
    )
    .unwrap();
    log.close().await;
    let log = open(&sim).await;
    assert_eq!(log.read_record(1, 1).unwrap(), long);
    assert_eq!(log.read(1, 0, 3, usize::MAX).unwrap().len(), 3);
}

#[tokio::test]
async fn a_log_of_another_directory_is_refused() {
    let sim = SimDisk::new(1);
    open(&sim).await.close().await;
    let other = LogOptions {
        directory: 0xbad,
        ..options()
    };
    let refused = NodeLog::open(sim.mount(), other).await.err().unwrap();
    assert!(
        matches!(
            refused,
            OpenError::OtherDirectory {
                expected: 0xbad,
                found: 0xfeed,
                ..
            }
        ),
        "{refused}"
    );
}

#[tokio::test]
async fn another_format_version_is_refused() {
    let sim = SimDisk::new(1);
    open(&sim).await.close().await;
    let mut bytes = sim.read_file("log/00000001.seg").unwrap();
    bytes[8] = 9;
    let crc = crate::log::segment::crc_around(&bytes[..64], 12);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    sim.write_file("log/00000001.seg", &bytes);
    let refused = NodeLog::open(sim.mount(), options()).await.err().unwrap();
    assert!(
        matches!(
            refused,
            OpenError::Version {
                segment: 1,
                found: 9,
                known: 1
            }
        ),
        "{refused}"
    );
}

/// The log of a release that has written a record of kind 99, as the first one behind the segment's head.
fn with_a_record_of_another_kind() -> SimDisk {
    let head = SegmentHead {
        sequence: 1,
        directory: options().directory,
        previous_end: 0,
        previous_batch: 0,
    };
    let mut bytes = head.encode().to_vec();
    encode_batch(&mut bytes, head.directory, 1, 1, 0, &[]);
    let record = Record::encode(Kind::Blank, 1, LogId::at(1, 1, 1), b"");
    encode_batch(&mut bytes, head.directory, 1, 2, 1, &[of_kind(99, &record)]);
    bytes.resize(bytes.len() + 4096, 0);
    let sim = SimDisk::new(1);
    sim.mount().create_dir("log").unwrap();
    sim.write_file("log/00000001.seg", &bytes);
    sim
}

#[tokio::test]
async fn a_record_of_another_kind_is_a_newer_releases_and_no_damage() {
    let sim = with_a_record_of_another_kind();
    let before = sim.read_file("log/00000001.seg");
    let refused = NodeLog::open(sim.mount(), options()).await.err().unwrap();
    assert!(
        matches!(
            refused,
            OpenError::Kind {
                segment: 1,
                kind: 99,
                ..
            }
        ),
        "{refused}"
    );
    assert_eq!(sim.read_file("log/00000001.seg"), before);
}

#[tokio::test]
async fn missing_segments_are_noticed() {
    let sim = SimDisk::new(1);
    let mut world = World::open(sim.mount(), options()).await.unwrap();
    world.run(&story()).await.unwrap();
    let segments = world.log.segments();
    world.log.close().await;
    for segment in &segments {
        let sim = sim.fork();
        sim.delete_file(&format!("log/{:08}.seg", segment.sequence));
        let refused = NodeLog::open(sim.mount(), options()).await.err();
        assert!(
            matches!(refused, Some(OpenError::Corrupt { .. })),
            "{}: {refused:?}",
            segment.sequence
        );
    }
}

/// Found by the simulator: the first of the entries that were read together was repaired again and again, and it was whole.
#[tokio::test]
async fn of_a_segment_that_was_cut_the_first_entry_that_is_gone_is_damaged() {
    let sim = SimDisk::new(1);
    let log = filled(&sim).await;
    let segment = log.segments()[0].clone();
    let (first, last) = segment.shards[&1];
    log.close().await;
    let log = open(&sim).await;
    let file = format!("log/{:08}.seg", segment.sequence);
    sim.cut_file(&file, sim.read_file(&file).unwrap().len() as u64 / 2);
    let read = |to| log.read(1, first, to, usize::MAX);
    let Err(ReadError::Corrupt { index, .. }) = read(last + 1) else {
        panic!("the cut goes unnoticed");
    };
    assert!(index > first && index <= last, "{index}");
    assert_eq!(read(index).unwrap().len() as u64, index - first);
    assert!(matches!(
        log.read(1, index, index + 1, usize::MAX),
        Err(ReadError::Corrupt { .. })
    ));
}

/// Found by the simulator: the log began with the first entry that was left, and openraft stopped the node.
#[tokio::test]
async fn a_log_that_nothing_was_purged_of_begins_with_the_first_entry() {
    let sim = SimDisk::new(1);
    let log = filled(&sim).await;
    let first = log.segments()[0].sequence;
    assert!(log.segments().len() > 2);
    log.close().await;
    sim.delete_file(&format!("log/{first:08}.seg"));
    let refused = NodeLog::open(sim.mount(), options()).await.err();
    assert!(
        matches!(&refused, Some(OpenError::Corrupt { shards, .. }) if shards == &[1]),
        "{refused:?}"
    );
}

#[tokio::test]
async fn the_log_stops_when_its_last_handle_goes() {
    let sim = SimDisk::new(1);
    let log = open(&sim).await;
    let (told, hears) = std::sync::mpsc::channel();
    let other = log.clone();
    drop(log);
    other.save_vote(1, Bytes::new()).await.unwrap();
    other
        .append(1, vec![entry(1, id(1, 0), 1)], move |result| {
            told.send(result.is_ok()).unwrap()
        })
        .unwrap();
    drop(other);
    assert_eq!(hears.recv(), Ok(false));
}
