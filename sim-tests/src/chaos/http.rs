//! The nodes' administration: a request, an answer, and the connection is over.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Of one request. What a node cannot answer by then is asked again.
const PATIENCE: Duration = Duration::from_secs(3);
/// Largest answer.
const MOST_BYTES: u64 = 16 << 20;

/// The body of a good answer; anything else is an error, for people.
pub(super) async fn get(address: &str, path: &str) -> Result<String, String> {
    request(address, "GET", path, "").await
}

/// Posts JSON.
pub(super) async fn post(address: &str, path: &str, body: &Value) -> Result<String, String> {
    request(address, "POST", path, &body.to_string()).await
}

async fn request(address: &str, method: &str, path: &str, body: &str) -> Result<String, String> {
    let exchange = async {
        let mut socket = TcpStream::connect(address).await?;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await?;
        socket.write_all(body.as_bytes()).await?;
        let mut answer = Vec::new();
        socket.take(MOST_BYTES).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(PATIENCE, exchange)
        .await
        .map_err(|_| format!("{address} does not answer"))?
        .map_err(|error| format!("{address}: {error}"))?;
    good(&String::from_utf8_lossy(&answer))
}

fn good(answer: &str) -> Result<String, String> {
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("an answer without a head")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status.starts_with('2') {
        Ok(body.to_owned())
    } else {
        Err(format!("status {status}: {}", body.trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_good_answers_have_a_body() {
        assert_eq!(good("HTTP/1.1 200 OK\r\nx: y\r\n\r\n{}"), Ok("{}".to_owned()));
        assert!(good("HTTP/1.1 503 Service Unavailable\r\n\r\nnot yet").is_err());
        assert!(good("").is_err());
    }
}
