//! Queues of other nodes: a receive that finds nothing here looks at them without waiting there, and is told when something
//! comes (docs/adr/0011).
//!
//! Clients may know the leaders of an hour ago, or only one node; queues led here must not hide those led elsewhere, nor
//! the reverse. Yet what every node's own consumers take needs no hop.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use flotilla_proto::{
    peer::{ForwardRequest, ForwardResponse},
    rocketmq::{ReceiveMessageRequest, ReceiveMessageResponse, receive_message_response::Content},
};
use prost::Message as _;

use super::{
    super::{
        Caller, Service,
        forwarded::{many, many_within},
    },
    RETRY_AFTER, Receive, refused_receive,
};
use crate::{
    limits::{DELIVERED_OVERHEAD_BYTES, MAX_DELIVERED_BYTES, MAX_ENVELOPE_BYTES},
    node::{
        forward::ForwardError,
        polls::{Seen, Turn},
    },
    peer::PeerError,
    unread::Room,
};

/// The name under which looks travel between nodes.
pub(in crate::service) const LOOK: &str = "ReceiveMessage";
/// A look is not begun when less than this is left for it.
const MIN_LOOK: Duration = Duration::from_millis(100);
/// And takes no longer than this: a node that stands still must not hold up what is here.
const MAX_LOOK: Duration = Duration::from_secs(2);
/// What the answer to a look may have: a message of any size fits.
pub(in crate::service) const LOOK_BYTES: u64 =
    (MAX_DELIVERED_BYTES + DELIVERED_OVERHEAD_BYTES + MAX_ENVELOPE_BYTES) as u64;

/// What another node leads of a topic.
struct Led {
    /// One of the shards.
    shard: u32,
    queues: usize,
}

/// The answers that its client does not read leave a receive no room for what another node may have.
pub(super) struct NoRoom;

impl Service {
    /// Where a receive begins.
    pub(super) fn turn(&self, receive: &Receive) -> Turn {
        let node = self.node();
        let shards = receive.topic.queue_shards.iter();
        let here = shards.filter(|&&shard| node.leads(shard)).count();
        let elsewhere = queues(&self.led_elsewhere(receive));
        node.polls()
            .turn(receive.pair(), node.clock().steady_ms(), here, &elsewhere)
    }

    /// Other nodes that lead queues of the topic.
    fn led_elsewhere(&self, receive: &Receive) -> BTreeMap<u32, Led> {
        let node = self.node();
        let mut led: BTreeMap<u32, Led> = BTreeMap::new();
        for &shard in &receive.topic.queue_shards {
            if let Some(leader) = node.leader(shard).filter(|&leader| leader != node.id()) {
                led.entry(leader).or_insert(Led { shard, queues: 0 }).queues += 1;
            }
        }
        led
    }

    /// What the node has whose turn it is.
    pub(super) async fn look_first(
        &self,
        caller: &Caller,
        receive: &Receive,
        request: &ReceiveMessageRequest,
        to: u32,
        room: &mut Room,
    ) -> Option<Vec<ReceiveMessageResponse>> {
        let led = self.led_elsewhere(receive);
        let there = led.get(&to)?;
        if !make_room(room) {
            return None;
        }
        let now = self.node().clock().steady_ms();
        let polls = self.node().polls();
        polls.look_begins(receive.pair(), to, now, self.spread_ms());
        self.look(caller, receive, request, (to, there), room).await
    }

    /// What other nodes have that are to be looked at now, one after the other; [`NoRoom`] if one could not be looked at.
    pub(super) async fn look_elsewhere(
        &self,
        caller: &Caller,
        receive: &Receive,
        request: &ReceiveMessageRequest,
        room: &mut Room,
    ) -> Result<Option<Vec<ReceiveMessageResponse>>, NoRoom> {
        let led = self.led_elsewhere(receive);
        let nodes = queues(&led);
        let begun = self.node().clock().steady_ms();
        // At what is due by now, each once: more may be due when one was slow to answer.
        while receive.patience() >= MIN_LOOK {
            let polls = self.node().polls();
            let next = polls.next_due(receive.pair(), &nodes);
            if nodes.is_empty() || next.is_some_and(|due| due > begun) {
                return Ok(None);
            }
            // First: who has no room must not use up the turn of another, nor what was said to be there.
            if !make_room(room) {
                return Err(NoRoom);
            }
            let Some(to) = polls.due(receive.pair(), &nodes, begun, self.spread_ms()) else {
                room.settle(0);
                return Ok(None);
            };
            let found = self.look(caller, receive, request, (to, &led[&to]), room).await;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// How long until another node is to be looked at. One whose turn has come all the same could not be asked just now,
    /// for want of room or time.
    pub(super) fn until_look_elsewhere(&self, receive: &Receive) -> Duration {
        let node = self.node();
        let nodes = queues(&self.led_elsewhere(receive));
        let due = node.polls().next_due(receive.pair(), &nodes);
        let until = due.map(|due| Duration::from_millis(due.saturating_sub(node.clock().steady_ms())));
        match until {
            None => Duration::MAX,
            Some(Duration::ZERO) => RETRY_AFTER.max(Duration::from_millis(self.spread_ms())),
            Some(until) => until,
        }
    }

    /// The more receives wait here, the longer until each looks elsewhere again: all of them together about a thousand
    /// times a second at most.
    pub(super) fn spread_ms(&self) -> u64 {
        self.node().hub().waiting() as u64
    }

    /// Asks another node for what it has now, and to be told when something comes; nothing if it has nothing. Room was made
    /// for the answer.
    async fn look(
        &self,
        caller: &Caller,
        receive: &Receive,
        request: &ReceiveMessageRequest,
        (to, led): (u32, &Led),
        room: &mut Room,
    ) -> Option<Vec<ReceiveMessageResponse>> {
        let node = self.node();
        let look = ForwardRequest {
            rpc: LOOK.into(),
            caller: Some(caller.to_wire()),
            request: Bytes::from(request.encode_to_vec()),
            shard: led.shard,
            tell: node.id(),
            room: LOOK_BYTES,
            ..Default::default()
        };
        let patience = receive.patience().min(MAX_LOOK);
        let answer = node.forward_as(to, look, patience).await;
        room.settle(0);
        if matches!(answer, Err(ForwardError::Peer(PeerError::Timeout))) {
            let polls = node.polls();
            polls.look_stuck(receive.pair(), to, node.clock().steady_ms());
        }
        let answer = answer.ok()?;
        let bytes: usize = answer.responses.iter().map(Bytes::len).sum();
        let responses: Option<Vec<ReceiveMessageResponse>> = answer
            .responses
            .into_iter()
            .map(|bytes| ReceiveMessageResponse::decode(bytes).ok())
            .collect();
        let is_message = |each: &ReceiveMessageResponse| matches!(each.content, Some(Content::Message(_)));
        let messages = responses.filter(|responses| responses.iter().any(is_message));
        let now = node.clock().steady_ms();
        let seen = Seen {
            found: messages.is_some(),
            served: answer.served,
            visible_ms: (answer.visible_in_ms > 0).then(|| now.saturating_add(answer.visible_in_ms)),
        };
        node.polls().look_ended(receive.pair(), to, now, seen);
        if messages.is_some() {
            room.settle(bytes as u64);
        }
        messages
    }

    /// Answers a look of another node, `tell`, which has room for so much.
    pub(in crate::service) async fn answer_look(
        &self,
        caller: &Caller,
        request: ReceiveMessageRequest,
        (tell, most): (u32, u64),
    ) -> ForwardResponse {
        self.heard(caller);
        let receive = match self.check_receive(caller, &request).await {
            Ok(receive) => receive,
            Err(refused) => return many(&refused_receive(&refused)),
        };
        let (node, pair) = (self.node(), receive.pair());
        // Before the look: what comes after it is told.
        if node.meta().nodes().contains_key(&tell) {
            node.hub().tell_later(tell, pair);
        }
        let (start, asked) = node.polls().looked_at(pair, node.clock().steady_ms());
        let mut room = self.node_reader(tell).room();
        room.limit(most);
        let served = asked || node.hub().is_waited_for(pair);
        let responses = match self.take_here(&receive, start, true, &mut room).await {
            Ok(deliveries) if deliveries.is_empty() => Vec::new(),
            Ok(deliveries) => {
                // There may be more, for the next one.
                node.hub().ring_group(pair);
                self.answer_receive(&receive, deliveries)
            }
            Err(refused) => refused_receive(&refused),
        };
        let visible_in = self.until_visible(&receive).unwrap_or_default();
        ForwardResponse {
            served,
            visible_in_ms: visible_in.as_millis() as u64,
            ..many_within(&responses, room)
        }
    }
}

/// Room for the answer to a look: what it has is not known before. Any message fits, and most looks find none.
pub(in crate::service) fn make_room(room: &mut Room) -> bool {
    room.settle(0);
    room.grow_spare(LOOK_BYTES)
}

fn queues(led: &BTreeMap<u32, Led>) -> BTreeMap<u32, usize> {
    led.iter().map(|(&node, led)| (node, led.queues)).collect()
}
