//! What administration asks for and shows: the bodies of the HTTP API, which are also what
//! the command line prints. The service fills them, `http/` sends them, `cli/` reads them.
//!
//! These shapes are public: fields may be added, never renamed. Times are in milliseconds,
//! and units stand last in a name.

mod delayed;
mod letters;
mod transactions;

use serde::{Deserialize, Serialize};

pub use delayed::*;
pub use letters::*;
pub use transactions::*;

/// A cluster as one node sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct ClusterView {
    /// The cluster's id, 16 hexadecimal digits; absent until the cluster is bootstrapped.
    pub cluster: Option<String>,
    /// The node that answers.
    pub node: u32,
    /// Why the node that answers is not ready to serve; absent when it is.
    #[serde(default)]
    pub problem: Option<String>,
    /// Version of the program of the node that answers.
    pub version: String,
    /// All nodes the meta shard knows, by id.
    pub nodes: Vec<NodeView>,
    /// All shards, by id; shard 0 is the meta shard.
    pub shards: Vec<ShardView>,
}

/// One node of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct NodeView {
    /// Node id, from 1.
    pub id: u32,
    /// Counts the data directories this node has had, from 1.
    pub incarnation: u32,
    /// Whether the node that answers has heard from it lately.
    pub alive: bool,
    /// Why a process that says it is this node is not talked to: another cluster's data directory, one that was replaced, put
    /// back to an older state, or started twice. Absent when there is none.
    #[serde(default)]
    pub problem: Option<String>,
    /// Shards of which it has records that it cannot read, and no other node could give yet.
    #[serde(default)]
    pub damaged: Vec<u32>,
    /// Address for clients (gRPC).
    pub client_addr: String,
    /// Address for administration (HTTP).
    pub http_addr: String,
    /// Address for the other nodes.
    pub peer_addr: String,
    /// How many shards it leads.
    pub leads: u32,
}

/// One shard: a log, a state and its replicas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct ShardView {
    /// Shard id; 0 is the meta shard.
    pub id: u32,
    /// Node that leads it; absent while none does.
    pub leader: Option<u32>,
    /// Whether a majority of the replicas stands behind that leader, as heard within the last seconds.
    #[serde(default)]
    pub served: bool,
    /// Raft term, as the node that answers knows it.
    pub term: u64,
    /// Index of the last entry a majority has, as known here.
    pub committed: u64,
    /// Index of the last entry applied on the node that answers.
    pub applied: u64,
    /// Replicas, by node.
    pub replicas: Vec<ReplicaView>,
}

/// A shard's copy on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct ReplicaView {
    /// Node that holds it.
    pub node: u32,
    /// Replica id: node id and incarnation.
    pub replica: u64,
    /// Voter; otherwise a learner.
    pub voter: bool,
    /// Whether it was heard within the last seconds: by the leader, where the leader answers. One that was not is no redundancy.
    #[serde(default)]
    pub alive: bool,
    /// Last index known to be stored there; only the leader's node knows it of others.
    pub matched: Option<u64>,
    /// Entries it is behind the leader's log; only where `matched` is known and the replica is alive.
    pub lag: Option<u64>,
}

/// A topic that is to be created.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TopicSpec {
    /// Letters, digits, `%`, `|`, `_` and `-`, at most 127.
    pub name: String,
    /// Number of queues; the node's `default_queues` when absent.
    #[serde(default)]
    pub queues: Option<u32>,
    /// NORMAL, FIFO, DELAY, TRANSACTION, PRIORITY or MIXED; NORMAL when absent.
    #[serde(default = "normal")]
    pub message_type: String,
    /// Of a PRIORITY topic: so many milliseconds of waiting weigh as one lane, so that what is least urgent comes, too. Waiting
    /// weighs nothing when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ageing_ms: Option<u64>,
}

fn normal() -> String {
    "NORMAL".to_owned()
}

/// One line of the list of topics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct TopicView {
    /// Name.
    pub name: String,
    /// Number of queues.
    pub queues: u32,
    /// NORMAL, FIFO, DELAY, TRANSACTION, PRIORITY or MIXED.
    pub message_type: String,
    /// Creation, ms since 1970.
    pub created_ms: u64,
    /// Of a PRIORITY topic: how much waiting weighs as one lane, if it weighs anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ageing_ms: Option<u64>,
}

/// A topic with its queues.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct TopicDetail {
    /// What the list shows of it.
    #[serde(flatten)]
    pub topic: TopicView,
    /// Its queues, by number.
    pub queue_list: Vec<QueueView>,
}

/// One queue of a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct QueueView {
    /// Queue number, from 0.
    pub queue: u32,
    /// Shard it lives in.
    pub shard: u32,
    /// Node that leads this shard.
    pub leader: Option<u32>,
    /// First kept offset; absent when no leader answered in time.
    pub first_offset: Option<u64>,
    /// Offset of the next message; absent when no leader answered in time.
    pub next_offset: Option<u64>,
    /// Of a PRIORITY topic, whose queues are lanes: the priorities of its messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
}

/// A consumer group that is to be created. What is absent is filled with the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct GroupSpec {
    /// Letters, digits, `%`, `|`, `_` and `-`, at most 120.
    pub name: String,
    /// Deliveries of one message, the first included, before it is a dead letter.
    #[serde(default)]
    pub max_attempts: Option<u32>,
    /// Waiting time between deliveries.
    #[serde(default)]
    pub backoff: Option<BackoffView>,
    /// Deliver the messages of a message group in order, one at a time.
    #[serde(default)]
    pub fifo: bool,
    /// Where the group starts in queues it has not read yet.
    #[serde(default)]
    pub start_at: StartAt,
    /// What becomes of a message of a message group whose attempts are used up.
    #[serde(default)]
    pub on_poison: OnPoison,
}

/// Waiting time between deliveries of one message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BackoffView {
    /// Grows by a factor.
    Exponential {
        /// After the first delivery.
        initial_ms: u64,
        /// Never longer than this.
        max_ms: u64,
        /// 200 doubles each time.
        multiplier_percent: u32,
    },
    /// A list; its last value repeats.
    Customized {
        /// One value per delivery.
        next_ms: Vec<u64>,
    },
}

/// Where a consumer group starts to read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum StartAt {
    /// At the oldest kept message.
    #[default]
    First,
    /// At messages sent from then on.
    Last,
}

/// One line of the list of consumer groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct GroupView {
    /// Name.
    pub name: String,
    /// Deliveries of one message, the first included, before it is a dead letter.
    pub max_attempts: u32,
    /// Waiting time between deliveries.
    pub backoff: BackoffView,
    /// Ordered delivery by message group.
    pub fifo: bool,
    /// Where it starts in queues it has not read yet.
    pub start_at: StartAt,
    /// Creation, ms since 1970.
    pub created_ms: u64,
    /// Nothing is delivered to it.
    #[serde(default)]
    pub paused: bool,
    /// What becomes of a message of a message group whose attempts are used up.
    #[serde(default)]
    pub on_poison: OnPoison,
}

/// A consumer group with its lag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct GroupDetail {
    /// What the list shows of it.
    #[serde(flatten)]
    pub group: GroupView,
    /// Sum over the queues.
    pub total: Lag,
    /// Every queue it reads.
    pub queues: Vec<QueueLag>,
    /// Shards whose leader did not answer in time: their queues are missing above.
    pub unreachable_shards: Vec<u32>,
}

/// Where a consumer group stands in one queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct QueueLag {
    /// Topic.
    pub topic: String,
    /// Queue number, from 0.
    pub queue: u32,
    /// Offset of the next message not yet delivered.
    pub cursor: u64,
    /// Messages by what they wait for.
    #[serde(flatten)]
    pub lag: Lag,
    /// Passed over by a filter since it began, or was put elsewhere.
    #[serde(default)]
    pub filtered: u64,
    /// It is on its way there: nothing is delivered before it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeks_to: Option<u64>,
    /// Of a PRIORITY topic, whose queues are lanes: the priorities of its messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
}

/// Messages a consumer group is not done with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Lag {
    /// Could be delivered now.
    pub ready: u64,
    /// Delivered, neither acknowledged nor over their time.
    pub leased: u64,
    /// Wait for their retry time.
    pub waiting: u64,
    /// Wait, in order, until an earlier message of their message group is over.
    #[serde(default)]
    pub blocked: u64,
    /// Of those that wait, messages at which their message groups stopped, until somebody decides.
    #[serde(default)]
    pub parked: u64,
}

/// Where a consumer group is to go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SeekTo {
    /// At the oldest kept message of each queue.
    First,
    /// At messages stored from now on.
    Last,
    /// At this offset, or the nearest that is kept.
    Offset(u64),
    /// At the first message that was stored then or later, ms since 1970.
    AtMs(u64),
}

/// What a consumer group is to read again, or to pass over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SeekSpec {
    /// Of this topic.
    pub topic: String,
    /// In this queue only.
    #[serde(default)]
    pub queue: Option<u32>,
    /// From here on.
    pub to: SeekTo,
    /// Say what would be, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Names this seek, so that asking for it again does not undo what came after it. Drawn if it is left out; the report has it.
    #[serde(default)]
    pub id: Option<u64>,
}

/// What became of a seek.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SeekReport {
    /// Nothing was changed, because that was asked for.
    pub dry_run: bool,
    /// Names this seek: to ask for it again with this does no harm.
    pub id: u64,
    /// Every queue that was meant.
    pub queues: Vec<QueueSeek>,
}

/// The same for one queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct QueueSeek {
    /// Queue number, from 0.
    pub queue: u32,
    /// The offset that would have come next; not known of what was done before.
    pub before: Option<u64>,
    /// The offset that comes next now.
    pub after: Option<u64>,
    /// Why it is not known to be done: ask again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Why an administrative request was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminErrorKind {
    /// What was named does not exist.
    NotFound,
    /// It exists already.
    Exists,
    /// The request itself is wrong.
    Invalid,
    /// A named limit is reached.
    Limit,
    /// No leader, no majority or no answer in time: ask again.
    Unavailable,
}

/// An administrative request that was not done, with a message that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct AdminError {
    /// The kind, which chooses status and exit code.
    pub kind: AdminErrorKind,
    /// For people: what is wrong and what to do.
    pub message: String,
}

impl AdminError {
    /// An error of a kind with its message.
    pub fn new(kind: AdminErrorKind, message: impl Into<String>) -> AdminError {
        AdminError {
            kind,
            message: message.into(),
        }
    }
}
