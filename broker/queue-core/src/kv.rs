//! The state the core writes through to: ordered keys, nothing more.

use bytes::Bytes;

/// A state engine that cannot answer, or answers what was never written. Stops the replica. The class decides what
/// becomes of the data, so it is kept all the way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// What is stored is not what was written.
    #[error("{0}")]
    Corrupt(String),
    /// The engine failed; what is stored may be whole.
    #[error("{0}")]
    Failed(String),
    /// Written by a newer release: this one must touch nothing.
    #[error("{0}")]
    Newer(String),
}

/// Ordered keys of one shard.
pub trait KeyValue {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault>;

    /// Up to `limit` pairs with `from <= key < to`, ascending.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Fault>;

    /// Sets `key`.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault>;

    /// Removes `key`, whether or not it exists.
    fn delete(&mut self, key: &[u8]) -> Result<(), Fault>;
}
