//! What administrators ask about consumer groups.

use flotilla_proto::record::{self, backoff, meta_command};

use super::{topics::lane_name, unexpected};
use crate::{
    limits::{
        DEFAULT_BACKOFF_MS, DEFAULT_MAX_ATTEMPTS, MAX_BACKOFF_MS, MAX_BACKOFF_PERCENT, MAX_MAX_ATTEMPTS,
    },
    meta::{MetaRefusal, MetaReply, limits::MAX_BACKOFF_STEPS},
    service::{Service, names},
    views::{
        AdminError, AdminErrorKind, BackoffView, GroupDetail, GroupSpec, GroupView, Lag, OnPoison, QueueLag,
        StartAt,
    },
};

impl Service {
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
        names::check_group(name)?;
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
                        blocked: view.blocked,
                        parked: view.parked,
                    },
                    filtered: view.filtered,
                    seeks_to: view.seeks_to,
                    lane: lane_name(&topic, queue.number()),
                });
            }
        }
        queues.sort_by(|a, b| (&a.topic, a.queue).cmp(&(&b.topic, b.queue)));
        let total = queues.iter().fold(Lag::default(), |sum, queue| Lag {
            ready: sum.ready + queue.lag.ready,
            leased: sum.leased + queue.lag.leased,
            waiting: sum.waiting + queue.lag.waiting,
            blocked: sum.blocked + queue.lag.blocked,
            parked: sum.parked + queue.lag.parked,
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
        names::check_group(name)?;
        // As with topics: the one that is there now.
        self.node().catch_up_meta().await?;
        let known = self.node().meta().group(name).ok_or_else(|| no_group(name))?;
        let delete = record::DeleteConsumerGroup {
            name: name.into(),
            id: known.id,
        };
        match self
            .node()
            .propose_meta(meta_command::Command::DeleteConsumerGroup(delete))
            .await?
        {
            MetaReply::Done => {
                self.node().wait_meta(|meta| meta.group_is_gone(known.id)).await;
                Ok(())
            }
            MetaReply::Refused(MetaRefusal::NotFound) => Err(no_group(name)),
            other => Err(unexpected(other)),
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
        park: false,
    }
}

fn group_command(spec: GroupSpec) -> Result<record::CreateConsumerGroup, AdminError> {
    let mut create = default_group(&spec.name);
    create.if_absent = false;
    create.fifo = spec.fifo;
    create.park = spec.on_poison == OnPoison::Park;
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
            let delays = 1..=MAX_BACKOFF_MS;
            if !delays.contains(&initial_ms) || !delays.contains(&max_ms) || max_ms < initial_ms {
                return invalid(&format!(
                    "an exponential backoff needs 0 < initial_ms <= max_ms <= {MAX_BACKOFF_MS}"
                ));
            }
            if !(100..=MAX_BACKOFF_PERCENT).contains(&multiplier_percent) {
                return invalid(&format!(
                    "multiplier_percent must be 100 to {MAX_BACKOFF_PERCENT}"
                ));
            }
            Ok(backoff::Strategy::Exponential(record::ExponentialBackoff {
                initial_ms,
                max_ms,
                multiplier_percent,
            }))
        }
        BackoffView::Customized { next_ms } => {
            if next_ms.is_empty() || next_ms.len() > MAX_BACKOFF_STEPS {
                return invalid(&format!(
                    "a customized backoff needs 1 to {MAX_BACKOFF_STEPS} delays"
                ));
            }
            if next_ms.iter().any(|&delay_ms| delay_ms > MAX_BACKOFF_MS) {
                return invalid(&format!("a delay has at most {MAX_BACKOFF_MS} ms"));
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

pub(in crate::service) fn group_view(group: &record::ConsumerGroup) -> GroupView {
    let last = group.start_at == record::StartAt::Last as i32;
    GroupView {
        name: group.name.clone(),
        max_attempts: group.max_attempts,
        backoff: backoff_view(group.backoff.as_ref()),
        fifo: group.fifo,
        start_at: if last { StartAt::Last } else { StartAt::First },
        created_ms: group.created_ms,
        paused: group.paused,
        on_poison: if group.park {
            OnPoison::Park
        } else {
            OnPoison::DeadLetter
        },
    }
}

pub(in crate::service) fn no_group(name: &str) -> AdminError {
    AdminError::new(
        AdminErrorKind::NotFound,
        format!("consumer group {name} does not exist; see `flotilla group list`"),
    )
}
