//! Everything a node stores: one log, one state engine, and the replicas that share them.

use std::{
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use futures::future::join_all;
use tokio::time::timeout;

use crate::{
    blocking::{Work, blocking},
    damage::Damage,
    disk::Disk,
    engine::{Engine, EngineError, EngineStats},
    health::{Health, StoreStopped},
    limits,
    log::{LogOptions, LogStats, LogStopped, NodeLog, OpenError, StopReason},
    replica::{self, Replica, ReplicaOptions},
    snapshot::Traffic,
    state::{self, ShardState},
};

mod flush;
mod identity;
mod retention;
mod slots;

pub use retention::RetentionError;
use slots::Slots;

/// How a store behaves.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Identity an empty directory gets: random, drawn by the caller, never 0.
    pub new_identity: u64,
    /// Size of a log segment in bytes.
    pub segment_bytes: u64,
    /// Recent log records kept in memory, in bytes.
    pub cache_bytes: usize,
    /// New log segments are made only while the disk keeps this many bytes free.
    pub keep_free_bytes: u64,
    /// The state is flushed when the log has grown by this many bytes since the last flush.
    pub flush_every_bytes: u64,
    /// The state is flushed at least this often while anything is written.
    pub flush_every: Duration,
    /// A part of a snapshot that is sent is closed at this size in bytes, [`limits::SNAPSHOT_PIECE_BYTES`] at most.
    pub snapshot_piece_bytes: usize,
}

impl StoreOptions {
    /// The defaults.
    pub fn new(new_identity: u64) -> Self {
        Self {
            new_identity,
            segment_bytes: limits::DEFAULT_SEGMENT_BYTES,
            cache_bytes: limits::DEFAULT_CACHE_BYTES,
            keep_free_bytes: limits::DEFAULT_KEEP_FREE_BYTES,
            flush_every_bytes: limits::DEFAULT_FLUSH_BYTES,
            flush_every: Duration::from_millis(limits::DEFAULT_FLUSH_EVERY_MS),
            snapshot_piece_bytes: limits::SNAPSHOT_PIECE_BYTES,
        }
    }
}

/// Why a store or a replica cannot open.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What is stored is not what was written. Nothing of this directory may vote again:
    /// replace it, and let the cluster rebuild the node under a new incarnation.
    #[error("the data directory is corrupt: {0}")]
    Corrupt(String),
    /// Written by a newer release, which has to be used; nothing was touched.
    #[error("written by a newer release: {0}")]
    Newer(String),
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
    /// The shard is open, or being opened.
    #[error("shard {0} is already open")]
    AlreadyOpen(u32),
    /// The store closes, or is closed.
    #[error("the store is closing")]
    Closing,
    /// The disk failed, is full, or is used by another process.
    #[error("the data directory cannot be used: {0}")]
    Failed(String),
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        StoreError::Failed(error.to_string())
    }
}

impl From<LogStopped> for StoreError {
    fn from(stopped: LogStopped) -> Self {
        StoreError::Failed(stopped.to_string())
    }
}

impl From<OpenError> for StoreError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Corrupt { .. } => StoreError::Corrupt(error.to_string()),
            OpenError::Version { .. } | OpenError::Kind { .. } => StoreError::Newer(error.to_string()),
            // A file that somebody put there: for a person to take away again, not for the node to throw away the rest.
            OpenError::OtherDirectory { .. } | OpenError::Io { .. } | OpenError::Options(_) => {
                StoreError::Failed(error.to_string())
            }
        }
    }
}

/// A node's store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    identity: u64,
    fresh: bool,
    log: NodeLog,
    engine: Arc<dyn Engine>,
    health: Health,
    traffic: Traffic,
    slots: Slots,
}

/// What a store has done since it was opened.
#[derive(Debug, Clone, Default)]
pub struct StoreStats {
    /// The log.
    pub log: LogStats,
    /// The state engine.
    pub engine: EngineStats,
}

/// A store as its replicas know it: they do not keep it alive.
#[derive(Clone)]
pub(crate) struct WeakStore(Weak<Inner>);

impl WeakStore {
    /// Makes the state durable.
    pub(crate) async fn flush(&self) -> Result<(), String> {
        let inner = self.0.upgrade().ok_or("the store is closed")?;
        Store { inner }.flush().await.map_err(|e| e.to_string())
    }

    /// Takes a replica that was shut down off the list.
    pub(crate) fn forget(&self, replica: &Replica) {
        if let Some(inner) = self.0.upgrade() {
            inner.slots.forget(replica);
        }
    }
}

impl Store {
    /// Opens the store in `disk`, founding one where there is none, with the node's state in `engine`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] when something that was durable is missing or damaged.
    pub async fn open(
        disk: Arc<dyn Disk>,
        engine: Arc<dyn Engine>,
        options: StoreOptions,
    ) -> Result<Store, StoreError> {
        assert_ne!(options.new_identity, 0, "0 stands for no identity");
        let stored = identity::read(&*disk)?;
        if stored.is_none() {
            if !disk.list("log")?.is_empty() || !state::shards(&*engine)?.is_empty() {
                return Err(StoreError::Corrupt(
                    "the directory has data but has lost its identity".into(),
                ));
            }
            identity::write(&*disk, options.new_identity)?;
        } else if !Self::has_log(&*disk)? && !state::shards(&*engine)?.is_empty() {
            return Err(StoreError::Corrupt("the directory has lost its log".into()));
        }
        let identity = stored.unwrap_or(options.new_identity);
        let log_options = LogOptions {
            directory: identity,
            segment_bytes: options.segment_bytes,
            cache_bytes: options.cache_bytes,
            keep_free_bytes: options.keep_free_bytes,
        };
        let log = NodeLog::open(disk, log_options).await?;
        let inner = Arc::new(Inner {
            identity,
            fresh: stored.is_none(),
            log,
            engine,
            health: Health::new(),
            traffic: Traffic::new(options.snapshot_piece_bytes),
            slots: Slots::default(),
        });
        tokio::spawn(watch_log(inner.log.clone(), inner.health.clone()));
        tokio::spawn(flush::run(
            Arc::downgrade(&inner),
            options.flush_every_bytes,
            options.flush_every,
        ));
        Ok(Store { inner })
    }

    /// The identity of the data directory in `disk`, without opening or touching it; nothing if it has none yet.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it cannot be read, [`StoreError::Newer`] when a newer release has written to it.
    pub fn directory(disk: &dyn Disk) -> Result<Option<u64>, StoreError> {
        let identity = identity::read(disk)?;
        NodeLog::check_release(disk)?;
        Ok(identity)
    }

    /// Whether there is a log in `disk`. There is one, durably, from the first time that a store was opened in it.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when that cannot be found out.
    pub fn has_log(disk: &dyn Disk) -> Result<bool, StoreError> {
        Ok(disk.list("log")?.iter().any(|name| name.ends_with(".seg")))
    }

    /// The random number that names this data directory for as long as it exists.
    pub fn identity(&self) -> u64 {
        self.inner.identity
    }

    /// Whether the directory was empty when it was opened.
    pub fn fresh(&self) -> bool {
        self.inner.fresh
    }

    /// The node's log: for retention and statistics. Replicas write it.
    pub fn log(&self) -> &NodeLog {
        &self.inner.log
    }

    /// Makes the state durable, as far as it is applied now. A failure ends the store.
    pub async fn flush(&self) -> Result<(), EngineError> {
        let applied: Vec<_> = self
            .inner
            .slots
            .open()
            .into_iter()
            .map(|replica| (replica.applied(), replica))
            .collect();
        plant!(FlushToldBeforeItIsDone => crate::planted::told_of_flush(&applied));
        let engine = self.inner.engine.clone();
        let flushed = blocking(Work::Flush, move || engine.flush()).await;
        flushed.inspect_err(|error| {
            self.inner.health.engine(error.clone());
        })?;
        for (applied, replica) in applied {
            let applied = plant!(FlushedAsOfAfter => replica.applied(), else applied);
            replica.set_flushed(applied);
        }
        Ok(())
    }

    /// Counters.
    pub fn stats(&self) -> StoreStats {
        StoreStats {
            log: self.inner.log.stats(),
            engine: self.inner.engine.stats(),
        }
    }

    /// Records that are stored here and cannot be read, as far as that was found: they are being repaired.
    pub fn damages(&self) -> Vec<Damage> {
        self.inner.health.damages.list()
    }

    /// How many records were repaired since the store was opened.
    pub fn repairs(&self) -> u64 {
        self.inner.health.damages.repairs()
    }

    /// Waits until the log or the state has failed for good, and says why. The process must exit then.
    pub async fn wait_stopped(&self) -> StoreStopped {
        self.inner.health.wait_stopped().await
    }

    /// Opens a shard's replica, founding its storage if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] when log and state of the shard do not fit each other;
    /// [`StoreError::WrongReplica`] when they are another replica's.
    pub async fn open_replica(&self, options: ReplicaOptions) -> Result<Replica, StoreError> {
        let shard = options.shard;
        let taken = self.inner.slots.take(shard)?;
        let shared = replica::Shared {
            log: self.inner.log.clone(),
            engine: self.inner.engine.clone(),
            health: self.inner.health.clone(),
            store: WeakStore(Arc::downgrade(&self.inner)),
            traffic: self.inner.traffic.clone(),
        };
        let replica = replica::open(shared, options).await?;
        taken.done(replica.clone());
        Ok(replica)
    }

    /// The open replica of a shard.
    pub fn replica(&self, shard: u32) -> Option<Replica> {
        self.inner.slots.replica(shard)
    }

    /// The shards that have data here, with the replica id each was opened for.
    pub fn shards(&self) -> Result<Vec<(u32, u64)>, StoreError> {
        Ok(state::shards(&*self.inner.engine)?)
    }

    /// Forgets everything of a shard whose replica is not open. Its replica id must never be used again.
    pub async fn drop_replica(&self, shard: u32) -> Result<(), StoreError> {
        let _taken = self.inner.slots.take(shard)?;
        // The log first: a state without a log is refused when it is opened, a log without a state is not.
        self.inner.log.drop_shard(shard).await?;
        let engine = self.inner.engine.clone();
        let cleared = blocking(Work::Clear, move || ShardState::open(shard, engine)?.clear()).await;
        Ok(cleared?)
    }

    /// Stops all replicas, flushes the state and closes the log: the next start has nothing to replay. What is being opened is
    /// waited for, and what a replica is in the middle of, but not for longer than [`limits::SETTLES_WITHIN_MS`]: a log that waits for
    /// room would keep them for ever.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.inner.slots.close();
        let settled = timeout(Duration::from_millis(limits::SETTLES_WITHIN_MS), self.settle()).await;
        if settled.is_err() {
            tracing::warn!(
                "a replica is in the middle of something and cannot end; the log is closed under it"
            );
        }
        let flushed = plant!(ShutdownWithoutFlush => Ok(()), else self.flush().await);
        self.inner.health.stop(StoreStopped::Closed);
        self.inner.log.clone().close().await;
        Ok(flushed?)
    }

    async fn settle(&self) {
        self.shut_down().await;
        // Now those only that are being opened: what they wait for will not come.
        self.inner.health.close();
        self.inner.slots.settled().await;
        self.shut_down().await;
    }

    async fn shut_down(&self) {
        let open = self.inner.slots.open();
        join_all(open.iter().map(Replica::shutdown)).await;
    }
}

/// The end of the log is the end of the store.
async fn watch_log(log: NodeLog, health: Health) {
    let cause = match log.wait_stopped().await {
        StopReason::Closed => StoreStopped::Closed,
        failed @ StopReason::Failed { .. } => StoreStopped::Failed(failed.to_string()),
    };
    health.stop(cause);
}
