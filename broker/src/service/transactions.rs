//! What operators see of transactions that nobody has ended, and how they end one.

use flotilla_proto::{
    peer::DelayedMessage,
    rocketmq::{Code, EndTransactionRequest, Resource, TransactionResolution},
};
use queue_core::QueueId;

use super::{Caller, Service, delayed::patient, transaction::TransactionId};
use crate::views::{
    AdminError, AdminErrorKind, DelayedQuery, Resolution, ResolveSpec, TransactionDone, TransactionPage,
    TransactionQuery, TransactionView,
};

impl Service {
    /// Transactions of a topic that nobody has ended, some at a time.
    pub async fn list_transactions(
        &self,
        topic: &str,
        query: TransactionQuery,
    ) -> Result<TransactionPage, AdminError> {
        let rooms = DelayedQuery {
            from: query.from,
            limit: query.limit,
            message_id: query.message_id,
        };
        let (messages, next) = self.look_at_rooms(topic, rooms, true).await?;
        let messages = messages.into_iter();
        let wanted = messages.filter(|(.., message)| !query.only_given_up || message.given_up);
        Ok(TransactionPage {
            transactions: wanted.map(view_of).collect(),
            next,
        })
    }

    /// Ends a transaction by hand.
    pub async fn resolve_transaction(
        &self,
        topic: &str,
        spec: ResolveSpec,
    ) -> Result<TransactionDone, AdminError> {
        self.topic_of_admin(topic).await?;
        let Some(id) = TransactionId::decode(&spec.transaction_id) else {
            let what = "the transaction id is malformed".to_owned();
            return Err(AdminError::new(AdminErrorKind::Invalid, what));
        };
        let resolution = match spec.resolution {
            Resolution::Commit => TransactionResolution::Commit,
            Resolution::Rollback => TransactionResolution::Rollback,
        };
        let request = EndTransactionRequest {
            topic: Some(Resource {
                name: topic.to_owned(),
                ..Default::default()
            }),
            message_id: id.0.message_id.clone(),
            transaction_id: spec.transaction_id,
            resolution: resolution as i32,
            ..Default::default()
        };
        let caller = Caller {
            client_id: "an operator".into(),
            ..patient()
        };
        let ended = self.try_end(&caller, &request).await?;
        match ended.status {
            Some(status) if status.code == Code::Ok as i32 => Ok(TransactionDone {
                message_id: id.0.message_id,
                resolution: spec.resolution,
            }),
            status => Err(AdminError::new(
                AdminErrorKind::Invalid,
                status.unwrap_or_default().message,
            )),
        }
    }
}

fn view_of((shard, queue, message): (u32, QueueId, DelayedMessage)) -> TransactionView {
    let id = TransactionId::new(shard, queue, message.timer, &message.message_id);
    TransactionView {
        queue: queue.number(),
        transaction_id: id.encode(),
        message_id: message.message_id,
        tag: message.tag,
        keys: message.keys,
        given_up: message.given_up,
        checks: message.checks,
        next_check_in_ms: (!message.given_up).then_some(message.left_ms),
        stored_ms: message.stored_ms,
        body_bytes: message.body_bytes,
    }
}
