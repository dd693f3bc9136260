//! What all listening sockets of the rim share: binding with errors that say what to do, an
//! accept loop with a bounded number of connections, and draining when the node stops.

mod places;
mod seats;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::config::{is_private, split_address};
pub(crate) use places::Places;
pub(crate) use seats::Seat;
use seats::Seats;

/// Connections the kernel keeps for us until we accept them.
const BACKLOG: u32 = 4096;

/// Rest after an accept failed (usually no file descriptors are left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long open connections may take to end once the node stops.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The name of the host is not known.
    #[error("`{key}` = {address}: the host name cannot be resolved: {source}")]
    Resolve {
        /// Configuration key.
        key: &'static str,
        /// As configured.
        address: String,
        /// From the operating system.
        source: io::Error,
    },
    /// The name resolves to an address that strangers can reach.
    #[error(
        "`{key}` = {address} resolves to the public address {ip}, and the peer protocol has no authentication: \
         use a private address, or set allow_public_peers = true if a firewall guards the port"
    )]
    Public {
        /// Configuration key.
        key: &'static str,
        /// As configured.
        address: String,
        /// As resolved.
        ip: std::net::IpAddr,
    },
    /// Taken, forbidden or not an address of this machine.
    #[error("cannot listen on `{key}` = {address}: {source}{hint}")]
    Listen {
        /// Configuration key.
        key: &'static str,
        /// As configured.
        address: String,
        /// From the operating system.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
}

/// Opens a listening socket for a configuration key. `private`: only loopback and private addresses.
pub async fn bind(key: &'static str, address: &str, private: bool) -> Result<TcpListener, BindError> {
    let (host, port) = split_address(address).expect("checked with the configuration");
    let owned = || address.to_owned();
    let resolved = tokio::net::lookup_host((host, port)).await.and_then(|mut found| {
        found
            .next()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it has no address"))
    });
    let at = resolved.map_err(|source| BindError::Resolve {
        key,
        address: owned(),
        source,
    })?;
    if private && !is_private(at.ip()) {
        return Err(BindError::Public {
            key,
            address: owned(),
            ip: at.ip(),
        });
    }
    listen(at).map_err(|source| {
        let hint = match source.kind() {
            io::ErrorKind::AddrInUse => "; another process uses this port: stop it, or choose another port",
            io::ErrorKind::AddrNotAvailable => "; this machine does not have this address",
            io::ErrorKind::PermissionDenied => "; choose a port above 1023",
            _ => "",
        };
        BindError::Listen {
            key,
            address: owned(),
            source,
            hint,
        }
    })
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = if at.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // A restarted node gets its port back although old connections linger in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

/// Accepts until `stop`, then waits for the open connections, at most [`DRAIN_TIMEOUT`].
/// When there are `most` connections, those that have been silent longest give way to new ones. Where
/// none is silent, the new one is closed at once, which clients notice, instead of waiting for a
/// place, which they would not.
pub(crate) async fn accept<F, C>(listener: TcpListener, most: u32, stop: CancellationToken, serve: F)
where
    F: Fn(TcpStream, SocketAddr, Arc<Seat>) -> C,
    C: Future<Output = ()> + Send + 'static,
{
    let seats = Seats::new(most);
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (socket, from) = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = seats.take().await else {
            debug!(%from, most, "closed a connection over the limit");
            continue;
        };
        if let Err(error) = socket.set_nodelay(true) {
            debug!(%error, %from, "the connection is gone already");
            continue;
        }
        let connection = serve(socket, from, place.seat.clone());
        tokio::spawn(place.hold(connection));
    }
    drop(listener);
    let open = seats.drain(DRAIN_TIMEOUT).await;
    if open > 0 {
        debug!(open, "connections did not end in time");
    }
}
