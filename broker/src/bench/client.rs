//! A client of the public interface: connections to the nodes that routes name, routes that are
//! asked for again when something fails, and failures sorted by what they say about the message.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use flotilla_proto::rocketmq as mq;
use hyper_util::rt::TokioIo;
use mq::messaging_service_client::MessagingServiceClient;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls;
use tonic::codegen::{Service, http};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};

use super::limits::MAX_GRPC_MESSAGE;
use super::{BenchError, locked};

pub(super) type Client = MessagingServiceClient<Channel>;

/// A route is asked for at most this often, however many sends fail.
const REFRESH_PAUSE: Duration = Duration::from_millis(100);
/// Routes are asked for again after that time even if nothing fails.
const ROUTE_LIFETIME: Duration = Duration::from_secs(30);
/// One node may take this long to tell a route; then the next one is asked.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(1);
/// A cluster may take this long to come up, or to create a topic.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A node that does not answer pings that long is gone (SIGSTOP, a broken cable).
const PING_INTERVAL: Duration = Duration::from_secs(10);
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// How to connect.
#[derive(Clone, Debug)]
pub(super) struct Connecting {
    /// `host:port` of the nodes to ask first.
    pub access: Vec<String>,
    pub tls: bool,
    /// Per node.
    pub connections: usize,
    /// Of one request.
    pub timeout: Duration,
}

/// Why a request did not succeed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failure {
    /// The status code's name, or `grpc <code>`.
    pub what: Cow<'static, str>,
    /// For people.
    pub message: String,
    /// The answer says that nothing was done.
    pub certain: bool,
    /// The same request will fail again.
    pub permanent: bool,
}

impl Failure {
    /// From a status inside an answer.
    pub(super) fn of_status(status: Option<&mq::Status>) -> Self {
        let number = status.map_or(0, |status| status.code);
        let what = mq::Code::try_from(number).map_or_else(
            |_| Cow::Owned(format!("code {number}")),
            |code| Cow::Borrowed(code.as_str_name()),
        );
        let message = status.map(|status| status.message.clone()).unwrap_or_default();
        let class = number / 100;
        let permanent = matches!(class, 400..=402 | 413 | 431 | 501 | 505);
        Self {
            what,
            message,
            certain: permanent || matches!(class, 403 | 404 | 428 | 429),
            permanent,
        }
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        let message = std::error::Error::source(&status).map_or_else(
            || status.message().to_owned(),
            |cause| format!("{}: {cause}", status.message()),
        );
        Self {
            what: Cow::Owned(format!("grpc {:?}", status.code())),
            message,
            certain: false,
            permanent: false,
        }
    }
}

/// True if a status inside an answer is OK.
pub(super) fn is_ok(status: Option<&mq::Status>) -> bool {
    status.is_some_and(|status| status.code == mq::Code::Ok as i32)
}

/// A queue and the connections to the node that serves it.
#[derive(Clone)]
pub(super) struct Queue {
    pub queue: mq::MessageQueue,
    lanes: Arc<[Client]>,
}

impl Queue {
    /// A client on one of the connections.
    pub(super) fn client(&self, lane: usize) -> Client {
        self.lanes[lane % self.lanes.len()].clone()
    }
}

/// The queues of one topic.
pub(super) struct Route {
    pub writable: Vec<Queue>,
    pub readable: Vec<Queue>,
    fetched: Instant,
}

/// Keeps routes fresh until it is dropped.
pub(super) struct Refreshing(tokio::task::JoinHandle<()>);

impl Drop for Refreshing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A cluster as its clients see it.
pub(super) struct Cluster {
    connecting: Connecting,
    headers: MetadataMap,
    nodes: Mutex<BTreeMap<String, Arc<[Client]>>>,
    routes: RwLock<BTreeMap<String, Arc<Route>>>,
    refreshing: tokio::sync::Mutex<()>,
    turn: AtomicUsize,
}

impl Cluster {
    pub(super) fn new(connecting: Connecting, client_id: &str) -> Self {
        let mut headers = MetadataMap::new();
        let id = AsciiMetadataValue::try_from(client_id).expect("client ids are plain text");
        headers.insert("x-mq-client-id", id);
        headers.insert("x-mq-language", AsciiMetadataValue::from_static("OTHER"));
        headers.insert(
            "x-mq-client-version",
            AsciiMetadataValue::from_static(env!("CARGO_PKG_VERSION")),
        );
        headers.insert("x-mq-protocol", AsciiMetadataValue::from_static("v2"));
        Self {
            connecting,
            headers,
            nodes: Mutex::default(),
            routes: RwLock::default(),
            refreshing: tokio::sync::Mutex::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// A request with the usual headers and the usual time limit.
    pub(super) fn request<T>(&self, message: T) -> tonic::Request<T> {
        self.request_within(message, self.connecting.timeout)
    }

    /// A request that waits for `patience` on purpose, and the usual time limit on top.
    pub(super) fn polling_request<T>(&self, message: T, patience: Duration) -> tonic::Request<T> {
        self.request_within(message, patience + self.connecting.timeout)
    }

    fn request_within<T>(&self, message: T, limit: Duration) -> tonic::Request<T> {
        let mut request = tonic::Request::from_parts(self.headers.clone(), tonic::Extensions::new(), message);
        request.set_timeout(limit);
        request
    }

    /// The route of a topic, from memory if it is known.
    pub(super) async fn route(&self, topic: &str) -> Result<Arc<Route>, Failure> {
        match self.known_route(topic) {
            Some(route) => Ok(route),
            None => self.refresh(topic, None).await,
        }
    }

    fn known_route(&self, topic: &str) -> Option<Arc<Route>> {
        let routes = self
            .routes
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        routes.get(topic).cloned()
    }

    /// A newer route than `used`, which led nowhere. Many may ask at once; the nodes are asked once.
    pub(super) async fn refresh(
        &self,
        topic: &str,
        used: Option<&Arc<Route>>,
    ) -> Result<Arc<Route>, Failure> {
        let _one_at_a_time = self.refreshing.lock().await;
        if let Some(known) = self.known_route(topic) {
            let newer = used.is_none_or(|used| !Arc::ptr_eq(used, &known));
            if newer || known.fetched.elapsed() < REFRESH_PAUSE {
                return Ok(known);
            }
        }
        let route = Arc::new(self.fetch_route(topic).await?);
        let mut routes = self
            .routes
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        routes.insert(topic.to_owned(), route.clone());
        Ok(route)
    }

    /// Waits until a topic has a route.
    ///
    /// # Errors
    /// If it has none after half a minute.
    pub(super) async fn await_route(&self, topic: &str) -> Result<Arc<Route>, BenchError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let failure = match self.route(topic).await {
                Ok(route) if !route.writable.is_empty() && !route.readable.is_empty() => return Ok(route),
                Ok(_) => Failure::of_status(None),
                Err(failure) => failure,
            };
            if Instant::now() >= deadline || (failure.permanent && failure.certain) {
                return Err(BenchError::Unreachable {
                    what: format!("topic {topic}"),
                    address: self.connecting.access.join(";"),
                    cause: format!("{} {}", failure.what, failure.message),
                });
            }
            tokio::time::sleep(REFRESH_PAUSE).await;
        }
    }

    /// Asks for all routes again now and then, as SDKs do: queues move without anything failing.
    /// Ends with what is returned.
    pub(super) fn keep_fresh(self: &Arc<Self>, topics: Arc<[String]>) -> Refreshing {
        let cluster = self.clone();
        Refreshing(tokio::spawn(async move {
            loop {
                tokio::time::sleep(ROUTE_LIFETIME).await;
                for topic in topics.iter() {
                    let used = cluster.known_route(topic);
                    // A failed refresh leaves the old route, which may still be good.
                    let _ = cluster.refresh(topic, used.as_ref()).await;
                }
            }
        }))
    }

    async fn fetch_route(&self, topic: &str) -> Result<Route, Failure> {
        let mut targets = self.connecting.access.clone();
        let others: Vec<String> = locked(&self.nodes).keys().cloned().collect();
        targets.extend(
            others
                .into_iter()
                .filter(|node| !self.connecting.access.contains(node)),
        );
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut failure = Failure::of_status(None);
        for at in 0..targets.len() {
            let target = &targets[(first + at) % targets.len()];
            match self.fetch_route_from(target, topic).await {
                Ok(route) => return Ok(route),
                Err(why) => failure = why,
            }
        }
        Err(failure)
    }

    async fn fetch_route_from(&self, target: &str, topic: &str) -> Result<Route, Failure> {
        let endpoints = self.connecting.access.first().map(|access| endpoints_of(access));
        let request = mq::QueryRouteRequest {
            topic: Some(resource(topic)),
            endpoints,
        };
        let request = self.request_within(request, ROUTE_TIMEOUT);
        let mut client = self.lanes(target)[0].clone();
        let answer = client.query_route(request).await?.into_inner();
        if !is_ok(answer.status.as_ref()) {
            return Err(Failure::of_status(answer.status.as_ref()));
        }
        let (mut writable, mut readable) = (Vec::new(), Vec::new());
        for queue in answer.message_queues {
            let Some(address) = address_of(&queue) else {
                continue;
            };
            let permission = queue.permission();
            let queue = Queue {
                queue,
                lanes: self.lanes(&address),
            };
            if matches!(permission, mq::Permission::Write | mq::Permission::ReadWrite) {
                writable.push(queue.clone());
            }
            if matches!(permission, mq::Permission::Read | mq::Permission::ReadWrite) {
                readable.push(queue);
            }
        }
        Ok(Route {
            writable,
            readable,
            fetched: Instant::now(),
        })
    }

    fn lanes(&self, address: &str) -> Arc<[Client]> {
        let mut nodes = locked(&self.nodes);
        if let Some(lanes) = nodes.get(address) {
            return lanes.clone();
        }
        let lanes: Arc<[Client]> = (0..self.connecting.connections)
            .map(|_| {
                Client::new(connect_lazily(address, self.connecting.tls))
                    .max_decoding_message_size(MAX_GRPC_MESSAGE)
                    .max_encoding_message_size(MAX_GRPC_MESSAGE)
            })
            .collect();
        nodes.insert(address.to_owned(), lanes.clone());
        lanes
    }
}

/// A topic's or consumer group's name as the interface wants it.
pub(super) fn resource(name: &str) -> mq::Resource {
    mq::Resource {
        resource_namespace: String::new(),
        name: name.to_owned(),
    }
}

/// A route's leaders have broker id 0; others are not for clients.
fn address_of(queue: &mq::MessageQueue) -> Option<String> {
    let broker = queue.broker.as_ref().filter(|broker| broker.id == 0)?;
    let address = broker.endpoints.as_ref()?.addresses.first()?;
    Some(if address.host.contains(':') {
        format!("[{}]:{}", address.host, address.port)
    } else {
        format!("{}:{}", address.host, address.port)
    })
}

/// `host:port` as endpoints.
pub(super) fn endpoints_of(address: &str) -> mq::Endpoints {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let scheme = match host.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(_)) => mq::AddressScheme::IPv4,
        Ok(std::net::IpAddr::V6(_)) => mq::AddressScheme::IPv6,
        Err(_) => mq::AddressScheme::DomainName,
    };
    let address = mq::Address {
        host: host.to_owned(),
        port: port.parse().unwrap_or(0),
    };
    mq::Endpoints {
        scheme: scheme as i32,
        addresses: vec![address],
    }
}

fn connect_lazily(address: &str, tls: bool) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .expect("addresses were checked")
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL);
    endpoint.connect_with_connector_lazy(Connector {
        address: address.into(),
        tls: tls.then(trusting_tls),
    })
}

/// Connects a socket, with TLS on it if wished.
#[derive(Clone)]
struct Connector {
    address: Arc<str>,
    tls: Option<TlsConnector>,
}

type Stream = Pin<Box<dyn Transport>>;

trait Transport: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send> Transport for T {}

impl Service<http::Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let Self { address, tls } = self.clone();
        Box::pin(async move {
            let socket = TcpStream::connect(&*address).await?;
            socket.set_nodelay(true)?;
            let stream: Stream = match tls {
                None => Box::pin(socket),
                Some(tls) => {
                    let host = address.rsplit_once(':').map_or(&*address, |(host, _)| host);
                    let name = rustls::pki_types::ServerName::try_from(host.to_owned());
                    let name = name.map_err(|cause| std::io::Error::other(format!("{host}: {cause}")))?;
                    Box::pin(tls.connect(name, socket).await?)
                }
            };
            Ok(TokioIo::new(stream))
        })
    }
}

/// TLS as most SDKs use it: encrypted, with whatever certificate the node shows. A node makes
/// itself a certificate at its first start, and a benchmark carries no secrets.
fn trusting_tls() -> TlsConnector {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider knows the usual versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAll(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}

#[derive(Debug)]
struct TrustAll(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
