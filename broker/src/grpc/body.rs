//! Request and response bodies with what the rim keeps account of: bytes being received, silent
//! senders, and whether a connection still has requests.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;
use tonic::Status;

use super::{stats::RimStats, wire::Wire};
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

/// A request's body on its way in. Its bytes count against the bound of all connections until it
/// has been read and dropped.
pub(super) struct Inbound {
    body: Incoming,
    stats: Arc<RimStats>,
    most: u64,
    held: u64,
    /// How long the sender may be silent; `None`: for ever, which is Telemetry.
    patience: Option<Duration>,
    /// Armed only when nothing has arrived yet, so that ordinary requests need no timer.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Inbound {
    pub(super) fn new(
        body: Incoming,
        stats: Arc<RimStats>,
        most: u64,
        patience: Option<Duration>,
    ) -> Inbound {
        Inbound {
            body,
            stats,
            most,
            held: 0,
            patience,
            alarm: None,
        }
    }

    fn account(&mut self, bytes: u64) -> Result<(), Status> {
        // A Telemetry stream never ends: its commands are handed on one by one and not held.
        if self.patience.is_none() {
            return Ok(());
        }
        self.held += bytes;
        if self.stats.inbound_bytes.fetch_add(bytes, Relaxed) + bytes <= self.most {
            return Ok(());
        }
        self.stats.overloaded.fetch_add(1, Relaxed);
        Err(Status::resource_exhausted(
            "the node is receiving too much at this moment: try again later",
        ))
    }

    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let Some(patience) = self.patience else {
            return Poll::Pending;
        };
        let alarm = self
            .alarm
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
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
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            return self.poll_patience(cx).map(|late| Some(Err(late)));
        };
        self.alarm = None;
        let Some(frame) = frame else {
            return Poll::Ready(None);
        };
        let frame = frame.map_err(|error| Status::cancelled(error.to_string()))?;
        if let Some(data) = frame.data_ref() {
            self.account(data.len() as u64)?;
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

impl Drop for Inbound {
    fn drop(&mut self) {
        self.stats.inbound_bytes.fetch_sub(self.held, Relaxed);
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
