//! SendMessage: validate, choose a queue, put the messages into its shard's log.
//!
//! The queue is chosen by message id among the queues led here, so that a retry meets
//! the first try's dedup entry. Once a command may have reached a log, only that shard
//! is asked again: its dedup window tells what happened.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_proto::{
    record::{self, Command, command},
    rocketmq::{Code, Message, MessageType, SendMessageRequest, SendMessageResponse, SendResultEntry},
};
use futures::future::join_all;
use prost::Message as _;
use queue_core::{QueueId, Reply};
use tokio::time::Instant;

use super::{
    Caller, Service,
    answer::{self, Refused},
    names,
    stored::to_stored,
};
use crate::{
    limits::MAX_SEND_MESSAGES,
    node::{clients::client_hash, forward::ForwardError, node_of, proposer::SubmitError, shard::DataShard},
    peer::PeerError,
};

const RETRY_AFTER: Duration = Duration::from_millis(30);

/// A message that is checked and encoded, on its way to a queue.
struct Outgoing {
    message_id: String,
    encoded: Bytes,
    result: Option<SendResultEntry>,
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
        self.saw(caller);
        let name = check_request(caller, &request)?;
        let topic = self.topic(&name).await?;
        check_kinds(&topic, &request.messages)?;
        let now = self.node().clock().now_ms();
        let host = &self.node().options().client_addr;
        let (mut count, mut size) = (0, 0);
        let mut outgoing = Vec::with_capacity(request.messages.len());
        let original = (!caller.forwarded).then(|| request.messages.clone());
        for message in request.messages {
            size += message.body.len() as u64;
            count += 1;
            let (message_id, encoded) = to_stored(caller, &name, message, now, host);
            outgoing.push(Outgoing {
                message_id,
                encoded,
                result: None,
            });
        }
        let response = self.place(caller, &topic, outgoing, original, pinned).await?;
        if response
            .status
            .as_ref()
            .is_some_and(|status| status.code == Code::Ok as i32)
        {
            self.counters().messages_in.add(count);
            self.counters().bytes_in.add(size);
        }
        Ok(response)
    }

    async fn place(
        &self,
        caller: &Caller,
        topic: &Arc<record::Topic>,
        mut outgoing: Vec<Outgoing>,
        original: Option<Vec<Message>>,
        mut pinned: Option<u32>,
    ) -> Result<SendMessageResponse, Refused> {
        let deadline = Instant::now() + caller.patience();
        let seed = client_hash(&outgoing[0].message_id);
        let mut unsure = false;
        let mut full = self.node().full_nodes();
        let me = self.node().id();
        loop {
            let others =
                full.contains(&me) && !caller.forwarded && self.has_room_elsewhere(topic, pinned, &full);
            let last_refusal = match self.led_here(topic, pinned, seed).filter(|_| !others) {
                Some(_) if full.contains(&me) => self.no_room(caller, &full)?,
                Some((queue, shard)) => {
                    let maybe = append_all(&shard, queue, &mut outgoing).await?;
                    if outgoing.iter().all(|message| message.result.is_some()) {
                        return Ok(respond(outgoing));
                    }
                    if maybe {
                        unsure = true;
                        pinned = Some(shard.id);
                    }
                    Refused::new(Code::HaNotAvailable, "the shard lost its leader; send again")
                }
                // The outcome is not known, and it is not for this node to find out.
                None if caller.forwarded && unsure => return Err(self::unsure()),
                None if caller.forwarded => return Err(not_leader()),
                None => match self.leader_elsewhere(topic, pinned, &full) {
                    Some((to, shard)) => {
                        let messages = original
                            .clone()
                            .expect("kept for a request that may be forwarded");
                        match self.send_there(caller, to, shard, messages, deadline).await? {
                            There::Answered(response) => {
                                // Nothing was stored there: another leader may have room.
                                let refused = is_no_room(&response) && full.insert(to);
                                if !refused || !self.has_room_elsewhere(topic, pinned, &full) {
                                    return Ok(response);
                                }
                                continue;
                            }
                            There::NotLeader => Refused::new(
                                Code::HaNotAvailable,
                                "the queue's leader is changing; send again",
                            ),
                            There::Unsure => {
                                pinned = Some(shard);
                                Refused::new(
                                    Code::ProxyTimeout,
                                    "the queue's leader did not answer; send again with the same message id",
                                )
                            }
                        }
                    }
                    // There are leaders, but none with room.
                    None if self.has_room_elsewhere(topic, pinned, &BTreeSet::new()) => {
                        self.no_room(caller, &full)?
                    }
                    None => Refused::new(
                        Code::HaNotAvailable,
                        "no queue of the topic has a leader; a majority of the nodes must run",
                    ),
                },
            };
            if Instant::now() + RETRY_AFTER >= deadline {
                return Err(last_refusal);
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// A queue of the topic led here, in the pinned shard if there is one.
    fn led_here(
        &self,
        topic: &record::Topic,
        pinned: Option<u32>,
        seed: u64,
    ) -> Option<(QueueId, Arc<DataShard>)> {
        let node = self.node();
        let led: Vec<(u32, u32)> = (0..)
            .zip(topic.queue_shards.iter().copied())
            .filter(|&(_, shard)| pinned.is_none_or(|pinned| pinned == shard) && node.leads(shard))
            .collect();
        let &(number, shard) = led.get((seed % led.len().max(1) as u64) as usize)?;
        Some((QueueId::new(topic.id, number), node.shard(shard)?))
    }

    /// Shards of the topic led by other nodes that are not known to be full, with those nodes.
    fn leaders_elsewhere(
        &self,
        topic: &record::Topic,
        pinned: Option<u32>,
        full: &BTreeSet<u32>,
    ) -> impl Iterator<Item = (u32, u32)> {
        let node = self.node();
        topic
            .queue_shards
            .iter()
            .filter(move |&&shard| pinned.is_none_or(|pinned| pinned == shard))
            .filter_map(|&shard| node.leader(shard).map(|leader| (leader, shard)))
            .filter(move |&(leader, _)| leader != node.id() && (pinned.is_some() || !full.contains(&leader)))
    }

    fn has_room_elsewhere(&self, topic: &record::Topic, pinned: Option<u32>, full: &BTreeSet<u32>) -> bool {
        self.leaders_elsewhere(topic, pinned, full).next().is_some()
    }

    /// The leaders have no room. A node that runs and has some will soon lead: then this is what to say if it does not,
    /// else it is said at once.
    fn no_room(&self, caller: &Caller, full: &BTreeSet<u32>) -> Result<Refused, Refused> {
        let refused = Refused::from(SubmitError::NoRoom);
        if caller.forwarded || self.node().alive_nodes().is_subset(full) {
            return Err(refused);
        }
        Ok(refused)
    }

    /// One of them, in turn.
    fn leader_elsewhere(
        &self,
        topic: &record::Topic,
        pinned: Option<u32>,
        full: &BTreeSet<u32>,
    ) -> Option<(u32, u32)> {
        let candidates: Vec<(u32, u32)> = self.leaders_elsewhere(topic, pinned, full).collect();
        candidates
            .get(self.next_turn() % candidates.len().max(1))
            .copied()
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
        to: u32,
        shard: u32,
        messages: Vec<Message>,
        deadline: Instant,
    ) -> Result<There, Refused> {
        let request = Bytes::from(SendMessageRequest { messages }.encode_to_vec());
        let ttl = deadline.saturating_duration_since(Instant::now());
        let forwarded = self
            .node()
            .forward(to, "SendMessage", shard, Some(caller.to_wire()), request, ttl);
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
            Err(
                ForwardError::NotLeader { unsure: false }
                | ForwardError::Peer(PeerError::Overloaded | PeerError::NotConnected),
            ) => Ok(There::NotLeader),
            Err(ForwardError::NotLeader { unsure: true } | ForwardError::Peer(_)) => Ok(There::Unsure),
        }
    }
}

/// What became of a send on another node.
enum There {
    Answered(SendMessageResponse),
    /// Nothing was done.
    NotLeader,
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

/// A forwarded request that found no leader here.
pub(super) fn not_leader() -> Refused {
    Refused::new(Code::HaNotAvailable, "this node does not lead the shard")
}

fn check_request(caller: &Caller, request: &SendMessageRequest) -> Result<String, Refused> {
    names::check_caller(caller)?;
    let Some(first) = request.messages.first() else {
        return Err(Refused::new(Code::MessageCorrupted, "the request has no message"));
    };
    if request.messages.len() > MAX_SEND_MESSAGES {
        return Err(Refused::new(
            Code::BadRequest,
            format!("one request has at most {MAX_SEND_MESSAGES} messages"),
        ));
    }
    let name = names::full_name(caller, first.topic.as_ref());
    names::check_topic(&name)?;
    for message in &request.messages {
        if names::full_name(caller, message.topic.as_ref()) != name {
            return Err(Refused::new(
                Code::MessageCorrupted,
                "the messages of one request have one topic",
            ));
        }
        names::check_message(message)?;
    }
    Ok(name)
}

fn check_kinds(topic: &record::Topic, messages: &[Message]) -> Result<(), Refused> {
    for properties in messages
        .iter()
        .filter_map(|message| message.system_properties.as_ref())
    {
        let kind = names::kind(properties);
        if !names::accepts(topic.message_type, kind) {
            return Err(Refused::new(
                Code::MessagePropertyConflictWithType,
                format!(
                    "topic {} does not take {} messages",
                    topic.name,
                    kind.as_str_name()
                ),
            ));
        }
        if kind != MessageType::Normal {
            return Err(Refused::new(
                Code::NotImplemented,
                format!("this release does not store {} messages yet", kind.as_str_name()),
            ));
        }
    }
    Ok(())
}

/// Appends what has no result yet. True if some of it may have reached the log without an answer.
async fn append_all(shard: &DataShard, queue: QueueId, outgoing: &mut [Outgoing]) -> Result<bool, Refused> {
    let mut waiting = Vec::with_capacity(outgoing.len());
    for message in outgoing.iter_mut().filter(|message| message.result.is_none()) {
        let append = record::Append {
            queue: queue.0,
            message_id: message.message_id.clone(),
            message: message.encoded.clone(),
        };
        let answer = shard.proposer.enqueue(Command {
            command: Some(command::Command::Append(append)),
        });
        waiting.push(async move { (message, answer_of(answer).await) });
    }
    let mut unsure = false;
    for (message, reply) in join_all(waiting).await {
        match reply {
            Ok(Reply::Appended { offset, .. }) => {
                message.result = Some(SendResultEntry {
                    status: answer::ok(),
                    message_id: message.message_id.clone(),
                    offset: offset as i64,
                    ..Default::default()
                });
            }
            Ok(other) => {
                message.result = Some(SendResultEntry {
                    status: answer::status(Code::InternalServerError, &format!("not stored: {other:?}")),
                    message_id: message.message_id.clone(),
                    ..Default::default()
                });
            }
            Err(SubmitError::NotLeader { unsure: maybe, .. }) => unsure |= maybe,
            Err(error) => {
                message.result = Some(SendResultEntry {
                    status: Refused::from(error).status(),
                    message_id: message.message_id.clone(),
                    ..Default::default()
                });
            }
        }
    }
    Ok(unsure)
}

async fn answer_of(
    queued: Result<tokio::sync::oneshot::Receiver<Result<Reply, SubmitError>>, SubmitError>,
) -> Result<Reply, SubmitError> {
    queued?
        .await
        .unwrap_or_else(|_| Err(SubmitError::Stopped("the shard is closed".into())))
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
