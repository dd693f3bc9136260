//! openraft's own storage suite, on every engine and every disk.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};

use super::{LogStore, StateMachine, Synced};
use crate::{
    disk::{Disk, RealDisk, SimDisk},
    engine::{Engine, EngineError, memory::MemoryEngine},
    health::Health,
    log::{LogOptions, NodeLog},
    log_id::LogId,
    machine::{Applied, Machine, StateRead, StateWrite},
    replica::Repairs,
    snapshot::{Snapshots, Traffic},
    state::ShardState,
    transport::Nobody,
    types::TypeConfig,
};

const SHARD: u32 = 3;

/// Keeps every payload under the index of its entry.
struct Keep;

impl Machine for Keep {
    fn restore(&self, _state: &dyn StateRead) -> Result<(), EngineError> {
        Ok(())
    }

    fn apply(&self, at: LogId, payload: &Bytes, state: &mut dyn StateWrite) -> Result<Applied, EngineError> {
        state.put(&at.index.to_be_bytes(), payload);
        Ok(Applied::none())
    }

    fn oldest_live_index(&self, state: &dyn StateRead) -> Result<Option<u64>, EngineError> {
        let oldest = state.scan(&[], &[], 1)?.pop();
        Ok(oldest.map(|(key, _)| u64::from_be_bytes(key[..].try_into().expect("eight bytes"))))
    }
}

/// What a store stands on, and the directory that must outlive it, if it has one.
type Ground = (Arc<dyn Disk>, Arc<dyn Engine>, Option<tempfile::TempDir>);

/// Makes a fresh store for every test of the suite.
struct Fresh {
    make: fn() -> Ground,
    /// Directories outlive the tests that may still write to them.
    directories: Mutex<Vec<tempfile::TempDir>>,
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine> for Fresh {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError<TypeConfig>> {
        let (disk, engine, directory) = (self.make)();
        self.directories.lock().unwrap().extend(directory);
        let log = NodeLog::open(
            disk,
            LogOptions {
                keep_free_bytes: 0,
                segment_bytes: 1 << 20,
                ..LogOptions::new(1)
            },
        );
        let log = log.await.expect("the log opens");
        let health = Health::new();
        let nobody = Arc::new(Nobody);
        let repairs = Repairs::new(SHARD, log.clone(), health.clone(), nobody, Duration::ZERO);
        let synced = Arc::new(Synced::new(0));
        let state = Arc::new(ShardState::open(SHARD, engine).expect("the state opens"));
        let state_machine = StateMachine {
            state: state.clone(),
            machine: Arc::new(Keep),
            log: log.clone(),
            // The suite applies entries that it never appends.
            synced: Arc::new(Synced::new(u64::MAX)),
            snapshots: Arc::new(Snapshots::new(
                state,
                log.clone(),
                health.clone(),
                Traffic::new(crate::limits::SNAPSHOT_PIECE_BYTES),
                repairs.clone(),
            )),
            health: health.clone(),
            _at_work: tokio::sync::mpsc::channel(1).0,
        };
        Ok((
            (),
            LogStore::new(SHARD, log, synced, health, repairs),
            state_machine,
        ))
    }
}

fn run(make: fn() -> Ground) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let fresh = Fresh {
        make,
        directories: Mutex::default(),
    };
    runtime
        .block_on(Suite::test_all(fresh))
        .expect("the suite passes");
}

fn real_disk() -> (Arc<dyn Disk>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (
        Arc::new(RealDisk::open(directory.path().join("log")).unwrap()),
        directory,
    )
}

#[test]
fn openrafts_suite_passes_on_memory_and_the_simulated_disk() {
    run(|| (SimDisk::new(1).mount(), MemoryEngine::new().mount(), None));
}

#[test]
fn openrafts_suite_passes_on_memory_and_a_real_disk() {
    run(|| {
        let (disk, directory) = real_disk();
        (disk, MemoryEngine::new().mount(), Some(directory))
    });
}

#[cfg(feature = "rocks")]
mod rocks {
    use super::*;
    use crate::engine::RocksEngine;

    fn engine(directory: &tempfile::TempDir) -> Arc<dyn Engine> {
        let path = directory.path().join("state");
        Arc::new(RocksEngine::open(&path).unwrap())
    }

    #[test]
    fn openrafts_suite_passes_on_rocksdb_and_the_simulated_disk() {
        run(|| {
            let directory = tempfile::tempdir().unwrap();
            (SimDisk::new(1).mount(), engine(&directory), Some(directory))
        });
    }

    #[test]
    fn openrafts_suite_passes_on_rocksdb_and_a_real_disk() {
        run(|| {
            let (disk, directory) = real_disk();
            (disk, engine(&directory), Some(directory))
        });
    }
}
