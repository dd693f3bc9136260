//! Bodies of planted bugs: Raft and snapshots.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use flotilla_proto::peer::{VoteRequest, raft_request::Body, raft_response::Body as Response};
use openraft::storage::IOFlushed;

use crate::{
    engine::{EngineError, EngineView},
    log::{LogStopped, NodeLog},
    replica::Replica,
    snapshot::StateImage,
    state::ShardState,
    types::{RaftLogId, RpcError, TypeConfig, convert},
};

/// Reports an append as stored that is yet to be queued; nobody is told when it is.
pub(crate) fn called_already(callback: IOFlushed<TypeConfig>) -> IOFlushed<TypeConfig> {
    callback.io_completed(Ok(()));
    IOFlushed::noop()
}

/// What a flush will have made durable once it is done counts now.
pub(crate) fn told_of_flush(applied: &[(Option<RaftLogId>, Replica)]) {
    for (applied, replica) in applied {
        replica.set_flushed(*applied);
    }
}

/// Cuts off what is not known to be committed.
pub(crate) async fn drop_uncommitted(
    log: &NodeLog,
    shard: u32,
    state: &ShardState,
) -> Result<(), LogStopped> {
    let applied = state.applied().as_ref().map(convert::from_raft);
    log.truncate_after(shard, log.shard(shard).committed.max(applied))
        .await
}

/// An append was sent, and nobody knows whether it arrived.
pub(crate) fn is_lost(answer: &Result<Response, RpcError>) -> bool {
    matches!(answer, Err(RpcError::Timeout(_) | RpcError::Network(_)))
}

/// A candidate's request, whose log is as good as ours.
pub(crate) fn with_our_log(log: &NodeLog, shard: u32, body: Body) -> Body {
    let raised = |mut request: VoteRequest| {
        let ours = log.shard(shard).last.map(convert::to_raft);
        let theirs = request.last_log_id.map(convert::from_proto);
        request.last_log_id = theirs.max(ours).as_ref().map(convert::to_proto);
        request
    };
    match body {
        Body::Vote(request) => Body::Vote(raised(request)),
        Body::PreVote(request) => Body::PreVote(raised(request)),
        other => other,
    }
}

/// Images that claim more than they hold: what was claimed first stays.
static CLAIMING: Mutex<Vec<Weak<StateImage>>> = Mutex::new(Vec::new());

/// The same state, with the index that is committed by now.
pub(crate) fn claiming_more(image: Arc<StateImage>) -> Arc<StateImage> {
    let mut claiming = CLAIMING.lock().unwrap_or_else(PoisonError::into_inner);
    claiming.retain(|known| known.strong_count() > 0);
    if claiming
        .iter()
        .any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(&image)))
    {
        return image;
    }
    let mut standing = image.standing.clone();
    let committed = image.log.shard(image.shard).committed.map(convert::to_raft);
    standing.applied = standing.applied.max(committed);
    let claims = Arc::new(StateImage {
        shard: image.shard,
        section: image.section,
        standing,
        oldest: image.oldest,
        log: image.log.clone(),
        taken: image.taken,
        view: Box::new(Borrowed(image)),
    });
    claiming.push(Arc::downgrade(&claims));
    claims
}

/// The view of another image.
struct Borrowed(Arc<StateImage>);

impl EngineView for Borrowed {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.view.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        self.0.view.scan(from, to, limit)
    }
}
