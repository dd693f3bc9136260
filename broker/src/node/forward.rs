//! Requests that another node serves: the leader of a shard, or of the meta shard.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_proto::peer as wire;
use futures::future::BoxFuture;

use super::Node;
use crate::peer::{Body, PeerError};

/// Serves requests that other nodes pass on; the service layer registers itself here.
pub trait ForwardHandler: Send + Sync + 'static {
    /// Serves one request without passing it on again.
    fn forwarded(&self, request: wire::ForwardRequest) -> BoxFuture<'static, wire::ForwardResponse>;
}

/// Why a forwarded request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// The other node does not lead the shard (any more): nothing was done, unless it is `unsure`.
    #[error("the other node does not lead the shard")]
    NotLeader {
        /// What it began before it lost the shard may still take effect.
        unsure: bool,
    },
    /// The other node did not answer; the request may have been carried out.
    #[error(transparent)]
    Peer(#[from] PeerError),
}

impl Node {
    /// Registers who serves forwarded requests. Once.
    pub fn serve_forwarded(&self, handler: Arc<dyn ForwardHandler>) {
        assert!(self.inner.forwarded.set(handler).is_ok(), "one service per node");
    }

    /// Passes a request on to another node, for at most `ttl`.
    pub async fn forward(
        &self,
        to: u32,
        rpc: &str,
        shard: u32,
        caller: Option<wire::Caller>,
        request: Bytes,
        ttl: Duration,
    ) -> Result<Vec<Bytes>, ForwardError> {
        let request = wire::ForwardRequest {
            rpc: rpc.to_owned(),
            caller,
            request,
            shard,
            ..Default::default()
        };
        Ok(self.forward_as(to, request, ttl).await?.responses)
    }

    /// The same, as it is written, with everything that is answered.
    pub async fn forward_as(
        &self,
        to: u32,
        mut request: wire::ForwardRequest,
        ttl: Duration,
    ) -> Result<wire::ForwardResponse, ForwardError> {
        request.deadline_ms = ttl.as_millis() as u64;
        // Signed, as all that nodes say: what was said when the connection was made may be from before there was a cluster.
        request.from = Some(self.hello());
        match self.inner.transport.call(to, Body::Forward(request), ttl).await? {
            Body::ForwardAnswer(answer) if answer.not_leader => Err(ForwardError::NotLeader {
                unsure: answer.unsure,
            }),
            Body::ForwardAnswer(answer) => Ok(answer),
            _ => Err(PeerError::Malformed.into()),
        }
    }
}
