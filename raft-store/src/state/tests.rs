//! What one shard sees of a shared engine.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{engine::memory::MemoryEngine, log_id::LogId};

fn id(index: u64) -> RaftLogId {
    convert::to_raft(LogId {
        term: 1,
        node: 1,
        index,
    })
}

#[derive(Debug, Clone)]
enum Step {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    Commit,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0u8, 1, 0xff]), 0..3)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (key(), prop::collection::vec(any::<u8>(), 0..3)).prop_map(|(key, value)| Step::Put(key, value)),
        3 => key().prop_map(Step::Delete),
        1 => Just(Step::Commit),
    ]
}

proptest! {
    /// Reads in a batch, of any range and limit, see what was committed and what the batch has written.
    #[test]
    fn a_batch_reads_its_own_writes(
        steps in prop::collection::vec(step(), 0..40),
        from in key(),
        to in key(),
        limit in 0usize..12,
    ) {
        let engine = MemoryEngine::new().mount();
        let neighbour = ShardState::open(8, engine.clone()).unwrap();
        neighbour.with_write(|state, _| { state.put(&[], b"not yours"); Ok(()) }).unwrap();
        let state = ShardState::open(7, engine).unwrap();
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for batch in steps.split(|step| matches!(step, Step::Commit)) {
            state.with_write(|state, _| {
                for step in batch {
                    match step {
                        Step::Put(key, value) => {
                            state.put(key, value);
                            model.insert(key.clone(), value.clone());
                        }
                        Step::Delete(key) => {
                            state.delete(key);
                            model.remove(key);
                        }
                        Step::Commit => unreachable!("batches are what is between commits"),
                    }
                    let expected: Vec<(Bytes, Bytes)> = model
                        .iter()
                        .filter(|(key, _)| **key >= from && (to.is_empty() || **key < to))
                        .take(limit)
                        .map(|(key, value)| (key.clone().into(), value.clone().into()))
                        .collect();
                    assert_eq!(state.scan(&from, &to, limit).unwrap(), expected);
                    assert_eq!(state.get(&from).unwrap().map(|value| value.to_vec()), model.get(&from).cloned());
                }
                Ok(())
            }).unwrap();
            let committed = state.with_read(|state, _| state.scan(&[], &[], usize::MAX)).unwrap();
            prop_assert_eq!(committed.len(), model.len());
        }
    }
}

#[test]
fn position_and_writes_commit_together_or_not_at_all() {
    let hardware = MemoryEngine::new();
    let state = ShardState::open(1, hardware.mount()).unwrap();
    let write = |index: u64| {
        state.with_write(|state, standing| {
            standing.applied = Some(id(index));
            state.put(b"index", &index.to_be_bytes());
            Ok(())
        })
    };
    write(1).unwrap();
    let failed: Result<(), _> = state.with_write(|state, standing| {
        standing.applied = Some(id(2));
        state.put(b"index", b"wrong");
        Err(EngineError::Failed("no".into()))
    });
    assert!(failed.is_err());
    hardware.fail(true);
    assert!(write(2).is_err());
    hardware.fail(false);
    assert_eq!(state.applied(), Some(id(1)));
    write(2).unwrap();
    state.engine().flush().unwrap();
    write(3).unwrap();
    hardware.crash(0);
    let state = ShardState::open(1, hardware.mount()).unwrap();
    assert_eq!(state.applied(), Some(id(2)));
    let stored = state.with_read(|state, _| state.get(b"index")).unwrap();
    assert_eq!(stored.as_deref(), Some(&2u64.to_be_bytes()[..]));
}

#[test]
fn clearing_a_shard_leaves_its_neighbours_alone() {
    let engine = MemoryEngine::new().mount();
    for shard in [0, 1, u32::MAX] {
        let state = ShardState::open(shard, engine.clone()).unwrap();
        state.set_replica(u64::from(shard) + 1).unwrap();
        let write = |state: &mut dyn StateWrite, _: &mut Standing| {
            state.put(b"a", b"b");
            Ok(())
        };
        state.with_write(write).unwrap();
    }
    assert_eq!(shards(&*engine).unwrap(), [(0, 1), (1, 2), (u32::MAX, 1 << 32)]);
    ShardState::open(1, engine.clone()).unwrap().clear().unwrap();
    assert_eq!(shards(&*engine).unwrap(), [(0, 1), (u32::MAX, 1 << 32)]);
    let left = engine.scan(&[], &[0xff; 8], usize::MAX).unwrap();
    assert_eq!(left.len(), 4);
}

#[test]
fn what_is_applied_is_told_while_a_batch_or_a_snapshot_is_put_in() {
    let state = ShardState::open(1, MemoryEngine::new().mount()).unwrap();
    let in_batch = state.with_write(|_, standing| {
        standing.applied = Some(id(4));
        Ok(state.applied())
    });
    assert_eq!((in_batch.unwrap(), state.applied()), (None, Some(id(4))));
    let after = Standing {
        applied: Some(id(9)),
        ..Standing::default()
    };
    let pairs = vec![(Bytes::from_static(b"a"), Bytes::from_static(b"new"))];
    state.begin_stage("a").unwrap();
    // While it is put together, and up to the switch, the state in use is the old one, and can be read.
    state.stage("a", pairs, None).unwrap();
    assert_eq!(state.with_read(|state, _| state.get(b"a")).unwrap(), None);
    state.begin_install(&after).unwrap();
    let told = std::cell::Cell::new(None);
    let restore = |new: &dyn StateRead| {
        told.set(state.applied());
        assert_eq!(new.get(b"a").unwrap(), Some(Bytes::from_static(b"new")));
        Ok(())
    };
    state.switch(after, restore).unwrap();
    assert_eq!(told.get(), Some(id(9)));
}

#[test]
fn a_snapshot_that_is_not_complete_is_not_put_in() {
    let state = ShardState::open(1, MemoryEngine::new().mount()).unwrap();
    assert!(state.begin_install(&Standing::default()).is_err());
    assert_eq!(state.begin_stage("a").unwrap(), Some(Bytes::new()));
    let next = Bytes::from_static(b"b");
    let pairs = vec![(Bytes::from_static(b"a"), Bytes::new())];
    state.stage("a", pairs, Some(next.clone())).unwrap();
    assert!(state.begin_install(&Standing::default()).is_err());
    assert_eq!(state.begin_stage("a").unwrap(), Some(next));
    state.discard_stage().unwrap();
    assert_eq!(state.begin_stage("a").unwrap(), Some(Bytes::new()));
}
