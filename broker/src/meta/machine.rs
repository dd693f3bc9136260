//! The meta shard as a replica: applies entries, and lets the node watch the catalogue change.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use raft_store::{Applied, EngineError, LogId, Machine, StateRead, StateWrite};
use tokio::sync::watch;

use super::{MetaState, PayloadError, decode};
use crate::node::kv::{Reading, Writing, engine};

/// The machine of shard 0. Answers [`MetaReply`](super::MetaReply) to proposers.
pub struct MetaMachine {
    state: Mutex<MetaState>,
    published: watch::Sender<Arc<MetaState>>,
}

impl MetaMachine {
    /// Knows nothing until it is restored.
    #[must_use]
    pub fn new() -> Self {
        let published = watch::Sender::new(Arc::new(MetaState::default()));
        MetaMachine {
            state: Mutex::new(MetaState::default()),
            published,
        }
    }

    /// Follows the catalogue; marked changed after every command that changed it.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<MetaState>> {
        self.published.subscribe()
    }

    /// The catalogue as of the last applied entry.
    #[must_use]
    pub fn snapshot(&self) -> Arc<MetaState> {
        self.published.borrow().clone()
    }

    fn publish(&self, state: &MetaState) {
        self.published.send_if_modified(|published| {
            let changed = !published.shares_all_with(state);
            if changed {
                *published = Arc::new(state.clone());
            }
            changed
        });
    }
}

impl Default for MetaMachine {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine for MetaMachine {
    fn restore(&self, state: &dyn StateRead) -> Result<(), EngineError> {
        let loaded = MetaState::load(&Reading(state)).map_err(engine)?;
        let mut current = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *current = loaded;
        self.publish(&current);
        Ok(())
    }

    fn apply(&self, _at: LogId, payload: &Bytes, state: &mut dyn StateWrite) -> Result<Applied, EngineError> {
        let (time_ms, command) = decode(payload).map_err(|error| match error {
            // The record's checksum held: this is no damage, and all replicas meet it alike.
            malformed @ PayloadError::Malformed(_) => EngineError::Failed(malformed.to_string()),
            newer => EngineError::Newer(newer.to_string()),
        })?;
        let mut current = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let reply = current
            .apply(&mut Writing(state), time_ms, &command)
            .map_err(engine)?;
        self.publish(&current);
        Ok(Applied::of(reply))
    }

    fn oldest_live_index(&self, _state: &dyn StateRead) -> Result<Option<u64>, EngineError> {
        Ok(None) // The catalogue never points into the log.
    }
}
