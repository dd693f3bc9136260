//! A client of the HTTP API: one connection per request, no more than the commands need.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::TcpStream, time};

use crate::config::split_address;

/// A node that has not answered by then is not going to.
const TIMEOUT: Duration = Duration::from_secs(30);
/// An answer larger than this is not one of ours.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The cluster said no.
    #[error("{0}")]
    Refused(String),
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// It was done in part.
    #[error("{0}")]
    InPart(String),
    /// Nobody answers.
    #[error(
        "no node answers at {address} ({named}): {reason}; start one with `flotilla serve`, or name another with --http-addr HOST:PORT"
    )]
    Unreachable {
        /// Where.
        address: String,
        /// What names this address.
        named: &'static str,
        /// What happened.
        reason: String,
    },
    /// Somebody answers who is not a node, or the cluster has no majority now.
    #[error("{address} cannot do this now: {reason}")]
    Unavailable {
        /// Where.
        address: String,
        /// What was said.
        reason: String,
    },
}

impl CliError {
    /// The exit code of the process.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            CliError::Refused(_) | CliError::InPart(_) => 1,
            CliError::Usage(_) => 2,
            CliError::Unreachable { .. } | CliError::Unavailable { .. } => 3,
        }
    }
}

/// Asks one node.
pub(crate) struct AdminClient {
    address: String,
    pub(super) named: &'static str,
}

impl AdminClient {
    /// `address` is `HOST:PORT`; an `http://` in front is tolerated. `named`: what gave it, for errors.
    pub(crate) fn new(address: String, named: &'static str) -> AdminClient {
        let address = address
            .strip_prefix("http://")
            .unwrap_or(&address)
            .trim_end_matches('/')
            .to_owned();
        AdminClient { address, named }
    }

    /// Reads.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.json(Method::GET, path, Bytes::new()).await
    }

    /// Creates.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let body = serde_json::to_vec(body).expect("our own types can be written");
        self.json(Method::POST, path, body.into()).await
    }

    /// Deletes.
    pub(crate) async fn delete(&self, path: &str) -> Result<(), CliError> {
        self.request(Method::DELETE, path, Bytes::new()).await.map(|_| ())
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, CliError> {
        let answer = self.request(method, path, body).await?;
        serde_json::from_slice(&answer).map_err(|error| CliError::Unavailable {
            address: self.address.clone(),
            reason: format!("its answer is not understood ({error}); is it a Flotilla node of this version?"),
        })
    }

    async fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, CliError> {
        let unreachable = |reason: String| CliError::Unreachable {
            address: self.address.clone(),
            named: self.named,
            reason,
        };
        if let Err(reason) = split_address(&self.address) {
            return Err(CliError::Usage(format!("{}: {reason}", self.named)));
        }
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.address)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| CliError::Usage(format!("`{}` is no address: {error}", self.address)))?;
        let exchanged = time::timeout(TIMEOUT, self.exchange(request)).await;
        let (status, answer) = exchanged
            .map_err(|_| unreachable(format!("no answer within {} s", TIMEOUT.as_secs())))?
            .map_err(|error| unreachable(error.to_string()))?;
        if status.is_success() {
            return Ok(answer);
        }
        let reason = match serde_json::from_slice::<crate::http::ErrorBody>(&answer) {
            Ok(body) => body.error.message,
            Err(_) => format!("it answers {status}, and not as a Flotilla node"),
        };
        match status {
            StatusCode::SERVICE_UNAVAILABLE => Err(CliError::Unavailable {
                address: self.address.clone(),
                reason,
            }),
            _ => Err(CliError::Refused(reason)),
        }
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let socket = TcpStream::connect(&self.address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await?
            .to_bytes();
        connection.abort();
        Ok((status, answer))
    }
}

/// A name as a path segment: everything but letters, digits, `-` and `_` is encoded.
pub(crate) fn segment(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}
