//! What the service counts, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Since the node started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages stored for clients of this node.
    pub messages_in: Counter,
    /// Bytes of their bodies.
    pub bytes_in: Counter,
    /// Messages delivered.
    pub messages_out: Counter,
    /// Bytes of their bodies.
    pub bytes_out: Counter,
    /// Messages that were leased and are too large to be delivered.
    pub undeliverable: Counter,
    /// Messages acknowledged.
    pub acks: Counter,
    /// Sends refused.
    pub send_refused: Counter,
    /// Messages moved to a dead-letter queue on a client's request.
    pub dead_letters: Counter,
}
