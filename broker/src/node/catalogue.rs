//! The catalogue: changed by proposals to the meta shard from any node, and read where it may lag behind.
//!
//! Every node looks names up in what it has applied itself. A node that has just started, or was cut off, lacks the
//! latest: that a name is known counts always, that it is not counts only after [`Node::catch_up_meta`].

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::{
    peer::{ForwardRequest, ForwardResponse},
    record::{MetaCommand, meta_command},
};
use futures::{FutureExt, future::BoxFuture};
use prost::Message;
use raft_store::ProposeError;
use tokio::time::{Instant, timeout};

use super::{META_SHARD, Node, forward::ForwardError};
use crate::{
    limits::LEADER_WAIT,
    meta::{self, MetaReply},
    peer::PeerError,
};

/// The name under which meta proposals travel between nodes.
pub const RPC: &str = "flotilla.ProposeMeta";

/// The name under which nodes ask the meta leader how far the catalogue has come.
pub const INDEX_RPC: &str = "flotilla.CatalogueIndex";

const PAUSE: Duration = Duration::from_millis(50);

/// Why the catalogue was not (or perhaps not) changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// No leader of the meta shard within the time allowed: nothing was done.
    #[error("the meta shard has no leader; a majority of the nodes must run")]
    NoLeader,
    /// The leader was lost in the middle: the change may or may not take effect.
    #[error("the leader was lost; look whether the change took effect, then try again")]
    Unsure,
}

impl Node {
    /// Proposes a change of the catalogue, here or at the meta leader, and waits until it is
    /// applied on this node too if it says where.
    pub async fn propose_meta(&self, command: meta_command::Command) -> Result<MetaReply, CatalogueError> {
        let command = MetaCommand {
            command: Some(command),
        };
        let rounds = LEADER_WAIT.as_millis() / PAUSE.as_millis();
        for _ in 0..rounds {
            match self.leader(META_SHARD) {
                Some(leader) if leader == self.id() => {
                    if let Some(reply) = self.propose_meta_here(&command).await? {
                        return Ok(reply);
                    }
                }
                Some(leader) => {
                    let request = Bytes::from(command.encode_to_vec());
                    match self
                        .forward(leader, RPC, META_SHARD, None, request, LEADER_WAIT)
                        .await
                    {
                        Ok(responses) => {
                            let reply = responses
                                .into_iter()
                                .next()
                                .and_then(|bytes| MetaReply::decode(bytes).ok());
                            return reply.ok_or(CatalogueError::Unsure);
                        }
                        // Nothing was begun there.
                        Err(
                            ForwardError::NotLeader { .. }
                            | ForwardError::Peer(PeerError::NotConnected | PeerError::Overloaded),
                        ) => {}
                        Err(ForwardError::Peer(_)) => {
                            plant!(UnknownOutcomeAsNotDone => (), else return Err(CatalogueError::Unsure))
                        }
                    }
                }
                None => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(CatalogueError::NoLeader)
    }

    /// Proposes through one particular node, for a node that has no catalogue of its own yet.
    pub(super) async fn propose_meta_via(&self, via: u32, command: &MetaCommand) -> Option<MetaReply> {
        let request = Bytes::from(command.encode_to_vec());
        let responses = self
            .forward(via, RPC, META_SHARD, None, request, LEADER_WAIT)
            .await
            .ok()?;
        responses
            .into_iter()
            .next()
            .and_then(|bytes| MetaReply::decode(bytes).ok())
    }

    async fn propose_meta_here(&self, command: &MetaCommand) -> Result<Option<MetaReply>, CatalogueError> {
        if let Some(refusal) = self.runs_elsewhere(command) {
            return Ok(Some(MetaReply::Refused(refusal)));
        }
        let Some(replica) = self.meta_replica() else {
            return Ok(None);
        };
        match replica
            .propose(meta::encode(self.clock().wall_ms(), command))
            .await
        {
            Ok(applied) => Ok(Some(
                applied.take().expect("the meta machine answers with a reply"),
            )),
            Err(ProposeError::NotLeader { .. }) => Ok(None),
            Err(_) => Err(CatalogueError::Unsure),
        }
    }

    /// Refuses a new directory for a node that runs on another one: it was started twice, or with another's number.
    fn runs_elsewhere(&self, command: &MetaCommand) -> Option<meta::MetaRefusal> {
        let Some(meta_command::Command::RegisterNode(register)) = &command.command else {
            return None;
        };
        let node = register.node.as_ref()?;
        let here = node.id == self.id() && node.directory != self.store().identity();
        let now = self.clock().steady_ms();
        (here || self.inner.roster.lives_elsewhere(node.id, node.directory, now)).then(|| {
            meta::MetaRefusal::Invalid(format!(
                "node {} runs with another data directory; stop it first, or correct node_id",
                node.id
            ))
        })
    }

    /// Returns once the catalogue here shows everything that was committed before this call. However many ask, one
    /// request is on its way to the meta leader, and costs it no disk write.
    pub fn catch_up_meta(&self) -> BoxFuture<'_, Result<(), CatalogueError>> {
        let asked = Instant::now();
        let catch_up = async move {
            let mut seen = self.inner.meta_seen.lock().await;
            if seen.is_some_and(|begun| begun > asked) {
                return; // Another's look began after this call.
            }
            let begun = Instant::now();
            while !self.look_at_meta_leader().await {
                tokio::time::sleep(PAUSE).await;
            }
            *seen = Some(begun);
        };
        // In a box, because every request has room for it and next to none needs it.
        timeout(LEADER_WAIT, catch_up)
            .map(|caught_up| caught_up.map_err(|_| CatalogueError::NoLeader))
            .boxed()
    }

    /// One try of [`Self::catch_up_meta`].
    async fn look_at_meta_leader(&self) -> bool {
        let (Some(replica), Some(leader)) = (self.meta_replica(), self.leader(META_SHARD)) else {
            return false;
        };
        if leader == self.id() {
            return plant!(MetaLeaderAsksNobody => true, else replica.barrier().await.is_ok());
        }
        let forwarded = self.forward(leader, INDEX_RPC, META_SHARD, None, Bytes::new(), LEADER_WAIT);
        let index = match forwarded.await.as_deref() {
            Ok([index]) => <[u8; 8]>::try_from(&index[..]).map(u64::from_be_bytes),
            _ => return false,
        };
        match index {
            Ok(index) => replica.wait_applied(index).await,
            Err(_) => false,
        }
    }

    /// Waits (bounded) until the catalogue here satisfies `seen`; true if it does.
    pub async fn wait_meta(&self, seen: impl Fn(&meta::MetaState) -> bool) -> bool {
        let mut changes = self.inner.meta_machine.subscribe();
        let wait = async {
            while !seen(&changes.borrow_and_update().clone()) {
                if changes.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(LEADER_WAIT, wait).await.unwrap_or(false)
    }
}

/// Serves another node's proposal: as the leader, or by passing it on for a node that has no
/// catalogue yet and so cannot know the leader.
pub(super) async fn forwarded(node: &Node, request: ForwardRequest, of_member: bool) -> ForwardResponse {
    let refused = ForwardResponse {
        not_leader: true,
        ..Default::default()
    };
    let Ok(command) = MetaCommand::decode(request.request) else {
        return ForwardResponse::default();
    };
    if command.command.is_none() {
        // Of a newer release: in the log it would stop every node.
        return ForwardResponse::default();
    }
    let registers = matches!(command.command, Some(meta_command::Command::RegisterNode(_)));
    if !of_member && !registers {
        return refused;
    }
    if !node.leads(META_SHARD) {
        return match (registers, command.command) {
            (true, Some(command)) => match node.propose_meta(command).await {
                Ok(reply) => ForwardResponse {
                    responses: vec![reply.encode()],
                    ..Default::default()
                },
                Err(_) => ForwardResponse::default(),
            },
            _ => refused,
        };
    }
    match node.propose_meta_here(&command).await {
        Ok(Some(reply)) => ForwardResponse {
            responses: vec![reply.encode()],
            ..Default::default()
        },
        Ok(None) => refused,
        // No answer at all tells the caller that the outcome is unknown.
        Err(_) => ForwardResponse::default(),
    }
}

/// Tells another node how far the catalogue has come, as the leader.
pub(super) async fn index(node: &Node) -> ForwardResponse {
    let index = match node.meta_replica() {
        Some(replica) => replica.barrier().await.ok(),
        None => None,
    };
    match index {
        Some(index) => ForwardResponse {
            responses: vec![Bytes::copy_from_slice(&index.to_be_bytes())],
            ..Default::default()
        },
        None => ForwardResponse {
            not_leader: true,
            ..Default::default()
        },
    }
}
