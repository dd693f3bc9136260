//! `apache.rocketmq.v2.MessagingService` over `service/`. One adapter per RPC, nothing decided.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use flotilla_proto::rocketmq::{self as mq, messaging_service_server::MessagingService};
use futures::{Stream, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{body::Held, caller::caller, slowdown::Slowdown, stats::RimStats};
use crate::{
    service::{Service, Session, access::not_implemented},
    unread::{Reader, Room},
};

/// The adapter; cheap to clone.
#[derive(Clone)]
pub(super) struct Messaging {
    service: Service,
    slowdown: Arc<Slowdown>,
    stop: CancellationToken,
}

impl Messaging {
    pub(super) fn new(service: Service, stats: Arc<RimStats>, stop: CancellationToken) -> Messaging {
        Messaging {
            service,
            slowdown: Arc::new(Slowdown::new(stats, stop.clone())),
            stop,
        }
    }
}

/// Room for an answer, on its way to whoever writes the answer out.
#[derive(Clone)]
pub(super) struct Kept(Arc<Mutex<Option<Room>>>);

impl Kept {
    fn new(room: Room) -> Kept {
        Kept(Arc::new(Mutex::new(Some(room))))
    }

    /// The room, once.
    pub(super) fn take(&self) -> Option<Room> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

macro_rules! answer {
    ($self:ident.$method:ident($request:ident)) => {{
        // What it brings is here until it is carried out, which may take as long as there is no leader. Small requests are as
        // many as there may be under way; they leave their room to those that are still to come.
        let held = $request.extensions_mut().remove::<Arc<Held>>();
        let held = held.filter(|held| held.is_large());
        let caller = caller(&$request);
        let answer = $self.service.$method(&caller, $request.into_inner()).await;
        // A refusal that is held brings nothing of it.
        drop(held);
        $self.slowdown.pace(&caller, answer.status.as_ref()).await;
        Ok(Response::new(answer))
    }};
}

#[async_trait]
impl MessagingService for Messaging {
    async fn query_route(
        &self,
        mut request: Request<mq::QueryRouteRequest>,
    ) -> Result<Response<mq::QueryRouteResponse>, Status> {
        answer!(self.query_route(request))
    }

    async fn heartbeat(
        &self,
        mut request: Request<mq::HeartbeatRequest>,
    ) -> Result<Response<mq::HeartbeatResponse>, Status> {
        answer!(self.heartbeat(request))
    }

    async fn send_message(
        &self,
        mut request: Request<mq::SendMessageRequest>,
    ) -> Result<Response<mq::SendMessageResponse>, Status> {
        // Its messages are here until it is carried out; a refusal that is held brings nothing of them.
        let held = request.extensions_mut().remove::<Arc<Held>>();
        let caller = caller(&request);
        let answer = self.service.send_message(&caller, request.into_inner()).await;
        drop(held);
        self.slowdown.pace(&caller, answer.status.as_ref()).await;
        Ok(Response::new(answer))
    }

    async fn query_assignment(
        &self,
        mut request: Request<mq::QueryAssignmentRequest>,
    ) -> Result<Response<mq::QueryAssignmentResponse>, Status> {
        answer!(self.query_assignment(request))
    }

    type ReceiveMessageStream = stream::Iter<std::vec::IntoIter<Result<mq::ReceiveMessageResponse, Status>>>;

    async fn receive_message(
        &self,
        request: Request<mq::ReceiveMessageRequest>,
    ) -> Result<Response<Self::ReceiveMessageStream>, Status> {
        let caller = caller(&request);
        let reader = request.extensions().get::<Arc<Reader>>();
        let mut room = reader.expect("every connection is a reader").room();
        let receive = request.into_inner();
        let (answers, carried) = self
            .service
            .receive_to_write_within(&caller, receive, &mut room)
            .await;
        let status = answers.first().and_then(|first| match &first.content {
            Some(mq::receive_message_response::Content::Status(status)) => Some(status),
            _ => None,
        });
        self.slowdown.pace(&caller, status).await;
        let answers: Vec<_> = answers.into_iter().map(Ok).collect();
        let mut response = Response::new(stream::iter(answers));
        response.extensions_mut().insert(Kept::new(room));
        if let Some(carried) = carried {
            response.extensions_mut().insert(carried);
        }
        Ok(response)
    }

    async fn ack_message(
        &self,
        mut request: Request<mq::AckMessageRequest>,
    ) -> Result<Response<mq::AckMessageResponse>, Status> {
        answer!(self.ack_message(request))
    }

    async fn forward_message_to_dead_letter_queue(
        &self,
        mut request: Request<mq::ForwardMessageToDeadLetterQueueRequest>,
    ) -> Result<Response<mq::ForwardMessageToDeadLetterQueueResponse>, Status> {
        answer!(self.forward_message_to_dead_letter_queue(request))
    }

    type PullMessageStream = stream::Iter<std::vec::IntoIter<Result<mq::PullMessageResponse, Status>>>;

    async fn pull_message(
        &self,
        request: Request<mq::PullMessageRequest>,
    ) -> Result<Response<Self::PullMessageStream>, Status> {
        let caller = caller(&request);
        let reader = request.extensions().get::<Arc<Reader>>();
        let mut room = reader.expect("every connection is a reader").room();
        let answers = self
            .service
            .pull_within(&caller, request.into_inner(), &mut room)
            .await;
        let status = answers.first().and_then(|first| match &first.content {
            Some(mq::pull_message_response::Content::Status(status)) => Some(status),
            _ => None,
        });
        self.slowdown.pace(&caller, status).await;
        let answers: Vec<_> = answers.into_iter().map(Ok).collect();
        let mut response = Response::new(stream::iter(answers));
        response.extensions_mut().insert(Kept::new(room));
        Ok(response)
    }

    async fn update_offset(
        &self,
        mut request: Request<mq::UpdateOffsetRequest>,
    ) -> Result<Response<mq::UpdateOffsetResponse>, Status> {
        answer!(self.update_offset(request))
    }

    async fn get_offset(
        &self,
        mut request: Request<mq::GetOffsetRequest>,
    ) -> Result<Response<mq::GetOffsetResponse>, Status> {
        answer!(self.get_offset(request))
    }

    async fn query_offset(
        &self,
        mut request: Request<mq::QueryOffsetRequest>,
    ) -> Result<Response<mq::QueryOffsetResponse>, Status> {
        answer!(self.query_offset(request))
    }

    async fn end_transaction(
        &self,
        mut request: Request<mq::EndTransactionRequest>,
    ) -> Result<Response<mq::EndTransactionResponse>, Status> {
        answer!(self.end_transaction(request))
    }

    type TelemetryStream = Answers<mq::TelemetryCommand>;

    async fn telemetry(
        &self,
        request: Request<Streaming<mq::TelemetryCommand>>,
    ) -> Result<Response<Self::TelemetryStream>, Status> {
        // Nothing is awaited here: some SDKs wait for the response's headers before they send anything.
        let session = self.service.open_session(&caller(&request));
        let conversation = Conversation {
            session,
            inbound: request.into_inner(),
            answers: VecDeque::new(),
            stop: self.stop.clone(),
        };
        Ok(Response::new(Box::pin(conversation.into_stream())))
    }

    async fn notify_client_termination(
        &self,
        mut request: Request<mq::NotifyClientTerminationRequest>,
    ) -> Result<Response<mq::NotifyClientTerminationResponse>, Status> {
        answer!(self.notify_client_termination(request))
    }

    async fn change_invisible_duration(
        &self,
        mut request: Request<mq::ChangeInvisibleDurationRequest>,
    ) -> Result<Response<mq::ChangeInvisibleDurationResponse>, Status> {
        answer!(self.change_invisible_duration(request))
    }

    async fn recall_message(
        &self,
        mut request: Request<mq::RecallMessageRequest>,
    ) -> Result<Response<mq::RecallMessageResponse>, Status> {
        answer!(self.recall_message(request))
    }

    async fn sync_lite_subscription(
        &self,
        _: Request<mq::SyncLiteSubscriptionRequest>,
    ) -> Result<Response<mq::SyncLiteSubscriptionResponse>, Status> {
        Ok(Response::new(mq::SyncLiteSubscriptionResponse {
            status: Some(not_implemented()),
        }))
    }
}

/// One Telemetry stream: answers to what the client says, and what the server says by itself.
struct Conversation {
    session: Session,
    inbound: Streaming<mq::TelemetryCommand>,
    answers: VecDeque<mq::TelemetryCommand>,
    stop: CancellationToken,
}

impl Conversation {
    fn into_stream(self) -> impl Stream<Item = Result<mq::TelemetryCommand, Status>> + Send {
        stream::unfold(self, |mut conversation| async move {
            let command = conversation.next().await?;
            Some((Ok(command), conversation))
        })
    }

    /// The next command for the client; `None` when the client hangs up or the node stops.
    async fn next(&mut self) -> Option<mq::TelemetryCommand> {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Some(answer);
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                said = self.inbound.message() => match said {
                    Ok(Some(command)) => self.answers.extend(self.session.handle(command).await),
                    Ok(None) | Err(_) => return None,
                },
                push = self.session.next_push() => return Some(push),
            }
        }
    }
}
