//! The side that is called: accepts other nodes' streams and answers what comes in on them.

use std::{future::Future, io, net, sync::Arc};

use flotilla_proto::peer::{
    Frame, Hello, Overloaded,
    peer_server::{Peer, PeerServer},
};
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesUnordered},
};
use prost::Message;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc, watch},
    time::{sleep, timeout},
};
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, error, info, warn};

use super::socket::{PeerSocket, Wire};
use crate::net::Places;
use crate::peer::{
    Body, HelloSource, PROTOCOL_VERSION, PeerHandler, Seat,
    calls::{Budgets, Permit},
    is_request, limits,
};

/// Serves other nodes on `listener` until `shutdown` is done, then closes their connections.
///
/// # Errors
/// The listener cannot be used.
pub async fn serve_peers(
    listener: net::TcpListener,
    me: HelloSource,
    handler: Arc<dyn PeerHandler>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let (stop, stopping) = watch::channel(false);
    let service = PeerServer::new(Service {
        me,
        handler,
        stopping,
    })
    .max_decoding_message_size(limits::MAX_FRAME_BYTES)
    .max_encoding_message_size(limits::MAX_FRAME_BYTES);
    tonic::transport::Server::builder()
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .max_frame_size(limits::HTTP2_FRAME_BYTES)
        .max_concurrent_streams(1)
        .http2_keepalive_interval(Some(limits::KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(limits::KEEP_ALIVE_TIMEOUT))
        .add_service(service)
        .serve_with_incoming_shutdown(connections(listener), async move {
            shutdown.await;
            stop.send_replace(true);
        })
        .await
        .map_err(io::Error::other)
}

/// Accepts connections, as many at a time as the limit says.
fn connections(listener: TcpListener) -> impl stream::Stream<Item = io::Result<PeerSocket>> {
    let places = Arc::new(Semaphore::new(Places::here(0).peers));
    stream::unfold((listener, places), |(listener, places)| async move {
        loop {
            let accepted = match listener.accept().await {
                Ok((stream, _)) => stream.set_nodelay(true).map(|()| stream),
                Err(error) => Err(error),
            };
            match (accepted, places.clone().try_acquire_owned()) {
                (Ok(stream), Ok(place)) => {
                    return Some((Ok(PeerSocket::new(stream, place)), (listener, places)));
                }
                (Ok(_), Err(_)) => warn!("a connection on the peer port is refused: there are too many"),
                (Err(error), _) => {
                    // Out of descriptors, or the peer is gone already: neither ends the service.
                    debug!(%error, "a connection on the peer port was not accepted");
                    sleep(limits::MIN_BACKOFF).await;
                }
            }
        }
    })
}

struct Service {
    me: HelloSource,
    handler: Arc<dyn PeerHandler>,
    stopping: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl Peer for Service {
    type ExchangeStream = BoxStream<'static, Result<Frame, Status>>;

    async fn exchange(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let wire = request
            .extensions()
            .get::<Wire>()
            .expect("every connection has its wire")
            .clone();
        let mut requests = request.into_inner();
        let from = match greeting(&mut requests).await {
            Ok(hello) => hello,
            Err(reason) => {
                // The reason still gets through; then the connection ends for want of a greeting.
                debug!(reason, "a connection on the peer port is refused");
                return Err(Status::invalid_argument(reason));
            }
        };
        let (me, seat) = match self.me.meet(&from) {
            Ok(seat) => (self.me.hello(), seat),
            // Told why; then the connection ends for want of an accepted greeting.
            Err(refusal) => return Ok(Response::new(stream::iter([Ok(greet(*refusal))]).boxed())),
        };
        let me = me.ok_or_else(|| Status::unavailable("this node is not open yet"))?;
        wire.greeted();
        info!(node = from.node, "a node has connected");
        let (answers, mut queue) = mpsc::unbounded_channel::<Answer>();
        let hello = greet(me);
        let _ = answers.send(Answer {
            frame: hello,
            _permit: None,
        });
        let connection = Connection {
            from,
            _seat: seat,
            handler: self.handler.clone(),
            budgets: Budgets::by_limits(),
            requests,
            answers,
            stopping: self.stopping.clone(),
            running: FuturesUnordered::new(),
        };
        tokio::spawn(async move {
            let node = connection.from.node;
            let ended = connection.serve().await;
            debug!(node, ended, "a node's connection is closed");
            wire.cut();
        });
        let stream = stream::poll_fn(move |context| {
            queue
                .poll_recv(context)
                .map(|next| next.map(|next| Ok(next.frame)))
        });
        Ok(Response::new(stream.boxed()))
    }
}

fn greet(hello: Hello) -> Frame {
    Frame {
        id: 0,
        body: Some(Body::Hello(hello)),
    }
}

/// The first frame, checked.
async fn greeting(requests: &mut Streaming<Frame>) -> Result<Hello, &'static str> {
    let first = timeout(limits::HANDSHAKE_TIMEOUT, requests.message()).await;
    match first
        .map_err(|_| "no greeting in time")?
        .map_err(|_| "the greeting cannot be read")?
    {
        Some(Frame {
            body: Some(Body::Hello(hello)),
            ..
        }) => {
            if hello.version != PROTOCOL_VERSION {
                Err("another version of the peer protocol")
            } else if hello.node == 0 {
                Err("a node's id is not 0")
            } else {
                Ok(hello)
            }
        }
        _ => Err("the first frame is no greeting"),
    }
}

/// A frame on its way back; the request's share of the budget is free when it has left.
struct Answer {
    frame: Frame,
    _permit: Option<Permit>,
}

struct Connection {
    from: Hello,
    _seat: Seat,
    handler: Arc<dyn PeerHandler>,
    budgets: Budgets,
    requests: Streaming<Frame>,
    answers: mpsc::UnboundedSender<Answer>,
    stopping: watch::Receiver<bool>,
    running: FuturesUnordered<BoxFuture<'static, Option<Answer>>>,
}

impl Connection {
    /// Answers until the connection ends; says why it did.
    async fn serve(mut self) -> &'static str {
        // A Raft request over the budget: nothing more is read until there is room for it, so that the
        // sender feels it.
        let mut held: Option<(u64, Body)> = None;
        loop {
            if let Some((id, body)) = held.take() {
                held = self.begin(id, body);
            }
            tokio::select! {
                biased;
                () = self.answers.closed() => return "the node is gone",
                _ = self.stopping.changed() => return "this node stops",
                Some(answer) = self.running.next(), if !self.running.is_empty() => {
                    if let Some(answer) = answer {
                        let _ = self.answers.send(answer);
                    }
                }
                () = self.budgets.raft_freed(), if held.is_some() => {}
                frame = self.requests.message(), if held.is_none() => match frame {
                    Ok(Some(Frame { id, body: Some(body) })) if is_request(&body) => held = self.begin(id, body),
                    Ok(Some(_)) => return "a frame is no request",
                    Ok(None) => return "the node has closed it",
                    Err(_) => return "a frame cannot be read",
                },
            }
        }
    }

    /// Starts to answer, or gives the request back if it has to wait for room.
    fn begin(&mut self, id: u64, body: Body) -> Option<(u64, Body)> {
        let forward = matches!(body, Body::Forward(_));
        let Some(permit) = self.budgets.take(&body, body.encoded_len()) else {
            if !forward {
                return Some((id, body));
            }
            let frame = Frame {
                id,
                body: Some(Body::Overloaded(Overloaded {})),
            };
            let _ = self.answers.send(Answer { frame, _permit: None });
            return None;
        };
        let answer = self.handler.handle(&self.from, body);
        self.running.push(if forward {
            // Dropped with the connection: its caller is gone then.
            Box::pin(async move { sized(id, answer.await, permit) })
        } else {
            let task = tokio::spawn(answer);
            Box::pin(async move { sized(id, task.await.ok()?, permit) })
        });
        None
    }
}

/// An answer larger than a frame would break the connection for all: it is left out, and the caller
/// times out.
fn sized(id: u64, body: Body, permit: Permit) -> Option<Answer> {
    let frame = Frame { id, body: Some(body) };
    if frame.encoded_len() > limits::MAX_FRAME_BYTES {
        error!(
            bytes = frame.encoded_len(),
            "an answer to another node is larger than a frame and is not sent"
        );
        return None;
    }
    Some(Answer {
        frame,
        _permit: Some(permit),
    })
}
