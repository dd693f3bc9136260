//! openraft's storage contracts, over the node log and the state engine.

#[cfg(all(test, not(madsim)))]
mod conformance;
mod log_store;
mod state_machine;
mod synced;

pub(crate) use log_store::LogStore;
pub(crate) use state_machine::StateMachine;
pub(crate) use synced::Synced;
