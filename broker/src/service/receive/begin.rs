//! Where a consumer group begins that starts at the end: at its first receive of a topic, on all queues of it.
//!
//! The first receive is answered when every queue has the consumer group's position in its log, also those that other
//! nodes lead. So whatever is sent after that answer is delivered, whoever leads by then, and nothing that was
//! acknowledged before the first receive is.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use flotilla_proto::{
    peer::{ForwardRequest, ForwardResponse},
    record::StartAt,
    rocketmq::{Code, ReceiveMessageRequest},
};
use futures::future::join_all;
use prost::Message as _;
use queue_core::{GroupId, QueueId};
use tokio::time::{Instant, timeout};

use super::{
    super::{Caller, Service, answer::Refused, forwarded::not_leader},
    Receive,
};

/// The name under which beginnings travel between nodes.
pub(in crate::service) const BEGIN: &str = "flotilla.Begin";
const RETRY_AFTER: Duration = Duration::from_millis(50);

impl Service {
    /// Sees to it that the consumer group has begun on every queue of the topic, if it matters when.
    pub(super) async fn begin(
        &self,
        caller: &Caller,
        receive: &Receive,
        request: &ReceiveMessageRequest,
    ) -> Result<(), Refused> {
        let polls = self.node().polls();
        if receive.group.start_at != StartAt::Last as i32 || polls.begun(receive.pair()) {
            return Ok(());
        }
        loop {
            let shards = self.not_begun(receive);
            let begins = shards
                .iter()
                .map(|&shard| self.begin_in(caller, receive, request, shard));
            // A leader without a quorum waits for one, longer than the client does.
            let begins = timeout(receive.patience(), join_all(begins)).await;
            if begins.is_ok_and(|begins| begins.into_iter().all(|begun| begun)) {
                polls.set_begun(receive.pair());
                return Ok(());
            }
            if self.is_gone(receive) {
                return Ok(());
            }
            if Instant::now() >= receive.until || self.node().stopping() {
                return Err(Refused::new(
                    Code::HaNotAvailable,
                    "the consumer group starts at the end, and the end of some queue is not known, because its shard has \
                     no leader, or this node does not hear the catalogue's; ask again",
                ));
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Shards with queues of the topic on which the consumer group has not begun, as far as is known here. That it has is
    /// certain, because what is applied here is in the log for good.
    fn not_begun(&self, receive: &Receive) -> BTreeSet<u32> {
        let group = GroupId(receive.group.id);
        let queues = (0..).zip(receive.topic.queue_shards.iter().copied());
        let missing = queues.filter(|&(number, shard)| {
            let queue = QueueId::new(receive.topic.id, number);
            self.node()
                .shard(shard)
                .is_none_or(|shard| shard.machine.read(|core| core.cursor(group, queue).is_none()))
        });
        missing.map(|(_, shard)| shard).collect()
    }

    /// True when the consumer group has begun on the topic's queues in the shard.
    async fn begin_in(
        &self,
        caller: &Caller,
        receive: &Receive,
        request: &ReceiveMessageRequest,
        shard: u32,
    ) -> bool {
        let node = self.node();
        match node.leader(shard) {
            Some(leader) if leader == node.id() => self.begin_here(receive, shard).await,
            Some(leader) => {
                let begin = ForwardRequest {
                    rpc: BEGIN.into(),
                    caller: Some(caller.to_wire()),
                    request: Bytes::from(request.encode_to_vec()),
                    shard,
                    ..Default::default()
                };
                let answer = node.forward_as(leader, begin, receive.patience()).await;
                answer.is_ok_and(|answer| !answer.responses.is_empty())
            }
            None => false,
        }
    }

    async fn begin_here(&self, receive: &Receive, shard: u32) -> bool {
        let (Some(here), Some(want)) = (self.node().shard(shard), self.want(receive, shard)) else {
            return false;
        };
        let queues = (0..).zip(receive.topic.queue_shards.iter());
        let begins = queues.filter(|&(_, &of)| of == shard).map(|(number, _)| {
            let queue = QueueId::new(receive.topic.id, number);
            here.subscribe_if_needed(queue, &want)
        });
        join_all(begins).await.into_iter().all(|begun| begun.is_ok())
    }

    /// Lets a consumer group begin for another node; without any response if it could not.
    pub(in crate::service) async fn answer_begin(
        &self,
        caller: &Caller,
        request: ReceiveMessageRequest,
        shard: u32,
    ) -> ForwardResponse {
        let begun = match self.check_receive(caller, &request).await {
            Ok(receive) => self.begin_here(&receive, shard).await,
            Err(_) => false,
        };
        if !begun {
            return not_leader();
        }
        ForwardResponse {
            responses: vec![Bytes::new()],
            ..Default::default()
        }
    }
}
