//! What this node does with the requests of other nodes.

use std::sync::atomic::Ordering;

use flotilla_proto::peer::{
    ForwardRequest, ForwardResponse, Hello, RaftRequest, RaftResponse, Refusal, StatusRequest,
    StatusResponse, Stranger, raft_request, raft_response, refusal, stranger,
};
use futures::{FutureExt, future::BoxFuture};

use super::{META_SHARD, Node, catalogue, checks, dropping, hints, retention, signs, written};
use crate::peer::{Body, PeerHandler};

impl PeerHandler for Node {
    fn handle(&self, from: &Hello, body: Body) -> BoxFuture<'static, Body> {
        match body {
            Body::Raft(request) => self.raft(from, request),
            Body::Status(request) => ready(Body::StatusAnswer(self.status(from, &request))),
            Body::Forward(request) if self.may_pass_on(from, &request).is_err() => {
                ready(Body::ForwardAnswer(ForwardResponse {
                    not_leader: true,
                    ..Default::default()
                }))
            }
            Body::Forward(request) if request.rpc == catalogue::RPC => {
                let node = self.clone();
                let of_member = request.from.as_ref().is_some_and(|from| from.cluster != 0);
                async move { Body::ForwardAnswer(catalogue::forwarded(&node, request, of_member).await) }
                    .boxed()
            }
            Body::Forward(request) if request.rpc == catalogue::INDEX_RPC => {
                let node = self.clone();
                async move { Body::ForwardAnswer(catalogue::index(&node).await) }.boxed()
            }
            Body::Forward(request) if request.rpc == dropping::RPC => {
                ready(Body::ForwardAnswer(dropping::forwarded(self, &request)))
            }
            Body::Forward(request) if request.rpc == written::RPC => {
                let (node, from) = (self.clone(), from.node);
                async move { Body::ForwardAnswer(written::reported(&node, from, request).await) }.boxed()
            }
            Body::Forward(request) if request.rpc == hints::RPC => {
                ready(Body::ForwardAnswer(hints::take(self, from.node, request.request)))
            }
            Body::Forward(request) if request.rpc == checks::RPC => {
                ready(Body::ForwardAnswer(checks::asked(self, request.request)))
            }
            Body::Forward(request) if request.rpc == signs::RPC => {
                ready(Body::ForwardAnswer(signs::answer(self, request.request)))
            }
            Body::Forward(request) => match self.inner.forwarded.get() {
                Some(service) => service.forwarded(request).map(Body::ForwardAnswer).boxed(),
                None => ready(Body::ForwardAnswer(ForwardResponse {
                    not_leader: true,
                    ..Default::default()
                })),
            },
            // An answer without a question: the transport should have kept it.
            _ => ready(Body::StatusAnswer(StatusResponse::default())),
        }
    }
}

impl Node {
    /// Hands a Raft message to the replica it is meant for, in arrival order. The answer is signed when it is given: what it
    /// answers for is synced by then.
    fn raft(&self, from: &Hello, mut request: RaftRequest) -> BoxFuture<'static, Body> {
        let sender = request.from.take().unwrap_or_default();
        if let Err(stranger) = self.raft_sender(from, &sender) {
            let mut refused = refuse(refusal::Reason::Stranger, stranger.message.clone());
            refused.from = Some(self.refusing(stranger));
            return ready(Body::RaftAnswer(refused));
        }
        let (node, answer) = (self.clone(), self.raft_answer(request));
        answer
            .map(move |mut answer| {
                answer.from = Some(node.hello());
                Body::RaftAnswer(answer)
            })
            .boxed()
    }

    /// Whoever says something says it in its own name, on its own connection.
    fn sender(&self, from: &Hello, sender: &Hello) -> Result<(), Stranger> {
        if sender.node != from.node {
            return Err(not_a_member(format!(
                "node {} is not the one that speaks, that is node {}",
                sender.node, from.node
            )));
        }
        self.hear(sender)
    }

    /// Only a member of the same cluster counts, in its own name.
    fn raft_sender(&self, from: &Hello, sender: &Hello) -> Result<(), Stranger> {
        if sender.cluster == 0 {
            return Err(not_a_member(format!("node {} has no cluster", sender.node)));
        }
        self.sender(from, sender)
    }

    /// Only members pass requests on. Whoever has no cluster may ask for its place in the catalogue, and for nothing else.
    fn may_pass_on(&self, from: &Hello, request: &ForwardRequest) -> Result<(), Stranger> {
        let unsigned = Hello::default();
        let sender = request.from.as_ref().unwrap_or(&unsigned);
        match request.rpc == catalogue::RPC {
            true => self.sender(from, sender),
            false => self.raft_sender(from, sender),
        }
    }

    fn raft_answer(&self, request: RaftRequest) -> BoxFuture<'static, RaftResponse> {
        let replica = if request.shard == META_SHARD {
            self.meta_replica().cloned()
        } else {
            self.shard(request.shard).map(|shard| shard.replica.clone())
        };
        let request = plant!(AnswersForAnother => super::planted::to_whoever_is_here(request, replica.as_ref()), else request);
        match replica {
            // It would be led for a moment only.
            Some(_) if self.inner.leaving.load(Ordering::SeqCst) && asks_to_lead(&request) => {
                no_such_replica(&request)
            }
            // What was agreed is the same in every incarnation.
            Some(replica) if matches!(request.body, Some(raft_request::Body::Record(_))) => {
                replica.handle(request).boxed()
            }
            // Another incarnation of this node: its votes and acknowledgements are not ours to give.
            Some(replica) if replica.id() == request.to => replica.handle(request).boxed(),
            _ => no_such_replica(&request),
        }
    }

    fn status(&self, from: &Hello, request: &StatusRequest) -> StatusResponse {
        if let Err(stranger) = self.sender(from, request.from.as_ref().unwrap_or(from)) {
            return StatusResponse {
                from: Some(self.refusing(stranger)),
                ..StatusResponse::default()
            };
        }
        self.shown()
    }

    /// What this node tells of itself.
    pub(super) fn shown(&self) -> StatusResponse {
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
            had_data: self.inner.had_data,
            leaving: self.inner.leaving.load(Ordering::SeqCst),
            leads: self.leaderships(),
            damaged: self.damaged_shards().into_iter().collect(),
            shards: meta.cluster().map_or(0, |_| meta.data_shards() + 1),
            needs: retention::needs::of(self),
            from: Some(self.hello()),
        }
    }
}

fn not_a_member(message: String) -> Stranger {
    Stranger {
        kind: stranger::Kind::NotAMember.into(),
        message,
        ..Stranger::default()
    }
}

fn asks_to_lead(request: &RaftRequest) -> bool {
    matches!(request.body, Some(raft_request::Body::TransferLeader(_)))
}

fn no_such_replica(request: &RaftRequest) -> BoxFuture<'static, RaftResponse> {
    let message = format!("no replica {} of shard {} here", request.to, request.shard);
    std::future::ready(refuse(refusal::Reason::NoSuchReplica, message)).boxed()
}

fn refuse(reason: refusal::Reason, message: String) -> RaftResponse {
    let refusal = Refusal {
        reason: reason as i32,
        message,
    };
    RaftResponse {
        body: Some(raft_response::Body::Refusal(refusal)),
        from: None,
    }
}

fn ready(body: Body) -> BoxFuture<'static, Body> {
    std::future::ready(body).boxed()
}
