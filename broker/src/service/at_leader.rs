//! What is asked with a receipt handle is done by the leader of the handle's shard, wherever that is.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_proto::{peer as wire, rocketmq::Code};
use prost::Message;
use queue_core::Reply;
use tokio::time::Instant;

use super::{Caller, Service, answer::Refused, send::certain};
use crate::{
    limits::MAX_FULL_WAY,
    node::{forward::ForwardError, proposer::SubmitError, shard::DataShard},
    peer::PeerError,
};

const RETRY_AFTER: Duration = Duration::from_millis(30);

/// What one try at a shard gave.
pub(super) enum Try<T> {
    Done(T),
    /// Not the leader; `unsure` if the command may still take effect.
    Elsewhere {
        unsure: bool,
    },
}

/// Where a request was served.
pub(super) enum At<T> {
    Here(T),
    There(Bytes),
}

impl Service {
    /// Does `here` on the shard's leader, wherever that is, again and again until the caller's patience ends.
    pub(super) async fn at_leader<T, M: Message, F: Future<Output = Result<Try<T>, Refused>>>(
        &self,
        caller: &Caller,
        shard_id: u32,
        rpc: &str,
        request: &M,
        here: impl Fn(Arc<DataShard>, bool) -> F,
    ) -> Result<At<T>, Refused> {
        let node = self.node();
        let deadline = Instant::now() + caller.patience();
        let mut retried = caller.retried;
        // Once, however often it is tried.
        let mut encoded = None;
        let begun = Instant::now();
        loop {
            match node.leader(shard_id) {
                Some(leader) if leader == node.id() => {
                    if let Some(shard) = node.shard(shard_id) {
                        match here(shard, retried).await.map_err(|it| certain(retried, it))? {
                            Try::Done(done) => return Ok(At::Here(done)),
                            Try::Elsewhere { unsure } => retried |= unsure,
                        }
                    }
                }
                // The outcome is not known, and it is not for this node to find out.
                _ if caller.forwarded && retried => return Err(super::send::unsure()),
                _ if caller.forwarded => return Err(super::send::not_leader()),
                Some(leader) => {
                    let ttl = deadline.saturating_duration_since(Instant::now());
                    let bytes = encoded
                        .get_or_insert_with(|| Bytes::from(request.encode_to_vec()))
                        .clone();
                    let asking = wire::Caller {
                        retried,
                        ..caller.to_wire()
                    };
                    let asked = node.forward(leader, rpc, shard_id, Some(asking), bytes, ttl);
                    match asked.await.map(|responses| responses.into_iter().next()) {
                        Ok(response) => return response.map(At::There).ok_or_else(undecodable),
                        Err(ForwardError::NotLeader { unsure }) => retried |= unsure,
                        Err(ForwardError::Peer(PeerError::Overloaded)) if begun.elapsed() >= MAX_FULL_WAY => {
                            return Err(certain(retried, SubmitError::Overloaded.into()));
                        }
                        Err(ForwardError::Peer(PeerError::Overloaded | PeerError::NotConnected)) => {}
                        Err(ForwardError::Peer(_)) => {
                            retried |= plant!(UnsureForwardCountsAsUndone => false, else true)
                        }
                    }
                }
                None => {}
            }
            if Instant::now() + RETRY_AFTER >= deadline {
                return Err(Refused::new(
                    Code::HaNotAvailable,
                    "the queue has no leader at the moment; try again",
                ));
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

/// Whether what was answered so is in the log, or may be yet.
pub(super) fn may_stand(reply: &Result<Reply, SubmitError>) -> bool {
    match reply {
        Ok(_) | Err(SubmitError::Stopped(_)) => true,
        Err(SubmitError::NotLeader { unsure, .. }) => *unsure,
        Err(_) => false,
    }
}

pub(super) fn undecodable() -> Refused {
    Refused::new(Code::InternalServerError, "the leader's answer does not decode")
}
