//! ReceiveMessage: a pop with a long poll.
//!
//! A receive for one queue is served from any queue of the topic that this node leads,
//! as the protocol's brokers do; if it leads none, the request goes to a node that does.
//! For a while after a leader of the topic moved, it also looks at the other nodes:
//! clients with an older route would ask none that leads those queues.
//! Waiting costs no log write.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_proto::{
    record,
    rocketmq::{
        Code, FilterType, ReceiveMessageRequest, ReceiveMessageResponse, Resource,
        receive_message_response::Content,
    },
};
use prost::Message as _;
use queue_core::QueueId;
use tokio::time::Instant;

use super::{
    Caller, Service,
    answer::{self, Refused},
    names,
    send::not_leader,
    stored::{to_client, to_timestamp},
};
use crate::{
    limits::{
        AUTO_RENEW_LEASE_MS, DEFAULT_POLL, MAX_DELIVERED_BYTES, MAX_INVISIBLE, MAX_POLL, MAX_RECEIVE_BATCH,
        MAX_SMALL_REQUEST_BYTES, MIN_INVISIBLE, POLL_MARGIN, REPLY_MARGIN, ROUTE_MAX_AGE,
    },
    node::{
        StopReason,
        clients::client_hash,
        forward::ForwardError,
        proposer::SubmitError,
        shard::{DeliverError, Delivery, Want},
    },
};

/// A waiter looks for itself at least this often: a lost hint then costs little.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a failed try the next one waits so long.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// After a leader moved, one receive in so many looks at other nodes first.
const ELSEWHERE_FIRST: usize = 4;

/// A receive, checked.
struct Receive {
    topic: Arc<record::Topic>,
    resource: Resource,
    full_name: String,
    group: Arc<record::ConsumerGroup>,
    count: usize,
    lease_ms: u64,
    auto_renew: bool,
    client: u64,
    until: Instant,
}

impl Service {
    /// Leases messages to a consumer, waiting for some if there are none. The first element is the status.
    pub async fn receive_message(
        &self,
        caller: &Caller,
        request: ReceiveMessageRequest,
    ) -> Vec<ReceiveMessageResponse> {
        match self.try_receive(caller, request).await {
            Ok(responses) => responses,
            Err(refused) => vec![element(Content::Status(
                refused.status().expect("a refusal has a status"),
            ))],
        }
    }

    pub(super) async fn try_receive(
        &self,
        caller: &Caller,
        request: ReceiveMessageRequest,
    ) -> Result<Vec<ReceiveMessageResponse>, Refused> {
        self.saw(caller);
        let receive = self.check_receive(caller, &request).await?;
        let seat = self
            .node()
            .hub()
            .sit(receive.topic.id, receive.group.id)
            .ok_or_else(|| {
                Refused::new(
                    Code::TooManyRequests,
                    "too many receives wait on this node; poll less or add nodes",
                )
            })?;
        // Not only when there is nothing here, or a busy node would hide the others. The count is not the one by which
        // queues have their turns: every receive would then move those by two, and half of the queues would starve.
        if self.next_receive().is_multiple_of(ELSEWHERE_FIRST)
            && let Some(responses) = self.take_elsewhere(caller, &receive, &request).await
        {
            return Ok(responses);
        }
        let deliveries = loop {
            let rung = seat.hint();
            let mut pause = LOOK_EVERY;
            let taken = self.take_here(&receive).await;
            seat.looked();
            match taken {
                Ok(Some(deliveries)) if !deliveries.is_empty() => break deliveries,
                Ok(Some(_)) => {
                    if let Some(responses) = self.take_elsewhere(caller, &receive, &request).await {
                        return Ok(responses);
                    }
                }
                Ok(None) if caller.forwarded => return Err(not_leader()),
                Ok(None) => match self.receive_anywhere(caller, &receive, &request).await {
                    Some(responses) => return Ok(responses),
                    None => pause = RETRY_AFTER,
                },
                Err(DeliverError::Submit(SubmitError::NotLeader { .. })) => pause = RETRY_AFTER,
                Err(DeliverError::Submit(error)) => return Err(error.into()),
                Err(DeliverError::Unreadable(error)) => {
                    self.node().report_read_error(&error);
                    return Err(Refused::new(Code::InternalServerError, error.to_string()));
                }
                Err(DeliverError::State(fault)) => {
                    self.node().stop(StopReason::Condemned(fault.to_string()));
                    return Err(Refused::new(Code::InternalServerError, fault.to_string()));
                }
            }
            let now = Instant::now();
            if now >= receive.until || self.node().stopping() {
                break Vec::new();
            }
            let pause = pause.min(self.until_visible(&receive)).min(receive.until - now);
            tokio::select! {
                biased;
                () = rung => {}
                () = tokio::time::sleep(pause) => {}
            }
        };
        Ok(self.answer_receive(&receive, deliveries))
    }

    async fn check_receive(
        &self,
        caller: &Caller,
        request: &ReceiveMessageRequest,
    ) -> Result<Receive, Refused> {
        names::check_caller(caller)?;
        names::check_size(request, MAX_SMALL_REQUEST_BYTES)?;
        let resource = request
            .message_queue
            .as_ref()
            .and_then(|queue| queue.topic.clone())
            .unwrap_or_default();
        let full_name = names::full_name(caller, Some(&resource));
        names::check_topic(&full_name)?;
        let group_name = names::full_name(caller, request.group.as_ref());
        names::check_group(&group_name)?;
        check_filter(request)?;
        let lease_ms = lease_ms(request)?;
        let topic = self.topic(&full_name).await?;
        let group = self.group(&group_name).await?;
        Ok(Receive {
            topic,
            resource,
            full_name,
            group,
            count: usize::try_from(request.batch_size)
                .unwrap_or(0)
                .clamp(1, MAX_RECEIVE_BATCH),
            lease_ms,
            auto_renew: request.auto_renew,
            client: client_hash(&caller.client_id),
            until: Instant::now() + poll_time(caller, request),
        })
    }

    /// Tries the topic's queues led here, one after the other; nothing if none is led here.
    async fn take_here(&self, receive: &Receive) -> Result<Option<Vec<Delivery>>, DeliverError> {
        let node = self.node();
        let led: Vec<(u32, u32)> = (0..)
            .zip(receive.topic.queue_shards.iter().copied())
            .filter(|&(_, shard)| node.leads(shard))
            .collect();
        if led.is_empty() {
            return Ok(None);
        }
        let start = self.next_turn();
        let mut failed = None;
        for turn in 0..led.len() {
            let (number, shard_id) = led[(start + turn) % led.len()];
            let Some(shard) = node.shard(shard_id) else {
                continue;
            };
            let queue = QueueId::new(receive.topic.id, number);
            match shard.deliver(queue, &self.want(receive, shard_id)).await {
                Ok(deliveries) if deliveries.is_empty() => {}
                Ok(deliveries) => {
                    // There may be more, and this hint is used up: pass it on.
                    node.hub().ring_group(receive.topic.id, receive.group.id);
                    return Ok(Some(deliveries));
                }
                Err(DeliverError::Submit(error @ SubmitError::NotLeader { .. })) => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        failed.map_or(Ok(Some(Vec::new())), |error| Err(error.into()))
    }

    fn want(&self, receive: &Receive, shard: u32) -> Want {
        let dead_letters = crate::meta::dead_letter_topic(&receive.group.name);
        let dead_letter_queue = self
            .node()
            .meta()
            .topic(&dead_letters)
            .and_then(|topic| {
                let number = topic.queue_shards.iter().position(|&home| home == shard)?;
                Some(QueueId::new(topic.id, number as u32))
            })
            .unwrap_or(QueueId(0));
        Want {
            group: Arc::clone(&receive.group),
            dead_letter_queue,
            count: receive.count,
            lease_ms: receive.lease_ms,
            auto_renew: receive.auto_renew,
            client: receive.client,
        }
    }

    /// How long until a message that waits for its retry can be had here.
    fn until_visible(&self, receive: &Receive) -> Duration {
        let node = self.node();
        let next = (0..)
            .zip(receive.topic.queue_shards.iter().copied())
            .filter(|&(_, shard)| node.leads(shard))
            .filter_map(|(number, shard)| {
                let shard = node.shard(shard)?;
                let at = shard.next_visible(receive.group.id, QueueId::new(receive.topic.id, number))?;
                Some(at.saturating_sub(shard.now_ms()).max(1))
            })
            .min();
        next.map_or(LOOK_EVERY, Duration::from_millis)
    }

    /// Other nodes that lead queues of the topic, with one of their shards.
    fn led_elsewhere(&self, topic: &record::Topic) -> BTreeMap<u32, u32> {
        let node = self.node();
        let led = topic.queue_shards.iter();
        led.filter_map(|&shard| node.leader(shard).map(|leader| (leader, shard)))
            .filter(|&(leader, _)| leader != node.id())
            .collect()
    }

    /// Lets the leader of some queue of the topic serve the request; nothing if there is none just now.
    async fn receive_anywhere(
        &self,
        caller: &Caller,
        receive: &Receive,
        request: &ReceiveMessageRequest,
    ) -> Option<Vec<ReceiveMessageResponse>> {
        let leaders: Vec<(u32, u32)> = self.led_elsewhere(&receive.topic).into_iter().collect();
        let &leader = leaders.get(self.next_turn() % leaders.len().max(1))?;
        let rest = receive.until.saturating_duration_since(Instant::now());
        self.receive_there(caller, leader, rest, request).await
    }

    /// What another node has now, if a leader of the topic moved lately.
    async fn take_elsewhere(
        &self,
        caller: &Caller,
        receive: &Receive,
        request: &ReceiveMessageRequest,
    ) -> Option<Vec<ReceiveMessageResponse>> {
        let node = self.node();
        let since = node
            .clock()
            .steady_ms()
            .saturating_sub(ROUTE_MAX_AGE.as_millis() as u64);
        let mut shards = receive.topic.queue_shards.iter();
        let moved = |&shard: &u32| {
            node.shard(shard)
                .is_some_and(|shard| shard.leadership().moved_ms() > since)
        };
        if caller.forwarded || !shards.any(moved) {
            return None;
        }
        for leader in self.led_elsewhere(&receive.topic) {
            let responses = self.receive_there(caller, leader, Duration::ZERO, request).await;
            let is_message =
                |each: &ReceiveMessageResponse| matches!(each.content, Some(Content::Message(_)));
            if responses
                .as_ref()
                .is_some_and(|responses| responses.iter().any(is_message))
            {
                return responses;
            }
        }
        None
    }

    /// Asks another node, which waits for messages for `poll`; nothing if it does not answer, or does not lead the shard.
    async fn receive_there(
        &self,
        caller: &Caller,
        (to, shard): (u32, u32),
        poll: Duration,
        request: &ReceiveMessageRequest,
    ) -> Option<Vec<ReceiveMessageResponse>> {
        let mut request = request.clone();
        request.long_polling_timeout = Some(prost_types::Duration {
            seconds: poll.as_secs() as i64,
            nanos: poll.subsec_nanos() as i32,
        });
        let bytes = Bytes::from(request.encode_to_vec());
        // The client waits that much longer than the poll; what arrives after it gave up stays leased for nothing.
        let ttl = poll + POLL_MARGIN - REPLY_MARGIN;
        let answer = self
            .node()
            .forward(to, "ReceiveMessage", shard, Some(caller.to_wire()), bytes, ttl);
        match answer.await {
            Ok(responses) => responses
                .into_iter()
                .map(|bytes| ReceiveMessageResponse::decode(bytes).ok())
                .collect(),
            Err(ForwardError::NotLeader { .. } | ForwardError::Peer(_)) => None,
        }
    }

    fn answer_receive(&self, receive: &Receive, deliveries: Vec<Delivery>) -> Vec<ReceiveMessageResponse> {
        let stamp = element(Content::DeliveryTimestamp(to_timestamp(
            self.node().clock().wall_ms(),
        )));
        if deliveries.is_empty() {
            let nothing = answer::status(Code::MessageNotFound, "no message within the poll");
            return vec![element(Content::Status(nothing.expect("a status"))), stamp];
        }
        let mut responses = Vec::with_capacity(deliveries.len() + 2);
        responses.push(element(Content::Status(answer::ok().expect("a status"))));
        for delivery in deliveries {
            let body_bytes = delivery.message.body.len() as u64;
            let shard = receive.topic.queue_shards[delivery.queue.number() as usize];
            let message = to_client(
                &receive.resource,
                &receive.full_name,
                shard,
                receive.group.id,
                delivery,
            );
            let element = element(Content::Message(message));
            if !is_receivable(&element) {
                self.counters().undeliverable.add(1);
                continue;
            }
            self.counters().messages_out.add(1);
            self.counters().bytes_out.add(body_bytes);
            responses.push(element);
        }
        responses.push(stamp);
        responses
    }
}

fn element(content: Content) -> ReceiveMessageResponse {
    ReceiveMessageResponse {
        content: Some(content),
    }
}

/// False of a message that is too large for some SDKs. Sends are bounded so that there is none; one that is there all the
/// same does not take with it what is delivered beside it. Its lease ends, and after its attempts it is a dead letter.
fn is_receivable(element: &ReceiveMessageResponse) -> bool {
    let bytes = element.encoded_len();
    if bytes >= MAX_DELIVERED_BYTES {
        tracing::warn!(bytes, "a message is too large to be delivered");
    }
    bytes < MAX_DELIVERED_BYTES
}

fn check_filter(request: &ReceiveMessageRequest) -> Result<(), Refused> {
    let Some(filter) = &request.filter_expression else {
        return Ok(());
    };
    let everything = filter.expression.is_empty() || filter.expression.trim() == "*";
    if everything && filter.r#type != FilterType::Sql as i32 {
        return Ok(());
    }
    Err(Refused::new(
        Code::NotImplemented,
        "this release does not filter yet; subscribe with the expression *",
    ))
}

fn lease_ms(request: &ReceiveMessageRequest) -> Result<u64, Refused> {
    if request.auto_renew {
        return Ok(AUTO_RENEW_LEASE_MS);
    }
    let asked = request
        .invisible_duration
        .as_ref()
        .map_or(Duration::ZERO, super::ack::to_duration);
    if (MIN_INVISIBLE..=MAX_INVISIBLE).contains(&asked) {
        return Ok(asked.as_millis() as u64);
    }
    Err(Refused::new(
        Code::IllegalInvisibleTime,
        format!(
            "the invisible duration must be {} s to {} s",
            MIN_INVISIBLE.as_secs(),
            MAX_INVISIBLE.as_secs()
        ),
    ))
}

/// How long a receive may wait: what the client asks for, but the answer must be back before its deadline.
fn poll_time(caller: &Caller, request: &ReceiveMessageRequest) -> Duration {
    let margin = if caller.forwarded {
        Duration::ZERO
    } else {
        POLL_MARGIN
    };
    let latest = caller
        .deadline
        .map_or(MAX_POLL, |deadline| deadline.saturating_sub(margin));
    let asked = match &request.long_polling_timeout {
        Some(asked) => super::ack::to_duration(asked),
        // Some SDKs put the poll only into the deadline, with their request timeout on top.
        None => caller
            .deadline
            .map_or(DEFAULT_POLL, |deadline| deadline.saturating_sub(3 * POLL_MARGIN)),
    };
    asked.min(latest).min(MAX_POLL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(seconds: i64) -> ReceiveMessageRequest {
        ReceiveMessageRequest {
            long_polling_timeout: Some(prost_types::Duration { seconds, nanos: 0 }),
            ..Default::default()
        }
    }

    #[test]
    fn a_poll_ends_before_the_clients_deadline() {
        let caller = Caller {
            deadline: Some(Duration::from_secs(5)),
            ..Default::default()
        };
        assert_eq!(poll_time(&caller, &request(40)), Duration::from_secs(4));
        assert_eq!(poll_time(&Caller::default(), &request(40)), MAX_POLL);
        let go = Caller {
            deadline: Some(Duration::from_secs(8)),
            ..Default::default()
        };
        assert_eq!(
            poll_time(&go, &ReceiveMessageRequest::default()),
            Duration::from_secs(5)
        );
    }

    #[test]
    fn invisible_durations_have_bounds() {
        let mut request = ReceiveMessageRequest {
            invisible_duration: Some(prost_types::Duration { seconds: 9, nanos: 0 }),
            ..Default::default()
        };
        assert_eq!(lease_ms(&request).unwrap_err().code, Code::IllegalInvisibleTime);
        request.invisible_duration = Some(prost_types::Duration {
            seconds: 10,
            nanos: 0,
        });
        assert_eq!(lease_ms(&request), Ok(10_000));
        request.auto_renew = true;
        assert_eq!(lease_ms(&request), Ok(AUTO_RENEW_LEASE_MS));
    }
}
