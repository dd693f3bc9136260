//! What operators see and change of messages that wait for their date, queue by queue, each at its leader.

use std::{sync::Arc, time::Duration};

use flotilla_proto::{
    peer::{DelayedFound, DelayedLook, DelayedMessage, RetimeDone, RetimeMessage},
    record,
    rocketmq::{Code, RecallMessageRequest, Resource},
};
use prost::Message;
use queue_core::QueueId;

use super::{
    Caller, Service,
    admin::no_topic,
    answer::Refused,
    at_leader::{At, Try, undecodable},
    delay::RecallHandle,
    names, recall,
};
use crate::{
    limits::{DELAYED_PAGE, MAX_DELAYED_PAGE},
    node::{proposer::SubmitError, shard::DataShard},
    views::{
        AdminError, AdminErrorKind, DelayedDone, DelayedPage, DelayedQuery, DelayedView, RecallSpec,
        RetimeSpec,
    },
};

/// The names under which a node asks a queue's leader.
pub(super) const LOOK: &str = "flotilla.Delayed";
/// See [`LOOK`].
pub(super) const RETIME: &str = "flotilla.Retime";
/// How long the leader of one queue may take.
const PATIENCE: Duration = Duration::from_secs(5);

impl Service {
    /// Messages of a topic that wait, some at a time.
    pub async fn list_delayed(&self, topic: &str, query: DelayedQuery) -> Result<DelayedPage, AdminError> {
        let (messages, next) = self.look_at_rooms(topic, query, false).await?;
        let messages = messages.into_iter();
        let view = |(shard, queue, message)| view_of(shard, queue, message);
        Ok(DelayedPage {
            messages: messages.map(view).collect(),
            next,
        })
    }

    /// Messages of a topic that stand in the waiting rooms of its queues, those that wait for their date or half ones, and
    /// where the next page begins.
    pub(super) async fn look_at_rooms(
        &self,
        topic: &str,
        query: DelayedQuery,
        halves: bool,
    ) -> Result<(Vec<(u32, QueueId, DelayedMessage)>, Option<String>), AdminError> {
        let topic = self.topic_of_admin(topic).await?;
        let (mut queue, mut from) = match query.from.as_deref().map(place) {
            None => (0, 0),
            Some(Some(place)) => place,
            Some(None) => {
                let what = "`from` is not the `next` of a page".to_owned();
                return Err(AdminError::new(AdminErrorKind::Invalid, what));
            }
        };
        let mut left = query.limit.unwrap_or(DELAYED_PAGE).clamp(1, MAX_DELAYED_PAGE);
        let (mut messages, mut page_ends) = (Vec::new(), None);
        while let Some(&shard) = topic.queue_shards.get(queue as usize) {
            if left == 0 {
                page_ends = Some(format!("{queue}/{from}"));
                break;
            }
            let look = DelayedLook {
                queue: QueueId::new(topic.id, queue).0,
                from,
                limit: left,
                message_id: query.message_id.clone().unwrap_or_default(),
                halves,
            };
            let found = self.look_for_delayed(&patient(), shard, look).await?;
            left -= found.looked_at.min(left);
            let of = QueueId::new(topic.id, queue);
            messages.extend(found.messages.into_iter().map(|message| (shard, of, message)));
            (queue, from) = match found.next {
                Some(next) => (queue, next),
                None => (queue + 1, 0),
            };
        }
        Ok((messages, page_ends))
    }

    /// Recalls a message that waits.
    pub async fn recall_delayed(&self, topic: &str, spec: RecallSpec) -> Result<DelayedDone, AdminError> {
        self.topic_of_admin(topic).await?;
        let request = RecallMessageRequest {
            topic: Some(Resource {
                name: topic.to_owned(),
                ..Default::default()
            }),
            recall_handle: spec.recall_handle,
        };
        let caller = Caller {
            client_id: "an operator".into(),
            ..patient()
        };
        let recalled = self.try_recall(&caller, &request).await?;
        match recalled.status {
            Some(status) if status.code == Code::Ok as i32 => Ok(DelayedDone {
                message_id: recalled.message_id,
            }),
            status => Err(AdminError::new(
                AdminErrorKind::Invalid,
                status.unwrap_or_default().message,
            )),
        }
    }

    /// Has a message that waits delivered at another time.
    pub async fn retime_delayed(&self, topic: &str, spec: RetimeSpec) -> Result<DelayedDone, AdminError> {
        let topic = self.topic_of_admin(topic).await?;
        let handle = recall::of_topic(&topic, &spec.recall_handle)?;
        let ahead = spec.delivery_ms.saturating_sub(self.node().clock().wall_ms());
        if Duration::from_millis(ahead) > self.node().options().max_delay {
            let what = format!("the new date is {} s ahead, more than `max_delay`", ahead / 1_000);
            return Err(AdminError::new(AdminErrorKind::Invalid, what));
        }
        let retime = RetimeMessage {
            queue: handle.queue.0,
            timer: handle.timer,
            delivery_ms: spec.delivery_ms,
        };
        let done = self.retime(&patient(), handle.shard, retime).await?;
        if !done.waits {
            let what = "the message does not wait any more: it was delivered or recalled before".to_owned();
            return Err(AdminError::new(AdminErrorKind::NotFound, what));
        }
        Ok(DelayedDone {
            message_id: handle.message_id,
        })
    }

    pub(super) async fn topic_of_admin(&self, name: &str) -> Result<Arc<record::Topic>, AdminError> {
        names::check_topic(name)?;
        self.existing_topic(name)
            .await
            .map_err(Refused::from)?
            .ok_or_else(|| no_topic(name))
    }

    /// What waits for one queue, here or elsewhere.
    pub(super) async fn look_for_delayed(
        &self,
        caller: &Caller,
        shard: u32,
        look: DelayedLook,
    ) -> Result<DelayedFound, Refused> {
        let here = |shard: Arc<DataShard>, _| {
            let look = look.clone();
            async move {
                let found = shard
                    .delayed(&look)
                    .await
                    .map_err(|error| self.not_delivered(error))?;
                Ok(Try::Done(found))
            }
        };
        match self.at_leader(caller, shard, LOOK, &look, here).await? {
            At::Here(found) => Ok(found),
            At::There(bytes) => DelayedFound::decode(bytes).map_err(|_| undecodable()),
        }
    }

    /// The same of a new time.
    pub(super) async fn retime(
        &self,
        caller: &Caller,
        shard: u32,
        retime: RetimeMessage,
    ) -> Result<RetimeDone, Refused> {
        let here = |shard: Arc<DataShard>, _| async move {
            match shard.retime(&retime).await {
                Ok(waits) => Ok(Try::Done(RetimeDone {
                    waits,
                    refused: String::new(),
                })),
                Err(crate::node::shard::DeliverError::Submit(SubmitError::NotLeader { unsure, .. })) => {
                    Ok(Try::Elsewhere { unsure })
                }
                Err(error) => Err(self.not_delivered(error)),
            }
        };
        match self.at_leader(caller, shard, RETIME, &retime, here).await? {
            At::Here(done) => Ok(done),
            At::There(bytes) => {
                let done = RetimeDone::decode(bytes).map_err(|_| undecodable())?;
                match done.refused.is_empty() {
                    true => Ok(done),
                    false => Err(Refused::new(Code::InternalServerError, done.refused)),
                }
            }
        }
    }
}

pub(super) fn patient() -> Caller {
    Caller {
        deadline: Some(PATIENCE),
        ..Caller::default()
    }
}

/// The queue and the timer at which a page begins.
fn place(text: &str) -> Option<(u32, u64)> {
    let (queue, timer) = text.split_once('/')?;
    Some((queue.parse().ok()?, timer.parse().ok()?))
}

fn view_of(shard: u32, queue: QueueId, message: DelayedMessage) -> DelayedView {
    let handle = RecallHandle {
        shard,
        queue,
        timer: message.timer,
        message_id: message.message_id,
    };
    DelayedView {
        queue: queue.number(),
        recall_handle: handle.encode(),
        message_id: handle.message_id,
        tag: message.tag,
        keys: message.keys,
        delivery_ms: message.delivery_ms,
        left_ms: message.left_ms,
        stored_ms: message.stored_ms,
        body_bytes: message.body_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_goes_on_where_the_one_before_ended_or_is_refused() {
        assert_eq!(place("3/17"), Some((3, 17)));
        for odd in ["", "3", "/", "3/x", "-1/0", "3/17/1", "99999999999/0"] {
            assert_eq!(place(odd), None, "{odd}");
        }
    }
}
