//! Every call of the disk fails once.

use bytes::Bytes;

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
use crate::log::OpenError;
use crate::log::ReadError;
use crate::log::StopReason;

/// Whatever fails, from then on nothing is acknowledged (the model checks that); what was acknowledged is there
/// afterwards, with and without a power loss.
async fn fail_each_change(fault: Fault, stops: bool) {
    for nth in 1.. {
        let sim = SimDisk::new(nth);
        let disk = sim.mount();
        sim.inject(Operation::Change, nth, fault);
        let Ok(mut world) = World::open(disk, options()).await else {
            continue;
        };
        let stopped = world.run(&story()).await.is_err();
        let met = stopped || sim.counts().changes >= nth;
        if met && stops {
            // The story may have ended while the log was preparing for more.
            world.log.wait_stopped().await;
        }
        for loss in [None, Some(Loss::All), Some(Loss::Random(nth))] {
            let sim = sim.fork();
            sim.clear_faults();
            if let Some(loss) = loss {
                sim.crash(loss);
            }
            let world = World::reopen(sim.mount(), options(), &world.history).await;
            world
                .unwrap()
                .run(&[
                    Op::Append {
                        shard: 1,
                        count: 9,
                        size_bytes: 300,
                    },
                    Op::Wait,
                ])
                .await
                .unwrap();
        }
        if !met {
            return;
        }
    }
}

#[tokio::test]
async fn an_io_error_anywhere_stops_acknowledging_and_loses_nothing() {
    fail_each_change(Fault::Error, true).await;
}

#[tokio::test]
async fn a_full_disk_anywhere_loses_nothing() {
    fail_each_change(Fault::Full, false).await;
}

#[tokio::test]
async fn everyone_who_waits_hears_why_the_log_stopped() {
    let sim = SimDisk::new(1);
    let log = NodeLog::open(sim.mount(), options()).await.unwrap();
    sim.inject(Operation::Write, 1, Fault::Error);
    sim.inject(Operation::Sync, 1, Fault::Error);
    let (told, hears) = std::sync::mpsc::channel();
    while log.stopped().is_none() {
        let index = log.shard(1).last.map_or(0, |last| last.index + 1);
        let told = told.clone();
        let _ = log.append(1, vec![entry(1, id(1, index), 1)], move |result| {
            told.send(result).unwrap()
        });
        let _ = log.save_vote(1, Bytes::new()).await;
    }
    drop(told);
    let error = hears
        .iter()
        .filter_map(Result::err)
        .next()
        .expect("someone waited");
    let StopReason::Failed { message, .. } = log.wait_stopped().await else {
        panic!("it failed")
    };
    assert!(error.to_string().contains(&*message), "{error}");
    assert!(log.append(1, vec![], |_| ()).is_err());
    assert!(log.save_vote(1, Bytes::new()).await.is_err());
    assert!(log.recycle_through(1).await.is_err());
    assert!(hears.try_recv().is_err(), "nobody is told twice");
}

#[tokio::test]
async fn a_read_error_that_passes_is_no_damage() {
    let sim = SimDisk::new(1);
    let mut world = World::open(sim.mount(), options()).await.unwrap();
    world.run(&story()).await.unwrap();
    for nth in 1.. {
        let sim = sim.fork();
        let disk = sim.mount();
        sim.inject(Operation::Read, nth, Fault::Error);
        World::reopen(disk, options(), &world.history).await.unwrap();
        if sim.faults_waiting() > 0 {
            break; // there are no more reads
        }
    }
}

/// Found by the simulator: of the tail, which is read once more before it is written again, it was an error of the world.
#[tokio::test]
async fn a_read_that_fails_again_is_damage_wherever_it_comes_at_a_start() {
    let sim = SimDisk::new(1);
    let log = NodeLog::open(sim.mount(), options()).await.unwrap();
    log.append(
        1,
        (0..50).map(|index| entry(1, id(1, index), 100)).collect(),
        |_| (),
    )
    .unwrap();
    log.save_vote(1, Bytes::from_static(b"durable")).await.unwrap();
    drop(log);
    let mut damaged = 0;
    for nth in 1.. {
        let sim = sim.fork();
        let disk = sim.mount();
        sim.inject(Operation::Read, nth, Fault::Error);
        sim.inject(Operation::Read, nth + 1, Fault::Error);
        match NodeLog::open(disk, options()).await {
            Ok(_) if sim.faults_waiting() > 0 => break, // there are no more reads
            Ok(_) => {}                                 // a sidecar, which is made again
            Err(OpenError::Corrupt { .. }) => damaged += 1,
            Err(other) => panic!("read {nth}: {other}"),
        }
    }
    assert!(damaged > 2, "{damaged}");
}

#[tokio::test]
async fn a_record_that_the_disk_cannot_read_is_damaged_and_those_beside_it_are_not() {
    let sim = SimDisk::new(1);
    let log = NodeLog::open(sim.mount(), options()).await.unwrap();
    let records: Vec<Bytes> = (0..100).map(|index| entry(1, id(1, index), 900)).collect();
    log.append(1, records.clone(), |_| ()).unwrap();
    log.save_vote(1, Bytes::new()).await.unwrap();
    let name = "log/00000001.seg";
    let bytes = sim.read_file(name).unwrap();
    let at = bytes
        .windows(900)
        .position(|window| window == &records[3][..900])
        .unwrap();
    sim.break_sector(name, at as u64 + 600);
    let found = log.read(1, 0, 10, 1 << 20);
    assert!(
        matches!(found, Err(ReadError::Corrupt { index: 3, .. })),
        "{found:?}"
    );
    assert_eq!(log.read(1, 0, 3, 1 << 20).unwrap(), records[..3]);
    assert_eq!(log.damaged(1, 3).unwrap(), [id(1, 3)]);
}

/// Found by the simulator: what was in the file before was not read again, and each life of the node stopped at it.
#[tokio::test]
async fn a_spare_in_which_no_segment_can_begin_is_not_kept() {
    let sim = SimDisk::new(1);
    let fill = async |log: &NodeLog, from: u64| {
        for index in from..from + 40 {
            log.append(1, vec![entry(1, id(1, index), 900)], |_| ()).unwrap();
        }
        log.save_vote(1, Bytes::new()).await
    };
    let log = NodeLog::open(sim.mount(), options()).await.unwrap();
    fill(&log, 0).await.unwrap();
    let spares = || {
        sim.files()
            .into_iter()
            .filter(|name| name.starts_with("log/spare-"))
    };
    while spares().next().is_none() {
        log.save_vote(1, Bytes::new()).await.unwrap();
    }
    log.close().await;
    let broken: Vec<String> = spares().collect();
    assert!(!broken.is_empty());
    for name in &broken {
        sim.break_sector(name, 100);
    }
    let log = NodeLog::open(sim.mount(), options()).await.unwrap();
    assert!(!spares().any(|name| broken.contains(&name)));
    fill(&log, 40).await.unwrap();
}
