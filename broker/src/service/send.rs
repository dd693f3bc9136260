//! SendMessage: validate, choose a queue, put the messages into its shard's log.
//!
//! A message's shard follows from its id, so that a retry, at whatever node and after
//! whatever happened, meets the first try's dedup entry (docs/adr/0005).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_proto::{
    peer as wire,
    record::{self, Command, command},
    rocketmq::{Code, Message, MessageType, SendMessageRequest, SendMessageResponse, SendResultEntry},
};
use prost::Message as _;
use queue_core::{QueueId, Refusal, Reply, lane_of, limits::MAX_OPEN_HALVES, message_group_hash, tag_hash};
use tokio::time::Instant;

use super::{
    Caller, Service,
    answer::{self, Refused},
    delay::{delivery_ms, receipt},
    home::Home,
    names,
    stored::to_stored,
    transaction::{first_check, half_receipt},
};
use crate::{
    limits::MAX_SEND_WAIT_MS,
    node::{forward::ForwardError, node_of, proposer::SubmitError, shard::DataShard},
    peer::PeerError,
};

mod check;

use check::{check_kinds, check_request};

const RETRY_AFTER: Duration = Duration::from_millis(30);
const MAX_SEND_WAIT: Duration = Duration::from_millis(MAX_SEND_WAIT_MS);

/// A message that is checked and encoded, on its way to a queue.
struct Outgoing {
    message_id: String,
    /// Hash of its tag; 0 if it has none.
    tag: u64,
    message_group: Option<String>,
    /// Its lane, on a PRIORITY topic.
    lane: Option<u32>,
    /// When it is to be delivered, by the wall clock; nothing: as soon as it is stored.
    delivery_ms: Option<u64>,
    /// Of a half message: after how long it is checked back for the first time.
    first_check: Option<Duration>,
    encoded: Bytes,
    result: Option<SendResultEntry>,
}

/// What the client sent, for the node that leads. Encoded once, however often it is tried: what waits for a leader, or for
/// room on the way to it, must cost little.
struct Original {
    messages: Vec<Message>,
    encoded: Option<Bytes>,
}

impl Original {
    fn encoded(&mut self) -> Bytes {
        let messages = &mut self.messages;
        let encode = || {
            let messages = std::mem::take(messages);
            SendMessageRequest { messages }.encode_to_vec().into()
        };
        self.encoded.get_or_insert_with(encode).clone()
    }
}

impl Service {
    /// Stores messages of one topic.
    pub async fn send_message(&self, caller: &Caller, request: SendMessageRequest) -> SendMessageResponse {
        match self.try_send(caller, request, None).await {
            Ok(response) => response,
            Err(refused) => {
                self.counters().send_refused.add(1);
                SendMessageResponse {
                    status: refused.status(),
                    entries: Vec::new(),
                }
            }
        }
    }

    /// `pinned` is the shard that a forwarded request must go to.
    pub(super) async fn try_send(
        &self,
        caller: &Caller,
        request: SendMessageRequest,
        pinned: Option<u32>,
    ) -> Result<SendMessageResponse, Refused> {
        self.heard(caller);
        let name = check_request(caller, &request)?;
        let topic = self.topic(&name).await?;
        check_kinds(&topic, &request.messages)?;
        let now = self.node().clock().wall_ms();
        let host = &self.node().options().client_addr;
        let mut outgoing = Vec::with_capacity(request.messages.len());
        let mut original = Original {
            messages: if caller.forwarded {
                Vec::new()
            } else {
                request.messages.clone()
            },
            encoded: None,
        };
        // Who passed it on has checked it, by another clock.
        let max_delay = match caller.forwarded {
            true => Duration::MAX,
            false => self.node().options().max_delay,
        };
        for message in request.messages {
            let tag = message
                .system_properties
                .as_ref()
                .and_then(|all| all.tag.as_deref());
            let tag = tag.map_or(0, tag_hash);
            let properties = message.system_properties.as_ref();
            // What is delivered at a date has no order beside it.
            let ordered = properties.filter(|all| names::kind(all) == MessageType::Fifo);
            let message_group = ordered.and_then(|all| all.message_group.clone());
            let by_priority = properties.filter(|all| names::kind(all) == MessageType::Priority);
            let lane = by_priority.and_then(|all| all.priority).map(lane_of);
            let delivery_ms = match properties {
                Some(all) => delivery_ms(all, now, max_delay)?,
                None => None,
            };
            let half = properties.filter(|all| names::kind(all) == MessageType::Transaction);
            let default = self.node().options().transactions.first_check;
            let first_check = half.map(|all| first_check(all, default)).transpose()?;
            let (message_id, encoded) = to_stored(caller, &name, message, now, host);
            outgoing.push(Outgoing {
                message_id,
                tag,
                message_group,
                lane,
                delivery_ms,
                first_check,
                encoded,
                result: None,
            });
        }
        if !caller.forwarded && outgoing.iter().any(|message| message.first_check.is_some()) {
            self.node().producers().sent(&caller.client_id, &name);
        }
        self.place(caller, &topic, outgoing, &mut original, pinned).await
    }

    async fn place(
        &self,
        caller: &Caller,
        topic: &Arc<record::Topic>,
        mut outgoing: Vec<Outgoing>,
        original: &mut Original,
        pinned: Option<u32>,
    ) -> Result<SendMessageResponse, Refused> {
        let (begun, deadline) = (Instant::now(), Instant::now() + caller.patience());
        let first = &outgoing[0];
        // Every message of a message group in one queue, whatever its producers' hashes say.
        let by_group = plant!(MessageGroupsScattered => None, else first.message_group.as_ref());
        let place = Home::of(by_group.unwrap_or(&first.message_id));
        let pinned = plant!(UnsureSendGoesElsewhere => super::planted::or_near(pinned, self.node(), topic), else pinned);
        let home = pinned.unwrap_or_else(|| place.shard(topic));
        let me = self.node().id();
        let mut unsure = caller.retried;
        loop {
            let full = self.node().full_nodes();
            let last_refusal = match self.node().leader(home) {
                Some(leader) if full.contains(&leader) => self.no_room(caller, &full, unsure)?,
                Some(leader) if leader == me => {
                    let (queue, shard) = self.queue_here(topic, home, place)?;
                    unsure |= append_all(&shard, queue, &mut outgoing, unsure).await?;
                    if outgoing.iter().all(|message| message.result.is_some()) {
                        return Ok(respond(outgoing));
                    }
                    Refused::new(Code::HaNotAvailable, "the shard lost its leader; send again")
                }
                // The outcome is not known, and it is not for this node to find out.
                _ if caller.forwarded && unsure => return Err(self::unsure()),
                _ if caller.forwarded => return Err(not_leader()),
                Some(leader) => match self
                    .send_there(caller, (leader, home), original, (deadline, unsure))
                    .await?
                {
                    There::Answered(response) if is_no_room(&response) => {
                        self.no_room(caller, &full, unsure)?
                    }
                    There::Answered(response) => return Ok(response),
                    There::NotLeader => {
                        Refused::new(Code::HaNotAvailable, "the queue's leader is changing; send again")
                    }
                    There::Full if begun.elapsed() >= MAX_SEND_WAIT => {
                        return Err(certain(unsure, SubmitError::Overloaded.into()));
                    }
                    There::Full => certain(unsure, SubmitError::Overloaded.into()),
                    There::Unsure => {
                        unsure = true;
                        Refused::new(
                            Code::ProxyTimeout,
                            "the queue's leader did not answer; send again with the same message id",
                        )
                    }
                },
                None => Refused::new(
                    Code::HaNotAvailable,
                    "the message's shard has no leader; a majority of the nodes must run",
                ),
            };
            if Instant::now() + RETRY_AFTER >= deadline {
                return Err(last_refusal);
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// The queue for a message among those of the topic in a shard of this node.
    fn queue_here(
        &self,
        topic: &record::Topic,
        shard: u32,
        place: Home,
    ) -> Result<(QueueId, Arc<DataShard>), Refused> {
        match (place.queue(topic, shard), self.node().shard(shard)) {
            (Some(queue), Some(here)) => Ok((queue, here)),
            // A forwarded request of a node that knows another catalogue.
            _ => Err(not_leader()),
        }
    }

    /// The leaders have no room. A node that runs and has some will soon lead: then this is what to say if it does not,
    /// else it is said at once.
    fn no_room(&self, caller: &Caller, full: &BTreeSet<u32>, unsure: bool) -> Result<Refused, Refused> {
        let refused = certain(unsure, SubmitError::NoRoom.into());
        if caller.forwarded || self.node().alive_nodes().is_subset(full) {
            return Err(refused);
        }
        Ok(refused)
    }

    /// Waits until a shard is led by another node than this one.
    async fn led_by_another(&self, shard: u32, node: u32) {
        let Some(shard) = self.node().shard(shard) else {
            return std::future::pending().await;
        };
        let mut status = shard.replica.subscribe();
        while status
            .current()
            .leader
            .map(node_of)
            .is_none_or(|leader| leader == node)
        {
            if !status.changed().await {
                return std::future::pending().await;
            }
        }
    }

    async fn send_there(
        &self,
        caller: &Caller,
        (to, shard): (u32, u32),
        original: &mut Original,
        (deadline, retried): (Instant, bool),
    ) -> Result<There, Refused> {
        let request = original.encoded();
        let asking = wire::Caller {
            retried,
            ..caller.to_wire()
        };
        let ttl = deadline.saturating_duration_since(Instant::now());
        let forwarded = self
            .node()
            .forward(to, "SendMessage", shard, Some(asking), request, ttl);
        let answer = tokio::select! {
            biased;
            answer = forwarded => answer,
            // A node that stands still does not answer. The new leader knows by the message id what is stored already.
            () = self.led_by_another(shard, to) => return Ok(There::Unsure),
        };
        match answer {
            Ok(responses) => match responses.into_iter().next().map(SendMessageResponse::decode) {
                Some(Ok(response)) => Ok(There::Answered(response)),
                _ => Err(Refused::new(
                    Code::InternalServerError,
                    "the leader's answer does not decode",
                )),
            },
            Err(ForwardError::Peer(PeerError::Overloaded)) => Ok(There::Full),
            Err(ForwardError::NotLeader { unsure: false } | ForwardError::Peer(PeerError::NotConnected)) => {
                Ok(There::NotLeader)
            }
            Err(ForwardError::NotLeader { unsure: true }) => Ok(There::Unsure),
            Err(ForwardError::Peer(_)) => Ok(
                plant!(UnsureSendAnsweredOk => There::Answered(super::planted::as_if_stored(original.encoded())), else There::Unsure),
            ),
        }
    }
}

/// What became of a send on another node.
enum There {
    Answered(SendMessageResponse),
    /// Nothing was done.
    NotLeader,
    /// Too much is on its way there.
    Full,
    /// Perhaps something was: only the same shard can tell.
    Unsure,
}

/// A forwarded request that began here and may still take effect; the shard has another leader now.
pub(super) fn unsure() -> Refused {
    Refused::new(
        Code::HaNotAvailable,
        "this node lost the shard in the middle of the request",
    )
}

/// A refusal that says that nothing was done, unless a try before it may have been carried out: whoever believes it takes
/// what the first try did for somebody else's doing. Not the same as [`unsure`], which another node would ask again about, as
/// often as it can, of a leader that has too much work.
pub(super) fn certain(unsure: bool, refused: Refused) -> Refused {
    let says_not_done = matches!(
        refused.code,
        Code::TooManyRequests | Code::MasterPersistenceTimeout
    );
    match plant!(RefusedAfterAnUnsureTry => false, else unsure && says_not_done) {
        true => Refused::new(
            Code::HaNotAvailable,
            format!(
                "an earlier try of this request may have been carried out; this one was refused: {}",
                refused.message
            ),
        ),
        false => refused,
    }
}

/// A forwarded request that found no leader here.
pub(super) fn not_leader() -> Refused {
    Refused::new(Code::HaNotAvailable, "this node does not lead the shard")
}

/// Appends what has no result yet, as one unit; of what `was_unsure` a try before may have. True if it is in the log, or may
/// be: what is tried again has the same messages in the same order, and finds all of them there or none.
async fn append_all(
    shard: &DataShard,
    queue: QueueId,
    outgoing: &mut [Outgoing],
    was_unsure: bool,
) -> Result<bool, Refused> {
    let mut waiting = Vec::with_capacity(outgoing.len());
    for message in outgoing.iter_mut().filter(|message| message.result.is_none()) {
        plant!(DedupBeforeCommit => if super::planted::answers(shard, queue, &message.message_id, &mut message.result) { continue });
        waiting.push(message);
    }
    plant!(BatchReordered => waiting.reverse());
    let commands = waiting.iter().map(|message| append_of(shard, queue, message));
    match submit_all(shard, commands.collect()).await {
        Ok(replies) => {
            for (message, reply) in waiting.into_iter().zip(replies) {
                message.result = Some(stored(message, shard.id, reply));
            }
            Ok(true)
        }
        Err(SubmitError::NotLeader { unsure, .. }) => Ok(unsure),
        Err(error @ SubmitError::BatchTooLarge(..)) => Err(error.into()),
        Err(error) => {
            let may_stand = matches!(error, SubmitError::Stopped(_));
            let status = certain(was_unsure, error.into()).status();
            for message in waiting {
                message.result = Some(SendResultEntry {
                    status: status.clone(),
                    message_id: message.message_id.clone(),
                    ..Default::default()
                });
            }
            Ok(may_stand)
        }
    }
}

fn append_of(shard: &DataShard, queue: QueueId, message: &Outgoing) -> Command {
    let queue = message
        .lane
        .map_or(queue, |lane| QueueId::new(queue.topic(), lane));
    let append = record::Append {
        queue: queue.0,
        message_id: message.message_id.clone(),
        message: message.encoded.clone(),
        tag: message.tag,
        message_group: message.message_group.as_deref().map_or(0, message_group_hash),
        due_ms: match message.first_check {
            Some(after) => shard.now_ms().saturating_add(after.as_millis() as u64),
            None => message.delivery_ms.map_or(0, |at| shard.due_ms(at)),
        },
        half: message.first_check.is_some(),
    };
    Command {
        command: Some(command::Command::Append(append)),
    }
}

async fn submit_all(shard: &DataShard, commands: Vec<Command>) -> Result<Vec<Reply>, SubmitError> {
    shard
        .proposer
        .enqueue_all(commands)?
        .await
        .unwrap_or_else(|_| Err(SubmitError::Stopped("the shard is closed".into())))
}

fn stored(message: &Outgoing, shard: u32, reply: Reply) -> SendResultEntry {
    let message_id = &message.message_id;
    match reply {
        Reply::Appended { queue, offset, .. } if message.first_check.is_some() => {
            half_receipt(message_id, shard, queue, offset)
        }
        Reply::Appended { queue, offset, .. } => receipt(message_id, shard, queue, offset),
        Reply::Refused(Refusal::TooManyOpen) => SendResultEntry {
            status: answer::status(
                Code::TooManyRequests,
                &format!(
                    "{MAX_OPEN_HALVES} transactions of the queue are open; end some, or see `flotilla transaction list`"
                ),
            ),
            message_id: message_id.to_owned(),
            ..Default::default()
        },
        other => SendResultEntry {
            status: answer::status(Code::InternalServerError, &format!("not stored: {other:?}")),
            message_id: message_id.to_owned(),
            ..Default::default()
        },
    }
}

fn is_no_room(response: &SendMessageResponse) -> bool {
    let code = response.status.as_ref().map(|status| status.code);
    code == Some(Code::MasterPersistenceTimeout as i32)
}

fn respond(outgoing: Vec<Outgoing>) -> SendMessageResponse {
    let entries: Vec<SendResultEntry> = outgoing
        .into_iter()
        .map(|message| message.result.expect("every message has a result"))
        .collect();
    SendMessageResponse {
        status: answer::summary(entries.iter().map(|entry| &entry.status)),
        entries,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_never_tried_is_refused_as_not_done() {
        let says = |unsure, error: SubmitError| certain(unsure, error.into()).code;
        for error in [SubmitError::Overloaded, SubmitError::NoRoom] {
            assert_eq!(says(false, error.clone()), Refused::from(error.clone()).code);
            assert_eq!(says(true, error), Code::HaNotAvailable);
        }
        // That a command is too large was so at the first try, too.
        assert_eq!(says(true, SubmitError::TooLarge(9)), Code::MessageBodyTooLarge);
    }
}
