//! Every bound of the HTTP port.

use std::time::Duration;

/// Connections at one time, where the process may have descriptors enough (`net/places.rs`).
pub(crate) const MAX_CONNECTIONS: u32 = 1024;

/// An answer of so many bytes goes out whatever waits to be read: health and most metrics. Each connection has one at a time.
pub(super) const ALWAYS_BYTES: u64 = 64 << 10;

/// Body of a request: the longest is the description of a consumer group.
pub(super) const MAX_BODY_BYTES: usize = 64 << 10;

/// A request's body is here this long after its head, or is not waited for.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Request line and headers.
pub(super) const MAX_HEAD_BYTES: usize = 32 << 10;

/// A connection may wait this long for (the rest of) its next request's head.
pub(super) const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
