//! What the service counts, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::tally::Tally;

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

/// Clients with an open Telemetry stream, of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientKind {
    /// Of consumers.
    pub group: String,
    /// As its SDK is called, in small letters.
    pub language: String,
    /// Of the SDK, as it says.
    pub version: String,
    /// `push` or `pull`, of consumers.
    pub mode: &'static str,
}

/// Since the node started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages delivered and their bytes, by topic, consumer group, and whether it was not the first delivery.
    pub delivered: Tally<(u32, u32, bool), 2>,
    /// Messages that were leased and are too large to be delivered.
    pub undeliverable: Counter,
    /// Sends refused.
    pub send_refused: Counter,
    /// Telemetry streams of producers.
    pub producers: Tally<ClientKind, 1>,
    /// Telemetry streams of consumers.
    pub consumers: Tally<ClientKind, 1>,
}
