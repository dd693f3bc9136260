//! The disk runs full, and there is room again.

use bytes::Bytes;

use super::model::Op;
use super::model::World;
use super::model::entry;
use super::model::id;
use super::model::options;
use crate::disk::SimDisk;
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

#[tokio::test]
async fn a_log_that_uses_up_its_reserve_stops_and_loses_nothing() {
    let sim = SimDisk::new(1);
    sim.set_capacity(40 << 10);
    let mut world = World::open(sim.mount(), options()).await.unwrap();
    let more = [
        Op::Append {
            shard: 1,
            count: 1,
            size_bytes: 500,
        },
        Op::Wait,
    ];
    while world.run(&more).await.is_ok() {}
    let StopReason::Failed { kind, .. } = world.log.wait_stopped().await else {
        panic!("it failed")
    };
    assert_eq!(kind, std::io::ErrorKind::StorageFull);
    sim.set_capacity(400 << 10);
    let world = World::reopen(sim.mount(), options(), &world.history)
        .await
        .unwrap();
    assert!(world.log.has_room());
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
