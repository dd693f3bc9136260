//! The client port over real sockets: what it serves, and what it survives.

mod client;
mod held;
mod limit;
mod lists;
mod unfinished;
mod unread;
mod written;

use std::{path::PathBuf, sync::atomic::Ordering::Relaxed, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use client::{Client, framed};
use flotilla_proto::rocketmq as mq;
use http_body_util::BodyExt;
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time,
};

use super::*;
use crate::{
    config::{Config, Size},
    limits::MAX_BODY_BYTES,
    testing::OneNode,
};

const SEND: &str = "/apache.rocketmq.v2.MessagingService/SendMessage";
const ROUTE: &str = "/apache.rocketmq.v2.MessagingService/QueryRoute";
const HEARTBEAT: &str = "/apache.rocketmq.v2.MessagingService/Heartbeat";
const TELEMETRY: &str = "/apache.rocketmq.v2.MessagingService/Telemetry";

/// gRPC status numbers.
const DEADLINE_EXCEEDED: i32 = 4;
const RESOURCE_EXHAUSTED: i32 = 8;
const OUT_OF_RANGE: i32 = 11;
const UNIMPLEMENTED: i32 = 12;

/// Nothing here takes so long; a test that waits longer has failed.
const LIMIT: Duration = Duration::from_secs(30);

struct Server {
    address: String,
    certificate: PathBuf,
    stats: Arc<RimStats>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    node: OneNode,
    _folder: tempfile::TempDir,
}

impl Server {
    async fn start() -> Server {
        Server::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut GrpcOptions)) -> Server {
        Server::over(OneNode::start().await, change).await
    }

    async fn over(node: OneNode, change: impl FnOnce(&mut GrpcOptions)) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::zero();
        let stats = Arc::new(RimStats::default());
        let mut options = GrpcOptions {
            mode: TlsMode::Permissive,
            tls: Some(tls::acceptor(&config.tls, folder.path(), &["localhost".to_owned()]).unwrap()),
            limits: config.limits,
            patience: Patience::default(),
            stats: stats.clone(),
        };
        change(&mut options);
        let listener = net::bind("client_addr", "127.0.0.1:0", true).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(listener, options, node.service.clone(), stop.clone()));
        let certificate = folder.path().join("tls/certificate.pem");
        Server {
            address,
            certificate,
            stats,
            stop,
            task,
            node,
            _folder: folder,
        }
    }

    async fn answers(&self) {
        let mut client = Client::plain(&self.address).await;
        assert_route(&mut client).await;
    }
}

async fn assert_route(client: &mut Client) {
    let reply = client.call(ROUTE, &route_of("orders")).await;
    let response: mq::QueryRouteResponse = reply.message();
    assert_eq!(response.status.unwrap().code, mq::Code::Ok as i32);
}

fn route_of(topic: &str) -> mq::QueryRouteRequest {
    let topic = mq::Resource {
        name: topic.to_owned(),
        ..Default::default()
    };
    mq::QueryRouteRequest {
        topic: Some(topic),
        ..Default::default()
    }
}

fn send_of(bytes: usize) -> mq::SendMessageRequest {
    let system = mq::SystemProperties {
        message_id: "0102".to_owned(),
        ..Default::default()
    };
    let topic = mq::Resource {
        name: "orders".to_owned(),
        ..Default::default()
    };
    let message = mq::Message {
        topic: Some(topic),
        system_properties: Some(system),
        body: vec![7; bytes].into(),
        ..Default::default()
    };
    mq::SendMessageRequest {
        messages: vec![message],
    }
}

/// Reads until the server closes; how it closes does not matter.
async fn assert_closed(mut socket: TcpStream) {
    let mut rest = Vec::new();
    let _ = time::timeout(LIMIT, socket.read_to_end(&mut rest))
        .await
        .expect("the server closes the connection");
}

async fn until(condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    time::timeout(LIMIT, poll).await.expect("it becomes true");
}

#[tokio::test]
async fn plaintext_and_tls_are_served_on_one_port() {
    let server = Server::start().await;
    let mut plain = Client::plain(&server.address).await;
    let mut tls = Client::tls(&server.address, &server.certificate).await;
    for client in [&mut plain, &mut tls] {
        assert_route(client).await;
    }
}

#[tokio::test]
async fn the_mode_forbids_tls_or_plaintext() {
    let server = Server::with(|options| options.mode = TlsMode::Enforcing).await;
    let mut socket = TcpStream::connect(&server.address).await.unwrap();
    socket
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    assert_closed(socket).await;
    assert_route(&mut Client::tls(&server.address, &server.certificate).await).await;

    let server = Server::with(|options| options.mode = TlsMode::Disabled).await;
    let mut socket = TcpStream::connect(&server.address).await.unwrap();
    socket.write_all(&[0x16, 3, 1]).await.unwrap();
    assert_closed(socket).await;
    server.answers().await;
}

#[tokio::test]
async fn garbage_closes_the_connection_and_disturbs_nobody() {
    let server = Server::start().await;
    let garbage: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0; 64],
        &[0x16, 3, 1, 0xff, 0xff, 1, 2, 3],
        &[0x16; 4096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nand no frame after the preface at all.....",
        b"P",
    ];
    for bytes in garbage {
        let mut socket = TcpStream::connect(&server.address).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        socket.shutdown().await.unwrap();
        assert_closed(socket).await;
        server.answers().await;
    }
    assert!(server.stats.handshakes_failed.load(Relaxed) >= 5);
    until(|| server.stats.connections.load(Relaxed) == 0).await;
}

#[tokio::test]
async fn a_tls_client_that_speaks_something_else_inside_is_refused() {
    let server = Server::start().await;
    // ALPN without h2: the handshake itself fails.
    use tokio_rustls::rustls;
    let mut roots = rustls::RootCertStore::empty();
    let certificate =
        <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_file(
            &server.certificate,
        );
    roots.add(certificate.unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let socket = TcpStream::connect(&server.address).await.unwrap();
    let connected =
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), socket);
    if let Ok(mut stream) = connected.await {
        assert!(stream.read_u8().await.is_err());
    }
    server.answers().await;
}

#[tokio::test]
async fn the_largest_body_passes_and_a_larger_one_gets_its_status() {
    let server = Server::start().await;
    let mut client = Client::plain(&server.address).await;
    let code = |reply: client::Reply| reply.message::<mq::SendMessageResponse>().status.unwrap().code;
    assert_eq!(
        code(client.call(SEND, &send_of(MAX_BODY_BYTES)).await),
        mq::Code::Ok as i32
    );
    assert_eq!(
        code(client.call(SEND, &send_of(MAX_BODY_BYTES + 1)).await),
        mq::Code::MessageBodyTooLarge as i32
    );
    assert_eq!(
        code(client.call(SEND, &send_of(7 << 20)).await),
        mq::Code::MessageBodyTooLarge as i32
    );
}

#[tokio::test]
async fn a_request_of_a_hundred_mebibytes_is_refused_from_its_length_alone() {
    let server = Server::start().await;
    let mut client = Client::plain(&server.address).await;
    let mut head = BytesMut::new();
    head.put_u8(0);
    head.put_u32(100 << 20);
    let (_body, status) = client.unfinished(SEND, head.freeze()).await;
    assert_eq!(status, Some(OUT_OF_RANGE));
    let reply = client.raw(SEND, &[], framed(&send_of(9 << 20))).await.unwrap();
    assert_eq!(reply.grpc, Some(OUT_OF_RANGE));
    assert_route(&mut client).await;
    until(|| server.stats.inbound_send_bytes.load(Relaxed) == 0).await;
}

#[tokio::test]
async fn bytes_being_received_are_bounded_over_all_connections() {
    let server = Server::with(|options| options.limits.max_inbound_size = Size(64 << 10)).await;
    let mut client = Client::plain(&server.address).await;
    let reply = client.raw(SEND, &[], framed(&send_of(1 << 20))).await.unwrap();
    assert_eq!(reply.grpc, Some(RESOURCE_EXHAUSTED));
    assert_eq!(server.stats.overloaded.load(Relaxed), 1);
    assert_route(&mut client).await;
    until(|| server.stats.inbound_send_bytes.load(Relaxed) == 0).await;
}

#[tokio::test]
async fn a_request_whose_rest_never_comes_is_given_up() {
    let server = Server::with(|options| options.patience.body = Duration::from_millis(50)).await;
    let mut client = Client::plain(&server.address).await;
    let (_body, reply) = client.unfinished(SEND, framed(&send_of(1000)).slice(..500)).await;
    assert_eq!(reply, Some(DEADLINE_EXCEEDED));
    assert_route(&mut client).await;
}

#[tokio::test]
async fn unknown_paths_are_unimplemented_and_later_rpcs_say_so() {
    let server = Server::start().await;
    let mut client = Client::plain(&server.address).await;
    for path in [
        "/apache.rocketmq.v2.MessagingService/Nothing",
        "/some.Other/Thing",
        "/",
        "/apache.rocketmq.v2.Admin/No",
    ] {
        assert_eq!(
            client.call(path, &mq::Status::default()).await.grpc,
            Some(UNIMPLEMENTED),
            "{path}"
        );
    }
    let expected = mq::Code::NotImplemented as i32;
    for method in ["SyncLiteSubscription"] {
        let path = format!("/apache.rocketmq.v2.MessagingService/{method}");
        // All these answers have their status in field 1.
        let reply: mq::UpdateOffsetResponse = client
            .call(&path, &mq::UpdateOffsetRequest::default())
            .await
            .message();
        assert_eq!(reply.status.unwrap().code, expected, "{method}");
    }
    let path = "/apache.rocketmq.v2.Admin/GetTopicRoute";
    let admin: mq::GetTopicRouteResponse = client
        .call(path, &mq::GetTopicRouteRequest::default())
        .await
        .message();
    assert_eq!(admin.status.unwrap().code, expected);
}

#[tokio::test]
async fn oversized_headers_and_broken_messages_end_the_request_only() {
    let server = Server::start().await;
    let mut client = Client::plain(&server.address).await;
    let long = "x".repeat(32 << 10);
    let refused = client
        .raw(ROUTE, &[("x-mq-client-id", &long)], framed(&route_of("orders")))
        .await;
    assert!(refused.is_err_and(|error| !error.is_closed()) || server.stats.connections.load(Relaxed) == 1);
    let reply = client
        .raw(ROUTE, &[], Bytes::from_static(&[0, 0, 0, 0, 3, 0xff, 0xff, 0xff]))
        .await
        .unwrap();
    assert_ne!(reply.grpc, Some(0));
    assert_eq!(reply.http, 200);
    assert_route(&mut client).await;
}

#[tokio::test]
async fn a_call_without_any_metadata_is_answered() {
    let server = Server::start().await;
    let mut client = Client::plain(&server.address).await;
    let path = "/apache.rocketmq.v2.MessagingService/Heartbeat";
    let reply = client
        .raw(path, &[], framed(&mq::HeartbeatRequest::default()))
        .await
        .unwrap();
    assert!(reply.message::<mq::HeartbeatResponse>().status.is_some());
}

fn settings() -> mq::TelemetryCommand {
    let publishing = mq::Publishing::default();
    let settings = mq::Settings {
        client_type: Some(mq::ClientType::Producer as i32),
        pub_sub: Some(mq::settings::PubSub::Publishing(publishing)),
        ..Default::default()
    };
    mq::TelemetryCommand {
        command: Some(mq::telemetry_command::Command::Settings(settings)),
        ..Default::default()
    }
}

#[tokio::test]
async fn telemetry_sends_its_headers_before_the_first_command_and_then_answers() {
    let server = Server::start().await;
    let mut client = Client::plain(&server.address).await;
    // `open` returns with the headers of the response, before anything was said.
    let (said, mut answers) = time::timeout(LIMIT, client.open(TELEMETRY)).await.unwrap();
    said.unbounded_send(framed(&settings())).unwrap();
    let frame = time::timeout(LIMIT, answers.frame())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let bytes = frame.into_data().unwrap();
    let answer = mq::TelemetryCommand::decode(bytes.slice(5..)).unwrap();
    assert!(matches!(
        answer.command,
        Some(mq::telemetry_command::Command::Settings(_))
    ));
    drop(said);
    until(|| server.stats.requests.load(Relaxed) == 0).await;
}

#[tokio::test]
async fn an_oversized_command_ends_its_telemetry_stream_only() {
    let server = Server::start().await;
    let mut client = Client::plain(&server.address).await;
    let (said, mut answers) = client.open(TELEMETRY).await;
    let mut head = BytesMut::new();
    head.put_u8(0);
    head.put_u32(2 << 20);
    said.unbounded_send(head.freeze()).unwrap();
    while let Some(Ok(frame)) = time::timeout(LIMIT, answers.frame())
        .await
        .expect("the stream ends")
    {
        assert!(frame.is_trailers());
    }
    assert_route(&mut client).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_with_telemetry_is_not() {
    let server = Server::with(|options| options.patience.idle = Duration::from_millis(200)).await;
    let mut busy = Client::plain(&server.address).await;
    let (said, mut answers) = busy.open(TELEMETRY).await;
    let mut idle = Client::plain(&server.address).await;
    assert_route(&mut idle).await;
    let _ = time::timeout(LIMIT, &mut idle.ended)
        .await
        .expect("the idle connection is closed");
    assert_eq!(server.stats.idle_closed.load(Relaxed), 1);
    said.unbounded_send(framed(&settings())).unwrap();
    assert!(time::timeout(LIMIT, answers.frame()).await.unwrap().is_some());
    assert_route(&mut busy).await;
}

#[tokio::test]
async fn a_connection_that_does_not_begin_is_closed() {
    let server = Server::with(|options| options.patience.handshake = Duration::from_millis(50)).await;
    assert_closed(TcpStream::connect(&server.address).await.unwrap()).await;
    for begun in [&b"PRI * HT"[..], &[0x16, 3, 1, 2, 0]] {
        let mut socket = TcpStream::connect(&server.address).await.unwrap();
        socket.write_all(begun).await.unwrap();
        assert_closed(socket).await;
    }
    assert_eq!(server.stats.handshakes_failed.load(Relaxed), 3);
}

#[tokio::test]
async fn many_idle_connections_disturb_nobody() {
    let server = Server::start().await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(Client::plain(&server.address).await);
    }
    until(|| server.stats.connections.load(Relaxed) == 200).await;
    server.answers().await;
    drop(idle);
    until(|| server.stats.connections.load(Relaxed) == 0).await;
}

#[tokio::test]
async fn stopping_ends_telemetry_and_lets_connections_go() {
    let server = Server::start().await;
    let mut client = Client::plain(&server.address).await;
    let (_said, mut answers) = client.open(TELEMETRY).await;
    server.stop.cancel();
    while let Some(Ok(_)) = time::timeout(LIMIT, answers.frame())
        .await
        .expect("the stream ends")
    {}
    time::timeout(LIMIT, server.task)
        .await
        .expect("the server returns")
        .unwrap();
    let _ = time::timeout(LIMIT, client.ended)
        .await
        .expect("the connection ends");
    assert!(TcpStream::connect(&server.address).await.is_err());
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_says_so() {
    let first = net::bind("client_addr", "127.0.0.1:0", true).await.unwrap();
    let address = first.local_addr().unwrap().to_string();
    let error = net::bind("client_addr", &address, true)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("another process uses this port"), "{error}");
    let error = net::bind("peer_addr", "0.0.0.0:0", true)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("allow_public_peers"), "{error}");
}
