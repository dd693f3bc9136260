//! Bounds of the traffic between nodes.

use std::time::Duration;

/// Largest encoded frame, either direction: one Raft append with its records, one snapshot chunk or
/// one forwarded client request must fit.
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// Raft (and status) requests under way to one peer, by count and by bytes.
pub const MAX_RAFT_CALLS: usize = 8_192;
/// See [`MAX_RAFT_CALLS`].
pub const MAX_RAFT_BYTES: usize = 64 * 1024 * 1024;

/// Forwarded client requests under way on one connection. They have a budget of their own, so that clients
/// can never crowd out heartbeats; and so have sends, so that they never crowd out acknowledgements.
pub const MAX_FORWARD_CALLS: usize = 16_384;
/// See [`MAX_FORWARD_CALLS`].
pub const MAX_FORWARD_BYTES: usize = 16 * 1024 * 1024;
/// See [`MAX_FORWARD_CALLS`].
pub const MAX_FORWARD_SEND_BYTES: usize = 16 * 1024 * 1024;

/// What nodes ask each other by themselves on one connection: signs of life, reports, hints, changes of the catalogue. However many
/// requests of clients are under way, these are not kept back.
pub const MAX_NODE_CALLS: usize = 1_024;
/// See [`MAX_NODE_CALLS`].
pub const MAX_NODE_BYTES: usize = 16 * 1024 * 1024;

/// HTTP/2 windows and frame size of a peer connection; the defaults cost a third of the throughput.
pub const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// See [`STREAM_WINDOW_BYTES`].
pub const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// See [`STREAM_WINDOW_BYTES`].
pub const HTTP2_FRAME_BYTES: u32 = 1024 * 1024;

/// Connections that a node opens to each other node: one for each of what must not wait for the rest.
pub const LANES: usize = 5;
/// Connections accepted on the peer port at one time.
pub const MAX_PEER_CONNECTIONS: usize = 256;

/// From the TCP connection to an accepted `Hello`; later the connection is closed.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// A silent connection is asked for a sign of life after this time ...
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// ... and is dropped when none comes within this one.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause before the first attempt to reconnect; it doubles with every failure.
pub const MIN_BACKOFF: Duration = Duration::from_millis(20);
/// Longest pause between two attempts: how long a restarted node waits at most to be found.
pub const MAX_BACKOFF: Duration = Duration::from_millis(500);

const _: () = assert!(MAX_RAFT_BYTES >= 2 * MAX_FRAME_BYTES);
const _: () = assert!(MAX_FORWARD_BYTES >= MAX_FRAME_BYTES && MAX_FORWARD_SEND_BYTES >= MAX_FRAME_BYTES);
const _: () = assert!(MAX_NODE_BYTES >= MAX_FRAME_BYTES);
const _: () = assert!(CONNECTION_WINDOW_BYTES > STREAM_WINDOW_BYTES);
