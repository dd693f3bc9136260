//! Replicates opaque commands.
//!
//! A [`Store`] is what one node keeps on disk: one log and one state engine, shared by the
//! [`Replica`]s of all its shards. A replica turns payloads into agreed entries and feeds them
//! to its [`Machine`]. Nothing here knows what a queue is, and nothing of openraft shows outside.

#[macro_use]
extern crate plant;

pub mod blocking;
mod damage;
pub mod descriptors;
pub mod disk;
pub mod engine;
mod health;
pub mod limits;
pub mod log;
mod log_id;
mod machine;
#[cfg(madsim)]
#[path = "../../sim-tests/plant/bodies/raft_store.rs"]
mod planted;
pub mod record;
mod replica;
mod runtime;
mod snapshot;
mod state;
mod storage;
mod store;
mod transport;
mod types;

pub use damage::Damage;
#[cfg(feature = "rocks")]
pub use engine::rocks::RocksEngine;
pub use engine::{Engine, EngineError, memory::MemoryEngine};
pub use health::StoreStopped;
pub use log_id::LogId;
pub use machine::{Applied, Machine, StateRead, StateWrite};
pub use replica::{
    BarrierError, ChangeError, PayloadError, ProposeError, PurgeError, RaftOptions, Replica, ReplicaOptions,
    ReplicaStatus, Role, StatusWatch,
};
pub use state::applied_in;
pub use store::{RetentionError, Store, StoreError, StoreOptions, StoreStats};
pub use transport::{Transport, TransportError};
