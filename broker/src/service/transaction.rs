//! Transactions: what their producers hold of half messages, EndTransaction, and the question how one ended.
//!
//! The transaction id names shard, queue and number of the half message, so any node can serve the end. The shard's log says which end
//! came first: that one counts, whoever comes with it again is told so, and whoever comes with the other one is refused.

use std::{sync::Arc, time::Duration};

use flotilla_proto::{
    record::{self, Command, command},
    rocketmq::{
        Code, EndTransactionRequest, EndTransactionResponse, RecoverOrphanedTransactionCommand, Resource,
        SendResultEntry, SystemProperties, TelemetryCommand, TransactionResolution, telemetry_command,
    },
};
use prost::Message;
use queue_core::{EndResult, QueueId, Reply, message_id_hash};

use super::{
    Caller, Service,
    answer::{self, Refused},
    at_leader::{At, Try, undecodable},
    delay::RecallHandle,
    names,
    stored::to_client,
};
use crate::{
    limits::{MAX_FIRST_CHECK, MAX_SMALL_REQUEST_BYTES},
    node::{
        producers::Question,
        proposer::SubmitError,
        shard::{DataShard, Delivery},
    },
};

/// The name under which a node asks the shard's leader.
pub(super) const RPC: &str = "EndTransaction";

/// Sets the id of a transaction apart from a recall handle, which has the same parts.
const VERSION: u8 = 2;

/// What names a transaction, readable by every node. Opaque to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TransactionId(pub(super) RecallHandle);

impl TransactionId {
    /// Of a half message.
    pub(super) fn new(shard: u32, queue: QueueId, timer: u64, message_id: &str) -> Self {
        Self(RecallHandle {
            shard,
            queue,
            timer,
            message_id: message_id.to_owned(),
        })
    }

    /// As clients get it.
    pub(super) fn encode(&self) -> String {
        self.0.encode_as(VERSION)
    }

    /// Reads one; nothing if it is none of ours.
    pub(super) fn decode(text: &str) -> Option<Self> {
        RecallHandle::decode_as(VERSION, text).map(Self)
    }
}

/// What the sender of a half message is told. However often it sends the message, and whatever became of it: the same.
pub(super) fn half_receipt(message_id: &str, shard: u32, queue: QueueId, number: u64) -> SendResultEntry {
    let told = SendResultEntry {
        status: answer::ok(),
        message_id: message_id.to_owned(),
        ..Default::default()
    };
    match queue.waits_for() {
        Some(queue) => SendResultEntry {
            transaction_id: TransactionId::new(shard, queue, number, message_id).encode(),
            ..told
        },
        None => SendResultEntry {
            status: answer::status(
                Code::MessagePropertyConflictWithType,
                "a message with this id was stored before, and not as a half message of a transaction",
            ),
            ..told
        },
    }
}

/// After how long a half message is checked back for the first time.
pub(super) fn first_check(properties: &SystemProperties, default: Duration) -> Result<Duration, Refused> {
    let Some(asked) = &properties.orphaned_transaction_recovery_duration else {
        return Ok(default);
    };
    let refused = || {
        let most = MAX_FIRST_CHECK.as_secs();
        let what = format!("the orphaned transaction recovery duration is not one from 0 to {most} s");
        Refused::new(Code::BadRequest, what)
    };
    let (seconds, nanos) = (u64::try_from(asked.seconds), u32::try_from(asked.nanos));
    let (Ok(seconds), Ok(nanos @ 0..1_000_000_000)) = (seconds, nanos) else {
        return Err(refused());
    };
    match Duration::new(seconds, nanos) {
        Duration::ZERO => Ok(default),
        asked if asked > MAX_FIRST_CHECK => Err(refused()),
        asked => Ok(asked),
    }
}

/// What a half message cannot be beside that.
pub(super) fn check_half(properties: &SystemProperties) -> Result<(), Refused> {
    let refuse = |what: &str| {
        let why = format!("a transactional message is stored when it is committed: it has no {what}");
        Err(Refused::new(Code::MessagePropertyConflictWithType, why))
    };
    match properties {
        all if all.message_group.is_some() => refuse("message group"),
        all if all.priority.is_some() => refuse("priority"),
        all if all.lite_topic.is_some() => refuse("lite topic"),
        _ => Ok(()),
    }
}

impl Service {
    /// A producer says how its transaction ended.
    pub async fn end_transaction(
        &self,
        caller: &Caller,
        request: EndTransactionRequest,
    ) -> EndTransactionResponse {
        self.heard(caller);
        match self.try_end(caller, &request).await {
            Ok(response) => response,
            Err(refused) => EndTransactionResponse {
                status: refused.status(),
            },
        }
    }

    pub(super) async fn try_end(
        &self,
        caller: &Caller,
        request: &EndTransactionRequest,
    ) -> Result<EndTransactionResponse, Refused> {
        names::check_size(request, MAX_SMALL_REQUEST_BYTES)?;
        names::check_caller(caller)?;
        let name = names::full_name(caller, request.topic.as_ref());
        names::check_topic(&name)?;
        let topic = self
            .existing_topic(&name)
            .await?
            .ok_or_else(|| Refused::new(Code::TopicNotFound, format!("topic {name} does not exist")))?;
        // Not the message id: some SDKs make two for one message, and the transaction id has the one that counts.
        let id = of_topic(&topic, &request.transaction_id)?;
        let commits = match TransactionResolution::try_from(request.resolution) {
            Ok(TransactionResolution::Commit) => true,
            Ok(TransactionResolution::Rollback) => false,
            // It does not know yet, and is asked again.
            Ok(TransactionResolution::Unspecified) => return Ok(done()),
            Err(_) => {
                let what = format!("resolution {} is not known", request.resolution);
                return Err(Refused::new(Code::BadRequest, what));
            }
        };
        let here = |shard, _| end_here(shard, &id.0, commits);
        match self.at_leader(caller, id.0.shard, RPC, request, here).await? {
            At::Here(()) => Ok(done()),
            At::There(bytes) => EndTransactionResponse::decode(bytes).map_err(|_| undecodable()),
        }
    }
}

fn done() -> EndTransactionResponse {
    EndTransactionResponse { status: answer::ok() }
}

/// The transaction, if it is one of this topic. Nobody leads a shard that it says at random.
fn of_topic(topic: &record::Topic, text: &str) -> Result<TransactionId, Refused> {
    let refuse = |why: &str| Err(Refused::new(Code::InvalidTransactionId, why));
    if text.trim().is_empty() {
        return refuse("the transaction id is blank");
    }
    let Some(id) = TransactionId::decode(text) else {
        return refuse("the transaction id is malformed");
    };
    if id.0.queue.topic() != topic.id {
        return refuse("the transaction is one of another topic");
    }
    match topic.queue_shards.get(id.0.queue.number() as usize) {
        Some(&shard) if shard == id.0.shard => Ok(id),
        _ => refuse("the transaction id is malformed"),
    }
}

async fn end_here(shard: Arc<DataShard>, id: &RecallHandle, commits: bool) -> Result<Try<()>, Refused> {
    let end = record::EndHalf {
        queue: id.queue.0,
        timer: id.timer,
        message_id: message_id_hash(&id.message_id),
    };
    let command = Command {
        command: Some(match commits {
            true => command::Command::Commit(end),
            false => command::Command::Rollback(end),
        }),
    };
    let refuse = |why: &str| Err(Refused::new(Code::InvalidTransactionId, why));
    match shard.proposer.submit(command).await {
        Ok(Reply::Ended(EndResult::Done | EndResult::Again)) => Ok(Try::Done(())),
        Ok(Reply::Ended(EndResult::Contrary)) if commits => {
            refuse("the transaction was rolled back before: it cannot be committed")
        }
        Ok(Reply::Ended(EndResult::Contrary)) => {
            refuse("the transaction was committed before: it cannot be rolled back")
        }
        Ok(Reply::Ended(EndResult::Unknown)) => refuse(
            "there is no such transaction: it ended more than ten minutes ago, or its topic was deleted",
        ),
        Ok(other) => Err(Refused::new(
            Code::InternalServerError,
            format!("the shard answered the end of a transaction with {other:?}"),
        )),
        Err(SubmitError::NotLeader { unsure, .. }) => Ok(Try::Elsewhere { unsure }),
        Err(error) => Err(error.into()),
    }
}

/// A question as its producer gets it: with a message that has all that a delivered one has, but for where it stands.
pub(super) fn to_producer(caller: &Caller, question: Question) -> TelemetryCommand {
    let Question {
        shard,
        queue,
        timer,
        message,
        stored_ms,
    } = question;
    let id = TransactionId::new(shard, queue, timer, &message.message_id);
    let full_name = message.topic.clone();
    let namespace = match message.resource_namespace.as_str() {
        "" => &caller.namespace,
        namespace => namespace,
    };
    let own = full_name.strip_prefix(&format!("{namespace}%"));
    let topic = Resource {
        resource_namespace: message.resource_namespace.clone(),
        name: own.unwrap_or(&full_name).to_owned(),
    };
    let delivery = Delivery {
        queue,
        offset: 0,
        attempt: 1,
        nonce: 0,
        stored_ms,
        message,
    };
    let mut message = to_client(&topic, &full_name, shard, 0, delivery);
    if let Some(properties) = &mut message.system_properties {
        (properties.receipt_handle, properties.queue_offset) = (None, None);
    }
    let command = RecoverOrphanedTransactionCommand {
        message: Some(message),
        transaction_id: id.encode(),
    };
    TelemetryCommand {
        status: answer::ok(),
        command: Some(telemetry_command::Command::RecoverOrphanedTransactionCommand(
            command,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_id_is_no_recall_handle_nor_the_other_way_round() {
        let id = TransactionId::new(3, QueueId::new(7, 1), 9, "a message");
        assert_eq!(TransactionId::decode(&id.encode()), Some(id.clone()));
        assert_eq!(RecallHandle::decode(&id.encode()), None);
        assert_eq!(TransactionId::decode(&id.0.encode()), None);
        assert_eq!(TransactionId::decode(""), None);
    }

    #[test]
    fn a_first_check_is_within_an_hour() {
        let asked = |seconds, nanos| {
            let properties = SystemProperties {
                orphaned_transaction_recovery_duration: Some(prost_types::Duration { seconds, nanos }),
                ..Default::default()
            };
            first_check(&properties, Duration::from_secs(6)).map_err(|refused| refused.code)
        };
        assert_eq!(asked(0, 0), Ok(Duration::from_secs(6)));
        assert_eq!(asked(3, 500_000_000), Ok(Duration::from_millis(3_500)));
        assert_eq!(asked(3_600, 0), Ok(MAX_FIRST_CHECK));
        for (seconds, nanos) in [
            (3_600, 1),
            (-1, 0),
            (0, -1),
            (1, 1_000_000_000),
            (i64::MAX, i32::MAX),
            (i64::MIN, i32::MIN),
        ] {
            assert_eq!(asked(seconds, nanos), Err(Code::BadRequest), "{seconds} {nanos}");
        }
    }

    #[test]
    fn a_half_message_has_neither_message_group_nor_priority() {
        let none = SystemProperties::default();
        assert_eq!(check_half(&none).map_err(|refused| refused.code), Ok(()));
        for properties in [
            SystemProperties {
                message_group: Some("g".into()),
                ..none.clone()
            },
            SystemProperties {
                priority: Some(1),
                ..none.clone()
            },
        ] {
            let refused = check_half(&properties).unwrap_err();
            assert_eq!(refused.code, Code::MessagePropertyConflictWithType);
        }
    }
}
