//! The rim for RocketMQ clients: gRPC over HTTP/2, TLS and plaintext on one port. Adapters only:
//! what a request means is decided in `service/`.
//!
//! Connections are served by hyper directly and not by tonic's server, because the first byte
//! decides about TLS, idle connections must end, and the bytes being received are bounded over
//! all connections.

mod admin;
mod authority;
mod body;
mod caller;
mod connection;
mod framing;
mod handshake;
mod limits;
mod messaging;
mod slowdown;
mod stats;
pub mod tls;
mod wire;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use flotilla_proto::rocketmq::{admin_server::AdminServer, messaging_service_server::MessagingServiceServer};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::{net::TcpListener, time};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    config::{Limits, TlsMode},
    limits::ASK_THE_STUCK_EVERY,
    net,
    service::Service,
    unread::Unread,
};

pub use limits::Patience;
pub use stats::RimStats;

/// What the client port is served with.
pub struct GrpcOptions {
    /// Which of TLS and plaintext is spoken.
    pub mode: TlsMode,
    /// The certificate; none when TLS is disabled.
    pub tls: Option<TlsAcceptor>,
    /// Bounds of the configuration; the others are in `limits.rs`.
    pub limits: Limits,
    /// How long clients may take; the default is right outside of tests.
    pub patience: Patience,
    /// Counted here, shown by `/metrics`.
    pub stats: Arc<RimStats>,
}

/// What all connections share.
struct Rim {
    mode: TlsMode,
    tls: Option<TlsAcceptor>,
    http2: http2::Builder<TokioExecutor>,
    messaging: MessagingServiceServer<messaging::Messaging>,
    /// The same with a smaller limit, for everything but sends.
    small: MessagingServiceServer<messaging::Messaging>,
    admin: AdminServer<admin::NotImplemented>,
    stats: Arc<RimStats>,
    clock: Arc<dyn Clock>,
    unread: Unread,
    patience: Patience,
    max_send_bytes: u64,
}

/// Serves clients until `stop`, then lets the open requests end.
pub async fn serve(listener: TcpListener, options: GrpcOptions, service: Service, stop: CancellationToken) {
    let clock = Arc::clone(service.node().clock());
    let unread = service.unread().clone();
    let messaging = messaging::Messaging::new(service, options.stats.clone(), stop.clone());
    let rim = Arc::new(Rim {
        mode: options.mode,
        tls: options.tls,
        http2: http2_settings(),
        small: MessagingServiceServer::new(messaging.clone())
            .max_decoding_message_size(limits::MAX_SMALL_MESSAGE_BYTES),
        messaging: MessagingServiceServer::new(messaging)
            .max_decoding_message_size(limits::MAX_INBOUND_MESSAGE_BYTES),
        admin: AdminServer::new(admin::NotImplemented)
            .max_decoding_message_size(limits::MAX_SMALL_MESSAGE_BYTES),
        stats: options.stats,
        clock,
        unread: unread.clone(),
        patience: options.patience,
        max_send_bytes: options.limits.max_inbound_size.0,
    });
    let serve =
        |socket, from: SocketAddr, seat| connection::serve(socket, from, seat, rim.clone(), stop.clone());
    tokio::select! {
        biased;
        () = net::accept(listener, options.limits.max_connections, stop.clone(), serve) => {}
        () = ask_the_stuck(&unread) => {}
    }
}

/// Has those give way who read nothing while there is little room for the answers of others. Has no end.
async fn ask_the_stuck(unread: &Unread) {
    let mut seen = BTreeMap::new();
    loop {
        time::sleep(ASK_THE_STUCK_EVERY).await;
        unread.ask_the_stuck(&mut seen);
    }
}

fn http2_settings() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(limits::MAX_STREAMS_PER_CONNECTION)
        .max_header_list_size(limits::MAX_HEADER_LIST_BYTES)
        .max_frame_size(limits::MAX_FRAME_BYTES)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(limits::SEND_BUFFER_BYTES)
        .keep_alive_interval(Some(limits::PING_INTERVAL))
        .keep_alive_timeout(limits::PING_TIMEOUT);
    builder
}

#[cfg(test)]
mod tests;
