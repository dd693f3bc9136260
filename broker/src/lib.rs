//! The Flotilla broker: everything between a socket and the replicated log.
//!
//! `service` answers RocketMQ requests as plain functions, `node` runs the
//! replicas, `meta` is the cluster's catalogue, `peer` carries what nodes say to
//! each other. The rim (`grpc`, `http`, `cli`, `bench`) needs a real operating
//! system and is left out of the simulator.

pub mod clock;
pub mod limits;
pub mod meta;
pub mod node;
pub mod peer;
pub mod service;
pub mod views;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod grpc;
#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "server")]
pub mod net;
#[cfg(all(test, feature = "server"))]
mod testing;
#[cfg(feature = "bench")]
pub mod bench;
