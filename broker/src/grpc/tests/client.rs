//! A gRPC client that is no more than HTTP/2 and frames, so that it can also misbehave.

use std::{path::Path, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use futures::{channel::mpsc, stream};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

type Outgoing = BoxBody<Bytes, hyper::Error>;

/// One HTTP/2 connection.
pub(super) struct Client {
    sender: http2::SendRequest<Outgoing>,
    pub(super) ended: JoinHandle<Result<(), hyper::Error>>,
}

/// What came back for one request.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) http: StatusCode,
    pub(super) grpc: Option<i32>,
    pub(super) messages: Vec<Bytes>,
}

impl Reply {
    /// The only message.
    pub(super) fn message<M: Message + Default>(&self) -> M {
        assert_eq!((self.grpc, self.messages.len()), (Some(0), 1), "{self:?}");
        M::decode(self.messages[0].clone()).unwrap()
    }
}

/// The length-prefixed form of a message.
pub(super) fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut bytes).unwrap();
    bytes.freeze()
}

impl Client {
    pub(super) async fn over(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Client, hyper::Error> {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
        Ok(Client {
            sender,
            ended: tokio::spawn(connection),
        })
    }

    /// A client that has room for so much of an answer that it does not read, and for many of them.
    pub(super) async fn with_window(address: &str, bytes: u32) -> Client {
        let socket = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(bytes)
            .initial_connection_window_size(1 << 28)
            .handshake(TokioIo::new(socket))
            .await
            .unwrap();
        Client {
            sender,
            ended: tokio::spawn(connection),
        }
    }

    /// Asks, and leaves it to the caller to read the answer.
    pub(super) async fn ask(
        &mut self,
        path: &str,
        message: &impl Message,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let body = Full::new(framed(message)).map_err(|never| match never {}).boxed();
        self.sender.ready().await?;
        let request = Self::request(path, &[("x-mq-client-id", "test")], body);
        self.sender.send_request(request).await
    }

    pub(super) async fn plain(address: &str) -> Client {
        Client::over(TcpStream::connect(address).await.unwrap())
            .await
            .unwrap()
    }

    /// Trusts exactly the certificate in this file, as a client that pins it would.
    pub(super) async fn tls(address: &str, certificate: &Path) -> Client {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(certificate).unwrap())
            .unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let socket = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, socket)
            .await
            .unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Client::over(stream).await.unwrap()
    }

    fn request(path: &str, headers: &[(&str, &str)], body: Outgoing) -> Request<Outgoing> {
        let mut builder =
            Request::post(format!("http://localhost{path}")).header("content-type", "application/grpc");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(body).unwrap()
    }

    /// Sends raw bytes as the whole body.
    pub(super) async fn raw(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Reply, hyper::Error> {
        let body = Full::new(body).map_err(|never| match never {}).boxed();
        self.sender.ready().await?;
        let response = self
            .sender
            .send_request(Self::request(path, headers, body))
            .await?;
        read(response).await
    }

    /// One ordinary call.
    pub(super) async fn call(&mut self, path: &str, message: &impl Message) -> Reply {
        self.raw(path, &[("x-mq-client-id", "test")], framed(message))
            .await
            .unwrap()
    }

    /// Opens a request whose body stays open; returns once the response's headers are here.
    pub(super) async fn open(&mut self, path: &str) -> (mpsc::UnboundedSender<Bytes>, Incoming) {
        let (sender, response) = self.start(path, None).await;
        (sender, response.into_body())
    }

    /// Sends the beginning of a body and never its end; gives the status that comes nevertheless.
    pub(super) async fn unfinished(
        &mut self,
        path: &str,
        begin: Bytes,
    ) -> (mpsc::UnboundedSender<Bytes>, Option<i32>) {
        let (sender, response) = self.start(path, Some(begin)).await;
        (sender, grpc_status(response.headers()))
    }

    /// Sends a body byte by byte, one each millisecond; gives the status that comes before its end.
    pub(super) async fn trickle(&mut self, path: &str, body: Bytes) -> Option<i32> {
        let bytes = stream::unfold(body, |mut rest| async move {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            let byte = (!rest.is_empty()).then(|| rest.split_to(1))?;
            Some((Ok(Frame::data(byte)), rest))
        });
        self.sender.ready().await.unwrap();
        let request = Self::request(path, &[], BodyExt::boxed(StreamBody::new(bytes)));
        let response = self.sender.send_request(request).await.unwrap();
        grpc_status(response.headers())
    }

    async fn start(
        &mut self,
        path: &str,
        begin: Option<Bytes>,
    ) -> (mpsc::UnboundedSender<Bytes>, Response<Incoming>) {
        let (sender, receiver) = mpsc::unbounded();
        if let Some(begin) = begin {
            sender.unbounded_send(begin).unwrap();
        }
        let frames = stream::StreamExt::map(receiver, |bytes| Ok(Frame::data(bytes)));
        let body = BodyExt::boxed(StreamBody::new(frames));
        self.sender.ready().await.unwrap();
        let headers = [("x-mq-client-id", "test")];
        let response = self
            .sender
            .send_request(Self::request(path, &headers, body))
            .await
            .unwrap();
        (sender, response)
    }
}

/// Reads an answer to its end.
pub(super) async fn read(response: Response<Incoming>) -> Result<Reply, hyper::Error> {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let grpc = grpc_status(&parts.headers).or_else(|| grpc_status(&trailers));
    Ok(Reply {
        http: parts.status,
        grpc,
        messages: messages(collected.to_bytes()),
    })
}

fn grpc_status(headers: &HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

fn messages(mut bytes: Bytes) -> Vec<Bytes> {
    let mut found = Vec::new();
    while bytes.len() >= 5 {
        let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
        let _head = bytes.split_to(5);
        found.push(bytes.split_to(length));
    }
    assert!(bytes.is_empty());
    found
}
