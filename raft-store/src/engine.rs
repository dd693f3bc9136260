//! Where state lives: ordered keys of all shards of a node, in one engine.
//!
//! An engine has no log of its own. Writes are atomic and visible at once, but durable
//! only after [`Engine::flush`]; a crash takes the engine back to *some* earlier point between
//! two writes, never before the last flush and never into the middle of a write. The node log replays the rest.

use bytes::Bytes;

mod digest;
pub mod memory;
#[cfg(feature = "rocks")]
pub mod rocks;
pub use digest::row_digest;
#[cfg(feature = "rocks")]
pub use rocks::RocksEngine;

/// An engine that cannot do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Stored bytes are not what was written: this replica must be rebuilt from its peers.
    #[error("the stored state is corrupt: {0}")]
    Corrupt(String),
    /// The disk failed or is full. Nothing is retried.
    #[error("the state engine failed: {0}")]
    Failed(String),
    /// What is stored, or is to be applied, was written by a newer release: this one must not go on, and touch nothing.
    #[error("written by a newer release: {0}")]
    Newer(String),
}

/// One change of a [`WriteBatch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Set a key.
    Put(Bytes, Bytes),
    /// Remove a key.
    Delete(Bytes),
    /// Remove every key from the first, inclusive, to the second, exclusive.
    DeleteRange(Bytes, Bytes),
}

/// Changes that happen together or not at all, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteBatch {
    /// The changes, first to last.
    pub changes: Vec<Change>,
}

/// Keys as of one moment.
pub trait EngineView: Send + Sync {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Up to `limit` pairs with `from <= key < to`, ascending.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError>;

    /// The sum of [`row_digest`] over the rows whose keys begin with `prefix`, a section of a shard, if it is kept.
    fn digest(&self, _prefix: &[u8]) -> Option<u64> {
        None
    }
}

/// A state engine. One per node; shards share it under key prefixes.
pub trait Engine: EngineView + 'static {
    /// Writes all of `batch`, visible when this returns.
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError>;

    /// Makes everything written before this call durable. Blocks on the disk.
    fn flush(&self) -> Result<(), EngineError>;

    /// The keys as they are now; later writes do not show in it.
    fn view(&self) -> Result<Box<dyn EngineView>, EngineError>;

    /// Bytes of memory and disk in use, as far as the engine knows.
    fn stats(&self) -> EngineStats;
}

/// What an engine holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Written but not yet flushed, and caches, in bytes.
    pub memory_bytes: u64,
    /// On disk, in bytes.
    pub disk_bytes: u64,
    /// Flushes since the engine was opened.
    pub flushes: u64,
}

#[cfg(all(test, not(madsim)))]
mod conformance;
