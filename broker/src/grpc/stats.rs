//! What the client port counts about itself.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Counters of the client port, in Prometheus' sense: totals only grow.
#[derive(Debug, Default)]
pub struct RimStats {
    /// Connections open now.
    pub(super) connections: AtomicU64,
    /// Connections closed because they spoke neither TLS nor HTTP/2, or took too long.
    pub(super) handshakes_failed: AtomicU64,
    /// Connections closed because nothing happened on them.
    pub(super) idle_closed: AtomicU64,
    /// Requests under way now, Telemetry streams included.
    pub(super) requests: AtomicU64,
    /// Bytes of sends that are being received or carried out now.
    pub(super) inbound_send_bytes: AtomicU64,
    /// Bytes of other requests being received now.
    pub(super) inbound_bytes: AtomicU64,
    /// Refusals that wait now, because their clients repeat them.
    pub(super) refusals_held: AtomicU64,
    /// Refusals that had to wait.
    pub(super) refusals_slowed: AtomicU64,
    /// Requests refused because too many bytes were being received.
    pub(super) overloaded: AtomicU64,
}

impl RimStats {
    /// Adds the figures in Prometheus' text format.
    pub fn write(&self, text: &mut String) {
        let rows = [
            (
                "flotilla_grpc_connections",
                "gauge",
                "Client connections open.",
                &self.connections,
            ),
            (
                "flotilla_grpc_handshakes_failed_total",
                "counter",
                "Connections closed before HTTP/2 began.",
                &self.handshakes_failed,
            ),
            (
                "flotilla_grpc_idle_closed_total",
                "counter",
                "Connections closed for idleness.",
                &self.idle_closed,
            ),
            (
                "flotilla_grpc_requests_in_flight",
                "gauge",
                "Requests under way, streams included.",
                &self.requests,
            ),
            (
                "flotilla_grpc_inbound_send_bytes",
                "gauge",
                "Bytes of sends being received or carried out.",
                &self.inbound_send_bytes,
            ),
            (
                "flotilla_grpc_inbound_bytes",
                "gauge",
                "Bytes of other requests being received.",
                &self.inbound_bytes,
            ),
            (
                "flotilla_grpc_refusals_held",
                "gauge",
                "Refusals that wait because their clients repeat them.",
                &self.refusals_held,
            ),
            (
                "flotilla_grpc_refusals_slowed_total",
                "counter",
                "Refusals that had to wait because their clients repeat them.",
                &self.refusals_slowed,
            ),
            (
                "flotilla_grpc_overloaded_total",
                "counter",
                "Requests refused for want of receive memory.",
                &self.overloaded,
            ),
        ];
        for (name, kind, help, value) in rows {
            let value = value.load(Relaxed);
            writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}")
                .expect("a String takes all");
        }
    }
}
