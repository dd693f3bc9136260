//! What other replicas say to this one.

use std::{future::Future, io::ErrorKind, sync::Arc};

use flotilla_proto::peer::{
    self, RaftRequest, RaftResponse, Refusal, SnapshotChunk, SnapshotResponse, TransferLeaderResponse,
    raft_request::Body as Request, raft_response::Body as Response, refusal::Reason,
};
use futures::{StreamExt, stream::FuturesUnordered};
use openraft::{async_runtime::WatchReceiver, storage::Snapshot};
use tokio::sync::{mpsc, oneshot};

use super::{Inner, Raft};
use crate::{
    disk::is_full,
    health::StoreStopped,
    runtime::in_order,
    snapshot::{Complete, Finish, Place, SnapshotData, Wanted},
    types::{
        AppendRequest, Fatal, RaftLogId, Vote,
        convert::{self, BadAppend},
    },
};

/// An append, and where its answer goes.
pub(super) struct Append {
    request: AppendRequest,
    answer: oneshot::Sender<Response>,
}

/// Hands appends to openraft in the order they came, without waiting for one to be answered before the next.
pub(super) async fn pump(raft: Raft, mut appends: mpsc::Receiver<Append>) {
    // New futures are first polled in the order they are pushed, and the first poll is what queues them.
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            append = appends.recv() => match append {
                Some(append) => under_way.push(in_order(answer(&raft, append))),
                None => return,
            },
            Some(()) = under_way.next() => {}
        }
    }
}

async fn answer(raft: &Raft, append: Append) {
    let response = match raft.append_entries(append.request).await {
        Ok(response) => Response::Append(convert::append_response_to_proto(response)),
        Err(error) => refuse(Reason::Stopped, error.to_string()),
    };
    // A sender that no longer waits will ask again.
    let _ = append.answer.send(response);
}

fn refuse(reason: Reason, message: impl Into<String>) -> Response {
    Response::Refusal(Refusal {
        reason: reason.into(),
        message: message.into(),
    })
}

fn stopped(fatal: &Fatal) -> Response {
    refuse(Reason::Stopped, fatal.to_string())
}

/// See [`super::Replica::handle`].
pub(super) fn handle(
    inner: Arc<Inner>,
    request: RaftRequest,
) -> impl Future<Output = RaftResponse> + Send + 'static {
    let begun = begin(&inner, request);
    async move {
        let response = match begun {
            Begun::Answered(response) => response,
            Begun::Queued(answer) => answer
                .await
                .unwrap_or_else(|_| refuse(Reason::Stopped, "the replica is stopping")),
            Begun::Other(body) => inner.answer(*body).await,
        };
        RaftResponse {
            body: Some(response),
            from: None,
        }
    }
}

enum Begun {
    Answered(Response),
    Queued(oneshot::Receiver<Response>),
    Other(Box<Request>),
}

fn begin(inner: &Inner, request: RaftRequest) -> Begun {
    // What was agreed is the same in every replica.
    let any = matches!(request.body, Some(Request::Record(_)));
    let ours = any || request.to == inner.replica;
    if request.shard != inner.shard || !ours {
        return Begun::Answered(refuse(
            Reason::NoSuchReplica,
            format!("this is replica {}", inner.replica),
        ));
    }
    match request.body {
        None => Begun::Answered(refuse(Reason::Malformed, "an empty request")),
        Some(Request::Append(append)) => match convert::append_from_proto(inner.shard, append) {
            Err(BadAppend::Malformed(what)) => Begun::Answered(refuse(Reason::Malformed, what)),
            Err(BadAppend::Newer(kind)) => Begun::Answered(inner.newer(&format!("records of kind {kind}"))),
            Ok(request) if !leads(&request.vote, inner.replica) => Begun::Answered(impossible()),
            Ok(request) => {
                let (answer, receiver) = oneshot::channel();
                match inner.appends.try_send(Append { request, answer }) {
                    Ok(()) => Begun::Queued(receiver),
                    Err(_) => Begun::Answered(refuse(Reason::Stopped, "too many appends are waiting")),
                }
            }
        },
        Some(body) => Begun::Other(Box::new(body)),
    }
}

impl Inner {
    /// Ends this node: the shard goes on with what only a newer release knows, so this replica cannot follow.
    fn newer(&self, what: &str) -> Response {
        let why = format!(
            "the leader of shard {} sends {what}, which this program does not know; run the release that the leader runs",
            self.shard
        );
        self.health.stop(StoreStopped::Newer(why.clone()));
        refuse(Reason::Stopped, why)
    }

    async fn answer(self: &Arc<Self>, body: Request) -> Response {
        let body = plant!(ElectionWithoutLogCheck => crate::planted::with_our_log(&self.log, self.shard, body), else body);
        match body {
            Request::Append(_) => unreachable!("appends are queued"),
            Request::Vote(request) => self.vote(request).await,
            Request::PreVote(request) => self.pre_vote(request).await,
            Request::TransferLeader(request) => self.transfer(request).await,
            Request::Snapshot(chunk) => self.snapshot(chunk).await,
            Request::Record(request) => Response::Record(self.repairs.give(request).await),
        }
    }

    async fn vote(&self, request: peer::VoteRequest) -> Response {
        let Some(request) = convert::vote_request_from_proto(request) else {
            return malformed();
        };
        match self.raft.vote(request).await {
            Ok(response) => Response::Vote(convert::vote_response_to_proto(&response)),
            Err(error) => refuse(Reason::Stopped, error.to_string()),
        }
    }

    async fn pre_vote(&self, request: peer::VoteRequest) -> Response {
        let Some(request) = convert::vote_request_from_proto(request) else {
            return malformed();
        };
        match self.raft.pre_vote(request).await {
            Ok(response) => Response::PreVote(convert::vote_response_to_proto(&response)),
            Err(error) => refuse(Reason::Stopped, error.to_string()),
        }
    }

    async fn transfer(&self, request: peer::TransferLeaderRequest) -> Response {
        let Some(request) = convert::transfer_from_proto(request) else {
            return malformed();
        };
        match self.raft.handle_transfer_leader(request).await {
            Ok(Ok(())) => Response::TransferLeader(TransferLeaderResponse {}),
            Ok(Err(error)) => refuse(Reason::Unspecified, error.to_string()),
            Err(fatal) => stopped(&fatal),
        }
    }

    async fn snapshot(self: &Arc<Self>, chunk: SnapshotChunk) -> Response {
        let Some(vote) = chunk.vote.map(convert::vote_from_proto) else {
            return malformed();
        };
        let applied = chunk.head.as_ref().and_then(|head| head.applied);
        if !leads(&vote, self.replica) || !self.may_stand(&vote, applied.map(convert::from_proto)) {
            return impossible();
        }
        let ours = self.raft.metrics().borrow_watched().vote;
        if ours > vote {
            return snapshot_response(
                ours,
                &Wanted {
                    next: Place::End,
                    installed: false,
                },
            );
        }
        let taken = self.inbox.lock().await.take(chunk).await;
        match taken {
            Ok(Finish::NotYet(wanted)) => snapshot_response(vote, &wanted),
            Ok(Finish::Now(wanted, complete)) => {
                // Takes longer than a sender should wait for one answer.
                let inner = self.clone();
                tokio::spawn(async move { inner.install(vote, complete).await });
                snapshot_response(vote, &wanted)
            }
            Err(error) => self.not_taken(&error),
        }
    }

    fn not_taken(&self, error: &std::io::Error) -> Response {
        let shard = self.shard;
        match error.kind() {
            // A full disk is told by whoever needs it for new messages, and the sender tries again until there is room.
            _ if is_full(error) => {
                tracing::warn!(shard, "a snapshot waits for room on the disk");
                return refuse(Reason::Stopped, "the disk has no room for a snapshot");
            }
            // What ended the store was said.
            _ if self.health.stopped().is_some() => {
                tracing::debug!(shard, %error, "a snapshot is not stored any more");
            }
            ErrorKind::WouldBlock => tracing::debug!(shard, %error, "a snapshot waits for others"),
            ErrorKind::InvalidData => {
                tracing::warn!(shard, %error, "a snapshot is not taken");
                return refuse(Reason::Malformed, error.to_string());
            }
            ErrorKind::Unsupported => return self.newer(&error.to_string()),
            _ => tracing::error!(shard, %error, "a snapshot cannot be stored"),
        }
        refuse(Reason::Stopped, error.to_string())
    }

    /// Whether a leader with this vote can have a state that was applied up to there. To openraft anything else is the end
    /// of the process.
    fn may_stand(&self, vote: &Vote, applied: Option<RaftLogId>) -> bool {
        let committed = self.raft.metrics().borrow_watched().local_committed;
        let follows = |applied: RaftLogId| {
            committed.is_none_or(|committed| applied <= committed || applied.index > committed.index)
        };
        applied.is_none_or(|applied| applied.leader_id <= vote.leader_id && follows(applied))
    }

    async fn install(&self, vote: Vote, complete: Complete) {
        // The last part may have come from another leader than the first.
        if !self.may_stand(&vote, complete.standing.applied) {
            return self.inbox.lock().await.finished(&complete.id, false);
        }
        let snapshot = Snapshot {
            meta: complete.meta(),
            snapshot: SnapshotData::Staged,
        };
        let installed = self.raft.install_full_snapshot(vote, snapshot).await;
        let result = match installed {
            Ok(response) if response.vote > vote => Ok(false),
            Ok(_) => self
                .snapshots
                .discard_stage()
                .await
                .map(|()| true)
                .map_err(|error| error.to_string()),
            Err(fatal) => Err(fatal.to_string()),
        };
        match result {
            Ok(installed) => self.inbox.lock().await.finished(&complete.id, installed),
            // The replica has stopped. What it was about to install stays as it is, and its records are kept.
            Err(error) => tracing::warn!(shard = self.shard, %error, "a snapshot was not installed"),
        }
    }
}

/// Whether a vote is one that another replica leads with.
fn leads(vote: &Vote, replica: u64) -> bool {
    vote.committed && vote.leader_id.node_id != replica
}

fn impossible() -> Response {
    refuse(Reason::Malformed, "no leader would send this")
}

fn malformed() -> Response {
    refuse(Reason::Malformed, "a field is missing")
}

fn snapshot_response(vote: Vote, wanted: &Wanted) -> Response {
    Response::Snapshot(SnapshotResponse {
        vote: Some(convert::vote_to_proto(&vote)),
        installed: wanted.installed,
        next: Some(wanted.next.to_proto()),
    })
}
