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

/// How many there are now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// One more.
    pub fn enter(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Since the node started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages stored by shards led here; what was there before does not count.
    pub messages_in: Counter,
    /// Bytes of these messages.
    pub bytes_in: Counter,
    /// Messages delivered.
    pub messages_out: Counter,
    /// Bytes of these messages.
    pub bytes_out: Counter,
    /// Messages that were leased and are too large to be delivered.
    pub undeliverable: Counter,
    /// Messages acknowledged at shards led here.
    pub acks: Counter,
    /// Sends refused.
    pub send_refused: Counter,
    /// Telemetry streams of producers.
    pub producers: Gauge,
    /// Telemetry streams of consumers.
    pub consumers: Gauge,
}
