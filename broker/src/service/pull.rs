//! PullMessage: messages of one queue from an offset on. Nothing is leased and nothing is changed, so whoever pulls keeps
//! its own place, or has it kept (`offsets.rs`).
//!
//! The answer is the status, the messages, and the offset to go on from. A pull waits at the node that was asked, until
//! something is applied there, and then asks the queue's leader without waiting there: what waits for seconds keeps nothing
//! on the way between nodes.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::{
    peer::{ForwardRequest, ForwardResponse},
    rocketmq::{Code, PullMessageRequest, PullMessageResponse, pull_message_response::Content},
};
use prost::Message as _;
use tokio::time::Instant;

use super::{
    Caller, Service,
    answer::{self, Refused},
    forwarded::{many_within, not_leader},
    names,
    offsets::{Place, outside, to_offset},
    receive::{LOOK_BYTES, make_room, poll_time},
    stored::to_client,
};
use crate::{
    filter::Filter,
    limits::{
        MAX_DELIVERED_BYTES, MAX_PULL_BATCH, MAX_SMALL_REQUEST_BYTES, PULL_LOOKS_EVERY, PULL_REST,
        PULLS_FOR_A_MILLISECOND,
    },
    node::{
        forward::ForwardError,
        shard::{DataShard, Delivery},
    },
    unread::Room,
};

/// The name under which pulls travel between nodes.
pub(super) const RPC: &str = "flotilla.Pull";
/// While the queue has no leader, it is looked for this often.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// A pull, checked.
struct Pull {
    place: Place,
    from: u64,
    most: usize,
    filter: Filter,
    until: Instant,
    give_up: Instant,
}

/// What one look at the queue's leader gave.
enum Looked {
    /// The answer.
    Answer(Vec<PullMessageResponse>),
    /// There is nothing; the offset behind what a filter did not let through.
    Nothing(u64),
    /// There is nobody to ask just now.
    Nobody(Refused),
}

impl Service {
    /// Messages from an offset on, for a reader who reads the answer at once. The first element is the status.
    pub async fn pull_message(
        &self,
        caller: &Caller,
        request: PullMessageRequest,
    ) -> Vec<PullMessageResponse> {
        let mut room = self.unread().reader().room();
        self.pull_within(caller, request, &mut room).await
    }

    /// The same with room for the answer, which is taken before anything is read.
    pub async fn pull_within(
        &self,
        caller: &Caller,
        request: PullMessageRequest,
        room: &mut Room,
    ) -> Vec<PullMessageResponse> {
        match self.try_pull(caller, request, room).await {
            Ok(responses) => responses,
            Err(refused) => vec![refused_pull(&refused)],
        }
    }

    async fn try_pull(
        &self,
        caller: &Caller,
        request: PullMessageRequest,
        room: &mut Room,
    ) -> Result<Vec<PullMessageResponse>, Refused> {
        self.heard(caller);
        let mut pull = self.check_pull(caller, &request).await?;
        let seat = self.node().hub().tails().sit(pull.place.queue);
        loop {
            let rung = seat.as_ref().map(|seat| seat.hint());
            let is_last = Instant::now() >= pull.until || self.node().stopping();
            let looked = self.look_for(caller, &pull, &request, room).await?;
            // There may be more behind what was passed over.
            let goes_on = matches!(looked, Looked::Nothing(next) if next > pull.from);
            let pause = match looked {
                Looked::Answer(responses) => return Ok(responses),
                Looked::Nothing(next) if is_last => return Ok(nothing(next)),
                Looked::Nobody(refused) if is_last => return Err(refused),
                Looked::Nothing(next) => {
                    pull.from = next;
                    self.spread().max(PULL_LOOKS_EVERY)
                }
                Looked::Nobody(_) => RETRY_AFTER.max(self.spread()),
            };
            let Some(rung) = rung else { return Err(too_many()) };
            let left = pull.until.saturating_duration_since(Instant::now());
            if goes_on {
                // Whoever looks through what nobody wants leaves time to others.
                tokio::time::sleep(self.spread().max(PULL_REST).min(left)).await;
                continue;
            }
            tokio::select! {
                biased;
                // However fast messages come that a filter does not let through.
                () = rung => tokio::time::sleep(self.spread().max(PULL_REST).min(left)).await,
                () = tokio::time::sleep(pause.min(left)) => {}
            }
        }
    }

    /// The more pulls wait here, the longer each rests between two looks.
    fn spread(&self) -> Duration {
        let waiting = self.node().hub().tails().waiting() as u64;
        Duration::from_millis(waiting / PULLS_FOR_A_MILLISECOND)
    }

    async fn check_pull(&self, caller: &Caller, request: &PullMessageRequest) -> Result<Pull, Refused> {
        names::check_size(request, MAX_SMALL_REQUEST_BYTES)?;
        // It need not exist: nothing is kept of it.
        names::check_group(&names::full_name(caller, request.group.as_ref()))?;
        let place = self.named_queue(caller, request.message_queue.as_ref()).await?;
        let from = to_offset(request.offset)?;
        let filter = self.filter(request.filter_expression.as_ref())?;
        let asked = request.long_polling_timeout.unwrap_or_default();
        let until = Instant::now() + poll_time(caller, Some(&asked));
        Ok(Pull {
            place,
            from,
            most: usize::try_from(request.batch_size)
                .unwrap_or(0)
                .clamp(1, MAX_PULL_BATCH),
            filter,
            until,
            give_up: Instant::now() + caller.patience(),
        })
    }

    /// Asks the queue's leader, here or elsewhere, without waiting there.
    async fn look_for(
        &self,
        caller: &Caller,
        pull: &Pull,
        request: &PullMessageRequest,
        room: &mut Room,
    ) -> Result<Looked, Refused> {
        let node = self.node();
        if node.meta().topic_is_gone(pull.place.topic.id) {
            return Err(Refused::new(
                Code::TopicNotFound,
                "the topic was deleted meanwhile",
            ));
        }
        match node.leader(pull.place.shard) {
            Some(leader) if leader == node.id() => match node.shard(pull.place.shard) {
                Some(shard) => self.pull_here(&shard, pull, room).await,
                None => Ok(Looked::Nobody(nobody())),
            },
            Some(leader) if !caller.forwarded => {
                if !make_room(room) {
                    return Err(too_many());
                }
                let looked = self.pull_there(caller, pull, request, leader, room).await;
                if !matches!(looked, Looked::Answer(_)) {
                    room.settle(0);
                }
                Ok(looked)
            }
            _ => Ok(Looked::Nobody(nobody())),
        }
    }

    async fn pull_here(&self, shard: &DataShard, pull: &Pull, room: &mut Room) -> Result<Looked, Refused> {
        let queue = pull.place.queue;
        let mut ends = shard.ends(queue);
        // Who asks may have heard of more from the leader after this one.
        if pull.from > ends.1 {
            if shard.replica.barrier().await.is_err() {
                return Ok(Looked::Nobody(nobody()));
            }
            ends = shard.ends(queue);
        }
        if !(ends.0..=ends.1).contains(&pull.from) {
            let refused = outside(&pull.place, pull.from, ends);
            let nearest = pull.from.clamp(ends.0, ends.1);
            return Ok(Looked::Answer(vec![refused_pull(&refused), next_offset(nearest)]));
        }
        let pulled = shard.pull(queue, pull.from, pull.most, &pull.filter, room).await;
        let pulled = pulled.map_err(|error| {
            room.settle(0);
            self.not_delivered(error)
        })?;
        if pulled.messages.is_empty() {
            room.settle(0);
            return Ok(Looked::Nothing(pulled.next));
        }
        let next = plant!(PullGoesOnAtTheEnd => shard.ends(queue).1, else pulled.next);
        Ok(Looked::Answer(self.answer_pull(
            &pull.place,
            pulled.messages,
            next,
        )))
    }

    fn answer_pull(&self, place: &Place, messages: Vec<Delivery>, next: u64) -> Vec<PullMessageResponse> {
        let mut responses = Vec::with_capacity(messages.len() + 2);
        responses.push(element(Content::Status(answer::ok().expect("a status"))));
        for delivery in messages {
            let mut message = to_client(&place.resource, &place.full_name, place.shard, 0, delivery);
            // Nothing is leased, and nothing was delivered to a consumer group.
            if let Some(all) = &mut message.system_properties {
                (all.receipt_handle, all.delivery_attempt) = (None, None);
            }
            let element = element(Content::Message(message));
            if element.encoded_len() >= MAX_DELIVERED_BYTES {
                self.counters().undeliverable.add(1);
                continue;
            }
            responses.push(element);
        }
        responses.push(next_offset(next));
        responses
    }

    /// Room was made for the answer.
    async fn pull_there(
        &self,
        caller: &Caller,
        pull: &Pull,
        request: &PullMessageRequest,
        leader: u32,
        room: &mut Room,
    ) -> Looked {
        let request = PullMessageRequest {
            offset: pull.from as i64,
            ..request.clone()
        };
        let forward = ForwardRequest {
            rpc: RPC.into(),
            caller: Some(caller.to_wire()),
            request: request.encode_to_vec().into(),
            shard: pull.place.shard,
            room: LOOK_BYTES,
            ..Default::default()
        };
        let ttl = pull
            .give_up
            .max(pull.until)
            .saturating_duration_since(Instant::now());
        let answer = match self
            .node()
            .forward_as(leader, forward, ttl.min(PULL_LOOKS_EVERY * 2))
            .await
        {
            Ok(answer) => answer,
            Err(ForwardError::NotLeader { .. } | ForwardError::Peer(_)) => return Looked::Nobody(nobody()),
        };
        let bytes: usize = answer.responses.iter().map(Bytes::len).sum();
        let decoded = answer
            .responses
            .into_iter()
            .map(|bytes| PullMessageResponse::decode(bytes).ok());
        let Some(responses) = decoded.collect::<Option<Vec<_>>>().filter(|all| !all.is_empty()) else {
            return Looked::Nobody(nobody());
        };
        if let (Some(Code::MessageNotFound), Some(next)) = (code_of(&responses), next_of(&responses)) {
            return Looked::Nothing(next);
        }
        room.settle(bytes as u64);
        Looked::Answer(responses)
    }

    /// Answers a pull that another node passed on, which has room for so much.
    pub(super) async fn answer_pull_of(
        &self,
        caller: &Caller,
        request: PullMessageRequest,
        (from, most): (u32, u64),
    ) -> ForwardResponse {
        let mut room = self.node_reader(from).room();
        room.limit(most);
        let looked = async {
            let pull = self.check_pull(caller, &request).await?;
            self.look_for(caller, &pull, &request, &mut room).await
        };
        let responses = match looked.await {
            Ok(Looked::Answer(responses)) => responses,
            Ok(Looked::Nothing(next)) => nothing(next),
            Ok(Looked::Nobody(_)) => return not_leader(),
            Err(refused) => vec![refused_pull(&refused)],
        };
        many_within(&responses, room)
    }
}

fn element(content: Content) -> PullMessageResponse {
    PullMessageResponse {
        content: Some(content),
    }
}

fn next_offset(next: u64) -> PullMessageResponse {
    element(Content::NextOffset(next as i64))
}

/// There is no message up to this offset.
fn nothing(next: u64) -> Vec<PullMessageResponse> {
    let status = answer::status(Code::MessageNotFound, "no message within the poll");
    vec![
        element(Content::Status(status.expect("a status"))),
        next_offset(next),
    ]
}

fn refused_pull(refused: &Refused) -> PullMessageResponse {
    element(Content::Status(refused.status().expect("a refusal has a status")))
}

fn code_of(responses: &[PullMessageResponse]) -> Option<Code> {
    match responses.first()?.content.as_ref()? {
        Content::Status(status) => Code::try_from(status.code).ok(),
        _ => None,
    }
}

fn next_of(responses: &[PullMessageResponse]) -> Option<u64> {
    match responses.last()?.content.as_ref()? {
        Content::NextOffset(next) => u64::try_from(*next).ok(),
        _ => None,
    }
}

fn nobody() -> Refused {
    Refused::new(
        Code::HaNotAvailable,
        "the queue has no leader at the moment, or it does not answer; pull again",
    )
}

fn too_many() -> Refused {
    Refused::new(
        Code::TooManyRequests,
        "too many pulls wait on this node, or too much of their answers is not read yet; pull less or add nodes",
    )
}
