//! How the replicas of a shard reach each other, as far as this crate cares.
//!
//! The broker carries these messages: over one gRPC stream per pair of nodes in production,
//! over the simulated network in the simulator.

use std::time::Duration;

use async_trait::async_trait;
use flotilla_proto::peer::{RaftRequest, RaftResponse};

mod network;

pub(crate) use network::Network;

/// Carries Raft messages to other nodes.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends `request` to replica `to` and waits up to `ttl` for its answer.
    ///
    /// Calls to one replica must reach it in the order in which they were first polled, whether or
    /// not earlier ones are answered: appends are pipelined. A message may get lost, but then this
    /// call fails; it must never arrive twice or overtake another, but for requests that say they are urgent: these may
    /// overtake others.
    async fn raft(
        &self,
        to: u64,
        request: RaftRequest,
        ttl: Duration,
    ) -> Result<RaftResponse, TransportError>;

    /// Ids of the other replicas that a shard may have, as far as known: whom to ask for a record that was lost here.
    fn replicas(&self) -> Vec<u64>;
}

/// Of a replica that is alone.
#[cfg(all(test, not(madsim)))]
pub(crate) struct Nobody;

#[cfg(all(test, not(madsim)))]
#[async_trait]
impl Transport for Nobody {
    async fn raft(&self, _: u64, _: RaftRequest, _: Duration) -> Result<RaftResponse, TransportError> {
        Err(TransportError::Unreachable("there is nobody".into()))
    }

    fn replicas(&self) -> Vec<u64> {
        Vec::new()
    }
}

/// A message that got no answer. Whether it arrived is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection to the node, or no such node; asking again at once is of no use.
    #[error("the peer is unreachable: {0}")]
    Unreachable(String),
    /// The connection broke while waiting; the peer may be fine.
    #[error("the connection to the peer broke: {0}")]
    Broken(String),
    /// No answer within the time allowed.
    #[error("the peer did not answer in time")]
    TimedOut,
}
