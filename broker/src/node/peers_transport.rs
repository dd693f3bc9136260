//! Raft messages of all shards over the one connection between two nodes.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use flotilla_proto::peer::{RaftRequest, RaftResponse};
use raft_store::{Transport, TransportError};

use super::node_of;
use crate::peer::{Body, PeerError, PeerTransport};

/// raft-store's transport over the node's peers.
pub struct RaftOverPeers {
    peers: Arc<dyn PeerTransport>,
}

impl RaftOverPeers {
    /// Sends through `peers`.
    pub fn new(peers: Arc<dyn PeerTransport>) -> Self {
        Self { peers }
    }
}

#[async_trait]
impl Transport for RaftOverPeers {
    async fn raft(
        &self,
        to: u64,
        request: RaftRequest,
        ttl: Duration,
    ) -> Result<RaftResponse, TransportError> {
        match self.peers.call(node_of(to), Body::Raft(request), ttl).await {
            Ok(Body::RaftAnswer(answer)) => Ok(answer),
            Ok(_) | Err(PeerError::Malformed) => Err(TransportError::Broken(
                "the answer breaks the peer protocol".into(),
            )),
            Err(PeerError::NotConnected | PeerError::Unreachable) => {
                Err(TransportError::Unreachable(format!("node {}", node_of(to))))
            }
            Err(PeerError::Timeout) => Err(TransportError::TimedOut),
            Err(PeerError::Overloaded) => Err(TransportError::Broken("too much is under way".into())),
        }
    }
}
