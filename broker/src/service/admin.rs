//! What administrators ask: the cluster, topics, consumer groups.

use std::{collections::BTreeMap, fmt::Write as _};

use flotilla_proto::{
    record::{self, backoff, meta_command},
    rocketmq::MessageType,
};
use queue_core::QueueId;
use raft_store::ReplicaStatus;

use super::{Service, answer::Refused, names};
use crate::{
    limits::{DEFAULT_BACKOFF_MS, DEFAULT_MAX_ATTEMPTS, MAX_MAX_ATTEMPTS},
    meta::{MetaRefusal, MetaReply},
    node::{META_SHARD, catalogue::CatalogueError, node_of},
    views::{
        AdminError, AdminErrorKind, BackoffView, ClusterView, GroupDetail, GroupSpec, GroupView, Lag,
        NodeView, QueueLag, QueueView, ReplicaView, ShardView, StartAt, TopicDetail, TopicSpec, TopicView,
    },
};

/// Type names as administrators write them; 0 is MIXED.
const TYPES: &[(&str, i32)] = &[
    ("MIXED", MessageType::Unspecified as i32),
    ("NORMAL", MessageType::Normal as i32),
    ("FIFO", MessageType::Fifo as i32),
    ("DELAY", MessageType::Delay as i32),
    ("TRANSACTION", MessageType::Transaction as i32),
    ("PRIORITY", MessageType::Priority as i32),
];

impl Service {
    /// Ready to serve, or why not.
    pub fn ready(&self) -> Result<(), String> {
        if self.node().stopping() {
            return Err("the node is stopping".into());
        }
        self.node().ready()
    }

    /// The cluster as this node sees it.
    pub fn cluster(&self) -> ClusterView {
        let node = self.node();
        let meta = node.meta();
        let mut shards = Vec::new();
        if let Some(replica) = node.meta_replica() {
            shards.push(shard_view(META_SHARD, &replica.status()));
        }
        shards.extend(
            node.shards()
                .iter()
                .map(|shard| shard_view(shard.id, &shard.replica.status())),
        );
        let alive = node.alive_nodes();
        let nodes = meta
            .nodes()
            .values()
            .map(|known| NodeView {
                id: known.id,
                incarnation: known.incarnation,
                alive: alive.contains(&known.id),
                client_addr: known.client_addr.clone(),
                http_addr: known.http_addr.clone(),
                peer_addr: known.peer_addr.clone(),
                leads: shards
                    .iter()
                    .filter(|shard| shard.leader == Some(known.id))
                    .count() as u32,
            })
            .collect();
        ClusterView {
            cluster: meta.cluster().map(|id| format!("{id:016x}")),
            node: node.id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            nodes,
            shards,
        }
    }

    /// Makes a topic.
    pub async fn create_topic(&self, spec: TopicSpec) -> Result<TopicView, AdminError> {
        names::check_topic(&spec.name)?;
        let message_type = type_number(&spec.message_type)?;
        let queues = spec.queues.unwrap_or(self.node().options().default_queues);
        let create = record::CreateTopic {
            name: spec.name.clone(),
            queues,
            message_type,
            if_absent: false,
        };
        match self
            .node()
            .propose_meta(meta_command::Command::CreateTopic(create))
            .await?
        {
            MetaReply::Topic(topic) => {
                self.node()
                    .wait_meta(|meta| meta.topic_by_id(topic.id).is_some())
                    .await;
                Ok(topic_view(&topic))
            }
            MetaReply::Refused(MetaRefusal::Exists) => Err(AdminError::new(
                AdminErrorKind::Exists,
                format!("topic {} exists already", spec.name),
            )),
            other => Err(unexpected(other)),
        }
    }

    /// All topics, by name.
    pub fn list_topics(&self) -> Vec<TopicView> {
        self.node()
            .meta()
            .topics()
            .map(|topic| topic_view(topic))
            .collect()
    }

    /// One topic with its queues.
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDetail, AdminError> {
        let topic = self.existing_topic(name).await?.ok_or_else(|| no_topic(name))?;
        let queue_list = (0..)
            .zip(topic.queue_shards.iter().copied())
            .map(|(number, shard_id)| {
                let shard = self.node().shard(shard_id);
                let view = shard.and_then(|shard| {
                    shard
                        .machine
                        .read(|core| core.queue(QueueId::new(topic.id, number)))
                });
                QueueView {
                    queue: number,
                    shard: shard_id,
                    leader: self.node().leader(shard_id),
                    first_offset: Some(view.as_ref().map_or(0, |queue| queue.first)),
                    next_offset: Some(view.as_ref().map_or(0, |queue| queue.next)),
                }
            })
            .collect();
        Ok(TopicDetail {
            topic: topic_view(&topic),
            queue_list,
        })
    }

    /// Deletes a topic and, in the background, its messages.
    pub async fn delete_topic(&self, name: &str) -> Result<(), AdminError> {
        let delete = record::DeleteTopic { name: name.into() };
        match self
            .node()
            .propose_meta(meta_command::Command::DeleteTopic(delete))
            .await?
        {
            MetaReply::Done => {
                self.node().wait_meta(|meta| meta.topic(name).is_none()).await;
                Ok(())
            }
            MetaReply::Refused(MetaRefusal::NotFound) => Err(no_topic(name)),
            other => Err(unexpected(other)),
        }
    }

    /// Makes a consumer group and its dead-letter topic.
    pub async fn create_group(&self, spec: GroupSpec) -> Result<GroupView, AdminError> {
        names::check_group(&spec.name)?;
        let name = spec.name.clone();
        let create = group_command(spec)?;
        match self
            .node()
            .propose_meta(meta_command::Command::CreateConsumerGroup(create))
            .await?
        {
            MetaReply::Group(group) => {
                self.node()
                    .wait_meta(|meta| meta.group_by_id(group.id).is_some())
                    .await;
                Ok(group_view(&group))
            }
            MetaReply::Refused(MetaRefusal::Exists) => Err(AdminError::new(
                AdminErrorKind::Exists,
                format!("consumer group {name} exists already"),
            )),
            other => Err(unexpected(other)),
        }
    }

    /// All consumer groups, by name.
    pub fn list_groups(&self) -> Vec<GroupView> {
        self.node()
            .meta()
            .groups()
            .map(|group| group_view(group))
            .collect()
    }

    /// One consumer group with what it has not finished.
    pub async fn describe_group(&self, name: &str) -> Result<GroupDetail, AdminError> {
        let node = self.node();
        let group = self.existing_group(name).await?.ok_or_else(|| no_group(name))?;
        let meta = node.meta();
        let mut queues = Vec::new();
        let mut unreachable_shards = Vec::new();
        for shard_id in 1..=meta.data_shards() {
            let Some(shard) = node.shard(shard_id) else {
                unreachable_shards.push(shard_id);
                continue;
            };
            let subscriptions: Vec<_> = shard.machine.read(|core| {
                core.subscriptions()
                    .filter(|(id, _, _)| id.0 == group.id)
                    .map(|(_, queue, view)| (queue, view))
                    .collect()
            });
            for (queue, view) in subscriptions {
                let Some(topic) = meta.topic_by_id(queue.topic()).filter(|topic| !topic.deleted) else {
                    continue;
                };
                queues.push(QueueLag {
                    topic: topic.name.clone(),
                    queue: queue.number(),
                    cursor: view.cursor,
                    lag: Lag {
                        ready: view.ready,
                        leased: view.leased,
                        waiting: view.waiting,
                    },
                });
            }
        }
        queues.sort_by(|a, b| (&a.topic, a.queue).cmp(&(&b.topic, b.queue)));
        let total = queues.iter().fold(Lag::default(), |sum, queue| Lag {
            ready: sum.ready + queue.lag.ready,
            leased: sum.leased + queue.lag.leased,
            waiting: sum.waiting + queue.lag.waiting,
        });
        Ok(GroupDetail {
            group: group_view(&group),
            total,
            queues,
            unreachable_shards,
        })
    }

    /// Deletes a consumer group and, in the background, where it stood.
    pub async fn delete_group(&self, name: &str) -> Result<(), AdminError> {
        let delete = record::DeleteConsumerGroup { name: name.into() };
        match self
            .node()
            .propose_meta(meta_command::Command::DeleteConsumerGroup(delete))
            .await?
        {
            MetaReply::Done => {
                self.node().wait_meta(|meta| meta.group(name).is_none()).await;
                Ok(())
            }
            MetaReply::Refused(MetaRefusal::NotFound) => Err(no_group(name)),
            other => Err(unexpected(other)),
        }
    }

    /// The service's figures in Prometheus' text form, with RocketMQ's names where it has one.
    pub fn metrics_text(&self) -> String {
        let mut text = String::new();
        let counters = self.counters();
        let store = self.node().store().stats();
        let now = self.node().clock().steady_ms();
        for (name, help, value) in [
            (
                "rocketmq_messages_in_total",
                "Messages stored for clients of this node",
                counters.messages_in.get(),
            ),
            (
                "rocketmq_messages_out_total",
                "Messages delivered",
                counters.messages_out.get(),
            ),
            (
                "rocketmq_throughput_in_total",
                "Bytes of stored bodies",
                counters.bytes_in.get(),
            ),
            (
                "rocketmq_throughput_out_total",
                "Bytes of delivered bodies",
                counters.bytes_out.get(),
            ),
            (
                "rocketmq_send_to_dlq_messages_total",
                "Messages given up by clients",
                counters.dead_letters.get(),
            ),
            (
                "flotilla_acknowledged_messages_total",
                "Messages acknowledged",
                counters.acks.get(),
            ),
            (
                "flotilla_sends_refused_total",
                "Send requests refused",
                counters.send_refused.get(),
            ),
            (
                "flotilla_log_syncs_total",
                "Syncs of the node's log",
                store.log.syncs,
            ),
            (
                "flotilla_log_written_bytes_total",
                "Bytes written to the node's log",
                store.log.bytes_written,
            ),
        ] {
            let _ = write!(
                text,
                "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}\n"
            );
        }
        for (name, help, value) in [
            (
                "rocketmq_storage_size",
                "Bytes of log and state on disk",
                store.log.disk_bytes + store.engine.disk_bytes,
            ),
            (
                "rocketmq_producer_connections",
                "Clients heard of lately",
                self.node().clients().count(now) as u64,
            ),
            (
                "flotilla_waiting_receives",
                "Receives that wait for messages",
                self.node().hub().waiting() as u64,
            ),
        ] {
            let _ = write!(
                text,
                "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"
            );
        }
        self.shard_metrics(&mut text);
        self.lag_metrics(&mut text);
        text
    }

    fn shard_metrics(&self, text: &mut String) {
        let names = [
            ("flotilla_shard_leader", "1 on the node that leads the shard"),
            ("flotilla_shard_term", "Raft term"),
            ("flotilla_shard_applied_index", "Last applied entry"),
            ("flotilla_shard_last_index", "Last entry in the log here"),
        ];
        let mut statuses: Vec<(u32, ReplicaStatus)> = self
            .node()
            .shards()
            .iter()
            .map(|shard| (shard.id, shard.replica.status()))
            .collect();
        if let Some(meta) = self.node().meta_replica() {
            statuses.insert(0, (META_SHARD, meta.status()));
        }
        for (at, (name, help)) in names.into_iter().enumerate() {
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n");
            for (shard, status) in &statuses {
                let value = [
                    u64::from(status.is_leader),
                    status.term,
                    status.applied.map_or(0, |id| id.index),
                    status.last_log.unwrap_or(0),
                ][at];
                let _ = writeln!(text, "{name}{{shard=\"{shard}\"}} {value}");
            }
        }
    }

    /// Lag of each consumer group on the shards led here.
    fn lag_metrics(&self, text: &mut String) {
        let meta = self.node().meta();
        let mut lags: BTreeMap<(u32, u32), Lag> = BTreeMap::new();
        for shard in self.node().shards().iter().filter(|shard| shard.leads()) {
            shard.machine.read(|core| {
                for (group, queue, view) in core.subscriptions() {
                    let lag = lags.entry((group.0, queue.topic())).or_default();
                    lag.ready += view.ready;
                    lag.leased += view.leased;
                    lag.waiting += view.waiting;
                }
            });
        }
        for (at, name) in [
            "rocketmq_consumer_lag_messages",
            "rocketmq_consumer_ready_messages",
            "rocketmq_consumer_inflight_messages",
        ]
        .into_iter()
        .enumerate()
        {
            let _ = write!(
                text,
                "# HELP {name} By consumer group and topic, on the shards led here\n# TYPE {name} gauge\n"
            );
            for ((group, topic), lag) in &lags {
                let (Some(group), Some(topic)) = (meta.group_by_id(*group), meta.topic_by_id(*topic)) else {
                    continue;
                };
                let value = [lag.ready + lag.leased + lag.waiting, lag.ready, lag.leased][at];
                let _ = writeln!(
                    text,
                    "{name}{{consumer_group=\"{}\",topic=\"{}\"}} {value}",
                    group.name, topic.name
                );
            }
        }
    }
}

/// A consumer group nobody configured.
pub fn default_group(name: &str) -> record::CreateConsumerGroup {
    let list = record::CustomizedBackoff {
        next_ms: DEFAULT_BACKOFF_MS.to_vec(),
    };
    record::CreateConsumerGroup {
        name: name.into(),
        max_attempts: DEFAULT_MAX_ATTEMPTS,
        backoff: Some(record::Backoff {
            strategy: Some(backoff::Strategy::Customized(list)),
        }),
        fifo: false,
        start_at: record::StartAt::First as i32,
        if_absent: true,
    }
}

fn group_command(spec: GroupSpec) -> Result<record::CreateConsumerGroup, AdminError> {
    let mut create = default_group(&spec.name);
    create.if_absent = false;
    create.fifo = spec.fifo;
    if spec.start_at == StartAt::Last {
        create.start_at = record::StartAt::Last as i32;
    }
    if let Some(attempts) = spec.max_attempts {
        if !(1..=MAX_MAX_ATTEMPTS).contains(&attempts) {
            let message = format!("max_attempts must be 1 to {MAX_MAX_ATTEMPTS}");
            return Err(AdminError::new(AdminErrorKind::Invalid, message));
        }
        create.max_attempts = attempts;
    }
    if let Some(view) = spec.backoff {
        create.backoff = Some(record::Backoff {
            strategy: Some(backoff_record(view)?),
        });
    }
    Ok(create)
}

fn backoff_record(view: BackoffView) -> Result<backoff::Strategy, AdminError> {
    let invalid = |why: &str| Err(AdminError::new(AdminErrorKind::Invalid, why));
    match view {
        BackoffView::Exponential {
            initial_ms,
            max_ms,
            multiplier_percent,
        } => {
            if initial_ms == 0 || max_ms < initial_ms || multiplier_percent < 100 {
                return invalid(
                    "an exponential backoff needs 0 < initial_ms <= max_ms and multiplier_percent >= 100",
                );
            }
            Ok(backoff::Strategy::Exponential(record::ExponentialBackoff {
                initial_ms,
                max_ms,
                multiplier_percent,
            }))
        }
        BackoffView::Customized { next_ms } => {
            if next_ms.is_empty() || next_ms.len() > MAX_MAX_ATTEMPTS as usize {
                return invalid("a customized backoff needs 1 to 1000 delays");
            }
            Ok(backoff::Strategy::Customized(record::CustomizedBackoff {
                next_ms,
            }))
        }
    }
}

fn backoff_view(backoff: Option<&record::Backoff>) -> BackoffView {
    match backoff.and_then(|backoff| backoff.strategy.as_ref()) {
        Some(backoff::Strategy::Exponential(e)) => BackoffView::Exponential {
            initial_ms: e.initial_ms,
            max_ms: e.max_ms,
            multiplier_percent: e.multiplier_percent,
        },
        Some(backoff::Strategy::Customized(list)) => BackoffView::Customized {
            next_ms: list.next_ms.clone(),
        },
        None => BackoffView::Customized {
            next_ms: DEFAULT_BACKOFF_MS.to_vec(),
        },
    }
}

fn shard_view(id: u32, status: &ReplicaStatus) -> ShardView {
    let members: BTreeMap<u64, bool> = status
        .learners
        .iter()
        .map(|&learner| (learner, false))
        .chain(status.voters.iter().flatten().map(|&voter| (voter, true)))
        .collect();
    let last = status.last_log.unwrap_or(0);
    let replicas = members
        .into_iter()
        .map(|(replica, voter)| {
            let own = (replica == status.replica).then_some(status.last_log).flatten();
            let matched = own.or_else(|| status.replication.get(&replica).copied().flatten());
            ReplicaView {
                node: node_of(replica),
                replica,
                voter,
                matched,
                lag: status
                    .is_leader
                    .then(|| matched.map(|matched| last.saturating_sub(matched)))
                    .flatten(),
            }
        })
        .collect();
    ShardView {
        id,
        leader: status.leader.map(node_of),
        term: status.term,
        committed: status.committed.map_or(0, |id| id.index),
        applied: status.applied.map_or(0, |id| id.index),
        replicas,
    }
}

fn topic_view(topic: &record::Topic) -> TopicView {
    let name = TYPES
        .iter()
        .find(|(_, number)| *number == topic.message_type)
        .map_or("UNKNOWN", |(name, _)| name);
    TopicView {
        name: topic.name.clone(),
        queues: topic.queue_shards.len() as u32,
        message_type: name.to_owned(),
        created_ms: topic.created_ms,
    }
}

fn group_view(group: &record::ConsumerGroup) -> GroupView {
    let last = group.start_at == record::StartAt::Last as i32;
    GroupView {
        name: group.name.clone(),
        max_attempts: group.max_attempts,
        backoff: backoff_view(group.backoff.as_ref()),
        fifo: group.fifo,
        start_at: if last { StartAt::Last } else { StartAt::First },
        created_ms: group.created_ms,
    }
}

fn type_number(name: &str) -> Result<i32, AdminError> {
    let found = TYPES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|&(_, number)| number).ok_or_else(|| {
        let known: Vec<&str> = TYPES.iter().map(|&(known, _)| known).collect();
        AdminError::new(
            AdminErrorKind::Invalid,
            format!("message_type is one of {}", known.join(", ")),
        )
    })
}

fn no_topic(name: &str) -> AdminError {
    AdminError::new(
        AdminErrorKind::NotFound,
        format!("topic {name} does not exist; see `flotilla topic list`"),
    )
}

fn no_group(name: &str) -> AdminError {
    AdminError::new(
        AdminErrorKind::NotFound,
        format!("consumer group {name} does not exist; see `flotilla group list`"),
    )
}

fn unexpected(reply: MetaReply) -> AdminError {
    let kind = match &reply {
        MetaReply::Refused(MetaRefusal::Exists) => AdminErrorKind::Exists,
        MetaReply::Refused(MetaRefusal::NotFound) => AdminErrorKind::NotFound,
        MetaReply::Refused(MetaRefusal::Limit(_)) => AdminErrorKind::Limit,
        MetaReply::Refused(MetaRefusal::Invalid(_)) => AdminErrorKind::Invalid,
        _ => AdminErrorKind::Unavailable,
    };
    let message = match reply {
        MetaReply::Refused(refusal) => refusal.to_string(),
        other => format!("unexpected reply of the meta shard: {other:?}"),
    };
    AdminError::new(kind, message)
}

impl From<CatalogueError> for AdminError {
    fn from(error: CatalogueError) -> Self {
        AdminError::new(AdminErrorKind::Unavailable, error.to_string())
    }
}

impl From<Refused> for AdminError {
    fn from(refused: Refused) -> Self {
        AdminError::new(AdminErrorKind::Invalid, refused.message)
    }
}
