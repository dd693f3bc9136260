//! When the state is flushed.
//!
//! What is not flushed is replayed from the log after a crash, and keeps the log from being recycled. So a flush is
//! due after some bytes of log, and after some time, but not while nothing happens.

use std::{sync::Weak, time::Duration};

use super::{Inner, Store};
use crate::{limits::FLUSH_CHECK_MS, runtime::now};

/// Flushes whenever it is due, for as long as the store lives.
pub(super) async fn run(store: Weak<Inner>, every_bytes: u64, every: Duration) {
    let mut flushed_bytes = 0;
    let mut flushed_at = now();
    loop {
        tokio::time::sleep(Duration::from_millis(FLUSH_CHECK_MS)).await;
        let Some(inner) = store.upgrade() else { return };
        if inner.health.stopped().is_some() {
            return;
        }
        for replica in inner.slots.open() {
            replica.tidy();
        }
        let written = inner.log.stats().bytes_written;
        let waited = now().saturating_duration_since(flushed_at);
        if written == flushed_bytes {
            flushed_at = now();
            continue;
        }
        if written - flushed_bytes < every_bytes && waited < every {
            continue;
        }
        if (Store { inner }).flush().await.is_err() {
            return;
        }
        flushed_bytes = written;
        flushed_at = now();
    }
}
