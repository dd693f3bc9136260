//! A server that speaks the interface and stores nothing: the ceiling that this machine, tonic and
//! our own client allow. It runs in a process of its own, like the broker it stands for.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use flotilla_proto::rocketmq as mq;
use futures::Stream;
use mq::messaging_service_server::{MessagingService, MessagingServiceServer};
use tokio::sync::Notify;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::client::endpoints_of;
use super::limits::{MAX_GRPC_MESSAGE, MAX_KEPT};
use super::options::NoopArgs;
use super::{BenchError, locked};

/// What the server does with an accepted message: pushes what consumers shall get.
pub(super) type Keep = Box<dyn Fn(mq::Message, &mut Vec<mq::Message>) + Send + Sync>;

/// Keeps nothing.
pub(super) fn nothing() -> Keep {
    Box::new(|_, _| {})
}

/// Keeps everything.
pub(super) fn everything() -> Keep {
    Box::new(|message, kept| kept.push(message))
}

#[derive(Default)]
struct Kept {
    messages: VecDeque<mq::Message>,
    size_bytes: usize,
    next_offset: i64,
}

/// The service.
pub(super) struct Noop {
    address: SocketAddr,
    queues: u32,
    keep: Keep,
    kept: Mutex<Kept>,
    came: Notify,
}

/// Binds to a free port on loopback and serves until `stop`.
///
/// # Errors
/// If there is no free port.
pub(super) async fn serve(
    keep: Keep,
    queues: u32,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(SocketAddr, tokio::task::JoinHandle<()>), BenchError> {
    let listening = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((address, tokio::net::TcpListener::from_std(listener)?))
    });
    let (address, listener) = listening.map_err(BenchError::io("opening a port for the no-op server"))?;
    let noop = Noop {
        address,
        queues,
        keep,
        kept: Mutex::default(),
        came: Notify::new(),
    };
    let service = MessagingServiceServer::new(noop)
        .max_decoding_message_size(MAX_GRPC_MESSAGE)
        .max_encoding_message_size(MAX_GRPC_MESSAGE);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tonic::transport::Server::builder().add_service(service);
    let running = tokio::spawn(async move {
        // A no-op server that breaks shows up as failed sends of the calibration.
        let _ = server.serve_with_incoming_shutdown(incoming, stop).await;
    });
    Ok((address, running))
}

/// The life of the child process: says where it listens, serves until its parent is gone.
pub(super) async fn serve_as_child(options: &NoopArgs) -> Result<ExitCode, BenchError> {
    let keep = if options.keep { everything() } else { nothing() };
    let (address, running) = serve(keep, options.queues, parent_gone()).await?;
    println!("{address}");
    std::io::stdout()
        .flush()
        .map_err(BenchError::io("telling the parent process the address"))?;
    let _ = running.await;
    Ok(ExitCode::SUCCESS)
}

/// Standard input is a pipe from the parent; it ends with the parent, however that ends.
async fn parent_gone() {
    let end_of_input = || std::io::stdin().lock().read_to_end(&mut Vec::new());
    let _ = tokio::task::spawn_blocking(end_of_input).await;
}

/// The child process; it ends when this is dropped.
pub(super) struct NoopProcess {
    child: Child,
    /// Where it listens.
    pub address: String,
}

impl NoopProcess {
    /// Starts this very program as a no-op server.
    ///
    /// # Errors
    /// If the system does not start it, or it does not say where it listens.
    pub(super) fn start(options: &NoopArgs) -> Result<Self, BenchError> {
        let program = std::env::current_exe().map_err(BenchError::io("finding this program's file"))?;
        let mut command = Command::new(program);
        command.args(["bench", "noop-server", "--queues", &options.queues.to_string()]);
        if options.keep {
            command.arg("--keep");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(BenchError::io("starting the no-op server"))?;
        let output = child.stdout.take().expect("it is piped");
        let mut process = Self {
            child,
            address: String::new(),
        };
        BufReader::new(output)
            .read_line(&mut process.address)
            .map_err(BenchError::io("reading the no-op server's address"))?;
        process.address.truncate(process.address.trim_end().len());
        if process.address.parse::<SocketAddr>().is_err() {
            let cause =
                std::io::Error::other(format!("it said {:?} instead of its address", process.address));
            return Err(BenchError::Io {
                what: "starting the no-op server".to_owned(),
                cause,
            });
        }
        Ok(process)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for NoopProcess {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Noop {
    fn store(&self, message: mq::Message, kept: &mut Kept) -> i64 {
        let offset = kept.next_offset;
        let mut copies = Vec::new();
        (self.keep)(message, &mut copies);
        for mut message in copies {
            if kept.size_bytes + message.body.len() > MAX_KEPT {
                break;
            }
            let properties = message.system_properties.get_or_insert_default();
            properties.queue_offset = Some(kept.next_offset);
            properties.receipt_handle = Some(kept.next_offset.to_string());
            properties.delivery_attempt = Some(1);
            kept.next_offset += 1;
            kept.size_bytes += message.body.len();
            kept.messages.push_back(message);
        }
        offset
    }

    fn take(&self, count: usize) -> Vec<mq::Message> {
        let mut kept = locked(&self.kept);
        let count = count.min(kept.messages.len());
        let taken: Vec<mq::Message> = kept.messages.drain(..count).collect();
        kept.size_bytes -= taken.iter().map(|message| message.body.len()).sum::<usize>();
        taken
    }

    /// Waits for messages, no longer than `patience`.
    async fn await_messages(&self, count: usize, patience: Duration) -> Vec<mq::Message> {
        let deadline = tokio::time::sleep(patience);
        tokio::pin!(deadline);
        loop {
            let came = self.came.notified();
            let taken = self.take(count);
            if !taken.is_empty() {
                return taken;
            }
            tokio::select! {
                biased;
                () = came => {}
                () = &mut deadline => return Vec::new(),
            }
        }
    }
}

fn status(code: mq::Code) -> Option<mq::Status> {
    Some(mq::Status {
        code: code as i32,
        message: String::new(),
    })
}

type Elements<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn elements<T: Send + 'static>(all: Vec<T>) -> Response<Elements<T>> {
    Response::new(Box::pin(futures::stream::iter(all.into_iter().map(Ok))))
}

fn unused<T>() -> Result<T, Status> {
    Err(Status::unimplemented("the no-op server only sends and receives"))
}

#[tonic::async_trait]
impl MessagingService for Noop {
    type ReceiveMessageStream = Elements<mq::ReceiveMessageResponse>;
    type PullMessageStream = Elements<mq::PullMessageResponse>;
    type TelemetryStream = Elements<mq::TelemetryCommand>;

    async fn query_route(
        &self,
        request: Request<mq::QueryRouteRequest>,
    ) -> Result<Response<mq::QueryRouteResponse>, Status> {
        let topic = request.into_inner().topic;
        let broker = mq::Broker {
            name: "noop".to_owned(),
            id: 0,
            endpoints: Some(endpoints_of(&self.address.to_string())),
        };
        let queue = |id: u32| mq::MessageQueue {
            topic: topic.clone(),
            id: i32::try_from(id).unwrap_or(i32::MAX),
            permission: mq::Permission::ReadWrite as i32,
            broker: Some(broker.clone()),
            accept_message_types: vec![mq::MessageType::Normal as i32, mq::MessageType::Fifo as i32],
        };
        Ok(Response::new(mq::QueryRouteResponse {
            status: status(mq::Code::Ok),
            message_queues: (0..self.queues).map(queue).collect(),
        }))
    }

    async fn send_message(
        &self,
        request: Request<mq::SendMessageRequest>,
    ) -> Result<Response<mq::SendMessageResponse>, Status> {
        let mut entries = Vec::new();
        let mut kept = locked(&self.kept);
        for message in request.into_inner().messages {
            let message_id = message
                .system_properties
                .as_ref()
                .map(|all| all.message_id.clone());
            entries.push(mq::SendResultEntry {
                status: status(mq::Code::Ok),
                message_id: message_id.unwrap_or_default(),
                offset: self.store(message, &mut kept),
                ..mq::SendResultEntry::default()
            });
        }
        let some = !kept.messages.is_empty();
        drop(kept);
        if some {
            self.came.notify_one();
        }
        Ok(Response::new(mq::SendMessageResponse {
            status: status(mq::Code::Ok),
            entries,
        }))
    }

    async fn receive_message(
        &self,
        request: Request<mq::ReceiveMessageRequest>,
    ) -> Result<Response<Self::ReceiveMessageStream>, Status> {
        use mq::receive_message_response::Content;
        let request = request.into_inner();
        let patience = request
            .long_polling_timeout
            .and_then(|wait| Duration::try_from(wait).ok());
        let count = usize::try_from(request.batch_size).unwrap_or(1).max(1);
        let messages = self.await_messages(count, patience.unwrap_or_default()).await;
        let code = if messages.is_empty() {
            mq::Code::MessageNotFound
        } else {
            mq::Code::Ok
        };
        let contents = std::iter::once(Content::Status(status(code).expect("made above")))
            .chain(messages.into_iter().map(Content::Message));
        Ok(elements(
            contents
                .map(|content| mq::ReceiveMessageResponse {
                    content: Some(content),
                })
                .collect(),
        ))
    }

    async fn ack_message(
        &self,
        request: Request<mq::AckMessageRequest>,
    ) -> Result<Response<mq::AckMessageResponse>, Status> {
        let done = |entry: mq::AckMessageEntry| mq::AckMessageResultEntry {
            message_id: entry.message_id,
            receipt_handle: entry.receipt_handle,
            status: status(mq::Code::Ok),
        };
        let entries = request.into_inner().entries.into_iter().map(done).collect();
        Ok(Response::new(mq::AckMessageResponse {
            status: status(mq::Code::Ok),
            entries,
        }))
    }

    async fn heartbeat(
        &self,
        _: Request<mq::HeartbeatRequest>,
    ) -> Result<Response<mq::HeartbeatResponse>, Status> {
        Ok(Response::new(mq::HeartbeatResponse {
            status: status(mq::Code::Ok),
        }))
    }

    async fn query_assignment(
        &self,
        _: Request<mq::QueryAssignmentRequest>,
    ) -> Result<Response<mq::QueryAssignmentResponse>, Status> {
        unused()
    }

    async fn forward_message_to_dead_letter_queue(
        &self,
        _: Request<mq::ForwardMessageToDeadLetterQueueRequest>,
    ) -> Result<Response<mq::ForwardMessageToDeadLetterQueueResponse>, Status> {
        unused()
    }

    async fn pull_message(
        &self,
        _: Request<mq::PullMessageRequest>,
    ) -> Result<Response<Self::PullMessageStream>, Status> {
        unused()
    }

    async fn update_offset(
        &self,
        _: Request<mq::UpdateOffsetRequest>,
    ) -> Result<Response<mq::UpdateOffsetResponse>, Status> {
        unused()
    }

    async fn get_offset(
        &self,
        _: Request<mq::GetOffsetRequest>,
    ) -> Result<Response<mq::GetOffsetResponse>, Status> {
        unused()
    }

    async fn query_offset(
        &self,
        _: Request<mq::QueryOffsetRequest>,
    ) -> Result<Response<mq::QueryOffsetResponse>, Status> {
        unused()
    }

    async fn end_transaction(
        &self,
        _: Request<mq::EndTransactionRequest>,
    ) -> Result<Response<mq::EndTransactionResponse>, Status> {
        unused()
    }

    async fn telemetry(
        &self,
        _: Request<tonic::Streaming<mq::TelemetryCommand>>,
    ) -> Result<Response<Self::TelemetryStream>, Status> {
        unused()
    }

    async fn notify_client_termination(
        &self,
        _: Request<mq::NotifyClientTerminationRequest>,
    ) -> Result<Response<mq::NotifyClientTerminationResponse>, Status> {
        unused()
    }

    async fn change_invisible_duration(
        &self,
        _: Request<mq::ChangeInvisibleDurationRequest>,
    ) -> Result<Response<mq::ChangeInvisibleDurationResponse>, Status> {
        unused()
    }

    async fn recall_message(
        &self,
        _: Request<mq::RecallMessageRequest>,
    ) -> Result<Response<mq::RecallMessageResponse>, Status> {
        unused()
    }

    async fn sync_lite_subscription(
        &self,
        _: Request<mq::SyncLiteSubscriptionRequest>,
    ) -> Result<Response<mq::SyncLiteSubscriptionResponse>, Status> {
        unused()
    }
}

/// Serves inside this process for as long as the returned guard lives (tests).
#[cfg(test)]
pub(super) async fn serve_here(keep: Keep, queues: u32) -> (String, tokio::sync::oneshot::Sender<()>) {
    let (guard, gone) = tokio::sync::oneshot::channel::<()>();
    let (address, _) = serve(keep, queues, async { drop(gone.await) })
        .await
        .expect("loopback has free ports");
    (address.to_string(), guard)
}
