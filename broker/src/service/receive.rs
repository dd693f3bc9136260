//! ReceiveMessage: a pop with a long poll.
//!
//! A receive for one queue is served from any queue of the topic, as the protocol's brokers do: from those that this node
//! leads, and from those of other nodes when there is nothing here, or when it is their turn (`receive/elsewhere.rs`).
//! Waiting costs no log write.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use flotilla_proto::{
    record,
    rocketmq::{Code, ReceiveMessageRequest, ReceiveMessageResponse, receive_message_response::Content},
};
use prost::Message as _;
use queue_core::QueueId;
use tokio::time::Instant;

use super::{
    Caller, Service,
    answer::{self, Refused},
    names,
    stored::{to_client, to_timestamp},
};
use crate::{
    filter::Filter,
    limits::MAX_DELIVERED_BYTES,
    meta::MetaState,
    node::{
        kv::stop_reason,
        proposer::SubmitError,
        shard::{DeliverError, Delivery, Want},
    },
    unread::Room,
};

mod begin;
mod check;
mod elsewhere;

pub(super) use begin::BEGIN;
use check::Receive;
pub(super) use check::poll_time;
pub(super) use elsewhere::{LOOK, LOOK_BYTES, make_room};

/// A waiter looks for itself at least this often: a lost hint then costs little.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// While no queue of the topic has a leader, it looks this often.
const RETRY_AFTER: Duration = Duration::from_millis(50);

impl Service {
    /// Leases messages to a consumer who reads the answer at once, waiting for some if there are none. The first element is
    /// the status.
    pub async fn receive_message(
        &self,
        caller: &Caller,
        request: ReceiveMessageRequest,
    ) -> Vec<ReceiveMessageResponse> {
        let mut room = self.unread().reader().room();
        self.receive_within(caller, request, &mut room).await
    }

    /// The same with room for the answer, which is taken for what is leased before it is.
    pub async fn receive_within(
        &self,
        caller: &Caller,
        request: ReceiveMessageRequest,
        room: &mut Room,
    ) -> Vec<ReceiveMessageResponse> {
        match self.try_receive(caller, request, room).await {
            Ok(responses) => responses,
            Err(refused) => refused_receive(&refused),
        }
    }

    async fn try_receive(
        &self,
        caller: &Caller,
        request: ReceiveMessageRequest,
        room: &mut Room,
    ) -> Result<Vec<ReceiveMessageResponse>, Refused> {
        self.saw(caller);
        let receive = self.check_receive(caller, &request).await?;
        let Some(seat) = self.node().hub().sit(receive.pair()) else {
            return self.receive_at_once(caller, receive, &request, room).await;
        };
        self.begin(caller, &receive, &request).await?;
        let turn = self.turn(&receive);
        if let Some(node) = self.had_elsewhere(&receive).or(turn.first)
            && let Some(responses) = self.look_first(caller, &receive, &request, node, room).await
        {
            return Ok(responses);
        }
        let deliveries = loop {
            // What comes while other nodes are looked at, however long they take, is had by one more look here.
            let is_last = Instant::now() >= receive.until;
            let rung = seat.hint();
            let deliveries = self.take_here(&receive, turn.start, is_last, room).await?;
            if !deliveries.is_empty() {
                seat.found();
                break deliveries;
            }
            if let Ok(elsewhere) = self.look_elsewhere(caller, &receive, &request, room).await {
                // Not before: a client that leaves in the middle of it has not followed its hint.
                seat.looked();
                if let Some(responses) = elsewhere {
                    return Ok(responses);
                }
            }
            if is_last || self.node().stopping() || self.is_gone(&receive) {
                break Vec::new();
            }
            let left = receive.until.saturating_duration_since(Instant::now());
            let pause = self.pause(&receive).min(left);
            tokio::select! {
                biased;
                () = rung => {}
                () = tokio::time::sleep(pause) => {}
            }
        };
        drop(seat);
        Ok(self.answer_receive(&receive, deliveries))
    }

    /// Where too many wait already, one more gets what is there, here or at a node whose turn it is to be looked at, and is refused if
    /// there is nothing: else those who wait for messages that do not come would keep others from those that are there. It has
    /// no seat, so it does not wait, for a beginning neither.
    async fn receive_at_once(
        &self,
        caller: &Caller,
        mut receive: Receive,
        request: &ReceiveMessageRequest,
        room: &mut Room,
    ) -> Result<Vec<ReceiveMessageResponse>, Refused> {
        let too_many = || {
            Refused::new(
                Code::TooManyRequests,
                "too many receives wait on this node, and there is nothing for this one; poll less or add nodes",
            )
        };
        plant!(FullRoomTurnsAway => return Err(too_many()));
        receive.until = Instant::now();
        self.begin(caller, &receive, request).await?;
        let start = self.turn(&receive).start;
        let deliveries = self.take_here(&receive, start, true, room).await?;
        if !deliveries.is_empty() {
            // There may be more: who waits found the queue taken.
            self.node().hub().ring_group(receive.pair());
            return Ok(self.answer_receive(&receive, deliveries));
        }
        let elsewhere = self.look_elsewhere(caller, &receive, request, room).await;
        elsewhere.ok().flatten().ok_or_else(too_many)
    }

    /// Tries the topic's queues led here, one after the other, beginning with that of this number.
    async fn take_here(
        &self,
        receive: &Receive,
        start: usize,
        is_last: bool,
        room: &mut Room,
    ) -> Result<Vec<Delivery>, Refused> {
        let node = self.node();
        let mut behind = false;
        for (number, shard_id) in self.queues_here(receive, start) {
            let Some(shard) = node.shard(shard_id) else {
                continue;
            };
            let Some(want) = self.want(receive, shard_id) else {
                break;
            };
            let queue = QueueId::new(receive.topic.id, number);
            match shard.deliver(queue, &want, room).await {
                Ok(deliveries) if deliveries.is_empty() => {}
                Ok(deliveries) => return Ok(deliveries),
                // Led by another node by now, and soon looked at there.
                Err(DeliverError::Submit(SubmitError::NotLeader { .. })) => {}
                // Other queues may have something, and the catalogue is soon here.
                Err(DeliverError::Submit(SubmitError::Behind)) => behind = true,
                Err(error) => {
                    // A refusal may be held for a while, with nothing of what the request had.
                    room.settle(0);
                    return Err(self.not_delivered(error));
                }
            }
            room.settle(0);
        }
        match behind {
            true if is_last => Err(SubmitError::Behind.into()),
            true => {
                // No longer: what other nodes have is looked at next. Whoever fails to catch up is told at the end of its time.
                let _ = tokio::time::timeout(RETRY_AFTER, node.catch_up_meta()).await;
                Ok(Vec::new())
            }
            false => Ok(Vec::new()),
        }
    }

    /// The node that leads what this very request was given already, if it is another one. Every replica of a shard knows that.
    fn had_elsewhere(&self, receive: &Receive) -> Option<u32> {
        let node = self.node();
        if receive.request == 0 {
            return None;
        }
        let shards: BTreeSet<u32> = receive.topic.queue_shards.iter().copied().collect();
        let mut leaders = shards.into_iter().filter_map(|shard| {
            let had = node.shard(shard)?;
            let had = had.had_by(receive.group.id, receive.topic.id, receive.request);
            node.leader(shard).filter(|_| !had.is_empty())
        });
        leaders.next().filter(|&leader| leader != node.id())
    }

    /// The numbers of the queues led here, those first that this very request was given something of, then beginning with that of
    /// this number.
    fn queues_here(&self, receive: &Receive, start: usize) -> Vec<(u32, u32)> {
        let node = self.node();
        let mut led: Vec<(u32, u32)> = (0..)
            .zip(receive.topic.queue_shards.iter().copied())
            .filter(|&(_, shard)| node.leads(shard))
            .collect();
        // Lanes are looked at together.
        let together = names::is_by_priority(&receive.topic);
        led.truncate(if together { 1 } else { usize::MAX });
        let start = plant!(TurnNeverMoves => 0, else start % led.len().max(1));
        led.rotate_left(start);
        if receive.request != 0 {
            let shards: BTreeSet<u32> = led.iter().map(|&(_, shard)| shard).collect();
            let shards = shards.into_iter().filter_map(|shard| node.shard(shard));
            let had: BTreeSet<u32> = shards
                .flat_map(|shard| shard.had_by(receive.group.id, receive.topic.id, receive.request))
                .collect();
            led.sort_by_key(|(number, _)| !had.contains(number));
        }
        led
    }

    /// Its topic or its consumer group was deleted while it waited. Who bears the name now is looked up by the next receive.
    fn is_gone(&self, receive: &Receive) -> bool {
        is_gone(&self.node().meta(), receive)
    }

    pub(super) fn not_delivered(&self, error: DeliverError) -> Refused {
        let text = error.to_string();
        match error {
            DeliverError::Submit(error) => return error.into(),
            DeliverError::NoRoom => return Refused::new(Code::TooManyRequests, text),
            DeliverError::Unreadable(error) => self.node().report_read_error(&error),
            DeliverError::State(fault) => self.node().stop(stop_reason(fault)),
        }
        Refused::new(Code::InternalServerError, text)
    }

    /// What to ask of a queue in this shard; nothing once the topic or the consumer group is deleted: it would begin once
    /// more for whoever waited meanwhile. The same catalogue says so and how much it knows of.
    fn want(&self, receive: &Receive, shard: u32) -> Option<Want> {
        let meta = self.node().meta();
        if is_gone(&meta, receive) {
            return None;
        }
        Some(Want {
            deletions: plant!(DroppedGroupBeginsAnew => u64::MAX, else meta.deletions()),
            count: receive.count,
            lease_ms: receive.lease_ms,
            auto_renew: receive.auto_renew,
            client: receive.client,
            filter: receive.filter.clone(),
            request: receive.request,
            give_up: Some(receive.give_up),
            by_priority: names::is_by_priority(&receive.topic).then_some(receive.topic.ageing_ms),
            ..self.want_of(&meta, &receive.group, shard)
        })
    }

    /// What has to be known of a consumer group to let it begin on a queue of a shard. It wants no message.
    pub(super) fn want_of(&self, meta: &MetaState, group: &Arc<record::ConsumerGroup>, shard: u32) -> Want {
        let dead_letters = crate::meta::dead_letter_topic(&group.name);
        let dead_letter_queue = meta
            .topic(&dead_letters)
            .and_then(|topic| {
                let number = topic.queue_shards.iter().position(|&home| home == shard)?;
                Some(QueueId::new(topic.id, number as u32))
            })
            .unwrap_or(QueueId(0));
        Want {
            group: Arc::clone(group),
            dead_letter_queue,
            deletions: meta.deletions(),
            count: 0,
            lease_ms: 0,
            auto_renew: false,
            client: 0,
            filter: Filter::everything(),
            request: 0,
            give_up: None,
            by_priority: None,
        }
    }

    /// How long a waiter sleeps unless it is woken.
    fn pause(&self, receive: &Receive) -> Duration {
        let node = self.node();
        let mut shards = receive.topic.queue_shards.iter();
        if shards.all(|&shard| node.leader(shard).is_none()) {
            return RETRY_AFTER;
        }
        let here = self.until_visible(receive).unwrap_or(LOOK_EVERY);
        here.min(self.until_look_elsewhere(receive)).min(LOOK_EVERY)
    }

    /// How long until a message that waits for its retry can be had here. One that could be had already is about to be
    /// delivered to somebody else, who wakes the next: the more wait, the later each looks for itself.
    fn until_visible(&self, receive: &Receive) -> Option<Duration> {
        let node = self.node();
        let later_ms = self.spread_ms().max(RETRY_AFTER.as_millis() as u64);
        let next = (0..)
            .zip(receive.topic.queue_shards.iter().copied())
            .filter(|&(_, shard)| node.leads(shard))
            .filter_map(|(number, shard)| {
                let shard = node.shard(shard)?;
                let at = shard.next_visible(receive.group.id, QueueId::new(receive.topic.id, number))?;
                let wait_ms = at.saturating_sub(shard.now_ms());
                Some(if wait_ms > 0 { wait_ms } else { later_ms })
            })
            .min();
        next.map(Duration::from_millis)
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
            let (bytes, attempt) = (delivery.message.encoded_len() as u64, delivery.attempt);
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
            let key = (receive.topic.id, receive.group.id, attempt > 1);
            self.counters().delivered.add(key, [1, bytes]);
            responses.push(element);
        }
        responses.push(stamp);
        responses
    }
}

fn is_gone(meta: &MetaState, receive: &Receive) -> bool {
    meta.topic_is_gone(receive.topic.id) || meta.group_is_gone(receive.group.id)
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

/// The answer to a receive that was refused.
fn refused_receive(refused: &Refused) -> Vec<ReceiveMessageResponse> {
    assert_ne!(refused.code, Code::Ok);
    vec![element(Content::Status(
        refused.status().expect("a refusal has a status"),
    ))]
}
