//! Transactions: half messages, their ends, and the questions that producers get.

use std::time::Duration;

use flotilla_proto::rocketmq::{self as mq, telemetry_command::Command};

use super::{Client, Failure, good, resource, span};
use crate::letter::Letter;

/// A question how a transaction ended.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The message's id.
    pub message_id: String,
    /// What names the transaction.
    pub transaction_id: String,
    /// The message.
    pub letter: Letter,
}

impl Client {
    /// Sends a half message, about which nobody is asked before `first_check`; its transaction id.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn send_half(
        &self,
        node: u32,
        topic: &str,
        (id, letter): (&str, &Letter),
        first_check: Option<Duration>,
    ) -> Result<String, Failure> {
        let mut message = mq::Message {
            topic: Some(resource(topic)),
            ..letter.to_wire(id)
        };
        let properties = message.system_properties.get_or_insert_default();
        properties.message_type = mq::MessageType::Transaction.into();
        properties.orphaned_transaction_recovery_duration = first_check.map(span);
        let request = mq::SendMessageRequest {
            messages: vec![message],
        };
        let answer: mq::SendMessageResponse = self.call_one(node, "SendMessage", &request).await?;
        good(answer.status.clone())?;
        match answer.entries.as_slice() {
            [entry] if entry.message_id == id && !entry.transaction_id.is_empty() => {
                Ok(entry.transaction_id.clone())
            }
            _ => {
                let wrong = format!("not one transaction of {id}: {answer:?}");
                self.judge.say(node, vec![wrong]);
                Err(Failure::Peer(broker::peer::PeerError::Malformed))
            }
        }
    }

    /// Ends a transaction; without a resolution its producer does not know yet.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn end(
        &self,
        node: u32,
        topic: &str,
        transaction_id: &str,
        commits: Option<bool>,
    ) -> Result<(), Failure> {
        let resolution = match commits {
            Some(true) => mq::TransactionResolution::Commit,
            Some(false) => mq::TransactionResolution::Rollback,
            None => mq::TransactionResolution::Unspecified,
        };
        let request = mq::EndTransactionRequest {
            topic: Some(resource(topic)),
            transaction_id: transaction_id.into(),
            resolution: resolution.into(),
            ..Default::default()
        };
        let answer: mq::EndTransactionResponse = self.call_one(node, "EndTransaction", &request).await?;
        good(answer.status)
    }

    /// Waits at a node, as a producer of a topic, to be asked how a transaction ended.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn questions(&self, node: u32, topic: &str, wait: Duration) -> Result<Vec<Asked>, Failure> {
        let publishing = mq::Publishing {
            topics: vec![resource(topic)],
            ..Default::default()
        };
        let settings = mq::Settings {
            client_type: Some(mq::ClientType::Producer.into()),
            pub_sub: Some(mq::settings::PubSub::Publishing(publishing)),
            ..Default::default()
        };
        let request = mq::TelemetryCommand {
            status: None,
            command: Some(Command::Settings(settings)),
        };
        let answers: Vec<mq::TelemetryCommand> = self.call(node, "Telemetry", &request, wait).await?;
        let asked = answers.into_iter().filter_map(|answer| match answer.command {
            Some(Command::RecoverOrphanedTransactionCommand(asked)) => Some(asked),
            _ => None,
        });
        let asked = asked.map(|asked| {
            let message = asked.message.unwrap_or_default();
            let properties = message.system_properties.clone().unwrap_or_default();
            let is_whole = properties.body_digest.is_some()
                && properties.born_timestamp.is_some()
                && properties.message_type() == mq::MessageType::Transaction
                && message.topic == Some(resource(topic));
            if !is_whole {
                self.judge
                    .say(node, vec![format!("a question lacks something: {message:?}")]);
            }
            Asked {
                message_id: properties.message_id,
                transaction_id: asked.transaction_id,
                letter: Letter::from_wire(&message),
            }
        });
        Ok(asked.collect())
    }
}
