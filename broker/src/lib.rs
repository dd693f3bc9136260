//! The Flotilla broker: everything between a socket and the replicated log.
//!
//! `service` answers RocketMQ requests as plain functions, `node` runs the
//! replicas, `meta` is the cluster's catalogue, `peer` carries what nodes say to
//! each other. The rim (`grpc`, `http`, `cli`, `bench`) needs a real operating
//! system and is left out of the simulator.

#[macro_use]
extern crate plant;

#[cfg(feature = "bench")]
pub mod bench;
#[cfg(feature = "server")]
pub mod cli;
pub mod clock;
#[cfg(feature = "server")]
pub mod config;
pub mod filter;
#[cfg(feature = "server")]
pub mod grpc;
#[cfg(feature = "server")]
pub mod http;
pub mod limits;
pub mod meta;
#[cfg(feature = "server")]
pub mod net;
pub mod node;
pub mod peer;
pub mod service;
pub mod tally;
#[cfg(all(test, feature = "server"))]
mod testing;
pub mod third_parties;
pub mod unread;
pub mod views;
