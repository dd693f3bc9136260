//! One link: the connection this node keeps to another one, and makes again whenever it breaks.

use std::{sync::Arc, time::Duration};

use flotilla_proto::peer::{Frame, peer_client::PeerClient};
use futures::{FutureExt, StreamExt, future, stream};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tonic::{Streaming, transport::Endpoint};
use tracing::{debug, info};

use super::Lane;
use crate::peer::{
    Body, HelloSource, PROTOCOL_VERSION, PeerError, Seat,
    calls::{Budgets, Calls, Outgoing},
    limits,
};

/// A running link; dropping it closes the connection and fails what is under way.
pub(super) struct Link {
    address: String,
    calls: Arc<Calls>,
    task: JoinHandle<()>,
}

impl Link {
    pub(super) fn start(node: u32, lane: Lane, address: String, me: HelloSource) -> Self {
        let calls = Calls::new(Budgets::by_limits());
        // Calls made from now on wait for the outcome of the first attempt.
        let queue = calls.open();
        let line = Line {
            node,
            lane,
            address: address.clone(),
            me,
            calls: calls.clone(),
        };
        Link {
            address,
            calls,
            task: tokio::spawn(line.run(queue)),
        }
    }

    pub(super) fn calls(&self) -> &Arc<Calls> {
        &self.calls
    }

    pub(super) fn leads_to(&self, address: &str) -> bool {
        self.address == address
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
        self.calls.close(PeerError::Unreachable);
    }
}

/// Why a connection ended, or was never made.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Transport(#[from] tonic::transport::Error),
    #[error("{0}")]
    Status(#[from] tonic::Status),
    #[error("no greeting within {} ms", limits::HANDSHAKE_TIMEOUT.as_millis())]
    Silent,
    #[error("it says it is node {0}")]
    OtherNode(u32),
    #[error("it speaks version {0} of the peer protocol, this node {PROTOCOL_VERSION}")]
    Version(u32),
    #[error("this node has no greeting yet")]
    NotYet,
    #[error("it refuses this node: {0}")]
    Refused(String),
    #[error("it is a stranger: {0}")]
    Stranger(String),
    #[error("it does not keep to the peer protocol")]
    Protocol,
    #[error("it closed the connection")]
    Closed,
}

struct Line {
    node: u32,
    lane: Lane,
    address: String,
    me: HelloSource,
    calls: Arc<Calls>,
}

impl Line {
    async fn run(self, queue: mpsc::UnboundedReceiver<Outgoing>) {
        let mut queue = Some(queue);
        let mut backoff = limits::MIN_BACKOFF;
        loop {
            let known_alive = queue.is_some();
            let mut greeted = false;
            let Err(broken) = self.connect(queue.take(), &mut greeted).await;
            self.calls.close(if greeted {
                PeerError::Unreachable
            } else {
                PeerError::NotConnected
            });
            if greeted {
                info!(node = self.node, lane = ?self.lane, address = self.address, %broken, "connection to a node is lost");
                // It lived a moment ago: calls may wait for the next attempt.
                queue = Some(self.calls.open());
                backoff = limits::MIN_BACKOFF;
            } else if known_alive {
                info!(node = self.node, lane = ?self.lane, address = self.address, %broken, "a node cannot be reached");
            } else {
                debug!(node = self.node, lane = ?self.lane, address = self.address, %broken, "a node cannot be reached");
            }
            sleep(backoff).await;
            backoff = next_backoff(backoff);
        }
    }

    /// Makes a connection and serves it until it breaks. Without a queue calls fail until the
    /// connection stands.
    async fn connect(
        &self,
        queue: Option<mpsc::UnboundedReceiver<Outgoing>>,
        greeted: &mut bool,
    ) -> Result<std::convert::Infallible, Broken> {
        let (gate, open_gate) = oneshot::channel();
        let (mut answers, _seat) = timeout(limits::HANDSHAKE_TIMEOUT, self.greet(open_gate))
            .await
            .map_err(|_| Broken::Silent)??;
        *greeted = true;
        info!(node = self.node, lane = ?self.lane, address = self.address, "connected to a node");
        let queue = queue.unwrap_or_else(|| self.calls.open());
        gate.send(queue).map_err(|_| Broken::Closed)?;
        loop {
            let frame = answers.message().await?.ok_or(Broken::Closed)?;
            match frame.body {
                Some(
                    body @ (Body::RaftAnswer(_)
                    | Body::ForwardAnswer(_)
                    | Body::StatusAnswer(_)
                    | Body::Overloaded(_)),
                ) => self.calls.finish(frame.id, body),
                _ => return Err(Broken::Protocol),
            }
        }
    }

    async fn greet(
        &self,
        gate: oneshot::Receiver<mpsc::UnboundedReceiver<Outgoing>>,
    ) -> Result<(Streaming<Frame>, Seat), Broken> {
        let me = self.me.hello().ok_or(Broken::NotYet)?;
        let channel = Endpoint::from_shared(format!("http://{}", self.address))?
            .connect_timeout(limits::HANDSHAKE_TIMEOUT)
            .tcp_nodelay(true)
            .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
            .max_frame_size(limits::HTTP2_FRAME_BYTES)
            .http2_keep_alive_interval(limits::KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(limits::KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect()
            .await?;
        let mut client = PeerClient::new(channel)
            .max_decoding_message_size(limits::MAX_FRAME_BYTES)
            .max_encoding_message_size(limits::MAX_FRAME_BYTES);
        let hello = Frame {
            id: 0,
            body: Some(Body::Hello(me)),
        };
        // Requests leave only after the other side has said who it is: the address may be another's by now.
        let requests = gate
            .map(|queue| queue.map_or_else(|_| stream::empty().boxed(), frames))
            .flatten_stream();
        let outgoing = stream::once(future::ready(hello)).chain(requests);
        let mut answers = client.exchange(outgoing).await?.into_inner();
        match answers.message().await?.ok_or(Broken::Closed)?.body {
            Some(Body::Hello(hello)) if hello.version != PROTOCOL_VERSION => {
                Err(Broken::Version(hello.version))
            }
            Some(Body::Hello(hello)) if hello.node != self.node => Err(Broken::OtherNode(hello.node)),
            Some(Body::Hello(hello)) => match (&hello.refused, self.me.meet(&hello)) {
                (Some(stranger), _) => {
                    self.me.refused(&hello);
                    Err(Broken::Refused(stranger.message.clone()))
                }
                (None, Err(refusal)) => Err(Broken::Stranger(refusal.refused.unwrap_or_default().message)),
                (None, Ok(seat)) => Ok((answers, seat)),
            },
            _ => Err(Broken::Protocol),
        }
    }
}

fn frames(mut queue: mpsc::UnboundedReceiver<Outgoing>) -> stream::BoxStream<'static, Frame> {
    stream::poll_fn(move |context| queue.poll_recv(context).map(|next| next.map(|next| next.frame))).boxed()
}

fn next_backoff(backoff: Duration) -> Duration {
    (backoff * 2).min(limits::MAX_BACKOFF)
}
