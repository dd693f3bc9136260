//! The two ports of a simulated broker: what other nodes and clients talk to.

use std::{sync::Arc, time::Duration};

use broker::{
    node::Node,
    peer::{Body, PeerHandler},
    service::{Caller, Service, written::Carried},
};
use flotilla_proto::{
    peer::{ForwardRequest, ForwardResponse, Hello, RaftRequest, RaftResponse, raft_request, raft_response},
    rocketmq as mq,
};
use futures::future::{BoxFuture, FutureExt};
use prost::Message;

use crate::{harm::Chart, history::History, oracle::votes::Votes, peers::Serve};

/// The peer port: hears which votes the node gives, and what it answers to clients of others.
pub(super) struct Witness {
    pub(super) node: Node,
    pub(super) votes: Votes,
    pub(super) chart: Chart,
    pub(super) history: History,
}

impl Serve for Witness {
    fn steady_ms(&self) -> u64 {
        self.node.clock().steady_ms()
    }

    fn serve(&self, from: &Hello, body: Body) -> BoxFuture<'static, (Body, Option<Carried>)> {
        self.handle(from, body).map(|answer| (answer, None)).boxed()
    }
}

impl Witness {
    fn handle(&self, from: &Hello, body: Body) -> BoxFuture<'static, Body> {
        if matches!(body, Body::Forward(_)) {
            let (answer, asks, chart) = (self.node.handle(from, body), from.node, self.chart.clone());
            return answer.inspect(move |answer| chart.answers(asks, answer)).boxed();
        }
        let voter = match &body {
            Body::Raft(RaftRequest {
                shard,
                to,
                body: Some(raft_request::Body::Vote(_)),
                ..
            }) => Some((*shard, *to)),
            _ => None,
        };
        let answer = self.node.handle(from, body);
        let Some((shard, replica)) = voter else {
            return answer;
        };
        let (votes, history) = (self.votes.clone(), self.history.clone());
        async move {
            let answer = answer.await;
            if let Body::RaftAnswer(RaftResponse {
                body: Some(raft_response::Body::Vote(vote)),
                ..
            }) = &answer
                && vote.granted
                && let Some(to) = &vote.vote
                && let Some(wrong) = votes.give(shard, replica, (to.term, to.node))
            {
                history.broken(wrong);
            }
            answer
        }
        .boxed()
    }
}

/// A stream ends so long before its client would give it up.
const LEFT_FOR_THE_WAY: Duration = Duration::from_millis(500);

/// The client port: what tonic is to a real broker, thinner.
pub(super) struct Front {
    pub(super) service: Arc<Service>,
}

impl Serve for Front {
    fn steady_ms(&self) -> u64 {
        self.service.node().clock().steady_ms()
    }

    fn serve(&self, from: &Hello, body: Body) -> BoxFuture<'static, (Body, Option<Carried>)> {
        let Body::Forward(request) = body else {
            panic!("a client sends requests only")
        };
        let service = self.service.clone();
        let remote_host = format!("client-{}", from.node);
        async move {
            let (answer, carried) = answer(&service, remote_host, request).await;
            (Body::ForwardAnswer(answer), carried)
        }
        .boxed()
    }
}

async fn answer(
    service: &Service,
    remote_host: String,
    request: ForwardRequest,
) -> (ForwardResponse, Option<Carried>) {
    let wire = request.caller.unwrap_or_default();
    let caller = Caller {
        client_id: wire.client_id,
        language: wire.language,
        client_version: wire.client_version,
        namespace: wire.namespace,
        remote_host,
        deadline: Some(Duration::from_millis(request.deadline_ms)),
        forwarded: false,
        retried: false,
    };
    let body = request.request;
    let mut carried = None;
    let responses = match request.rpc.as_str() {
        "QueryRoute" => one(&service.query_route(&caller, decode(body)).await),
        "QueryAssignment" => one(&service.query_assignment(&caller, decode(body)).await),
        "Heartbeat" => one(&service.heartbeat(&caller, decode(body)).await),
        "SendMessage" => one(&service.send_message(&caller, decode(body)).await),
        "ReceiveMessage" => {
            let responses: Vec<mq::ReceiveMessageResponse>;
            (responses, carried) = service.receive_to_write(&caller, decode(body)).await;
            responses
                .iter()
                .map(|response| response.encode_to_vec().into())
                .collect()
        }
        "PullMessage" => {
            let responses = service.pull_message(&caller, decode(body)).await;
            responses
                .iter()
                .map(|response| response.encode_to_vec().into())
                .collect()
        }
        "QueryOffset" => one(&service.query_offset(&caller, decode(body)).await),
        "GetOffset" => one(&service.get_offset(&caller, decode(body)).await),
        "UpdateOffset" => one(&service.update_offset(&caller, decode(body)).await),
        "NotifyClientTermination" => one(&service.notify_client_termination(&caller, decode(body)).await),
        "AckMessage" => one(&service.ack_message(&caller, decode(body)).await),
        "EndTransaction" => one(&service.end_transaction(&caller, decode(body)).await),
        "Telemetry" => telemetry(service, &caller, decode(body)).await,
        "RecallMessage" => one(&service.recall_message(&caller, decode(body)).await),
        "ChangeInvisibleDuration" => one(&service.change_invisible_duration(&caller, decode(body)).await),
        "ForwardMessageToDeadLetterQueue" => one(&service
            .forward_message_to_dead_letter_queue(&caller, decode(body))
            .await),
        other => panic!("no client of the simulator sends {other}"),
    };
    let answer = ForwardResponse {
        responses,
        ..ForwardResponse::default()
    };
    (answer, carried)
}

/// A stream that lasts until the server says something by itself, or for as long as the client would wait.
async fn telemetry(service: &Service, caller: &Caller, said: mq::TelemetryCommand) -> Vec<bytes::Bytes> {
    let mut session = service.open_session(caller);
    let mut answers = session.handle(said).await;
    let lasts = caller
        .deadline
        .unwrap_or_default()
        .saturating_sub(LEFT_FOR_THE_WAY);
    answers.extend(tokio::time::timeout(lasts, session.next_push()).await);
    answers.iter().flat_map(one).collect()
}

fn decode<M: Message + Default>(bytes: bytes::Bytes) -> M {
    M::decode(bytes).expect("simulated clients encode what they send")
}

fn one(response: &impl Message) -> Vec<bytes::Bytes> {
    vec![response.encode_to_vec().into()]
}
