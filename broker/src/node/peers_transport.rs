//! Raft messages of all shards over the one connection between two nodes. Each is signed by who sends it, and an answer
//! counts only if it comes from the replica's own node, with the data directory that belongs to it.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use flotilla_proto::peer::{RaftRequest, RaftResponse};
use raft_store::{Transport, TransportError};

use super::{Inner, Node, meeting::beginning, node_of};
use crate::peer::{Body, PeerError, PeerTransport};

/// raft-store's transport over the node's peers.
pub struct RaftOverPeers {
    peers: Arc<dyn PeerTransport>,
    /// The node owns its replicas, and they this.
    node: Weak<Inner>,
}

impl RaftOverPeers {
    /// Sends for `node`.
    pub fn new(node: &Node) -> Self {
        Self {
            peers: Arc::clone(&node.inner.transport),
            node: Arc::downgrade(&node.inner),
        }
    }

    fn node(&self) -> Result<Node, TransportError> {
        let inner = self.node.upgrade();
        let gone = || TransportError::Unreachable("this node is gone".into());
        inner.map(|inner| Node { inner }).ok_or_else(gone)
    }

    /// Takes an answer for what it is.
    fn check(&self, to: u32, mut answer: RaftResponse) -> Result<RaftResponse, TransportError> {
        let node = self.node()?;
        let stranger = |why: String| TransportError::Unreachable(format!("node {to}: {why}"));
        let from = answer.from.take().unwrap_or_default();
        if from.node != to {
            return Err(stranger(format!("node {} answers in its place", from.node)));
        }
        if let Some(refusal) = &from.refused {
            node.told(&from);
            return Err(stranger(beginning(&refusal.message).to_owned()));
        }
        if from.cluster == 0 {
            return Err(stranger("it has no cluster yet".into()));
        }
        node.hear(&from).map_err(|refused| stranger(refused.message))?;
        Ok(answer)
    }
}

#[async_trait]
impl Transport for RaftOverPeers {
    async fn raft(
        &self,
        to: u64,
        mut request: RaftRequest,
        ttl: Duration,
    ) -> Result<RaftResponse, TransportError> {
        request.from = Some(self.node()?.hello());
        match self.peers.call(node_of(to), Body::Raft(request), ttl).await {
            Ok(Body::RaftAnswer(answer)) => self.check(node_of(to), answer),
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

    fn replicas(&self) -> Vec<u64> {
        self.node()
            .map_or_else(|_| Vec::new(), |node| node.other_replicas())
    }
}
