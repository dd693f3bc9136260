//! How far a shard's log is synced on this disk.
//!
//! A quorum may commit an entry before this node has synced it, and openraft would apply it at once. The state engine
//! writes to disk when it pleases, so the state on disk could get ahead of the log, and a crash would leave a
//! state that refers to records that were never stored. So nothing is applied here before it is synced here.

use std::io;

use crate::runtime::watch;

#[derive(Default)]
struct Progress {
    /// Entries below this index are synced.
    next: u64,
    failed: Option<(io::ErrorKind, String)>,
}

/// The synced end of one shard's log.
pub(crate) struct Synced(watch::Sender<Progress>);

impl Synced {
    /// Entries before index `next` are synced.
    pub(crate) fn new(next: u64) -> Self {
        Self(watch::channel(Progress { next, failed: None }).0)
    }

    /// Entries before index `next` are synced now, or never will be.
    pub(crate) fn report(&self, next: u64, result: &io::Result<()>) {
        self.0.modify(|progress| match result {
            Ok(()) => {
                let further = next > progress.next;
                progress.next = progress.next.max(next);
                further
            }
            Err(error) => {
                progress.failed = Some((error.kind(), error.to_string()));
                true
            }
        });
    }

    /// Entries from index `next` on are gone.
    pub(crate) fn truncate(&self, next: u64) {
        self.0.modify(|progress| {
            progress.next = progress.next.min(next);
            false
        });
    }

    /// Waits until the entry at `index` is synced.
    pub(crate) async fn wait(&self, index: u64) -> io::Result<()> {
        if self.0.borrow().next > index {
            return Ok(());
        }
        let mut receiver = self.0.subscribe();
        loop {
            {
                let progress = self.0.borrow();
                if progress.next > index {
                    return Ok(());
                }
                if let Some((kind, message)) = &progress.failed {
                    return Err(io::Error::new(*kind, message.clone()));
                }
            }
            receiver.changed().await;
        }
    }
}
