//! The machine stops at every possible moment of a story.

use bytes::Bytes;

use super::model::History;
use super::model::Op;
use super::model::entry;
use super::model::id;
use super::model::options;
use super::world::World;
use super::world::story;
use crate::disk::SimDisk;
use crate::disk::sim::Fault;
use crate::disk::sim::Loss;
use crate::disk::sim::Operation;
use crate::log::NodeLog;

/// Runs the story until the machine stops at its `nth` change of the disk. False when it never came to that.
async fn stop_at(nth: u64) -> (bool, SimDisk, Option<History>) {
    let sim = SimDisk::new(nth);
    let disk = sim.mount();
    sim.inject(Operation::Change, nth, Fault::PowerLoss);
    let mut world = match World::open(disk, options()).await {
        Ok(world) => world,
        Err(_) => return (true, sim, None),
    };
    let stopped = world.run(&story()).await.is_err();
    (stopped, sim, Some(world.history.clone()))
}

/// After a crash the log must open with a possible state, take more, and survive a second crash.
async fn survive(sim: &SimDisk, history: Option<&History>, loss: Loss) {
    sim.clear_faults();
    sim.crash(loss);
    let mut world = match history {
        Some(history) => World::reopen(sim.mount(), options(), history).await.unwrap(),
        None => World::open(sim.mount(), options()).await.unwrap(),
    };
    let more = [
        Op::Append {
            shard: 1,
            count: 3,
            size_bytes: 300,
        },
        Op::Wait,
    ];
    world.run(&more).await.unwrap();
    sim.crash(Loss::All);
    World::reopen(sim.mount(), options(), &world.history)
        .await
        .unwrap();
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_wherever_the_machine_stops() {
    for nth in 1.. {
        let (stopped, sim, history) = stop_at(nth).await;
        for loss in [
            Loss::All,
            Loss::Nothing,
            Loss::Random(nth),
            Loss::Random(nth + 7919),
        ] {
            survive(&sim.fork(), history.as_ref(), loss).await;
        }
        if !stopped {
            assert!(nth > 150, "the story has only {nth} changes of the disk");
            return;
        }
    }
}

#[tokio::test]
async fn a_machine_that_stops_again_while_opening_the_log_loses_nothing() {
    for nth in (1..).step_by(13) {
        let (stopped, sim, history) = stop_at(nth).await;
        for again in 1..8 {
            let sim = sim.fork();
            sim.crash(Loss::Random(nth * again));
            let disk = sim.mount();
            sim.inject(Operation::Change, again, Fault::PowerLoss);
            let log = NodeLog::open(disk, options()).await;
            drop(log);
            sim.clear_faults();
            survive(&sim, history.as_ref(), Loss::Random(nth + again)).await;
        }
        if !stopped {
            return;
        }
    }
}

/// A batch in flight is torn at each of its bytes, over zeros and over what a recycled segment held before.
#[tokio::test]
async fn a_tail_torn_at_any_byte_is_dropped() {
    for recycled in [false, true] {
        let sim = SimDisk::new(5);
        let mut world = World::open(sim.mount(), options()).await.unwrap();
        if recycled {
            let fill = Op::Append {
                shard: 2,
                count: 12,
                size_bytes: 900,
            };
            world
                .run(&[fill.clone(), Op::Wait, Op::Recycle { count: 3 }, fill, Op::Wait])
                .await
                .unwrap();
        }
        world
            .run(&[
                Op::Append {
                    shard: 1,
                    count: 2,
                    size_bytes: 50,
                },
                Op::Wait,
            ])
            .await
            .unwrap();
        // The first sync to come is that of the batch, or of preparing a segment before it.
        let sure = world.history.acknowledged();
        while world.history.acknowledged() == sure && world.log.stopped().is_none() {
            sim.inject(Operation::Sync, 1, Fault::PowerLoss);
            let _ = world
                .run(&[
                    Op::Append {
                        shard: 1,
                        count: 3,
                        size_bytes: 70,
                    },
                    Op::Wait,
                ])
                .await;
        }
        for bytes in 0..600 {
            survive(&sim.fork(), Some(&world.history), Loss::AfterBytes(bytes)).await;
        }
    }
}

#[tokio::test]
async fn what_only_the_page_cache_had_is_durable_after_it_was_found() {
    let sim = SimDisk::new(5);
    let log = NodeLog::open(sim.mount(), options()).await.unwrap();
    log.save_vote(1, Bytes::from_static(b"old")).await.unwrap();
    // The sync fails: the page cache shows the new vote, the disk does not have it, and a further sync changes nothing.
    while log.stopped().is_none() {
        sim.clear_faults();
        sim.inject(Operation::Sync, 1, Fault::Error);
        let _ = log.save_vote(1, Bytes::from_static(b"new")).await;
    }
    let log = NodeLog::open(sim.mount(), options()).await.unwrap();
    let found = log.shard(1).vote;
    sim.crash(Loss::All);
    let log = NodeLog::open(sim.mount(), options()).await.unwrap();
    assert_eq!(log.shard(1).vote, found);
}

#[tokio::test]
async fn a_batch_dropped_once_never_comes_back() {
    let sim = SimDisk::new(5);
    let log = NodeLog::open(sim.mount(), options()).await.unwrap();
    log.append(1, vec![entry(1, id(1, 0), 10)], |_| ()).unwrap();
    log.save_vote(1, Bytes::from_static(b"1")).await.unwrap();
    // The idle mark and the batch behind it are written; the mark is then lost and the batch is not.
    while sim.counts().writes == 0 || log.stopped().is_none() {
        sim.clear_faults();
        sim.inject(Operation::Sync, 1, Fault::PowerLoss);
        let _ = log.save_vote(1, Bytes::from_static(b"2")).await;
    }
    sim.crash(Loss::Nothing);
    let whole = sim.read_file("log/00000001.seg").unwrap();
    let mut torn = whole.clone();
    let log = NodeLog::open(sim.mount(), options()).await.unwrap();
    let newest = log.shard(1).vote.unwrap();
    drop(log);
    if newest == "1" {
        return; // It was a spare's sync; nothing was in flight.
    }
    // Break the last batch, let a new one be written over it, and look whether anything of the old one shows up.
    let heads: Vec<usize> = (0..torn.len() - 4)
        .step_by(8)
        .filter(|&at| torn[at..].starts_with(b"FLBT"))
        .collect();
    torn[heads[heads.len() - 1] + 49] ^= 1;
    sim.write_file("log/00000001.seg", &torn);
    let log = NodeLog::open(sim.mount(), options()).await.unwrap();
    assert_eq!(log.shard(1).vote.unwrap(), "1");
    log.append(1, vec![entry(1, id(1, 1), 1)], |_| ()).unwrap();
    log.close().await;
    let log = NodeLog::open(sim.mount(), options()).await.unwrap();
    assert_eq!(
        (log.shard(1).vote.unwrap(), log.shard(1).last),
        (Bytes::from("1"), Some(id(1, 1)))
    );
}

/// Saves votes until the machine stops in the middle of a sync; what was acknowledged last.
async fn stop_in_a_sync(sim: &SimDisk, log: &NodeLog, vote: &'static str) -> bool {
    let mut acknowledged = false;
    while log.stopped().is_none() {
        sim.clear_faults();
        sim.inject(Operation::Sync, 1, Fault::PowerLoss);
        acknowledged |= log
            .save_vote(1, Bytes::from_static(vote.as_bytes()))
            .await
            .is_ok();
    }
    sim.clear_faults();
    acknowledged
}

/// The first batch after a torn tail is torn as well, at the same place: nothing that was synced is missing.
#[tokio::test]
async fn two_torn_tails_in_a_row_are_not_taken_for_corruption() {
    let sim = SimDisk::new(5);
    let log = NodeLog::open(sim.mount(), options()).await.unwrap();
    log.save_vote(1, Bytes::from_static(b"1")).await.unwrap();
    stop_in_a_sync(&sim, &log, "2").await;
    let mut torn_twice = 0;
    for first in (0..240).step_by(8) {
        for second in (0..240).step_by(8) {
            let sim = sim.fork();
            sim.crash(Loss::AfterBytes(first));
            let log = NodeLog::open(sim.mount(), options()).await.unwrap();
            let found = log.shard(1).vote.unwrap();
            let acknowledged = stop_in_a_sync(&sim, &log, "3").await;
            sim.crash(Loss::AfterBytes(second));
            let log = NodeLog::open(sim.mount(), options())
                .await
                .unwrap_or_else(|e| panic!("torn after {first} and {second} bytes: {e}"));
            let vote = log.shard(1).vote.unwrap();
            assert!(
                vote == "3" || vote == found && !acknowledged,
                "{vote:?} after {found:?}"
            );
            torn_twice += u32::from(found == "1" && vote == "1");
        }
    }
    assert!(torn_twice > 0);
}
