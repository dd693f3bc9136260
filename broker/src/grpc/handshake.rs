//! The first bytes of a connection: TLS or not by the first one, then the HTTP/2 preface. Whatever
//! else arrives ends the connection at its first wrong byte.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::config::TlsMode;

/// What every HTTP/2 client sends first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Content type of the first TLS record.
const TLS_HANDSHAKE: u8 = 0x16;

/// Why a connection is closed before it began.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("it speaks TLS, and TLS is disabled here (tls.mode)")]
    TlsDisabled,
    #[error("it speaks plaintext, and only TLS is allowed here (tls.mode)")]
    PlaintextForbidden,
    #[error("it speaks neither TLS nor HTTP/2")]
    Garbage,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A connection of which the preface has been read.
pub(super) enum Opened {
    Plain(Prefaced<TcpStream>),
    Tls(Box<Prefaced<TlsStream<TcpStream>>>),
}

/// Reads up to and with the preface. The caller limits the time.
pub(super) async fn open(
    socket: TcpStream,
    mode: TlsMode,
    tls: Option<&TlsAcceptor>,
) -> Result<Opened, Refused> {
    let mut first = [0];
    if socket.peek(&mut first).await? == 0 {
        return Err(Refused::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    match (first[0] == TLS_HANDSHAKE, tls, mode) {
        (true, None, _) | (true, _, TlsMode::Disabled) => Err(Refused::TlsDisabled),
        (true, Some(tls), _) => Ok(Opened::Tls(Box::new(preface(tls.accept(socket).await?).await?))),
        (false, _, TlsMode::Enforcing) => Err(Refused::PlaintextForbidden),
        (false, _, _) => Ok(Opened::Plain(preface(socket).await?)),
    }
}

async fn preface<S: AsyncRead + Unpin>(mut stream: S) -> Result<Prefaced<S>, Refused> {
    let mut read = [0; PREFACE.len()];
    let mut length = 0;
    while length < read.len() {
        let more = stream.read(&mut read[length..]).await?;
        if more == 0 {
            return Err(Refused::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        length += more;
        if read[..length] != PREFACE[..length] {
            return Err(Refused::Garbage);
        }
    }
    Ok(Prefaced { replayed: 0, stream })
}

/// A stream that gives the preface out once more, to the HTTP/2 server behind it.
pub(super) struct Prefaced<S> {
    replayed: usize,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefaced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.replayed == PREFACE.len() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let rest = &PREFACE[self.replayed..];
        let now = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..now]);
        self.replayed += now;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefaced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
