//! The RocketMQ service as plain functions over its messages: validate, propose or
//! query, answer. One file per family of RPCs.
//!
//! Nothing here knows how a request arrived: the gRPC rim, another node and the
//! simulator call the same functions. Nothing assumes one request per call either.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use flotilla_proto::{peer as wire, record, rocketmq as mq};

use crate::{
    filter::Filters,
    limits::{DEFAULT_REQUEST, MAX_REQUEST, REPLY_MARGIN},
    node::{Node, catalogue::CatalogueError, clients::Who},
    unread::{Reader, Unread},
};

pub mod access;
pub mod ack;
pub mod admin;
pub mod answer;
mod at_leader;
pub mod counters;
pub mod delay;
mod delayed;
mod digest;
pub mod forwarded;
pub mod handle;
mod home;
mod letters;
pub mod names;
mod offsets;
mod parking;
mod pause;
#[cfg(madsim)]
#[path = "../../sim-tests/plant/bodies/service.rs"]
mod planted;
mod pull;
mod recall;
pub mod receive;
mod release;
pub mod route;
mod seek;
pub mod send;
pub mod session;
pub mod stored;
mod transaction;
mod transactions;
pub mod written;

pub use access::not_implemented;
use answer::Refused;
use counters::Counters;
pub use seek::RPC as SEEK;
pub use session::Session;

/// Who calls, from the request's metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// `x-mq-client-id`; may be empty.
    pub client_id: String,
    /// `x-mq-language`, as sent.
    pub language: String,
    /// `x-mq-client-version`.
    pub client_version: String,
    /// `x-mq-namespace`; stands in where a resource names none.
    pub namespace: String,
    /// Host the request came from.
    pub remote_host: String,
    /// How long the client still waits, if it said so.
    pub deadline: Option<Duration>,
    /// Passed on by another node; never passed on again.
    pub forwarded: bool,
    /// An earlier try of this request may have taken effect: what is over then, is done.
    pub retried: bool,
}

impl Caller {
    /// How long serving this request may take, so that the answer is back in time.
    fn patience(&self) -> Duration {
        self.deadline
            .unwrap_or(DEFAULT_REQUEST)
            .min(MAX_REQUEST)
            .saturating_sub(REPLY_MARGIN)
    }

    /// As clients are remembered.
    fn who(&self) -> Who<'_> {
        Who {
            id: &self.client_id,
            language: &self.language,
            host: &self.remote_host,
        }
    }

    fn to_wire(&self) -> wire::Caller {
        wire::Caller {
            client_id: self.client_id.clone(),
            language: self.language.clone(),
            client_version: self.client_version.clone(),
            namespace: self.namespace.clone(),
            remote_host: plant!(ForwardedFromNobody => String::new(), else self.remote_host.clone()),
            retried: self.retried,
        }
    }
}

/// The service of one node; cheap to clone.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

struct Inner {
    node: Node,
    filters: Filters,
    counters: Counters,
    unread: Unread,
    /// Other nodes as readers of answers.
    nodes: Mutex<BTreeMap<u32, Arc<Reader>>>,
}

impl Service {
    /// The service of a node. One per node.
    pub fn new(node: Node) -> Self {
        Self::with_unread(node, Unread::default())
    }

    /// The same with bounds of its own for answers that wait to be read.
    pub fn with_unread(node: Node, unread: Unread) -> Self {
        let inner = Inner {
            node: node.clone(),
            filters: Filters::default(),
            counters: Counters::default(),
            unread,
            nodes: Mutex::default(),
        };
        let service = Self {
            inner: Arc::new(inner),
        };
        node.serve_forwarded(Arc::new(service.clone()));
        service
    }

    /// The node behind it.
    pub fn node(&self) -> &Node {
        &self.inner.node
    }

    /// Filter expressions of consumers, compiled.
    pub(crate) fn filters(&self) -> &Filters {
        &self.inner.filters
    }

    /// What this node counted.
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Answers that wait to be read.
    pub fn unread(&self) -> &Unread {
        &self.inner.unread
    }

    /// Another node as a reader; all that are not in the catalogue are one.
    fn node_reader(&self, node: u32) -> Arc<Reader> {
        let known = self.node().meta().nodes().contains_key(&node);
        let mut nodes = self.inner.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = nodes.entry(if known { node } else { 0 });
        Arc::clone(reader.or_insert_with(|| self.unread().node_reader()))
    }

    /// The client begins or goes on: also one that had said good-bye is back.
    fn saw(&self, caller: &Caller) {
        let node = self.node();
        node.clients().saw(caller.who(), node.clock().steady_ms());
    }

    /// The client did something, which may arrive after its good-bye.
    fn heard(&self, caller: &Caller) {
        let node = self.node();
        node.clients().heard(caller.who(), node.clock().steady_ms());
    }

    /// The topic of this name; it comes into being if that is allowed.
    async fn topic(&self, name: &str) -> Result<Arc<record::Topic>, Refused> {
        if let Some(topic) = self.node().meta().topic(name) {
            return Ok(topic);
        }
        let options = self.node().options();
        if !options.auto_create_topics || name.starts_with(crate::meta::DEAD_LETTER_PREFIX) {
            return self.existing_topic(name).await?.ok_or_else(|| {
                Refused::new(
                    mq::Code::TopicNotFound,
                    format!("topic {name} does not exist; create it with `flotilla topic create {name}`"),
                )
            });
        }
        self.make_topic(name, options.default_queues, mq::MessageType::Normal as i32)
            .await
    }

    /// The topic of this name, if there is one.
    async fn existing_topic(&self, name: &str) -> Result<Option<Arc<record::Topic>>, CatalogueError> {
        if let Some(topic) = self.node().meta().topic(name) {
            return Ok(Some(topic));
        }
        self.node().catch_up_meta().await?;
        Ok(self.node().meta().topic(name))
    }

    async fn make_topic(
        &self,
        name: &str,
        queues: u32,
        message_type: i32,
    ) -> Result<Arc<record::Topic>, Refused> {
        let create = record::CreateTopic {
            name: name.into(),
            queues,
            message_type,
            if_absent: true,
            ageing_ms: 0,
        };
        let reply = self
            .node()
            .propose_meta(record::meta_command::Command::CreateTopic(create))
            .await?;
        match reply {
            crate::meta::MetaReply::Topic(topic) => {
                self.node()
                    .wait_meta(|meta| meta.topic_by_id(topic.id).is_some())
                    .await;
                Ok(topic)
            }
            other => Err(answer::from_meta(other, mq::Code::TopicNotFound)),
        }
    }

    /// The consumer group of this name; it comes into being if that is allowed.
    async fn group(&self, name: &str) -> Result<Arc<record::ConsumerGroup>, Refused> {
        if let Some(group) = self.node().meta().group(name) {
            return Ok(group);
        }
        if !self.node().options().auto_create_groups {
            return self.existing_group(name).await?.ok_or_else(|| {
                Refused::new(
                    mq::Code::ConsumerGroupNotFound,
                    format!(
                        "consumer group {name} does not exist; create it with `flotilla group create {name}`"
                    ),
                )
            });
        }
        self.make_group(admin::default_group(name)).await
    }

    /// The consumer group of this name, if there is one.
    async fn existing_group(&self, name: &str) -> Result<Option<Arc<record::ConsumerGroup>>, CatalogueError> {
        if let Some(group) = self.node().meta().group(name) {
            return Ok(Some(group));
        }
        self.node().catch_up_meta().await?;
        Ok(self.node().meta().group(name))
    }

    async fn make_group(
        &self,
        create: record::CreateConsumerGroup,
    ) -> Result<Arc<record::ConsumerGroup>, Refused> {
        let command = record::meta_command::Command::CreateConsumerGroup(create);
        match self.node().propose_meta(command).await? {
            crate::meta::MetaReply::Group(group) => {
                self.node()
                    .wait_meta(|meta| meta.group_by_id(group.id).is_some())
                    .await;
                Ok(group)
            }
            other => Err(answer::from_meta(other, mq::Code::ConsumerGroupNotFound)),
        }
    }
}

impl From<CatalogueError> for Refused {
    fn from(error: CatalogueError) -> Self {
        let code = match error {
            CatalogueError::NoLeader => mq::Code::HaNotAvailable,
            CatalogueError::Unsure => mq::Code::ProxyTimeout,
        };
        Refused::new(code, error.to_string())
    }
}
