//! openraft, bound once: every alias the rest of the crate uses, and our own entry.
//!
//! The entry keeps the record it was read or received as, so that the bytes a leader has encoded are the bytes its
//! followers write and send on.

use std::fmt;

use bytes::Bytes;
use openraft::{
    entry::{RaftEntry, RaftPayload},
    impls::leader_id_adv,
    type_config::alias,
};

use crate::{
    machine::Applied,
    record::{Corrupt, Kind, Record},
    runtime::Runtime,
};

pub(crate) mod convert;

/// What openraft is instantiated with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = Data;
    type R = Applied;
    type NodeId = u64;
    type Node = Member;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = openraft::Vote<LeaderId>;
    type Payload = Payload;
    type Entry = Entry;
    type Responder<T>
        = Responder<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type AsyncRuntime = Runtime;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type LeaderId = leader_id_adv::LeaderId<u64, u64>;
pub(crate) type RaftLogId = alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = alias::VoteOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, Member>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type AppendRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
pub(crate) type AppendResponse = openraft::raft::AppendEntriesResponse<TypeConfig>;
pub(crate) type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
pub(crate) type VoteResponse = openraft::raft::VoteResponse<TypeConfig>;
pub(crate) type TransferRequest = openraft::raft::TransferLeaderRequest<TypeConfig>;
pub(crate) type TransferResponse = openraft::raft::TransferLeaderResponse<TypeConfig>;
pub(crate) type RpcError = openraft::errors::RPCError<TypeConfig>;
pub(crate) type Fatal = openraft::errors::Fatal<TypeConfig>;
pub(crate) type Metrics = openraft::RaftMetrics<TypeConfig>;
pub(crate) type ServerMetricsReceiver =
    alias::WatchReceiverOf<TypeConfig, openraft::metrics::RaftServerMetrics<TypeConfig>>;
pub(crate) type MetricsReceiver = alias::WatchReceiverOf<TypeConfig, Metrics>;

/// What is known of a replica besides its id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Member {
    /// The node it lives on.
    pub(crate) node: u32,
}

/// The payload of a proposal.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Data(pub(crate) Bytes);

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Nothing: a new leader's first entry.
    Blank,
    /// A proposal.
    Normal(Data),
    /// Who takes part from here on.
    Membership(Membership),
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Payload::Blank => f.write_str("blank"),
            Payload::Normal(data) => write!(f, "{data}"),
            Payload::Membership(membership) => write!(f, "{membership}"),
        }
    }
}

impl RaftPayload for Payload {
    type D = Data;
    type NodeId = u64;
    type Node = Member;

    fn blank() -> Self {
        Payload::Blank
    }

    fn with_normal(self, data: Data) -> Self {
        Payload::Normal(data)
    }

    fn with_membership(self, membership: Membership) -> Self {
        Payload::Membership(membership)
    }

    fn get_membership(&self) -> Option<Membership> {
        match self {
            Payload::Membership(membership) => Some(membership.clone()),
            _ => None,
        }
    }
}

/// A log entry, with the record it came as, if it came as one.
#[derive(Clone)]
pub(crate) struct Entry {
    log_id: RaftLogId,
    payload: Payload,
    record: Option<Bytes>,
}

impl Entry {
    /// The entry of a record of `shard`. `trusted` records come from this process's own log, which has
    /// checked them; others are checked here.
    pub(crate) fn from_record(shard: u32, record: Bytes, trusted: bool) -> Result<Self, Corrupt> {
        let view = if trusted {
            Record::view(crate::record::RecordHead::parse(&record)?, &record)
        } else {
            Record::decode(&record)?
        };
        if view.shard != shard {
            return Err(Corrupt("a record of another shard"));
        }
        let payload = match view.kind {
            Kind::Blank => Payload::Blank,
            Kind::Normal => Payload::Normal(Data(view.payload)),
            Kind::Membership => Payload::Membership(
                convert::decode_membership(view.payload).ok_or(Corrupt("not a membership"))?,
            ),
            _ => return Err(Corrupt("not an entry")),
        };
        Ok(Entry {
            log_id: convert::to_raft(view.log_id),
            payload,
            record: Some(record),
        })
    }

    /// The record of this entry in the log of `shard`.
    pub(crate) fn into_record(self, shard: u32) -> Bytes {
        if let Some(record) = self.record {
            return record;
        }
        let id = convert::from_raft(&self.log_id);
        match &self.payload {
            Payload::Blank => Record::encode(Kind::Blank, shard, id, &[]),
            Payload::Normal(data) => Record::encode(Kind::Normal, shard, id, &data.0),
            Payload::Membership(membership) => Record::encode(
                Kind::Membership,
                shard,
                id,
                &convert::encode_membership(membership),
            ),
        }
    }

    pub(crate) fn id(&self) -> RaftLogId {
        self.log_id
    }

    pub(crate) fn payload(&self) -> &Payload {
        &self.payload
    }

    /// Bytes of the payload, as far as bounds care.
    pub(crate) fn bytes(&self) -> usize {
        match &self.payload {
            Payload::Normal(data) => data.0.len(),
            _ => 0,
        }
    }
}

impl RaftEntry for Entry {
    type CommittedLeaderId = LeaderId;
    type Payload = Payload;

    fn new(log_id: RaftLogId, payload: Payload) -> Self {
        Self {
            log_id,
            payload,
            record: None,
        }
    }

    fn log_id_parts(&self) -> (&LeaderId, u64) {
        (&self.log_id.leader_id, self.log_id.index)
    }

    fn set_log_id(&mut self, log_id: RaftLogId) {
        self.log_id = log_id;
        self.record = None;
    }

    fn get_membership(&self) -> Option<Membership> {
        self.payload.get_membership()
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.log_id == other.log_id && self.payload == other.payload
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.log_id, self.payload)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Answers a proposal. A proposer that no longer waits is nobody's concern.
pub(crate) struct Responder<T>(tokio::sync::oneshot::Sender<T>);

impl<T> Responder<T> {
    pub(crate) fn pair() -> (Self, tokio::sync::oneshot::Receiver<T>) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        (Self(sender), receiver)
    }
}

impl<T: openraft::OptionalSend + 'static> openraft::raft::responder::Responder<TypeConfig, T>
    for Responder<T>
{
    fn on_complete(self, result: T) {
        let _ = self.0.send(result);
    }
}
