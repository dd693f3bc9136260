//! How nodes talk to each other: Raft messages of all shards, forwarded client requests and
//! "who are you" questions, as requests and answers between two nodes.
//!
//! The trait [`PeerTransport`] is the seam: `peer/stream.rs` is its production form (one tonic
//! bidirectional stream per peer), the simulator brings its own. [`PeerHandler`] is what a node
//! does with the requests that reach it.

use std::{any::Any, collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use flotilla_proto::peer::{Hello, frame};
use futures::future::BoxFuture;

pub mod calls;
pub mod limits;
#[cfg(feature = "server")]
pub mod stream;

/// What a frame carries: a request or an answer.
pub type Body = frame::Body;

/// The version of the peer protocol this build speaks; another one is refused at the handshake.
pub const PROTOCOL_VERSION: u32 = 2;

/// Knows who this node is, and whom it talks to.
pub trait Greeter: Send + Sync + 'static {
    /// This node's number.
    fn node(&self) -> u32;

    /// Who this node is at this moment (the cluster's id becomes known late); nothing while it is not known at all, and then
    /// no connection is made.
    fn hello(&self) -> Option<Hello>;

    /// Judges a greeting, in either direction. The seat is kept for as long as the connection stands.
    ///
    /// # Errors
    /// What to answer a stranger, with the reason in it.
    fn meet(&self, other: &Hello) -> Result<Seat, Box<Hello>> {
        let _ = other;
        Ok(Box::new(()))
    }

    /// The other side takes this node for a stranger.
    fn refused(&self, by: &Hello) {
        let _ = by;
    }
}

/// A place at the table; given back when it is dropped.
pub type Seat = Box<dyn Any + Send + Sync>;

/// Who this node is, for both ends of its connections.
pub type HelloSource = Arc<dyn Greeter>;

/// Talks to everybody: clients of the simulator, and tests.
impl<F: Fn() -> Hello + Send + Sync + 'static> Greeter for F {
    fn node(&self) -> u32 {
        self().node
    }

    fn hello(&self) -> Option<Hello> {
        Some(self())
    }
}

/// Why a call to another node has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Known to be dead, or not known at all: nothing was sent.
    #[error("there is no connection to the node")]
    NotConnected,
    /// The connection broke before the answer came: the request may or may not have been carried out.
    #[error("the connection to the node broke")]
    Unreachable,
    /// No answer within the call's time: the request may or may not have been carried out.
    #[error("the node did not answer in time")]
    Timeout,
    /// Too much is under way to that node already; nothing was sent, or the other side did not begin.
    #[error("too many requests to the node are under way")]
    Overloaded,
    /// The request is too large for a frame, or the answer was no answer; nothing sensible was said.
    #[error("the request or its answer breaks the peer protocol")]
    Malformed,
}

/// Carries requests to other nodes.
#[async_trait]
pub trait PeerTransport: Send + Sync + 'static {
    /// Sends `body` to `node` and waits for its answer, never longer than `ttl`. Calls of one kind (requests of
    /// clients, Raft requests, urgent ones) arrive in the order in which they were first polled. A peer known to be dead fails the call at once. A node
    /// never calls itself: that is `NotConnected`.
    async fn call(&self, node: u32, body: Body, ttl: Duration) -> Result<Body, PeerError>;

    /// Says where the nodes are (node id to `host:port`). Idempotent: connections to unchanged
    /// addresses stay, those to nodes no longer named are closed. Needs a running runtime.
    fn set_peers(&self, addresses: BTreeMap<u32, String>);
}

/// What a node does with requests of other nodes.
pub trait PeerHandler: Send + Sync + 'static {
    /// Begins to answer a request. Called in arrival order per connection; whatever must keep that
    /// order is enqueued before this returns. The future of a forwarded request may be dropped when
    /// the caller is gone, those of all other requests run to their end.
    fn handle(&self, from: &Hello, body: Body) -> BoxFuture<'static, Body>;
}

/// True if the body asks for something, as opposed to an answer or a greeting.
#[must_use]
pub fn is_request(body: &Body) -> bool {
    matches!(body, Body::Raft(_) | Body::Forward(_) | Body::Status(_))
}
