//! What a reader sends that keeps its own place.

use std::time::Duration;

use flotilla_proto::rocketmq as mq;
use mq::pull_message_response::Content;

use super::{Client, Failure, PATIENCE, Received, good, receipt, resource, span};

/// What a pull gave.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// Messages, in the order in which they came.
    pub messages: Vec<Received>,
    /// Where to go on.
    pub next: i64,
}

impl Client {
    /// Pulls messages of one queue from an offset on, from `node`.
    ///
    /// # Errors
    /// See [`Failure`]; no message in time is no error.
    pub async fn pull(
        &self,
        node: u32,
        (topic, group): (&str, &str),
        (queue, offset): (u32, i64),
        (most, poll): (i32, Duration),
    ) -> Result<Pulled, Failure> {
        let request = mq::PullMessageRequest {
            group: Some(resource(group)),
            message_queue: Some(queue_of(topic, queue)),
            offset,
            batch_size: most,
            filter_expression: None,
            long_polling_timeout: Some(span(poll)),
        };
        let answers: Vec<mq::PullMessageResponse> =
            self.call(node, "PullMessage", &request, poll + PATIENCE).await?;
        let mut contents = answers.into_iter().filter_map(|answer| answer.content);
        let Some(Content::Status(status)) = contents.next() else {
            self.judge
                .say(node, vec!["a pull is answered with its status first".into()]);
            return Err(Failure::Status(mq::Code::Unspecified, "no status".into()));
        };
        if status.code() != mq::Code::MessageNotFound {
            good(Some(status))?;
        }
        let mut pulled = Pulled {
            messages: Vec::new(),
            next: -1,
        };
        for content in contents {
            match content {
                Content::Message(message) if pulled.next < 0 => {
                    pulled.messages.push(receipt(topic, message));
                }
                Content::NextOffset(next) if pulled.next < 0 => pulled.next = next,
                other => {
                    let what = format!("behind the offset to go on from comes {other:?}");
                    self.judge.say(node, vec![what]);
                }
            }
        }
        Ok(pulled)
    }

    /// An offset of a queue, by policy and date, as `node` says.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn query_offset(
        &self,
        node: u32,
        (topic, queue): (&str, u32),
        policy: mq::QueryOffsetPolicy,
        at_ms: Option<u64>,
    ) -> Result<i64, Failure> {
        let request = mq::QueryOffsetRequest {
            message_queue: Some(queue_of(topic, queue)),
            query_offset_policy: policy.into(),
            timestamp: at_ms.map(|ms| prost_types::Timestamp {
                seconds: (ms / 1_000) as i64,
                nanos: (ms % 1_000) as i32 * 1_000_000,
            }),
        };
        let answer: mq::QueryOffsetResponse = self.call_one(node, "QueryOffset", &request).await?;
        good(answer.status).map(|()| answer.offset)
    }

    /// Where a consumer group is in a queue; nothing if it has not begun there.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn get_offset(
        &self,
        node: u32,
        (topic, group): (&str, &str),
        queue: u32,
    ) -> Result<Option<i64>, Failure> {
        let request = mq::GetOffsetRequest {
            group: Some(resource(group)),
            message_queue: Some(queue_of(topic, queue)),
        };
        let answer: mq::GetOffsetResponse = self.call_one(node, "GetOffset", &request).await?;
        match good(answer.status) {
            Err(Failure::Status(mq::Code::OffsetNotFound, _)) => Ok(None),
            other => other.map(|()| Some(answer.offset)),
        }
    }

    /// Puts a consumer group to an offset of a queue.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn update_offset(
        &self,
        node: u32,
        (topic, group): (&str, &str),
        (queue, offset): (u32, i64),
    ) -> Result<(), Failure> {
        let request = mq::UpdateOffsetRequest {
            group: Some(resource(group)),
            message_queue: Some(queue_of(topic, queue)),
            offset,
        };
        let answer: mq::UpdateOffsetResponse = self.call_one(node, "UpdateOffset", &request).await?;
        good(answer.status)
    }
}

fn queue_of(topic: &str, queue: u32) -> mq::MessageQueue {
    mq::MessageQueue {
        topic: Some(resource(topic)),
        id: queue as i32,
        ..Default::default()
    }
}
