//! The life of one client connection: handshake, requests, and its end by the client, by
//! idleness or because the node stops.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use flotilla_proto::rocketmq::{admin_server, messaging_service_server};
use futures::future::BoxFuture;
use http::{Request, Response};
use hyper::{body::Incoming, service::Service};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, codegen::Service as _, server::NamedService};
use tracing::debug;

use super::{
    Rim,
    authority::OneAuthority,
    body::{Held, Inbound, OpenRequest, Outbound, unread},
    caller::RemoteHost,
    handshake::{self, Opened},
    limits::MAX_INBOUND_SMALL_BYTES,
    messaging::{Kept, Messaging},
    wire::{Watched, Wire},
};
use crate::{
    net::{DRAIN_TIMEOUT, Seat},
    service::written::Carried,
    unread::Reader,
};

/// Counted as open until it is dropped: a connection that gives way is dropped in the middle.
struct Counted(Arc<Rim>);

impl Counted {
    fn new(rim: Arc<Rim>) -> Counted {
        rim.stats.connections.fetch_add(1, Relaxed);
        Counted(rim)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.stats.connections.fetch_sub(1, Relaxed);
    }
}

/// Serves one connection to its end.
pub(super) async fn serve(
    socket: TcpStream,
    from: SocketAddr,
    seat: Arc<Seat>,
    rim: Arc<Rim>,
    stop: CancellationToken,
) {
    let _counted = Counted::new(rim.clone());
    let opened = time::timeout(
        rim.patience.handshake,
        handshake::open(socket, rim.mode, rim.tls.as_ref()),
    )
    .await;
    match opened {
        Ok(Ok(Opened::Plain(stream))) => requests(stream, from, seat, rim.clone(), stop).await,
        Ok(Ok(Opened::Tls(stream))) => requests(*stream, from, seat, rim.clone(), stop).await,
        Ok(Err(reason)) => failed(&rim, from, &reason.to_string()),
        Err(_) => failed(&rim, from, "it did not begin in time"),
    }
}

fn failed(rim: &Rim, from: SocketAddr, reason: &str) {
    rim.stats.handshakes_failed.fetch_add(1, Relaxed);
    debug!(%from, reason, "closed a client connection");
}

async fn requests<S>(stream: S, from: SocketAddr, seat: Arc<Seat>, rim: Arc<Rim>, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let host: Arc<str> = from.ip().to_canonical().to_string().into();
    let wire = Wire::new(rim.clock.clone());
    let stream = Watched {
        socket: OneAuthority::new(stream),
        wire: wire.clone(),
    };
    let reader = rim.unread.reader();
    let dispatch = Dispatch {
        rim: rim.clone(),
        wire,
        reader: reader.clone(),
        seat: seat.clone(),
        host,
    };
    let mut connection = pin!(rim.http2.serve_connection(TokioIo::new(stream), dispatch));
    let mut alarm = pin!(time::sleep(rim.patience.idle));
    let mut ending = false;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled(), if !ending => {}
            () = reader.gives_way() => {
                debug!(%from, "closed a client connection whose answers nobody reads");
                return;
            }
            () = &mut alarm => {
                if ending {
                    // The client takes no notice of our farewell.
                    return;
                }
                let quiet_until = seat.idle_since().unwrap_or_else(Instant::now) + rim.patience.idle;
                if quiet_until > Instant::now() {
                    alarm.as_mut().reset(quiet_until);
                    continue;
                }
                rim.stats.idle_closed.fetch_add(1, Relaxed);
            }
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(%from, %error, "a client connection broke");
                }
                return;
            }
        }
        ending = true;
        connection.as_mut().graceful_shutdown();
        alarm.as_mut().reset(Instant::now() + DRAIN_TIMEOUT);
    }
}

/// Sends each request to the gRPC service its path names.
struct Dispatch {
    rim: Arc<Rim>,
    wire: Arc<Wire>,
    reader: Arc<Reader>,
    seat: Arc<Seat>,
    host: Arc<str>,
}

type Messages = messaging_service_server::MessagingServiceServer<Messaging>;
type Administration = admin_server::AdminServer<super::admin::NotImplemented>;

impl Service<Request<Incoming>> for Dispatch {
    type Response = Response<Outbound>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        let open = OpenRequest::new(self.seat.clone(), self.rim.stats.clone());
        let (service, method) = split_path(request.uri().path());
        let to_messages = service == Messages::NAME;
        let to_administration = service == Administration::NAME;
        let to_telemetry = to_messages && method == "Telemetry";
        let to_send = to_messages && method == "SendMessage";
        let is_query = method.starts_with("Query");
        let patience = self.rim.patience;
        let most = match to_send {
            true => self.rim.max_send_bytes,
            false => MAX_INBOUND_SMALL_BYTES,
        };
        let held = Held::new(self.rim.stats.clone(), to_send, most);
        let mut request = request.map(|body| Inbound::new(body, held.clone(), patience, to_telemetry));
        request.extensions_mut().insert(RemoteHost(self.host.clone()));
        request.extensions_mut().insert(self.reader.clone());
        // Whoever carries it out lets go of it.
        request.extensions_mut().insert(held);
        let answer = if self.reader.is_full() {
            Box::pin(async move { Ok(unread().into_http()) })
        } else if to_send {
            self.rim.messaging.clone().call(request)
        } else if to_messages {
            self.rim.small.clone().call(request)
        } else if to_administration {
            self.rim.admin.clone().call(request)
        } else {
            let status = Status::unimplemented(format!("{} is not known here", request.uri().path()));
            Box::pin(async move { Ok(status.into_http()) })
        };
        Answer {
            answer,
            open: Some(open),
            wire: self.wire.clone(),
            reader: self.reader.clone(),
            is_stream: to_telemetry,
            is_query,
        }
    }
}

fn split_path(path: &str) -> (&str, &str) {
    path.strip_prefix('/')
        .and_then(|path| path.split_once('/'))
        .unwrap_or(("", ""))
}

/// The answer to one request; the request stays open until its body has been sent.
struct Answer {
    answer: BoxFuture<'static, Result<Response<tonic::body::Body>, Infallible>>,
    open: Option<OpenRequest>,
    wire: Arc<Wire>,
    reader: Arc<Reader>,
    /// Its answer has no end.
    is_stream: bool,
    /// Nothing is changed by it: its answer may be refused when it is there.
    is_query: bool,
}

impl Future for Answer {
    type Output = Result<Response<Outbound>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(mut response) = ready!(self.answer.as_mut().poll(cx));
        let open = self.open.take().expect("a future is not polled after its end");
        let carried = response.extensions_mut().remove::<Carried>();
        let carried = carried.map(|carried| (carried, self.wire.clone()));
        let kept = response.extensions_mut().remove::<Kept>();
        let room = kept
            .and_then(|kept| kept.take())
            .unwrap_or_else(|| self.reader.room());
        let mut response = response.map(|body| Outbound::new(body, room, carried, open));
        if !self.is_stream && !response.body_mut().gather(cx) && self.is_query {
            let open = response.into_body().into_open();
            let room = self.reader.room();
            response = unread()
                .into_http()
                .map(|body| Outbound::new(body, room, None, open));
        }
        Poll::Ready(Ok(response))
    }
}
