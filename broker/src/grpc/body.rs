//! Request and response bodies with what the rim keeps account of: bytes being received, silent
//! senders, and whether a connection still has requests.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::{
    framing::Framing,
    limits::{INBOUND_RESERVE_BYTES, Patience},
    stats::RimStats,
    wire::Wire,
};
use crate::{
    limits::MAX_SMALL_REQUEST_BYTES, net::Seat, node::written::Line, service::written::Carried, unread::Room,
};

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

    /// More than what the reserve is for.
    pub(super) fn is_large(&self) -> bool {
        self.bytes.load(Relaxed) > MAX_SMALL_REQUEST_BYTES as u64
    }

    fn all(&self) -> &AtomicU64 {
        match self.is_send {
            true => &self.stats.inbound_send_bytes,
            false => &self.stats.inbound_bytes,
        }
    }

    fn add(&self, bytes: u64) -> Result<(), Status> {
        let mine = self.bytes.fetch_add(bytes, Relaxed) + bytes;
        let reserve = match !self.is_send && mine <= MAX_SMALL_REQUEST_BYTES as u64 {
            true => INBOUND_RESERVE_BYTES,
            false => 0,
        };
        if self.all().fetch_add(bytes, Relaxed) + bytes <= self.most + reserve {
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

/// A response's body on its way out; the request is open until it has been sent. Its bytes count until they have left the
/// HTTP/2 library, which keeps more of them than the client has room for.
pub(super) struct Outbound {
    body: tonic::body::Body,
    /// What of it is encoded already.
    gathered: VecDeque<Result<Frame<Bytes>, Status>>,
    ended: bool,
    room: Room,
    /// Leases in it, and the connection it leaves on.
    carried: Option<(Carried, Arc<Wire>)>,
    open: OpenRequest,
}

impl Outbound {
    pub(super) fn new(
        body: tonic::body::Body,
        room: Room,
        carried: Option<(Carried, Arc<Wire>)>,
        open: OpenRequest,
    ) -> Outbound {
        Outbound {
            body,
            gathered: VecDeque::new(),
            ended: false,
            room,
            carried,
            open,
        }
    }

    /// Encodes all of it that is there, so that its bytes are known, and what they were made of is not kept: a small message
    /// may be a slice of a large entry of the log. False if they are more than there is room for; they count all the same.
    pub(super) fn gather(&mut self, cx: &mut Context<'_>) -> bool {
        let mut bytes = 0;
        while let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            let Some(frame) = frame else {
                self.ended = true;
                break;
            };
            let data = frame.as_ref().ok().and_then(Frame::data_ref);
            bytes += data.map_or(0, |data| data.len() as u64);
            self.gathered.push_back(frame);
        }
        let fits = bytes <= self.room.bytes() || self.room.grow(bytes - self.room.bytes());
        self.room.settle(bytes);
        self.room.can_be_read();
        fits
    }

    /// The request, whose answer will be another one.
    pub(super) fn into_open(self) -> OpenRequest {
        self.open
    }

    /// The next frame, with room for it.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(frame) = self.gathered.pop_front() {
            return Poll::Ready(Some(frame));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.ended = frame.is_none();
        let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
        if data.is_some_and(|data| !self.room.grow(data.len() as u64)) {
            self.ended = true;
            return Poll::Ready(Some(as_trailers(&unread())));
        }
        Poll::Ready(frame)
    }
}

/// The refusal of what a client would have to read that does not read.
pub(super) fn unread() -> Status {
    Status::resource_exhausted(
        "too many answers wait for this client to read them: read them, then try again",
    )
}

/// The end of a stream that has begun.
fn as_trailers(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}

impl Body for Outbound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(self.poll_next(cx));
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
        let room = &mut self.room;
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|bytes| room.piece(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.gathered.is_empty() && (self.ended || self.body.is_end_stream())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::limits::MAX_INBOUND_SMALL_BYTES, *};

    #[test]
    fn a_small_request_passes_although_large_ones_hold_the_room_of_all() {
        let stats = Arc::new(RimStats::default());
        let held = |is_send| Held::new(stats.clone(), is_send, MAX_INBOUND_SMALL_BYTES);
        let large = held(false);
        large.add(MAX_INBOUND_SMALL_BYTES).unwrap();
        assert!(held(false).add(MAX_SMALL_REQUEST_BYTES as u64).is_ok());
        assert!(held(false).add(MAX_SMALL_REQUEST_BYTES as u64 + 1).is_err());
        let sends = held(true);
        sends.add(MAX_INBOUND_SMALL_BYTES).unwrap();
        assert!(held(true).add(1).is_err());
        large.add(INBOUND_RESERVE_BYTES).unwrap_err();
        assert!(held(false).add(1).is_err(), "the reserve has an end");
        drop((large, sends));
        assert_eq!(stats.inbound_bytes.load(Relaxed), 0);
    }
}
