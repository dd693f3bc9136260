//! The formats Flotilla speaks and writes, as generated messages.
//!
//! Three surfaces, each with its own compatibility rule:
//! `rocketmq` is fixed by the official SDKs, `peer` by rolling upgrades between
//! neighbouring versions, `record` by every data directory ever written.
//! Nothing of the broker's logic lives here.

/// The client interface of RocketMQ 5 (`apache.rocketmq.v2`).
pub mod rocketmq {
    #![allow(missing_docs, clippy::all, unreachable_pub)]
    include!(concat!(env!("OUT_DIR"), "/apache.rocketmq.v2.rs"));
}

/// Messages between nodes (`flotilla.peer.v1`).
pub mod peer {
    /// The package as generated; it has to stand here because packages name each other by path.
    pub mod v1 {
        #![allow(missing_docs, clippy::all, unreachable_pub)]
        include!(concat!(env!("OUT_DIR"), "/flotilla.peer.v1.rs"));
    }
    pub use v1::*;
}

/// What is written into logs and snapshots (`flotilla.record.v1`).
pub mod record {
    /// The package as generated; it has to stand here because packages name each other by path.
    pub mod v1 {
        #![allow(missing_docs, clippy::all, unreachable_pub)]
        include!(concat!(env!("OUT_DIR"), "/flotilla.record.v1.rs"));
    }
    pub use v1::*;
}

/// The compiled descriptors of all files above, as an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
