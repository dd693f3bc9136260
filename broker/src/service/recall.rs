//! RecallMessage: a message that waits to be due is not wanted any more.
//!
//! The recall handle names shard, queue and timer, so any node can serve the request. The shard's log says which came first, the
//! recall or the delivery: OK means that the message is never delivered, and MESSAGE_NOT_FOUND that it waits no more.

use std::sync::Arc;

use flotilla_proto::{
    record::{self, Command, command},
    rocketmq::{Code, RecallMessageRequest, RecallMessageResponse},
};
use prost::Message;
use queue_core::{RecallResult, Reply, message_id_hash};

use super::{
    Caller, Service,
    answer::{self, Refused},
    at_leader::{At, Try, undecodable},
    delay::RecallHandle,
    names,
};
use crate::{
    limits::MAX_SMALL_REQUEST_BYTES,
    node::{proposer::SubmitError, shard::DataShard},
};

/// The name under which a node asks the shard's leader.
pub(super) const RPC: &str = "RecallMessage";

impl Service {
    /// A message that waits is not to be delivered.
    pub async fn recall_message(
        &self,
        caller: &Caller,
        request: RecallMessageRequest,
    ) -> RecallMessageResponse {
        self.heard(caller);
        match self.try_recall(caller, &request).await {
            Ok(response) => response,
            Err(refused) => RecallMessageResponse {
                status: refused.status(),
                message_id: String::new(),
            },
        }
    }

    pub(super) async fn try_recall(
        &self,
        caller: &Caller,
        request: &RecallMessageRequest,
    ) -> Result<RecallMessageResponse, Refused> {
        names::check_size(request, MAX_SMALL_REQUEST_BYTES)?;
        names::check_caller(caller)?;
        let name = names::full_name(caller, request.topic.as_ref());
        names::check_topic(&name)?;
        let topic = self
            .existing_topic(&name)
            .await?
            .ok_or_else(|| Refused::new(Code::TopicNotFound, format!("topic {name} does not exist")))?;
        let handle = of_topic(&topic, &request.recall_handle)?;
        let here = |shard, retried| recall_here(shard, &handle, retried);
        match self.at_leader(caller, handle.shard, RPC, request, here).await? {
            At::Here(()) => Ok(RecallMessageResponse {
                status: answer::ok(),
                message_id: handle.message_id.clone(),
            }),
            At::There(bytes) => RecallMessageResponse::decode(bytes).map_err(|_| undecodable()),
        }
    }
}

/// The handle, if it is one of a message of this topic. Nobody leads a shard that it says at random.
pub(super) fn of_topic(topic: &record::Topic, text: &str) -> Result<RecallHandle, Refused> {
    let refuse = |why: &str| Err(Refused::new(Code::BadRequest, why));
    let Some(handle) = RecallHandle::decode(text) else {
        return refuse("the recall handle is malformed");
    };
    if handle.queue.topic() != topic.id {
        return refuse("the recall handle is of a message of another topic");
    }
    match topic.queue_shards.get(handle.queue.number() as usize) {
        Some(&shard) if shard == handle.shard => Ok(handle),
        _ => refuse("the recall handle is malformed"),
    }
}

async fn recall_here(
    shard: Arc<DataShard>,
    handle: &RecallHandle,
    retried: bool,
) -> Result<Try<()>, Refused> {
    let recall = record::Recall {
        queue: handle.queue.0,
        timer: handle.timer,
        message_id: message_id_hash(&handle.message_id),
    };
    let command = Command {
        command: Some(command::Command::Recall(recall)),
    };
    match shard.proposer.submit(command).await {
        Ok(Reply::Recalled(RecallResult::Done)) => Ok(Try::Done(())),
        // By the first try of this request, as far as anybody can tell.
        Ok(Reply::Recalled(RecallResult::Again)) if retried => Ok(Try::Done(())),
        Ok(Reply::Recalled(RecallResult::Again)) => Err(not_found("it was recalled before")),
        Ok(Reply::Recalled(RecallResult::Over)) if plant!(LateRecallAnsweredOk => true, else false) => {
            Ok(Try::Done(()))
        }
        Ok(Reply::Recalled(RecallResult::Over)) => Err(not_found("it was delivered or recalled before")),
        Ok(other) => Err(Refused::new(
            Code::InternalServerError,
            format!("the shard answered a recall with {other:?}"),
        )),
        Err(SubmitError::NotLeader { unsure, .. }) => Ok(Try::Elsewhere { unsure }),
        Err(error) => Err(error.into()),
    }
}

fn not_found(why: &str) -> Refused {
    Refused::new(
        Code::MessageNotFound,
        format!("the message does not wait any more: {why}"),
    )
}
