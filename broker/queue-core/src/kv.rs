//! The state the core writes through to: ordered keys, nothing more.

use bytes::Bytes;

/// A state engine that cannot answer, or answers what was never written. Stops the replica.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

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
