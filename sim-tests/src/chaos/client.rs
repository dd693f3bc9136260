//! A client of the service over gRPC: the messages an SDK sends, to whichever node it is told.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use flotilla_proto::rocketmq::{self as mq, messaging_service_client::MessagingServiceClient};
use mq::receive_message_response::Content;
use tokio::time::timeout;
use tonic::{
    Request, Status, Streaming,
    metadata::AsciiMetadataValue,
    transport::{Channel, Endpoint},
};

use crate::history::{Place, Receipt};

/// The deadline of requests that do not wait for anything; as in SDKs.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// Messages a receive asks for.
const BATCH: i32 = 16;
const CONNECT: Duration = Duration::from_secs(1);
/// A connection on which nothing comes back for so long, though it should, is made anew.
const SILENCE: Duration = Duration::from_secs(2);
/// Of one answer: the largest batch of the largest bodies.
const MOST_BYTES: usize = 16 << 20;

/// One client, with a connection to every node.
pub(super) struct Client {
    id: String,
    nodes: Vec<MessagingServiceClient<Channel>>,
}

/// A message as a consumer got it.
#[derive(Debug, Clone)]
pub(super) struct Received {
    /// What its producer calls it: its key, if it has one, because SDKs choose message ids themselves.
    pub(super) id: String,
    /// What it is called in requests.
    pub(super) message_id: String,
    pub(super) place: Place,
    /// 1 on first delivery.
    pub(super) attempt: i32,
    /// For the acknowledgement.
    pub(super) handle: String,
    /// How often the lease was given another end, and with it another handle.
    pub(super) changes: u32,
    pub(super) body: Bytes,
}

impl Received {
    /// Its receipt, in this consumer group.
    pub(super) fn receipt(&self, group: &str) -> Receipt {
        Receipt {
            group: group.to_owned(),
            place: self.place.clone(),
            id: self.id.clone(),
            attempt: self.attempt,
            changes: self.changes,
        }
    }

    /// The same with a handle that no node ever gave.
    pub(super) fn invented(&self) -> Received {
        Received {
            handle: format!("{}x", self.handle),
            ..self.clone()
        }
    }

    /// The same with the handle that took the place of its handle.
    pub(super) fn with(&self, handle: String) -> Received {
        Received {
            handle,
            changes: self.changes + 1,
            ..self.clone()
        }
    }
}

/// Why a request has no good answer.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The network or the node; whether the request was carried out is unknown.
    Unknown(Status),
    /// The service said no, and why.
    Status(mq::Code, String),
}

impl Failure {
    /// Its kind, for counting.
    pub(super) fn kind(&self) -> String {
        match self {
            Failure::Unknown(status) => format!("unknown: {:?}", status.code()),
            Failure::Status(code, _) => format!("refused: {}", code.as_str_name()),
        }
    }

    /// What was said about it, for people.
    pub(super) fn words(&self) -> &str {
        match self {
            Failure::Unknown(status) => status.message(),
            Failure::Status(_, words) => words,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure::Unknown(status)
    }
}

impl Client {
    /// A client of the nodes at these addresses, numbered from 1. Connects when it is needed.
    pub(super) fn new(id: &str, addresses: &[String]) -> Client {
        let connect = |address: &String| {
            let channel = Endpoint::from_shared(format!("http://{address}"))
                .expect("the addresses are ours")
                .connect_timeout(CONNECT)
                .http2_keep_alive_interval(SILENCE)
                .keep_alive_timeout(SILENCE)
                .connect_lazy();
            MessagingServiceClient::new(channel).max_decoding_message_size(MOST_BYTES)
        };
        Client {
            id: id.to_owned(),
            nodes: addresses.iter().map(connect).collect(),
        }
    }

    /// What it calls itself.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The nodes that lead queues of the topic, by their addresses, as `node` sees it.
    pub(super) async fn route(&self, node: u32, topic: &str) -> Result<Vec<String>, Failure> {
        let request = mq::QueryRouteRequest {
            topic: Some(resource(topic)),
            ..Default::default()
        };
        let mut client = self.node(node);
        let answer = within(PATIENCE, client.query_route(self.request(request, PATIENCE))).await?;
        good(answer.status)?;
        let leader = |queue: mq::MessageQueue| {
            let address = queue.broker?.endpoints?.addresses.into_iter().next()?;
            Some(format!("{}:{}", address.host, address.port))
        };
        Ok(answer.message_queues.into_iter().filter_map(leader).collect())
    }

    /// Sends one message to `node`; its offset.
    pub(super) async fn send(
        &self,
        node: u32,
        topic: &str,
        message_id: &str,
        body: Bytes,
    ) -> Result<i64, Failure> {
        let properties = mq::SystemProperties {
            message_id: message_id.into(),
            message_type: mq::MessageType::Normal.into(),
            body_encoding: mq::Encoding::Identity.into(),
            born_host: self.id.clone(),
            ..Default::default()
        };
        let message = mq::Message {
            topic: Some(resource(topic)),
            system_properties: Some(properties),
            body,
            ..Default::default()
        };
        let request = mq::SendMessageRequest {
            messages: vec![message],
        };
        let mut client = self.node(node);
        let answer = within(PATIENCE, client.send_message(self.request(request, PATIENCE))).await?;
        good(answer.status)?;
        let entry = answer.entries.into_iter().next();
        let entry = entry.ok_or_else(|| Failure::Unknown(Status::data_loss("an answer without an entry")))?;
        good(entry.status)?;
        Ok(entry.offset)
    }

    /// Leases messages from `node`, waiting for some up to `poll`; none in time is no error.
    pub(super) async fn receive(
        &self,
        node: u32,
        (topic, group): (&str, &str),
        poll: Duration,
        invisible: Duration,
    ) -> Result<Vec<Received>, Failure> {
        let request = mq::ReceiveMessageRequest {
            group: Some(resource(group)),
            message_queue: Some(mq::MessageQueue {
                topic: Some(resource(topic)),
                id: -1,
                ..Default::default()
            }),
            filter_expression: Some(mq::FilterExpression {
                r#type: mq::FilterType::Tag.into(),
                expression: "*".into(),
            }),
            batch_size: BATCH,
            invisible_duration: Some(span(invisible)),
            long_polling_timeout: Some(span(poll)),
            ..Default::default()
        };
        let limit = poll + PATIENCE;
        let mut client = self.node(node);
        // The whole stream within the limit: what comes later than that is not taken any more.
        within(limit, async {
            let answer = client.receive_message(self.request(request, limit)).await?;
            Ok(tonic::Response::new(all(answer.into_inner(), topic).await))
        })
        .await?
    }

    /// Acknowledges messages of one topic; of each, a lease that is over is a `Status`.
    pub(super) async fn ack(
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
        let request = mq::AckMessageRequest {
            group: Some(resource(group)),
            topic: messages.first().map(|message| resource(&message.place.topic)),
            entries: messages.iter().map(entry).collect(),
        };
        let mut client = self.node(node);
        let answer = within(PATIENCE, client.ack_message(self.request(request, PATIENCE))).await?;
        if answer.entries.len() != messages.len() {
            good(answer.status)?;
            return Err(Failure::Unknown(Status::data_loss("not an answer for each")));
        }
        Ok(answer
            .entries
            .into_iter()
            .map(|entry| good(entry.status))
            .collect())
    }

    /// Hides a leased message for another time; the new handle. A lease that is over is a `Status`.
    pub(super) async fn hide(
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
        let mut client = self.node(node);
        let answer = within(
            PATIENCE,
            client.change_invisible_duration(self.request(request, PATIENCE)),
        )
        .await?;
        good(answer.status)?;
        Ok(answer.receipt_handle)
    }

    /// Makes a leased message a dead letter; a lease that is over is a `Status`.
    pub(super) async fn bury(&self, node: u32, group: &str, message: &Received) -> Result<(), Failure> {
        let request = mq::ForwardMessageToDeadLetterQueueRequest {
            group: Some(resource(group)),
            topic: Some(resource(&message.place.topic)),
            receipt_handle: message.handle.clone(),
            message_id: message.message_id.clone(),
            ..Default::default()
        };
        let mut client = self.node(node);
        let answer = within(
            PATIENCE,
            client.forward_message_to_dead_letter_queue(self.request(request, PATIENCE)),
        );
        good(answer.await?.status)
    }

    fn node(&self, node: u32) -> MessagingServiceClient<Channel> {
        self.nodes[node as usize - 1].clone()
    }

    fn request<T>(&self, message: T, limit: Duration) -> Request<T> {
        let mut request = Request::new(message);
        let id = AsciiMetadataValue::try_from(self.id.as_str()).expect("client ids are plain text");
        let headers = request.metadata_mut();
        headers.insert("x-mq-client-id", id);
        headers.insert("x-mq-language", AsciiMetadataValue::from_static("OTHER"));
        headers.insert("x-mq-client-version", AsciiMetadataValue::from_static("5.0.0"));
        headers.insert("x-mq-protocol", AsciiMetadataValue::from_static("v2"));
        request.set_timeout(limit);
        request
    }
}

async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Failure> {
    match timeout(limit, answer).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Failure::Unknown(Status::deadline_exceeded("no answer in time"))),
    }
}

async fn all(
    mut answers: Streaming<mq::ReceiveMessageResponse>,
    topic: &str,
) -> Result<Vec<Received>, Failure> {
    let mut received = Vec::new();
    loop {
        match answers.message().await {
            Ok(None) => return Ok(received),
            // What came before the connection broke did come: the consumer has it.
            Err(_) if !received.is_empty() => return Ok(received),
            Err(status) => return Err(status.into()),
            Ok(Some(answer)) => match answer.content {
                Some(Content::Status(status)) if status.code() == mq::Code::MessageNotFound => {}
                Some(Content::Status(status)) => good(Some(status))?,
                Some(Content::Message(message)) => received.push(receipt(topic, message)),
                _ => {}
            },
        }
    }
}

fn receipt(topic: &str, message: mq::Message) -> Received {
    let properties = message.system_properties.unwrap_or_default();
    let key = properties.keys.into_iter().next();
    Received {
        id: key.unwrap_or_else(|| properties.message_id.clone()),
        message_id: properties.message_id,
        place: Place {
            topic: message.topic.map_or_else(|| topic.to_owned(), |topic| topic.name),
            queue: properties.queue_id,
            offset: properties.queue_offset.unwrap_or(-1),
        },
        attempt: properties.delivery_attempt.unwrap_or(0),
        handle: properties.receipt_handle.unwrap_or_default(),
        changes: 0,
        body: message.body,
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
