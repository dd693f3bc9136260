//! Messages that are to be delivered at a date.

use flotilla_proto::rocketmq as mq;

use super::{Client, Failure, good, resource};
use crate::letter::Letter;

/// What whoever sent one is told: how it can be recalled, or where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The recall handle; empty if it stands in its queue.
    pub handle: String,
    /// Its offset there.
    pub offset: i64,
}

impl Client {
    /// Sends a message that is to be delivered at a date, milliseconds since 1970.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn send_later(
        &self,
        node: u32,
        topic: &str,
        (id, letter): (&str, &Letter),
        delivery_ms: u64,
    ) -> Result<Told, Failure> {
        let mut message = mq::Message {
            topic: Some(resource(topic)),
            ..letter.to_wire(id)
        };
        let properties = message.system_properties.get_or_insert_default();
        properties.message_type = mq::MessageType::Delay.into();
        properties.delivery_timestamp = Some(prost_types::Timestamp {
            seconds: (delivery_ms / 1_000) as i64,
            nanos: (delivery_ms % 1_000) as i32 * 1_000_000,
        });
        let request = mq::SendMessageRequest {
            messages: vec![message],
        };
        let answer: mq::SendMessageResponse = self.call_one(node, "SendMessage", &request).await?;
        good(answer.status.clone())?;
        match answer.entries.as_slice() {
            [entry] if entry.message_id == id && entry.offset >= 0 => Ok(Told {
                handle: entry.recall_handle.clone(),
                offset: entry.offset,
            }),
            _ => {
                self.judge
                    .say(node, vec![format!("not one entry of {id}: {answer:?}")]);
                Err(Failure::Peer(broker::peer::PeerError::Malformed))
            }
        }
    }

    /// Recalls one; its message id.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn recall(&self, node: u32, topic: &str, handle: &str) -> Result<String, Failure> {
        let request = mq::RecallMessageRequest {
            topic: Some(resource(topic)),
            recall_handle: handle.into(),
        };
        let answer: mq::RecallMessageResponse = self.call_one(node, "RecallMessage", &request).await?;
        good(answer.status)?;
        Ok(answer.message_id)
    }
}
