//! A client of the service: the messages an SDK sends, over the simulated network.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use broker::peer::{Body, PROTOCOL_VERSION, PeerError, PeerTransport};
use bytes::Bytes;
use flotilla_proto::{
    peer::{self, ForwardRequest, Hello},
    rocketmq as mq,
};
use madsim::time::TimeHandle;
use mq::receive_message_response::Content;
use prost::Message;

use crate::{
    answers::{self, Judge},
    history::{Place, Receipt},
    host::client_addr,
    letter::{Letter, Wrong},
    peers::{Disorder, SimTransport},
    trace::Trace,
};

mod delayed;
mod pulls;
mod transactions;
mod urgent;
mod who;

pub use delayed::Told;
pub use pulls::Pulled;
pub use transactions::Asked;
pub use who::Who;

/// The deadline of requests that do not wait for anything.
const PATIENCE: Duration = Duration::from_secs(3);
/// An answer that left in time may arrive so much later, as long as its connection lives: whoever threw it away then would
/// have to break the connection, or the server takes it for received.
const ON_ITS_WAY: Duration = Duration::from_secs(6);

/// What a receive asks for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// So many messages at most.
    pub most: i32,
    /// It waits for some for so long.
    pub poll: Duration,
    /// They are leased for so long. Without that the server renews the leases while the client lives.
    pub invisible: Option<Duration>,
    /// Of this queue, or of any, which comes to the same: brokers serve any of theirs.
    pub queue: i32,
    /// Names this request, which is repeated under the same name if its answer is lost.
    pub attempt: Option<String>,
    /// What of the topic; SDKs have several ways to say everything.
    pub filter: Option<(mq::FilterType, String)>,
}

/// One client, with a connection to every node.
pub struct Client {
    /// Who it is.
    pub who: Who,
    transport: Arc<SimTransport>,
    nodes: u32,
    judge: Judge,
}

/// A message as a consumer got it.
#[derive(Debug, Clone)]
pub struct Received {
    /// The id the producer gave it.
    pub message_id: String,
    /// Where it stands.
    pub place: Place,
    /// 1 on first delivery.
    pub attempt: i32,
    /// For the acknowledgement.
    pub handle: String,
    /// How often the lease was given another end, and with it another handle.
    pub changes: u32,
    /// What was sent.
    pub letter: Letter,
    /// When it was stored, milliseconds since 1970.
    pub stored_ms: u64,
}

impl Received {
    /// Its receipt, in this consumer group.
    #[must_use]
    pub fn receipt(&self, group: &str) -> Receipt {
        Receipt {
            group: group.to_owned(),
            place: self.place.clone(),
            id: self.message_id.clone(),
            attempt: self.attempt,
            changes: self.changes,
        }
    }

    /// The same with the handle that took the place of its handle.
    #[must_use]
    pub fn with(&self, handle: String) -> Received {
        Received {
            handle,
            changes: self.changes + 1,
            ..self.clone()
        }
    }
}

/// Why a request has no good answer.
#[derive(Debug, Clone)]
pub enum Failure {
    /// The network or the node; whether the request was carried out is unknown.
    Peer(PeerError),
    /// The service said no; nothing was done.
    Status(mq::Code, String),
}

impl Client {
    /// A client of a cluster of `nodes`. Runs where it is called.
    #[must_use]
    pub fn new(who: Who, nodes: u32, judge: Judge, disorder: Disorder, trace: Trace) -> Client {
        // Clients are numbered above all nodes.
        let node = 1000 + who.number();
        let hello = Hello {
            version: PROTOCOL_VERSION,
            node,
            ..Hello::default()
        };
        let transport = SimTransport::new(Arc::new(move || hello.clone()), disorder, trace);
        let addresses: BTreeMap<u32, String> = (1..=nodes)
            .map(|node| (node, client_addr(node).to_string()))
            .collect();
        transport.set_peers(addresses);
        Client {
            who,
            transport,
            nodes,
            judge,
        }
    }

    /// Tells `node` that this consumer lives, which is all it does.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn say_it_lives(&self, node: u32, group: &str) -> Result<(), Failure> {
        let request = mq::HeartbeatRequest {
            group: Some(resource(group)),
            client_type: mq::ClientType::PushConsumer.into(),
        };
        let answer: mq::HeartbeatResponse = self.call_one(node, "Heartbeat", &request).await?;
        good(answer.status)
    }

    /// What a push consumer is to read.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn assignment(&self, node: u32, topic: &str, group: &str) -> Result<(), Failure> {
        let request = mq::QueryAssignmentRequest {
            topic: Some(resource(topic)),
            group: Some(resource(group)),
            ..Default::default()
        };
        let answer: mq::QueryAssignmentResponse = self.call_one(node, "QueryAssignment", &request).await?;
        let wrong = answers::of_assignment(&resource(topic), self.nodes, &answer);
        self.judge.say(node, wrong);
        good(answer.status)
    }

    /// Tells `node` that the client with this id is gone.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn say_good_bye(&self, node: u32, name: String, group: &str) -> Result<(), Failure> {
        let request = mq::NotifyClientTerminationRequest {
            group: Some(resource(group)),
        };
        let answers: Vec<mq::NotifyClientTerminationResponse> = self
            .call_as(name, node, "NotifyClientTermination", &request, PATIENCE)
            .await?;
        good(answers.into_iter().next().and_then(|answer| answer.status))
    }

    /// The nodes that lead queues of the topic, which has so many, as `node` sees it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn route(&self, node: u32, topic: &str, queues: u32) -> Result<Vec<u32>, Failure> {
        let request = mq::QueryRouteRequest {
            topic: Some(resource(topic)),
            ..Default::default()
        };
        let answer: mq::QueryRouteResponse = self.call_one(node, "QueryRoute", &request).await?;
        let takes = self.judge.taken_by(topic);
        let wrong = answers::of_route((&resource(topic), queues, takes), self.nodes, &answer);
        self.judge.say(node, wrong);
        good(answer.status)?;
        let leader = |queue: mq::MessageQueue| {
            let address = queue.broker?.endpoints?.addresses.into_iter().next()?;
            address.host.rsplit('.').next()?.parse().ok()
        };
        Ok(answer.message_queues.into_iter().filter_map(leader).collect())
    }

    /// Sends messages of one topic to `node`, the first of them made wrong on purpose, or none. The offset of each, or why it
    /// has none.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn send(
        &self,
        node: u32,
        topic: &str,
        wrong: Option<Wrong>,
        letters: &[(String, Letter)],
    ) -> Result<Vec<Result<i64, Failure>>, Failure> {
        let message = |(id, letter): &(String, Letter)| mq::Message {
            topic: Some(resource(topic)),
            ..letter.to_wire(id)
        };
        let mut request = mq::SendMessageRequest {
            messages: letters.iter().map(message).collect(),
        };
        if let (Some(wrong), Some(first)) = (wrong, request.messages.first_mut()) {
            wrong.spoil(first);
        }
        let answer: mq::SendMessageResponse = self.call_one(node, "SendMessage", &request).await?;
        self.judge.say(node, answers::of_send(&request, &answer));
        if answer.entries.len() != letters.len() {
            good(answer.status)?;
            return Err(Failure::Peer(PeerError::Malformed));
        }
        let of_entry = |entry: mq::SendResultEntry| good(entry.status).map(|()| entry.offset);
        Ok(answer.entries.into_iter().map(of_entry).collect())
    }

    /// Leases messages from `node`.
    ///
    /// # Errors
    /// See [`Failure`]; no message in time is no error.
    pub async fn receive(
        &self,
        node: u32,
        (topic, group): (&str, &str),
        ask: &Ask,
    ) -> Result<Vec<Received>, Failure> {
        let asked = TimeHandle::current().elapsed();
        let request = mq::ReceiveMessageRequest {
            group: Some(resource(group)),
            message_queue: Some(mq::MessageQueue {
                topic: Some(resource(topic)),
                id: ask.queue,
                ..Default::default()
            }),
            filter_expression: ask.filter.clone().map(|(kind, expression)| mq::FilterExpression {
                r#type: kind.into(),
                expression,
            }),
            batch_size: ask.most,
            invisible_duration: ask.invisible.map(span),
            auto_renew: ask.invisible.is_none(),
            long_polling_timeout: Some(span(ask.poll)),
            attempt_id: ask.attempt.clone(),
            ..Default::default()
        };
        let ttl = ask.poll + PATIENCE;
        let answers: Vec<mq::ReceiveMessageResponse> =
            self.call(node, "ReceiveMessage", &request, ttl).await?;
        self.judge.receive(node, &request, asked, &answers);
        let mut received = Vec::new();
        for answer in answers {
            match answer.content {
                Some(Content::Status(status)) if status.code() == mq::Code::MessageNotFound => {}
                Some(Content::Status(status)) => good(Some(status))?,
                Some(Content::Message(message)) => received.push(receipt(topic, message)),
                _ => {}
            }
        }
        Ok(received)
    }

    /// Acknowledges messages of one topic; what became of each.
    ///
    /// # Errors
    /// See [`Failure`]; for one whose lease is over it is a `Status`.
    pub async fn ack(
        &self,
        node: u32,
        group: &str,
        messages: &[&Received],
    ) -> Result<Vec<Result<(), Failure>>, Failure> {
        let entry = |message: &&Received| mq::AckMessageEntry {
            message_id: message.message_id.clone(),
            receipt_handle: message.handle.clone(),
            ..Default::default()
        };
        let topic = messages.first().map(|message| resource(&message.place.topic));
        let request = mq::AckMessageRequest {
            group: Some(resource(group)),
            topic,
            entries: messages.iter().map(entry).collect(),
        };
        let answer: mq::AckMessageResponse = self.call_one(node, "AckMessage", &request).await?;
        self.judge.say(node, answers::of_ack(&request, &answer));
        if answer.entries.len() != messages.len() {
            good(answer.status)?;
            return Err(Failure::Peer(PeerError::Malformed));
        }
        Ok(answer
            .entries
            .into_iter()
            .map(|entry| good(entry.status))
            .collect())
    }

    /// Hides a leased message for another time; the new handle.
    ///
    /// # Errors
    /// See [`Failure`]; a lease that is over is a `Status`.
    pub async fn hide(
        &self,
        node: u32,
        group: &str,
        message: &Received,
        invisible: Duration,
    ) -> Result<String, Failure> {
        let request = mq::ChangeInvisibleDurationRequest {
            group: Some(resource(group)),
            topic: Some(resource(&message.place.topic)),
            receipt_handle: message.handle.clone(),
            invisible_duration: Some(span(invisible)),
            message_id: message.message_id.clone(),
            ..Default::default()
        };
        let answer: mq::ChangeInvisibleDurationResponse =
            self.call_one(node, "ChangeInvisibleDuration", &request).await?;
        self.judge.say(node, answers::of_change(&request, &answer));
        good(answer.status)?;
        Ok(answer.receipt_handle)
    }

    /// Makes a leased message a dead letter.
    ///
    /// # Errors
    /// See [`Failure`]; a lease that is over is a `Status`.
    pub async fn bury(&self, node: u32, group: &str, message: &Received) -> Result<(), Failure> {
        let request = mq::ForwardMessageToDeadLetterQueueRequest {
            group: Some(resource(group)),
            topic: Some(resource(&message.place.topic)),
            receipt_handle: message.handle.clone(),
            message_id: message.message_id.clone(),
            ..Default::default()
        };
        let answer: mq::ForwardMessageToDeadLetterQueueResponse = self
            .call_one(node, "ForwardMessageToDeadLetterQueue", &request)
            .await?;
        good(answer.status)
    }

    async fn call_one<M: Message + Default>(
        &self,
        node: u32,
        rpc: &str,
        request: &impl Message,
    ) -> Result<M, Failure> {
        let answers = self.call(node, rpc, request, PATIENCE).await?;
        answers
            .into_iter()
            .next()
            .ok_or(Failure::Peer(PeerError::Malformed))
    }

    async fn call<M: Message + Default>(
        &self,
        node: u32,
        rpc: &str,
        request: &impl Message,
        ttl: Duration,
    ) -> Result<Vec<M>, Failure> {
        self.call_as(self.who.name(), node, rpc, request, ttl).await
    }

    async fn call_as<M: Message + Default>(
        &self,
        client_id: String,
        node: u32,
        rpc: &str,
        request: &impl Message,
        ttl: Duration,
    ) -> Result<Vec<M>, Failure> {
        let caller = peer::Caller {
            client_id,
            language: "RUST".into(),
            client_version: "5.0.0".into(),
            ..Default::default()
        };
        let waits = match rpc {
            "ReceiveMessage" => ttl + ON_ITS_WAY,
            _ => ttl,
        };
        let request = ForwardRequest {
            rpc: rpc.into(),
            caller: Some(caller),
            request: request.encode_to_vec().into(),
            shard: 0,
            deadline_ms: ttl.as_millis() as u64,
            ..Default::default()
        };
        match self
            .transport
            .call(node, Body::Forward(request), waits)
            .await
            .map_err(Failure::Peer)?
        {
            Body::ForwardAnswer(answer) => {
                let decode = |bytes: Bytes| M::decode(bytes).map_err(|_| Failure::Peer(PeerError::Malformed));
                answer.responses.into_iter().map(decode).collect()
            }
            _ => Err(Failure::Peer(PeerError::Malformed)),
        }
    }
}

fn receipt(topic: &str, message: mq::Message) -> Received {
    let letter = Letter::from_wire(&message);
    let properties = message.system_properties.unwrap_or_default();
    Received {
        message_id: properties.message_id,
        place: Place {
            topic: message.topic.map_or_else(|| topic.to_owned(), |topic| topic.name),
            queue: properties.queue_id,
            offset: properties.queue_offset.unwrap_or(-1),
        },
        attempt: properties.delivery_attempt.unwrap_or(0),
        handle: properties.receipt_handle.unwrap_or_default(),
        changes: 0,
        letter,
        stored_ms: properties.store_timestamp.map_or(0, |stored| {
            stored.seconds as u64 * 1_000 + stored.nanos as u64 / 1_000_000
        }),
    }
}

fn good(status: Option<mq::Status>) -> Result<(), Failure> {
    let status = status.unwrap_or_default();
    if status.code() == mq::Code::Ok {
        Ok(())
    } else {
        Err(Failure::Status(status.code(), status.message))
    }
}

fn resource(name: &str) -> mq::Resource {
    mq::Resource {
        name: name.into(),
        ..Default::default()
    }
}

fn span(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: duration.as_secs() as i64,
        nanos: duration.subsec_nanos() as i32,
    }
}
