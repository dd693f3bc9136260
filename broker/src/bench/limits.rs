//! Every bound of the benchmark, and how the bounds relate.

use std::time::Duration;

/// Smallest body in bytes: what a message must say about itself.
pub(super) const MIN_PAYLOAD: usize = super::body::HEADER;
/// Largest body in bytes: what the server allows.
pub(super) const MAX_PAYLOAD: usize = (4 << 20) - (64 << 10);
/// Most sends open at once.
pub(super) const MAX_IN_FLIGHT: usize = 1 << 16;
/// Most connections to one node.
pub(super) const MAX_CONNECTIONS: usize = 1024;
/// Most topics a run spreads over.
pub(super) const MAX_TOPICS: u32 = 10_000;
/// Most consumer groups of a consuming run.
pub(super) const MAX_GROUPS: u32 = 1000;
/// Most messages of a run: each costs 32 bytes of memory to verify. Sending stops there.
pub(super) const MAX_MESSAGES: u64 = 100_000_000;
/// Most messages that are due and not yet sent; beyond, the schedule waits (and stays late).
pub(super) const MAX_DUE: usize = 1 << 20;
/// Most gaps in the report; the longest is kept in any case.
pub(super) const MAX_GAPS: usize = 1000;
/// Most examples of anything in the report.
pub(super) const MAX_EXAMPLES: usize = 10;
/// Seconds of the timeline kept after the measured window.
pub(super) const TIMELINE_TAIL_SECONDS: u64 = 120;
/// Longest run.
pub(super) const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);
/// Most messages asked for in one receive.
pub(super) const RECEIVE_BATCH: i32 = 32;
/// Most consumer workers unless said otherwise: one open receive each.
pub(super) const DEFAULT_CONSUMERS: usize = 256;
/// Most receives open at once while the consumer group is made known to its queues.
pub(super) const PRIMING: usize = 512;
/// Largest answer of a node's HTTP interface that is read, in bytes.
pub(super) const MAX_HTTP_BODY: usize = 32 << 20;
/// Bodies the no-op server keeps for its consumers, in bytes; it forgets what comes beyond.
pub(super) const MAX_KEPT: usize = 512 << 20;
/// Largest gRPC message accepted, in bytes: a body and its envelope.
pub(super) const MAX_GRPC_MESSAGE: usize = 2 * MAX_PAYLOAD;
/// Size of the file for the sync loop, in bytes.
pub(super) const SYNC_FILE: usize = 64 << 20;

const _: () = assert!(MIN_PAYLOAD < MAX_PAYLOAD && MAX_PAYLOAD < MAX_GRPC_MESSAGE);
