//! A connection on the peer port that can be cut by the service behind it.
//!
//! HTTP/2 keeps a connection when one of its streams fails, and waits for ever for one that says
//! nothing. On this port a connection *is* its one stream: whoever does not greet in time or breaks
//! the protocol is disconnected.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Sleep, sleep},
};
use tonic::transport::server::Connected;

use crate::peer::limits;

/// What the service can do to the connection that a request came on.
#[derive(Clone)]
pub(super) struct Wire(Arc<State>);

#[derive(Default)]
struct State {
    greeted: AtomicBool,
    cut: AtomicBool,
    reader: AtomicWaker,
}

impl Wire {
    /// The other side has said who it is; it may now be silent.
    pub(super) fn greeted(&self) {
        self.0.greeted.store(true, Ordering::Release);
    }

    /// Closes the connection.
    pub(super) fn cut(&self) {
        self.0.cut.store(true, Ordering::Release);
        self.0.reader.wake();
    }
}

/// An accepted connection.
pub(super) struct PeerSocket {
    stream: TcpStream,
    wire: Wire,
    deadline: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl PeerSocket {
    /// `place` is the connection's share of the bound on connections.
    pub(super) fn new(stream: TcpStream, place: OwnedSemaphorePermit) -> Self {
        PeerSocket {
            stream,
            wire: Wire(Arc::default()),
            deadline: Some(Box::pin(sleep(limits::HANDSHAKE_TIMEOUT))),
            _place: place,
        }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        self.wire.0.reader.register(context.waker());
        if self.wire.0.cut.load(Ordering::Acquire) {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the peer protocol was broken",
            ));
        }
        if self.wire.0.greeted.load(Ordering::Acquire) {
            self.deadline = None;
        }
        let late = self
            .deadline
            .as_mut()
            .is_some_and(|deadline| deadline.as_mut().poll(context).is_ready());
        if late {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no greeting in time"));
        }
        Ok(())
    }
}

impl Connected for PeerSocket {
    type ConnectInfo = Wire;

    fn connect_info(&self) -> Wire {
        self.wire.clone()
    }
}

impl AsyncRead for PeerSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for PeerSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
