//! openraft's network, over a [`Transport`].

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use flotilla_proto::peer::{
    self, RaftRequest, RaftResponse, SnapshotChunk, raft_request::Body as Request,
    raft_response::Body as Response,
};
use futures::{Stream, StreamExt, future::BoxFuture, stream, stream::BoxStream};
use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::RPCOption,
    raft::{SnapshotResponse, StreamAppendResult},
    storage::Snapshot,
};

use super::{Transport, TransportError};
use crate::{
    limits::{APPEND_WINDOW, SNAPSHOT_IMAGE_MS, SNAPSHOT_POLL_MS, SNAPSHOT_STALL_MS},
    runtime::now,
    snapshot::{Outline, Piece, Place, Sending, SnapshotData, Snapshots},
    types::{
        AppendRequest, AppendResponse, LeaderId, Member, RaftLogId, RpcError, TransferRequest,
        TransferResponse, TypeConfig, Vote, VoteRequest, VoteResponse, convert,
    },
};

/// Makes connections from one replica to the others of its shard.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) shard: u32,
    pub(crate) replica: u64,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) snapshots: Arc<Snapshots>,
    /// How long an append may take: longer than openraft would wait, whose measure is the heartbeat, because
    /// what is sent may have to wait for a disk.
    pub(crate) append_ttl: Duration,
}

/// The way to one replica.
pub(crate) struct Link {
    network: Network,
    target: u64,
    /// Appends with entries that have no answer yet.
    carrying: AtomicUsize,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _member: &Member) -> Link {
        Link {
            network: self.clone(),
            target,
            carrying: AtomicUsize::new(0),
        }
    }
}

/// Where an append starts and ends in the log, to make sense of its answer.
struct Span {
    previous: Option<RaftLogId>,
    last: Option<RaftLogId>,
}

impl Span {
    fn of(request: &AppendRequest) -> Self {
        let last = request
            .entries
            .last()
            .map(|entry| entry.id())
            .or(request.prev_log_id);
        Self {
            previous: request.prev_log_id,
            last,
        }
    }
}

/// An append with entries that is under way.
struct Carried<'a>(&'a AtomicUsize);

impl<'a> Carried<'a> {
    fn begin(carrying: &'a AtomicUsize) -> Self {
        carrying.fetch_add(1, Ordering::Relaxed);
        Self(carrying)
    }
}

impl Drop for Carried<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Link {
    /// Sends what must not wait behind records; it may overtake them.
    async fn call_urgent(
        &self,
        action: openraft::RPCTypes,
        body: Request,
        ttl: Duration,
    ) -> Result<Response, RpcError> {
        self.request(action, body, true, ttl).await
    }

    async fn call(
        &self,
        action: openraft::RPCTypes,
        body: Request,
        ttl: Duration,
    ) -> Result<Response, RpcError> {
        self.request(action, body, false, ttl).await
    }

    async fn request(
        &self,
        action: openraft::RPCTypes,
        body: Request,
        urgent: bool,
        ttl: Duration,
    ) -> Result<Response, RpcError> {
        let request = RaftRequest {
            urgent,
            shard: self.network.shard,
            to: self.target,
            body: Some(body),
            from: None, // the transport knows who this is
        };
        match self.network.transport.raft(self.target, request, ttl).await {
            Ok(RaftResponse {
                body: Some(Response::Refusal(refusal)),
                ..
            }) => Err(self.refused(&refusal)),
            Ok(RaftResponse { body: Some(body), .. }) => Ok(body),
            Ok(RaftResponse { body: None, .. }) => Err(malformed()),
            Err(error @ TransportError::Unreachable(_)) => {
                Err(RpcError::Unreachable(Unreachable::new(&error)))
            }
            Err(error @ TransportError::Broken(_)) => Err(RpcError::Network(NetworkError::new(&error))),
            Err(TransportError::TimedOut) => Err(RpcError::Timeout(Timeout {
                action,
                id: self.network.replica,
                target: self.target,
                timeout: ttl,
            })),
        }
    }

    /// A replica that refuses is one that is not there: nothing is gained by asking again at once.
    fn refused(&self, refusal: &peer::Refusal) -> RpcError {
        let what = format!(
            "replica {} refused: {:?} {}",
            self.target,
            refusal.reason(),
            refusal.message
        );
        RpcError::Unreachable(Unreachable::from_string(what))
    }

    async fn append(&self, request: AppendRequest, ttl: Duration) -> Result<AppendResponse, RpcError> {
        // A heartbeat: it builds on what was answered, and not on entries that are still on their way.
        let heartbeat = request.entries.is_empty() && self.carrying.load(Ordering::Relaxed) == 0;
        let _carried = (!request.entries.is_empty()).then(|| Carried::begin(&self.carrying));
        let body = Request::Append(convert::append_to_proto(self.network.shard, request));
        let action = openraft::RPCTypes::AppendEntries;
        let answer = match heartbeat {
            true => self.call_urgent(action, body, ttl).await,
            false => self.call(action, body, ttl).await,
        };
        plant!(LostAnswerCounts => if crate::planted::is_lost(&answer) { return Ok(AppendResponse::Success) });
        match answer? {
            Response::Append(answer) => convert::append_response_from_proto(answer).ok_or_else(malformed),
            _ => Err(malformed()),
        }
    }

    /// Sends one part, or asks what is wanted. Answers what that is, or a vote that ends the transfer.
    async fn send_piece(
        &self,
        vote: &Vote,
        sending: &Sending,
        piece: Option<Piece>,
        ttl: Duration,
    ) -> Result<peer::SnapshotResponse, StreamingError<TypeConfig>> {
        let standing = &sending.outline.standing;
        let applied = standing.applied.map(|id| id.to_string()).unwrap_or_default();
        let mut chunk = SnapshotChunk {
            vote: Some(convert::vote_to_proto(vote)),
            id: format!("{}/{applied}", self.network.replica),
            head: Some(sending.outline.head(self.network.shard)),
            ..SnapshotChunk::default()
        };
        if let Some(piece) = piece {
            chunk.from = Some(piece.from.to_proto());
            chunk.to = Some(piece.to.to_proto());
            chunk.data_crc32c = crc32c::crc32c(&piece.data);
            chunk.data = piece.data;
        }
        match self
            .call(openraft::RPCTypes::InstallSnapshot, Request::Snapshot(chunk), ttl)
            .await?
        {
            Response::Snapshot(answer) => Ok(answer),
            _ => Err(malformed().into()),
        }
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        data: SnapshotData,
        ttl: Duration,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::Image(image) = data else {
            return Err(failed(std::io::Error::other("a snapshot that was received")));
        };
        let snapshots = &self.network.snapshots;
        let sending = snapshots.send(image).map_err(failed)?;
        let Outline { oldest, applied, .. } = sending.outline;
        let (shard, to) = (self.network.shard, self.target);
        tracing::info!(shard, to, oldest, applied, "sending a snapshot");
        let (mut at, mut moved) = (None, now());
        let mut piece = None;
        loop {
            let answer = self.send_piece(&vote, &sending, piece.take(), ttl).await?;
            let theirs = answer.vote.map(convert::vote_from_proto);
            if answer.installed {
                snapshots.forget();
                return Ok(SnapshotResponse::new(theirs.unwrap_or(vote)));
            }
            if let Some(higher) = theirs.filter(|theirs| *theirs > vote) {
                return Ok(SnapshotResponse::new(higher));
            }
            let next = answer.next.and_then(Place::from_proto).ok_or_else(malformed)?;
            if at.as_ref() == Some(&next) {
                // All there and being installed, or a part that did not count.
                let stalled = now().saturating_duration_since(moved) > patience(&next);
                if stalled {
                    return Err(failed(std::io::Error::other("it does not move")));
                }
                tokio::time::sleep(Duration::from_millis(SNAPSHOT_POLL_MS)).await;
            } else {
                // What is wanted first only tells where it stands.
                if at.is_some() {
                    sending.hold.moved(match next {
                        Place::Record(index) => index.min(applied),
                        // What follows the snapshot must be there when it is installed.
                        Place::Pair(_) | Place::End => applied,
                    });
                }
                moved = now();
            }
            if next != Place::End {
                piece = Some(snapshots.piece(&sending, next.clone()).await.map_err(failed)?);
            }
            at = Some(next);
        }
    }
}

/// How long a transfer may stand at a place.
fn patience(place: &Place) -> Duration {
    Duration::from_millis(match place {
        Place::Record(_) | Place::Pair(_) => SNAPSHOT_STALL_MS,
        // It is being installed there, on a disk that may be slow.
        Place::End => SNAPSHOT_IMAGE_MS,
    })
}

fn malformed() -> RpcError {
    RpcError::Unreachable(Unreachable::from_string("the answer makes no sense"))
}

fn failed(error: std::io::Error) -> StreamingError<TypeConfig> {
    StreamingError::Unreachable(Unreachable::from_string(format!(
        "the snapshot cannot be sent: {error}"
    )))
}

type AppendResults<'s> = BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>;

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendRequest,
        _option: RPCOption,
    ) -> Result<AppendResponse, RpcError> {
        self.append(request, self.network.append_ttl).await
    }

    /// Keeps up to [`APPEND_WINDOW`] appends under way. The answers come in the order of the requests; the first that
    /// is not a full success is the last.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<AppendResults<'s>, RpcError>>
    where
        S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    {
        let link = &*self;
        let answers = input
            .map(move |request| async move {
                let span = Span::of(&request);
                let answer = link.append(request, link.network.append_ttl).await?;
                let partial = matches!(&answer, AppendResponse::PartialSuccess(upto) if *upto != span.last);
                if matches!(answer, AppendResponse::Conflict) && span.previous.is_none() {
                    return Err(malformed());
                }
                Ok((answer.into_stream_result(span.previous, span.last), partial))
            })
            .buffered(APPEND_WINDOW);
        let results = stream::unfold(Some(Box::pin(answers)), |answers| async move {
            let mut answers = answers?;
            match answers.next().await? {
                Ok((result, partial)) => {
                    let rest = (result.is_ok() && !partial).then_some(answers);
                    Some((Ok(result), rest))
                }
                Err(error) => Some((Err(error), None)),
            }
        });
        let results: AppendResults<'s> = Box::pin(results);
        Box::pin(async move { Ok(results) })
    }

    async fn vote(&mut self, request: VoteRequest, option: RPCOption) -> Result<VoteResponse, RpcError> {
        let body = Request::Vote(convert::vote_request_to_proto(&request));
        match self
            .call_urgent(openraft::RPCTypes::Vote, body, option.hard_ttl())
            .await?
        {
            Response::Vote(answer) => convert::vote_response_from_proto(answer).ok_or_else(malformed),
            _ => Err(malformed()),
        }
    }

    async fn pre_vote(&mut self, request: VoteRequest, option: RPCOption) -> Result<VoteResponse, RpcError> {
        let body = Request::PreVote(convert::vote_request_to_proto(&request));
        match self
            .call_urgent(openraft::RPCTypes::Vote, body, option.hard_ttl())
            .await?
        {
            Response::PreVote(answer) => convert::vote_response_from_proto(answer).ok_or_else(malformed),
            _ => Err(malformed()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<LeaderId, u64, Member, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot.snapshot, option.hard_ttl()) => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferRequest,
        option: RPCOption,
    ) -> Result<TransferResponse, RpcError> {
        let body = Request::TransferLeader(convert::transfer_to_proto(&request));
        match self
            .call(openraft::RPCTypes::TransferLeader, body, option.hard_ttl())
            .await?
        {
            Response::TransferLeader(_) => Ok(Ok(())),
            _ => Err(malformed()),
        }
    }
}
