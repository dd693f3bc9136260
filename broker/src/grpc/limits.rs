//! Every bound of the client port. Two more are configuration: connections, and bytes of sends
//! being received or carried out over all connections.

use std::time::Duration;

/// Largest request. A body of 4 MiB with its envelope passes; so do somewhat larger ones, which
/// the service answers with MESSAGE_BODY_TOO_LARGE. Beyond, nothing is read.
pub(super) const MAX_INBOUND_MESSAGE_BYTES: usize = 8 << 20;

/// Largest request that brings no messages, and largest command on a Telemetry stream: settings name every topic of a
/// client, some 100 bytes each.
pub(super) const MAX_SMALL_MESSAGE_BYTES: usize = 1 << 20;

/// Requests other than sends that are being received, over all connections, in bytes. Sends, which have a bound of their own,
/// never use up the room of acknowledgements.
pub(super) const MAX_INBOUND_SMALL_BYTES: u64 = 64 << 20;

/// What requests of at most [`crate::limits::MAX_SMALL_REQUEST_BYTES`] may have beyond that, bytes: signs of life pass
/// although large requests that do not end hold all the rest.
pub(super) const INBOUND_RESERVE_BYTES: u64 = 16 << 20;

/// Requests under way on one connection. SDKs share one connection for all their long polls, and a
/// push consumer of many topics has one per queue.
pub(super) const MAX_STREAMS_PER_CONNECTION: u32 = 4096;

/// Names and values of one request's headers; the SDKs send well under 2 KiB.
pub(super) const MAX_HEADER_LIST_BYTES: u32 = 16 << 10;

/// Largest HTTP/2 frame we accept; it is buffered whole before anything else looks at it.
pub(super) const MAX_FRAME_BYTES: u32 = 64 << 10;

/// What a client may send of one request before we have read it.
pub(super) const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// What a client may send of all its requests before we have read it.
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Answers of one request that wait for the client to read them.
pub(super) const SEND_BUFFER_BYTES: usize = 1 << 20;

/// Refusals in a row that a client has answered at once; one more for every [`REFUSAL_PAUSE`] without one.
pub(super) const FREE_REFUSALS: u32 = 20;

/// Between two refusals of a client that has no free ones left.
pub(super) const REFUSAL_PAUSE: Duration = Duration::from_millis(200);

/// No refusal is held longer: the usual deadline is three seconds.
pub(super) const MAX_HOLD: Duration = Duration::from_secs(1);

/// Refusals held for one client at one time; more are answered at once.
pub(super) const MAX_HELD_REFUSALS_PER_CLIENT: usize = 64;

/// Refusals held at one time, for all clients; more are answered at once.
pub(super) const MAX_HELD_REFUSALS: u64 = 4096;

/// Clients of which it is known that they were refused something lately.
pub(super) const MAX_REFUSED_CLIENTS: usize = 10_000;

/// We ask this often whether a silent client is still there.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(60);

/// A client that does not answer for this long is gone.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(20);

const _: () = {
    assert!(
        MAX_INBOUND_MESSAGE_BYTES > (4 << 20) + (64 << 10),
        "a body of 4 MiB with its envelope passes"
    );
    assert!(MAX_SMALL_MESSAGE_BYTES > crate::limits::MAX_ACK_REQUEST_BYTES);
    assert!(CONNECTION_WINDOW_BYTES >= STREAM_WINDOW_BYTES);
    assert!(STREAM_WINDOW_BYTES >= MAX_FRAME_BYTES);
};

/// How long the rim waits for clients. Tests wait less.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A new connection has this long for TLS and the HTTP/2 preface.
    pub handshake: Duration,
    /// A message may pause this long on its way. A Telemetry stream may be silent for ever between two commands.
    pub body: Duration,
    /// A message that has begun to arrive is complete after this: 4 MiB at 300 kbit/s.
    pub message: Duration,
    /// A connection without requests is closed after this. An open Telemetry stream is a request.
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            handshake: Duration::from_secs(10),
            body: Duration::from_secs(30),
            message: Duration::from_secs(120),
            idle: Duration::from_secs(120),
        }
    }
}
