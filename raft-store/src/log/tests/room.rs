//! The disk runs full, and there is room again.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::model::Op;
use super::model::entry;
use super::model::id;
use super::model::options;
use super::world::World;
use crate::disk::SimDisk;
use crate::disk::sim::Loss;
use crate::limits::MAX_SPARE_SEGMENTS;
use crate::log::LogOptions;
use crate::log::NodeLog;
use crate::log::StopReason;

/// Appends to shard 1 while there is room.
async fn fill(world: &mut World) {
    while world.log.has_room() {
        world
            .run(&[
                Op::Append {
                    shard: 1,
                    count: 1,
                    size_bytes: 500,
                },
                Op::Wait,
            ])
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_shows_while_a_segment_is_still_left() {
    let sim = SimDisk::new(1);
    sim.set_capacity(40 << 10);
    let mut world = World::open(sim.mount(), options()).await.unwrap();
    assert!(world.log.has_room());
    fill(&mut world).await;
    // What frees space can still be written.
    let few = [
        Op::Append {
            shard: 2,
            count: 3,
            size_bytes: 100,
        },
        Op::Purge { shard: 1, count: 10 },
    ];
    world.run(&few).await.unwrap();
    assert!(!world.log.has_room());
    world.run(&[Op::Recycle { count: 3 }]).await.unwrap();
    assert!(world.log.has_room());
    fill(&mut world).await;
    World::reopen(sim.mount(), options(), &world.history)
        .await
        .unwrap();
}

#[tokio::test]
async fn room_that_others_made_is_found_after_a_while() {
    let sim = SimDisk::new(1);
    sim.set_capacity(40 << 10);
    let mut world = World::open(sim.mount(), options()).await.unwrap();
    fill(&mut world).await;
    sim.set_capacity(400 << 10);
    while !world.log.has_room() {
        tokio::task::yield_now().await;
    }
    world
        .run(&[
            Op::Append {
                shard: 1,
                count: 30,
                size_bytes: 500,
            },
            Op::Wait,
        ])
        .await
        .unwrap();
}

/// A log on a small disk, filled until what was appended last waits for room.
struct Stuck {
    sim: SimDisk,
    log: NodeLog,
    appended: u64,
    durable: Arc<AtomicU64>,
}

async fn fill_to_the_last() -> Stuck {
    let sim = SimDisk::new(1);
    sim.set_capacity(40 << 10);
    let log = NodeLog::open(sim.mount(), options()).await.unwrap();
    append_until_stuck(sim, log).await
}

async fn append_until_stuck(sim: SimDisk, log: NodeLog) -> Stuck {
    let durable = Arc::new(AtomicU64::new(0));
    let mut appended = 0;
    while !log.is_stuck() {
        assert!(appended < 1000, "the disk does not get full");
        let count = durable.clone();
        let done = move |result: std::io::Result<()>| {
            if result.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        };
        log.append(1, vec![entry(1, id(1, appended), 500)], done).unwrap();
        appended += 1;
        while durable.load(Ordering::Relaxed) < appended && !log.is_stuck() {
            assert!(log.stopped().is_none(), "a full disk does not end it");
            tokio::task::yield_now().await;
        }
    }
    Stuck {
        sim,
        log,
        appended,
        durable,
    }
}

#[tokio::test]
async fn a_log_that_uses_up_its_reserve_waits_for_room_and_loses_nothing() {
    let stuck = fill_to_the_last().await;
    let log = stuck.log;
    assert_eq!(stuck.durable.load(Ordering::Relaxed), stuck.appended - 1);
    assert!(log.stopped().is_none() && !log.has_room());
    // A vote waits as well; nothing is acknowledged meanwhile.
    let mut vote = Box::pin(log.save_vote(2, Bytes::from_static(b"vote")));
    assert!(futures::poll!(&mut vote).is_pending());
    stuck.sim.set_capacity(400 << 10);
    vote.await.unwrap();
    assert_eq!(stuck.durable.load(Ordering::Relaxed), stuck.appended);
    assert!(!log.is_stuck());
    stuck.sim.crash(Loss::All);
    let log = NodeLog::open(stuck.sim.mount(), options()).await.unwrap();
    assert_eq!(log.shard(1).last, Some(id(1, stuck.appended - 1)));
}

#[tokio::test]
async fn spares_of_a_smaller_segment_size_do_not_end_a_log_whose_disk_is_full() {
    let sim = SimDisk::new(1);
    let log = NodeLog::open(sim.mount(), options()).await.unwrap();
    while !sim.files().iter().any(|name| name.contains("spare")) {
        tokio::task::yield_now().await;
    }
    log.close().await;
    let lengths = |name: &String| sim.read_file(name).map_or(0, |file| file.len() as u64);
    sim.set_capacity(sim.files().iter().map(lengths).sum());
    let larger = LogOptions {
        segment_bytes: 2 * options().segment_bytes,
        ..options()
    };
    let log = NodeLog::open(sim.mount(), larger).await.unwrap();
    let stuck = append_until_stuck(sim, log).await;
    assert!(stuck.log.stopped().is_none());
}

#[tokio::test]
async fn a_log_that_is_stuck_can_be_closed() {
    let Stuck { log, .. } = fill_to_the_last().await;
    let watch = log.clone();
    let _ = log.close().await;
    let StopReason::Failed { kind, .. } = watch.wait_stopped().await else {
        panic!("it failed")
    };
    assert_eq!(kind, std::io::ErrorKind::StorageFull);
}

#[tokio::test]
async fn some_of_the_disk_is_left_to_others() {
    let sim = SimDisk::new(1);
    sim.set_capacity(64 << 10);
    let options = LogOptions {
        keep_free_bytes: 32 << 10,
        ..options()
    };
    let mut world = World::open(sim.mount(), options).await.unwrap();
    fill(&mut world).await;
    assert!(world.log.free_bytes().unwrap() > 28 << 10);
}

#[tokio::test]
async fn recycled_segments_are_used_again() {
    let sim = SimDisk::new(1);
    let log = NodeLog::open(sim.mount(), options()).await.unwrap();
    let mut peak = 0;
    for index in 0..500 {
        log.append(1, vec![entry(1, id(1, index), 300)], |_| ()).unwrap();
        log.save_vote(1, Bytes::new()).await.unwrap();
        let segments = log.segments();
        if segments.len() > 4 {
            log.recycle_through(segments[1].sequence).await.unwrap();
        }
        peak = peak.max(log.stats().disk_bytes);
    }
    assert!(peak <= 9 * (4 << 10), "{peak}");
    assert!(log.segments()[0].sequence > 20);
    assert_eq!(log.stats().segments, log.segments().len() as u64);
}

#[tokio::test]
async fn what_a_batch_larger_than_a_segment_left_is_not_kept_for_later_ones() {
    let sim = SimDisk::new(1);
    let log = NodeLog::open(sim.mount(), options()).await.unwrap();
    let segment = options().segment_bytes;
    let mut grown = 0;
    for index in 0..20 {
        log.append(1, vec![entry(1, id(1, index), 5 * segment as usize)], |_| ())
            .unwrap();
        log.save_vote(1, Bytes::new()).await.unwrap();
        let segments = log.segments();
        if segments.len() > 2 {
            grown += u64::from(segments[0].bytes > segment);
            log.recycle_through(segments[0].sequence).await.unwrap();
        }
        let most = MAX_SPARE_SEGMENTS as u64 * segment;
        assert!(log.spare_bytes() <= most, "{}", log.spare_bytes());
    }
    assert!(grown >= 10, "{grown}");
}

/// Appends entries up to `until`, each as soon as the one before is stored: the queue is never empty when the writer looks.
fn append_without_a_pause(log: Arc<NodeLog>, index: u64, until: u64) {
    if index == until {
        return;
    }
    let next = log.clone();
    let done = move |stored: std::io::Result<()>| {
        stored.unwrap();
        append_without_a_pause(next, index + 1, until);
    };
    log.append(1, vec![entry(1, id(1, index), 500)], done).unwrap();
}

#[tokio::test]
async fn segments_are_given_back_and_made_ahead_under_a_load_without_a_pause() {
    const PLENTY: u64 = 2_000;
    let log = NodeLog::open(SimDisk::new(1).mount(), options()).await.unwrap();
    let log = Arc::new(log);
    append_without_a_pause(log.clone(), 0, PLENTY);
    while log.segments().len() < 4 {
        tokio::task::yield_now().await;
    }
    let closed = log.segments()[2].sequence;
    log.recycle_through(closed).await.unwrap();
    let last = log.shard(1).last.unwrap().index;
    assert!(last < PLENTY / 2, "only after {last} entries");
}
