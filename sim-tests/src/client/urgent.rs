//! Messages with a priority.

use flotilla_proto::rocketmq as mq;

use super::{Client, Failure, good, resource};
use crate::letter::Letter;

impl Client {
    /// Sends a message with a priority; its lane's offset.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn send_urgent(
        &self,
        node: u32,
        topic: &str,
        (id, letter): (&str, &Letter),
        priority: i32,
    ) -> Result<i64, Failure> {
        let mut message = mq::Message {
            topic: Some(resource(topic)),
            ..letter.to_wire(id)
        };
        let properties = message.system_properties.get_or_insert_default();
        properties.message_type = mq::MessageType::Priority.into();
        properties.priority = Some(priority);
        let request = mq::SendMessageRequest {
            messages: vec![message],
        };
        let answer: mq::SendMessageResponse = self.call_one(node, "SendMessage", &request).await?;
        good(answer.status.clone())?;
        match answer.entries.as_slice() {
            [entry] if entry.message_id == id && entry.offset >= 0 => Ok(entry.offset),
            _ => {
                self.judge
                    .say(node, vec![format!("not one entry of {id}: {answer:?}")]);
                Err(Failure::Peer(broker::peer::PeerError::Malformed))
            }
        }
    }
}
