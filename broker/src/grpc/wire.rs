//! A client's connection, watched: whether it is open, when the client was heard last, and whether what was written is stuck.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    clock::Clock,
    node::written::{Line, Sign},
};

/// What is known of one connection.
pub(super) struct Wire {
    clock: Arc<dyn Clock>,
    heard_ms: AtomicU64,
    stuck: AtomicBool,
    gone: AtomicBool,
}

impl Wire {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            heard_ms: AtomicU64::new(0),
            stuck: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        })
    }
}

impl Line for Wire {
    fn sign(&self, after_ms: u64) -> Sign {
        if self.gone.load(Relaxed) {
            Sign::Gone
        } else if self.stuck.load(Relaxed) || self.heard_ms.load(Relaxed) < after_ms {
            Sign::Silent
        } else {
            Sign::Heard
        }
    }
}

/// A socket whose doings its [`Wire`] tells. Dropping it is the end of the connection.
pub(super) struct Watched<S> {
    pub(super) socket: S,
    pub(super) wire: Arc<Wire>,
}

impl<S> Watched<S> {
    fn after_write<T>(&self, result: &Poll<io::Result<T>>) {
        self.wire.stuck.store(result.is_pending(), Relaxed);
        self.after(result);
    }

    fn after<T>(&self, result: &Poll<io::Result<T>>) {
        if matches!(result, Poll::Ready(Err(_))) {
            self.wire.gone.store(true, Relaxed);
        }
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        self.wire.gone.store(true, Relaxed);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.socket).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.wire.heard_ms.store(self.wire.clock.steady_ms(), Relaxed);
        } else if result.is_ready() {
            // The client has closed its side: it takes nothing any more.
            self.wire.gone.store(true, Relaxed);
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.after_write(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write_vectored(context, bytes);
        self.after_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.socket).poll_flush(context);
        self.after(&result);
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.gone.store(true, Relaxed);
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    struct Now(AtomicU64);

    impl Clock for Now {
        fn wall_ms(&self) -> u64 {
            panic!("nothing that lasts is measured by this")
        }

        fn steady_ms(&self) -> u64 {
            self.0.load(Relaxed)
        }

        fn random_u64(&self) -> u64 {
            4
        }
    }

    /// A connection at 100 ms, with room for eight bytes each way.
    fn connection() -> (Watched<DuplexStream>, DuplexStream, Arc<Wire>) {
        let (ours, theirs) = duplex(8);
        let wire = Wire::new(Arc::new(Now(AtomicU64::new(100))));
        let watched = Watched {
            socket: ours,
            wire: wire.clone(),
        };
        (watched, theirs, wire)
    }

    #[tokio::test]
    async fn a_client_is_heard_when_something_comes_in() {
        let (mut ours, mut theirs, wire) = connection();
        assert_eq!(wire.sign(100), Sign::Silent);
        theirs.write_all(b"hello").await.unwrap();
        ours.read_exact(&mut [0; 5]).await.unwrap();
        assert_eq!((wire.sign(100), wire.sign(101)), (Sign::Heard, Sign::Silent));
    }

    #[tokio::test]
    async fn what_is_stuck_in_the_socket_is_not_written_although_the_client_talks() {
        let (mut ours, mut theirs, wire) = connection();
        theirs.write_all(b"hello").await.unwrap();
        ours.read_exact(&mut [0; 5]).await.unwrap();
        let stuck = tokio::time::timeout(Duration::from_millis(1), ours.write_all(&[7; 9])).await;
        assert!(stuck.is_err(), "one byte too many");
        assert_eq!(wire.sign(100), Sign::Silent);
        theirs.read_exact(&mut [0; 8]).await.unwrap();
        ours.write_all(&[7]).await.unwrap();
        assert_eq!(wire.sign(100), Sign::Heard);
    }

    #[tokio::test]
    async fn a_connection_that_either_side_has_ended_is_gone() {
        let (mut ours, theirs, wire) = connection();
        drop(theirs);
        assert_eq!(ours.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(wire.sign(0), Sign::Gone);
        let (ours, _theirs, wire) = connection();
        drop(ours);
        assert_eq!(wire.sign(0), Sign::Gone);
    }
}
