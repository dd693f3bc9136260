//! Request and response bodies with what the rim keeps account of: bytes being received, silent
//! senders, and whether a connection still has requests.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::{framing::Framing, limits::Patience, stats::RimStats, wire::Wire};
use crate::{net::Seat, node::written::Line, service::written::Carried};

/// One open request; it ends when this is dropped.
pub(super) struct OpenRequest {
    seat: Arc<Seat>,
    stats: Arc<RimStats>,
}

impl OpenRequest {
    pub(super) fn new(seat: Arc<Seat>, stats: Arc<RimStats>) -> OpenRequest {
        seat.begin();
        stats.requests.fetch_add(1, Relaxed);
        OpenRequest { seat, stats }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.seat.end();
        self.stats.requests.fetch_sub(1, Relaxed);
    }
}

/// Bytes of one request that count against a bound of all connections until this is dropped everywhere.
pub(super) struct Held {
    stats: Arc<RimStats>,
    is_send: bool,
    most: u64,
    bytes: AtomicU64,
}

impl Held {
    /// Sends count with each other, and so does the rest: a flood of sends is refused and leaves acknowledgements their room.
    pub(super) fn new(stats: Arc<RimStats>, is_send: bool, most: u64) -> Arc<Held> {
        Arc::new(Held {
            stats,
            is_send,
            most,
            bytes: AtomicU64::new(0),
        })
    }

    fn all(&self) -> &AtomicU64 {
        match self.is_send {
            true => &self.stats.inbound_send_bytes,
            false => &self.stats.inbound_bytes,
        }
    }

    fn add(&self, bytes: u64) -> Result<(), Status> {
        self.bytes.fetch_add(bytes, Relaxed);
        if self.all().fetch_add(bytes, Relaxed) + bytes <= self.most {
            return Ok(());
        }
        self.stats.overloaded.fetch_add(1, Relaxed);
        Err(Status::resource_exhausted(
            "the node is receiving too much at this moment: try again later",
        ))
    }
}

impl Held {
    /// Lets go of all but so many bytes.
    fn keep(&self, bytes: u64) {
        let before = self.bytes.load(Relaxed);
        let kept = before.min(bytes);
        self.bytes.store(kept, Relaxed);
        self.all().fetch_sub(before - kept, Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all().fetch_sub(self.bytes.load(Relaxed), Relaxed);
    }
}

/// A request's body on its way in. A Telemetry stream never ends: of it counts what may be held, the command that is not
/// complete and what came with its last piece.
pub(super) struct Inbound {
    body: Incoming,
    held: Arc<Held>,
    patience: Patience,
    /// Where a Telemetry stream stands; `None` for a request, which is one message.
    stream: Option<Framing>,
    /// When the rest of the message was first waited for.
    waited_since: Option<Instant>,
    /// Armed only when nothing has arrived yet, so that ordinary requests need no timer.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Inbound {
    pub(super) fn new(body: Incoming, held: Arc<Held>, patience: Patience, telemetry: bool) -> Inbound {
        Inbound {
            body,
            held,
            patience,
            stream: telemetry.then(Framing::default),
            waited_since: None,
            alarm: None,
        }
    }

    /// More is wanted: the commands that were complete have been handed on.
    fn let_go(&mut self) {
        if let Some(stream) = &self.stream {
            self.held.keep(stream.unfinished());
            if stream.unfinished() == 0 {
                (self.waited_since, self.alarm) = (None, None);
            }
        }
    }

    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if self
            .stream
            .as_ref()
            .is_some_and(|stream| stream.unfinished() == 0)
        {
            return Poll::Pending;
        }
        let now = Instant::now();
        let complete_at = *self.waited_since.get_or_insert(now) + self.patience.message;
        let until = complete_at.min(now + self.patience.body);
        let alarm = self
            .alarm
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        ready!(alarm.as_mut().poll(cx));
        Poll::Ready(Status::deadline_exceeded(
            "the rest of the request did not arrive in time",
        ))
    }
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.let_go();
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            return self.poll_patience(cx).map(|late| Some(Err(late)));
        };
        self.alarm = None;
        let Some(frame) = frame else {
            return Poll::Ready(None);
        };
        let frame = frame.map_err(|error| Status::cancelled(error.to_string()))?;
        if let Some(data) = frame.data_ref() {
            if let Some(stream) = &mut self.stream {
                stream.take(data);
            }
            self.held.add(data.len() as u64)?;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response's body on its way out; the request is open until it has been sent.
pub(super) struct Outbound {
    pub(super) body: tonic::body::Body,
    /// Leases in it, and the connection it leaves on.
    pub(super) carried: Option<(Carried, Arc<Wire>)>,
    pub(super) _open: OpenRequest,
}

impl Body for Outbound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        // Whoever sends it asks for the end only when all but the last piece is on its way to the socket; whether that
        // arrived is another question (`wire.rs`).
        let at_end = match &frame {
            Some(Ok(frame)) => frame.is_trailers(),
            Some(Err(_)) => false,
            None => true,
        };
        if at_end && let Some((carried, wire)) = self.carried.take() {
            let line: Arc<dyn Line> = wire;
            carried.written(&line);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
