//! What the meta shard answers, and how the answer travels when another node proposed the command.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_proto::{
    peer::{self, meta_refusal::Kind, meta_reply::Reply},
    record::{ConsumerGroup, Topic},
};
use prost::Message;

use super::PayloadError;

/// The answer to one command.
#[derive(Debug, Clone, PartialEq)]
pub enum MetaReply {
    /// The cluster is born.
    Bootstrapped,
    /// The node is known under this incarnation: the one to build replica ids from.
    Registered {
        /// Counts data directories of the node, from 1.
        incarnation: u32,
    },
    /// The topic that was made, or was there already and was asked for `if_absent`.
    Topic(Arc<Topic>),
    /// The consumer group that was made, or was there already and was asked for `if_absent`.
    Group(Arc<ConsumerGroup>),
    /// Nothing more to say.
    Done,
    /// Nothing was changed.
    Refused(MetaRefusal),
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetaRefusal {
    /// The name is taken.
    #[error("it exists already")]
    Exists,
    /// There is no such thing.
    #[error("it does not exist")]
    NotFound,
    /// The first command of a cluster has to be a bootstrap.
    #[error("the cluster is not bootstrapped yet")]
    NotBootstrapped,
    /// A cluster is born once.
    #[error("the cluster is bootstrapped already")]
    AlreadyBootstrapped,
    /// One of `meta::limits` is reached; says which.
    #[error("{0}")]
    Limit(String),
    /// The command makes no sense; says why.
    #[error("{0}")]
    Invalid(String),
    /// The node is no member of the cluster.
    #[error("the node is not a member of this cluster")]
    UnknownNode,
}

impl MetaReply {
    /// For the way to another node.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        use peer::meta_reply::Done;
        let reply = match self {
            MetaReply::Bootstrapped => Reply::Bootstrapped(Done {}),
            MetaReply::Registered { incarnation } => Reply::Registered(*incarnation),
            MetaReply::Topic(topic) => Reply::Topic(Topic::clone(topic)),
            MetaReply::Group(group) => Reply::Group(ConsumerGroup::clone(group)),
            MetaReply::Done => Reply::Done(Done {}),
            MetaReply::Refused(refusal) => Reply::Refused(refusal.to_wire()),
        };
        peer::MetaReply { reply: Some(reply) }.encode_to_vec().into()
    }

    /// What [`encode`](Self::encode) made.
    ///
    /// # Errors
    /// Bytes that are no reply, or one of a newer build.
    pub fn decode(bytes: Bytes) -> Result<MetaReply, PayloadError> {
        let unknown = || PayloadError::Malformed("a meta reply of an unknown kind".into());
        let reply =
            peer::MetaReply::decode(bytes).map_err(|error| PayloadError::Malformed(error.to_string()))?;
        Ok(match reply.reply.ok_or_else(unknown)? {
            Reply::Bootstrapped(_) => MetaReply::Bootstrapped,
            Reply::Registered(incarnation) => MetaReply::Registered { incarnation },
            Reply::Topic(topic) => MetaReply::Topic(Arc::new(topic)),
            Reply::Group(group) => MetaReply::Group(Arc::new(group)),
            Reply::Done(_) => MetaReply::Done,
            Reply::Refused(refusal) => {
                MetaReply::Refused(MetaRefusal::from_wire(refusal).ok_or_else(unknown)?)
            }
        })
    }
}

impl MetaRefusal {
    fn to_wire(&self) -> peer::MetaRefusal {
        let kind = match self {
            MetaRefusal::Exists => Kind::Exists,
            MetaRefusal::NotFound => Kind::NotFound,
            MetaRefusal::NotBootstrapped => Kind::NotBootstrapped,
            MetaRefusal::AlreadyBootstrapped => Kind::AlreadyBootstrapped,
            MetaRefusal::Limit(_) => Kind::Limit,
            MetaRefusal::Invalid(_) => Kind::Invalid,
            MetaRefusal::UnknownNode => Kind::UnknownNode,
        };
        peer::MetaRefusal {
            kind: kind.into(),
            message: self.to_string(),
        }
    }

    fn from_wire(refusal: peer::MetaRefusal) -> Option<Self> {
        Some(match refusal.kind() {
            Kind::Exists => MetaRefusal::Exists,
            Kind::NotFound => MetaRefusal::NotFound,
            Kind::NotBootstrapped => MetaRefusal::NotBootstrapped,
            Kind::AlreadyBootstrapped => MetaRefusal::AlreadyBootstrapped,
            Kind::Limit => MetaRefusal::Limit(refusal.message),
            Kind::Invalid => MetaRefusal::Invalid(refusal.message),
            Kind::UnknownNode => MetaRefusal::UnknownNode,
            Kind::Unspecified => return None,
        })
    }
}
