//! What this node does with the requests of other nodes.

use flotilla_proto::peer::{
    ForwardResponse, Hello, Led, RaftRequest, RaftResponse, Refusal, StatusRequest, StatusResponse,
    raft_response, refusal,
};
use futures::{FutureExt, future::BoxFuture};

use super::{META_SHARD, Node, catalogue, membership, written};
use crate::peer::{Body, PeerHandler};

impl PeerHandler for Node {
    fn handle(&self, _from: &Hello, body: Body) -> BoxFuture<'static, Body> {
        match body {
            Body::Raft(request) => self.raft(request),
            Body::Forward(request) if request.rpc == catalogue::RPC => {
                let node = self.clone();
                async move { Body::ForwardAnswer(catalogue::forwarded(&node, request).await) }.boxed()
            }
            Body::Forward(request) if request.rpc == catalogue::INDEX_RPC => {
                let node = self.clone();
                async move { Body::ForwardAnswer(catalogue::index(&node).await) }.boxed()
            }
            Body::Forward(request) if request.rpc == written::RPC => {
                let node = self.clone();
                async move { Body::ForwardAnswer(written::reported(&node, request).await) }.boxed()
            }
            Body::Forward(request) => match self.inner.forwarded.get() {
                Some(service) => service.forwarded(request).map(Body::ForwardAnswer).boxed(),
                None => ready(Body::ForwardAnswer(ForwardResponse {
                    not_leader: true,
                    ..Default::default()
                })),
            },
            Body::Status(request) => ready(Body::StatusAnswer(self.status(&request))),
            // An answer without a question: the transport should have kept it.
            _ => ready(Body::StatusAnswer(StatusResponse::default())),
        }
    }
}

impl Node {
    /// Hands a Raft message to the replica it is meant for, in arrival order.
    fn raft(&self, request: RaftRequest) -> BoxFuture<'static, Body> {
        let replica = if request.shard == META_SHARD {
            self.meta_replica().cloned()
        } else {
            self.shard(request.shard).map(|shard| shard.replica.clone())
        };
        match replica {
            // Planted: whoever has the node's address is meant; the replica itself looks no closer then.
            #[cfg(madsim)]
            Some(replica) if plant::is(plant::Bug::AnswersForAnother) => {
                replica.handle(request).map(Body::RaftAnswer).boxed()
            }
            // Another incarnation of this node: its votes and acknowledgements are not ours to give.
            Some(replica) if replica.id() == request.to => {
                replica.handle(request).map(Body::RaftAnswer).boxed()
            }
            _ => ready(Body::RaftAnswer(refuse(&request))),
        }
    }

    fn status(&self, _: &StatusRequest) -> StatusResponse {
        let meta = self.meta();
        let identity = self.inner.identity.lock().expect("no panic while held").clone();
        let nodes = if meta.cluster().is_some() {
            meta.nodes().values().cloned().collect()
        } else {
            identity
                .as_ref()
                .map(|identity| identity.nodes.values().cloned().collect())
                .unwrap_or_default()
        };
        StatusResponse {
            me: Some(self.describe()),
            fresh: identity.is_none(),
            cluster: meta.cluster().unwrap_or(0),
            nodes,
            meta_leader: self.leader(META_SHARD).unwrap_or(0),
            full: !self.store().log().has_room(),
            leads: membership::led(self)
                .into_iter()
                .filter_map(|(shard, replica)| {
                    // One look: that it leads and in which term must belong together.
                    let status = replica.status();
                    let term = status.term;
                    status.is_leader.then_some(Led { shard, term })
                })
                .collect(),
        }
    }
}

fn refuse(request: &RaftRequest) -> RaftResponse {
    let refusal = Refusal {
        reason: refusal::Reason::NoSuchReplica as i32,
        message: format!("no replica {} of shard {} here", request.to, request.shard),
    };
    RaftResponse {
        body: Some(raft_response::Body::Refusal(refusal)),
    }
}

fn ready(body: Body) -> BoxFuture<'static, Body> {
    std::future::ready(body).boxed()
}
