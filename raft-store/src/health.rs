//! Whether a store can still be trusted. The first thing that breaks it ends it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{damage::Damages, engine::EngineError, log::ReadError, runtime::watch};

/// Why a store stopped for good. The process must exit; on `Corrupt` its data directory must be replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreStopped {
    /// Stored bytes are not what was written.
    #[error("the data directory is corrupt: {0}")]
    Corrupt(String),
    /// Written by a newer release: nothing may be touched.
    #[error("written by a newer release: {0}")]
    Newer(String),
    /// A write, a sync or a read failed.
    #[error("the disk failed: {0}")]
    Failed(String),
    /// The store was closed.
    #[error("the store was closed")]
    Closed,
}

/// Shared by everything that can find the store broken. Clones are the same.
#[derive(Clone)]
pub(crate) struct Health {
    stopped: watch::Sender<Option<StoreStopped>>,
    closing: Arc<AtomicBool>,
    pub(crate) damages: Arc<Damages>,
}

impl Health {
    pub(crate) fn new() -> Self {
        Self {
            stopped: watch::channel(None).0,
            closing: Arc::default(),
            damages: Arc::default(),
        }
    }

    /// The store is about to close: what is being opened waits for nobody else from now on.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    /// Whether it stopped, or is about to.
    pub(crate) fn ends(&self) -> bool {
        self.closing.load(Ordering::SeqCst) || self.stopped().is_some()
    }

    /// Ends the store; the first cause stays.
    pub(crate) fn stop(&self, cause: StoreStopped) {
        self.stopped.modify(|stopped| {
            if stopped.is_some() {
                return false;
            }
            if plant!(OrderlyStopIsAnError => true, else cause != StoreStopped::Closed) {
                tracing::error!(%cause, "the store has stopped");
            }
            *stopped = Some(cause);
            true
        });
    }

    pub(crate) fn stopped(&self) -> Option<StoreStopped> {
        self.stopped.borrow().clone()
    }

    pub(crate) async fn wait_stopped(&self) -> StoreStopped {
        let mut receiver = self.stopped.subscribe();
        loop {
            if let Some(cause) = self.stopped() {
                return cause;
            }
            receiver.changed().await;
        }
    }

    /// Ends the store because of `error`, which is handed on as openraft wants it.
    pub(crate) fn engine(&self, error: EngineError) -> std::io::Error {
        self.stop(match &error {
            EngineError::Corrupt(what) => StoreStopped::Corrupt(what.clone()),
            EngineError::Failed(what) => {
                plant!(EngineFailureAsDamage => StoreStopped::Corrupt(what.clone()), else StoreStopped::Failed(what.clone()))
            }
            EngineError::Newer(what) => StoreStopped::Newer(what.clone()),
        });
        std::io::Error::other(error)
    }

    /// The same for the log. A record that is simply not there breaks nothing.
    pub(crate) fn read(&self, error: ReadError) -> std::io::Error {
        match &error {
            ReadError::NotFound { .. } => {}
            ReadError::Corrupt { .. } => self.stop(StoreStopped::Corrupt(error.to_string())),
            ReadError::Newer { .. } => self.stop(StoreStopped::Newer(error.to_string())),
            ReadError::Io { .. } => self.stop(StoreStopped::Failed(error.to_string())),
        }
        std::io::Error::other(error)
    }
}
