//! What administrators ask about topics.

use flotilla_proto::{
    record::{self, meta_command},
    rocketmq::MessageType,
};
use queue_core::{QueueId, limits::LANES, priorities_of};

use super::unexpected;
use crate::{
    meta::{MetaRefusal, MetaReply},
    service::{Service, names},
    views::{AdminError, AdminErrorKind, QueueView, TopicDetail, TopicSpec, TopicView},
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
    /// Makes a topic.
    pub async fn create_topic(&self, spec: TopicSpec) -> Result<TopicView, AdminError> {
        names::check_topic(&spec.name)?;
        let message_type = type_number(&spec.message_type)?;
        let by_priority = message_type == MessageType::Priority as i32;
        let usual = if by_priority {
            LANES
        } else {
            self.node().options().default_queues
        };
        let queues = spec.queues.unwrap_or(usual);
        let create = record::CreateTopic {
            name: spec.name.clone(),
            queues,
            message_type,
            if_absent: false,
            ageing_ms: spec.ageing_ms.unwrap_or(0),
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
        names::check_topic(name)?;
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
                let next = view.as_ref().map_or(0, |queue| queue.next);
                QueueView {
                    queue: number,
                    shard: shard_id,
                    leader: self.node().leader(shard_id),
                    first_offset: Some(view.as_ref().map_or(0, |queue| queue.first)),
                    lane: lane_name(&topic, number),
                    next_offset: Some(plant!(ShownEndIsTheLast => next.saturating_sub(1), else next)),
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
        names::check_topic(name)?;
        // The one that is there now: should the request arrive late, its successor is left alone.
        self.node().catch_up_meta().await?;
        let topic = self.node().meta().topic(name).ok_or_else(|| no_topic(name))?;
        let delete = record::DeleteTopic {
            name: name.into(),
            id: plant!(DeletesWhoeverBearsTheName => 0, else topic.id),
        };
        match self
            .node()
            .propose_meta(meta_command::Command::DeleteTopic(delete))
            .await?
        {
            MetaReply::Done => {
                self.node().wait_meta(|meta| meta.topic_is_gone(topic.id)).await;
                Ok(())
            }
            MetaReply::Refused(MetaRefusal::NotFound) => Err(no_topic(name)),
            other => Err(unexpected(other)),
        }
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
        ageing_ms: Some(topic.ageing_ms).filter(|&ageing_ms| ageing_ms > 0),
    }
}

/// The priorities of a queue of a PRIORITY topic, for people.
pub(in crate::service) fn lane_name(topic: &record::Topic, queue: u32) -> Option<String> {
    let name = match priorities_of(queue) {
        (i32::MIN, greatest) => format!("below {}", greatest + 1),
        (least, i32::MAX) => format!("from {least} on"),
        (least, greatest) if least == greatest => least.to_string(),
        (least, greatest) => format!("{least} to {greatest}"),
    };
    names::is_by_priority(topic).then_some(name)
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

pub(in crate::service) fn no_topic(name: &str) -> AdminError {
    AdminError::new(
        AdminErrorKind::NotFound,
        format!("topic {name} does not exist; see `flotilla topic list`"),
    )
}
