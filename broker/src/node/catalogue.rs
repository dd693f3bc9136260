//! Changing the catalogue: proposals to the meta shard from any node.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::{
    peer::{ForwardRequest, ForwardResponse},
    record::{MetaCommand, meta_command},
};
use prost::Message;
use raft_store::ProposeError;

use super::{META_SHARD, Node, forward::ForwardError};
use crate::{
    limits::LEADER_WAIT,
    meta::{self, MetaReply},
};

/// The name under which meta proposals travel between nodes.
pub const RPC: &str = "flotilla.ProposeMeta";

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
                        Err(ForwardError::NotLeader { .. }) => {}
                        Err(ForwardError::Peer(_)) => return Err(CatalogueError::Unsure),
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
pub(super) async fn forwarded(node: &Node, request: ForwardRequest) -> ForwardResponse {
    let refused = ForwardResponse {
        not_leader: true,
        ..Default::default()
    };
    let Ok(command) = MetaCommand::decode(request.request) else {
        return ForwardResponse::default();
    };
    if !node.leads(META_SHARD) {
        let registers = matches!(command.command, Some(meta_command::Command::RegisterNode(_)));
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
