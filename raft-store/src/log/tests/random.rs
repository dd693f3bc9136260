//! Random lives of a log, with random ends, against the model.

use proptest::prelude::*;

use super::model::Op;
use super::model::options;
use super::world::World;
use crate::disk::SimDisk;
use crate::disk::sim::Fault;
use crate::disk::sim::Loss;
use crate::disk::sim::Operation;

/// How a life ends.
#[derive(Clone, Debug)]
enum End {
    Close,
    Kill,
    PowerLoss {
        seed: u64,
    },
    /// In the middle: at this change of the disk.
    PowerLossAt {
        change: u64,
        seed: u64,
    },
    ErrorAt {
        change: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let shard = || 0..4_u32;
    prop_oneof![
        8 => (shard(), 1..6_u64, 0..600_usize)
            .prop_map(|(shard, count, size_bytes)| Op::Append { shard, count, size_bytes }),
        2 => (shard(), any::<u64>()).prop_map(|(shard, vote)| Op::Vote { shard, vote }),
        2 => shard().prop_map(|shard| Op::Commit { shard }),
        2 => (shard(), 1..8_u64).prop_map(|(shard, count)| Op::Truncate { shard, count }),
        1 => shard().prop_map(|shard| Op::TruncateAll { shard }),
        2 => (shard(), 1..8_u64).prop_map(|(shard, count)| Op::Purge { shard, count }),
        1 => (shard(), 1..8_u64).prop_map(|(shard, count)| Op::Install { shard, count }),
        1 => shard().prop_map(|shard| Op::Drop { shard }),
        2 => (1..4_u64).prop_map(|count| Op::Recycle { count }),
        1 => Just(Op::Wait),
    ]
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        Just(End::Close),
        Just(End::Kill),
        any::<u64>().prop_map(|seed| End::PowerLoss { seed }),
        (1..150_u64, any::<u64>()).prop_map(|(change, seed)| End::PowerLossAt { change, seed }),
        (1..150_u64).prop_map(|change| End::ErrorAt { change }),
    ]
}

fn life() -> impl Strategy<Value = (Vec<Op>, End)> {
    (prop::collection::vec(op(), 0..40), end())
}

async fn live(lives: Vec<(Vec<Op>, End)>) {
    let sim = SimDisk::new(11);
    let mut world = World::open(sim.mount(), options()).await.unwrap();
    for (ops, end) in lives {
        match end {
            End::PowerLossAt { change, .. } => sim.inject(Operation::Change, change, Fault::PowerLoss),
            End::ErrorAt { change } => sim.inject(Operation::Change, change, Fault::Error),
            _ => {}
        }
        // A life that was ended from outside stops early.
        let result = world.run(&ops).await;
        match end {
            End::Close => {
                result.unwrap();
                world.log.clone().close().await;
            }
            End::Kill | End::ErrorAt { .. } => {}
            End::PowerLoss { seed } | End::PowerLossAt { seed, .. } => sim.crash(Loss::Random(seed)),
        }
        sim.clear_faults();
        world = World::reopen(sim.mount(), options(), &world.history)
            .await
            .unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_lives_with_any_ends_keep_what_was_acknowledged(lives in prop::collection::vec(life(), 1..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(live(lives));
    }
}
