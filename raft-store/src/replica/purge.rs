//! Giving up the start of the log.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;

use super::{PurgeError, Replica};
use crate::types::{Metrics, convert};

/// How long openraft may take to let go, before the caller is told to try again.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn purge_to(replica: &Replica, index: u64) -> Result<(), PurgeError> {
    let inner = &replica.inner;
    let purged = |metrics: &Metrics| metrics.purged.map(|id| id.index) >= Some(index);
    if purged(&inner.raft.metrics().borrow_watched()) {
        return Ok(());
    }
    plant!(PurgedBeforeFlush => replica.set_flushed(replica.applied()));
    if replica.flushed_index() < Some(index) {
        inner.store.flush().await.map_err(PurgeError::Stopped)?;
    }
    if replica.flushed_index() < Some(index) {
        return Err(not_yet(replica, index));
    }
    // To openraft only what a snapshot covers can go; here the state itself is the snapshot.
    let trigger = inner.raft.trigger();
    let stopped = |fatal| PurgeError::Stopped(replica.reason(&fatal));
    trigger.snapshot().await.map_err(stopped)?;
    wait(replica, index, |metrics| {
        metrics.snapshot.map(|id| id.index) >= Some(index)
    })
    .await?;
    trigger.purge_log(index).await.map_err(stopped)?;
    wait(replica, index, purged).await
}

async fn wait(replica: &Replica, index: u64, reached: impl Fn(&Metrics) -> bool) -> Result<(), PurgeError> {
    let mut metrics = replica.inner.raft.metrics();
    let waited = tokio::time::timeout(PATIENCE, async {
        while !reached(&metrics.borrow_and_update()) {
            if metrics.changed().await.is_err() {
                return Err(PurgeError::Stopped(replica.status().stopped.unwrap_or_default()));
            }
        }
        Ok(())
    });
    waited.await.unwrap_or_else(|_| Err(not_yet(replica, index)))
}

fn not_yet(replica: &Replica, index: u64) -> PurgeError {
    let purged = replica.inner.raft.metrics().borrow_watched().purged;
    let reached = purged.as_ref().map(convert::from_raft).map(|id| id.index);
    PurgeError::NotYet {
        shard: replica.shard(),
        asked: index,
        reached,
    }
}
