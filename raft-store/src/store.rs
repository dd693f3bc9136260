//! Everything a node stores: one log, one state engine, and the replicas that share them.

use std::{sync::Arc, time::Duration};

use crate::{
    engine::{Engine, EngineError, EngineStats},
    replica::{Replica, ReplicaOptions},
};

/// How a store behaves.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Identity an empty directory gets: random, drawn by the caller, never 0.
    pub new_identity: u64,
    /// Size of a log segment in bytes.
    pub segment_bytes: u64,
    /// Recent log records kept in memory, in bytes.
    pub cache_bytes: usize,
    /// The state is flushed when the log has grown by this many bytes since the last flush.
    pub flush_every_bytes: u64,
    /// The state is flushed at least this often while anything is written.
    pub flush_every: Duration,
}

/// Why a store or a replica cannot open.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What is stored is not what was written. Nothing of this directory may vote again:
    /// replace it, and let the cluster rebuild the node under a new incarnation.
    #[error("the data directory is corrupt: {0}")]
    Corrupt(String),
    /// Written by another version of Flotilla.
    #[error("the data directory has format version {found}, this program reads version {known}")]
    Version {
        /// The version found.
        found: u32,
        /// The version this program writes.
        known: u32,
    },
    /// The shard's data belongs to another replica id.
    #[error("shard {shard} is stored here for replica {stored}, not {asked}")]
    WrongReplica {
        /// The shard.
        shard: u32,
        /// Whose data is stored.
        stored: u64,
        /// Who asked.
        asked: u64,
    },
    /// The shard is already open.
    #[error("shard {0} is already open")]
    AlreadyOpen(u32),
    /// The disk failed, is full, or is used by another process.
    #[error("the data directory cannot be used: {0}")]
    Failed(String),
}

/// A node's store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    identity: u64,
    fresh: bool,
    engine: Arc<dyn Engine>,
}

/// What a store has done since it was opened.
#[derive(Debug, Clone, Default)]
pub struct StoreStats {
    /// Syncs of the log.
    pub log_syncs: u64,
    /// Bytes written to the log.
    pub log_bytes_written: u64,
    /// The state engine.
    pub engine: EngineStats,
}

impl Store {
    /// The random number that names this data directory for as long as it exists.
    pub fn identity(&self) -> u64 {
        self.inner.identity
    }

    /// Whether the directory was empty when it was opened.
    pub fn fresh(&self) -> bool {
        self.inner.fresh
    }

    /// Makes the state durable, as far as it is applied now.
    pub async fn flush(&self) -> Result<(), EngineError> {
        self.inner.engine.flush()
    }

    /// Counters.
    pub fn stats(&self) -> StoreStats {
        todo!()
    }

    /// Waits until the log or the state has failed for good, and says why. The process must exit then.
    pub async fn wait_stopped(&self) -> String {
        todo!()
    }

    /// Opens a shard's replica, founding its storage if there is none.
    pub async fn open_replica(&self, options: ReplicaOptions) -> Result<Replica, StoreError> {
        let _ = options;
        todo!()
    }

    /// The shards that have data here, with the replica id each was opened for.
    pub fn shards(&self) -> Result<Vec<(u32, u64)>, StoreError> {
        todo!()
    }

    /// Forgets everything of a shard whose replica is not open.
    pub async fn drop_replica(&self, shard: u32) -> Result<(), StoreError> {
        let _ = shard;
        todo!()
    }
}
