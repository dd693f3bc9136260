//! The contract between a replica and what it replicates for.
//!
//! A [`Machine`] turns committed payloads into state. It never sees Raft: no terms to
//! compare, no leaders, no log. All it may write to is the [`StateWrite`] it is handed,
//! which commits its writes in one batch together with the position of the entry, so
//! that state and position can never disagree.

use std::any::Any;

use bytes::Bytes;

use crate::{engine::EngineError, log_id::LogId};

/// Ordered keys of one shard's machine, as of the entries applied so far.
///
/// Keys are the machine's own; the shard is added underneath.
pub trait StateRead {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Up to `limit` pairs with `from <= key < to`, ascending. An empty `to` is the end of all keys.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError>;

    /// The sum of [`row_digest`](crate::engine::row_digest) over all rows, if somebody keeps it.
    fn digest(&self) -> Option<u64> {
        None
    }
}

/// A [`StateRead`] that takes writes, and reads its own uncommitted ones.
pub trait StateWrite: StateRead {
    /// Sets `key`. Nothing is durable, nor visible to other readers, before the batch commits.
    fn put(&mut self, key: &[u8], value: &[u8]);

    /// Removes `key`, whether or not it exists.
    fn delete(&mut self, key: &[u8]);
}

/// What a machine answers to the proposer of an entry; nobody else ever sees it.
///
/// Opaque on purpose: replies are not data of the log, and need no encoding.
#[derive(Default)]
pub struct Applied(Option<Box<dyn Any + Send + Sync>>);

impl Applied {
    /// No answer.
    pub fn none() -> Self {
        Self(None)
    }

    /// An answer of the machine's own type.
    pub fn of<T: Any + Send + Sync>(answer: T) -> Self {
        Self(Some(Box::new(answer)))
    }

    /// The answer, when there is one of type `T`.
    pub fn take<T: Any>(self) -> Option<T> {
        self.0
            .and_then(|answer| answer.downcast().ok())
            .map(|answer| *answer)
    }
}

impl std::fmt::Debug for Applied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() {
            "Applied(..)"
        } else {
            "Applied"
        })
    }
}

/// What one replica replicates for. One per replica; locks inside are its own matter.
///
/// `apply` must be deterministic: a function of the state and the payload, and of nothing else.
/// An error is for an engine that cannot answer and stops the replica; a command that makes no
/// sense is answered with a refusal in [`Applied`].
pub trait Machine: Send + Sync + 'static {
    /// Rebuilds whatever is kept in memory. Called once when the replica opens, before anything is
    /// applied, and again after a snapshot has replaced the state.
    fn restore(&self, state: &dyn StateRead) -> Result<(), EngineError>;

    /// Applies one entry. Entries come in order of their index; an index may be missing (Raft's own
    /// entries). After a crash, entries whose writes were not flushed are applied again.
    fn apply(&self, at: LogId, payload: &Bytes, state: &mut dyn StateWrite) -> Result<Applied, EngineError>;

    /// The smallest index of an entry whose payload the state still refers to: a snapshot carries
    /// the log from there on. `None` when the state refers to none.
    fn oldest_live_index(&self, state: &dyn StateRead) -> Result<Option<u64>, EngineError>;
}
