//! Puts the parts of a running node together: disk, engine, transport, node, service, sockets.

use std::{io, sync::Arc, time::Duration};

use raft_store::{
    StoreError,
    disk::RealDisk,
    engine::{EngineError, RocksEngine},
};
use tokio::{net::TcpListener, task::JoinHandle, time};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    condemned,
    options::{Addresses, node_options},
};
use crate::{
    clock::SystemClock,
    config::{Config, TlsMode},
    grpc::{self, GrpcOptions, Patience, RimStats, tls},
    http,
    net::{self, BindError, Places},
    node::{Node, NodeError, meeting::Greeting},
    peer::{self, HelloSource, stream::StreamTransport},
    service::Service,
};

/// Folder of the state engine in the data directory.
const STATE: &str = "state";

/// How often a starting node is asked whether it serves.
const READY_EVERY: Duration = Duration::from_millis(50);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error("`data_dir` = {path}: {reason}")]
    DataDir { path: String, reason: String },
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("a socket failed: {0}")]
    Socket(#[from] io::Error),
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
}

/// A running node with its sockets.
pub(super) struct Assembly {
    pub(super) node: Node,
    stop: CancellationToken,
    servers: Vec<JoinHandle<()>>,
}

impl Assembly {
    /// Opens everything and begins to serve; the node may not be ready yet.
    pub(super) async fn start(config: &Config) -> Result<Assembly, StartError> {
        let clients = net::bind("client_addr", &config.client_addr, false).await?;
        let admin = net::bind("http_addr", &config.http_addr, false).await?;
        let peers = net::bind("peer_addr", &config.peer_addr, !config.allow_public_peers).await?;
        let addresses = Addresses::new(config, &clients, &admin, &peers)?;

        let disk = RealDisk::open(&config.data_dir).map_err(|error| data_dir(config, &error))?;
        // Before anything is written or opened there: the state engine changes files merely by being opened.
        Node::look_at(&disk, config.node_id)?;
        condemned::remember(&config.data_dir).map_err(|error| data_dir(config, &error))?;
        let certificate = match config.tls.mode {
            TlsMode::Disabled => None,
            _ => Some(tls::acceptor(
                &config.tls,
                &config.data_dir,
                &addresses.certificate_hosts(),
            )?),
        };
        let engine = RocksEngine::open(&config.data_dir.join(STATE)).map_err(|error| match error {
            EngineError::Corrupt(what) => StartError::Node(StoreError::Corrupt(what).into()),
            EngineError::Newer(what) => StartError::Node(StoreError::Newer(what).into()),
            error => StartError::DataDir {
                path: config.data_dir.display().to_string(),
                reason: error.to_string(),
            },
        })?;

        let hello = Greeting::new(config.node_id);
        let transport = StreamTransport::new(hello.clone());
        let options = node_options(config, addresses);
        let node = Node::start(
            options,
            Arc::new(disk),
            Arc::new(engine),
            transport,
            Arc::new(SystemClock::default()),
        )
        .await?;
        hello.is(&node);
        let service = Service::new(node.clone());

        let stop = CancellationToken::new();
        let stats = Arc::new(RimStats::default());
        let mut limits = config.limits.clone();
        limits.max_connections = client_places(config.limits.max_connections);
        let options = GrpcOptions {
            mode: config.tls.mode,
            tls: certificate,
            limits,
            patience: Patience::default(),
            stats: stats.clone(),
        };
        let servers = vec![
            tokio::spawn(serve_peers(peers, hello, node.clone(), stop.clone())?),
            tokio::spawn(grpc::serve(clients, options, service.clone(), stop.clone())),
            tokio::spawn(http::serve(admin, service.clone(), stats, stop.clone())),
            tokio::spawn(announce(service, stop.clone())),
        ];
        Ok(Assembly { node, stop, servers })
    }

    /// Ends the sockets, open requests first.
    pub(super) async fn close(self) {
        self.stop.cancel();
        for server in self.servers {
            let _ = server.await;
        }
    }
}

/// How many clients can be served with the descriptors this process may have.
fn client_places(wanted: u32) -> u32 {
    let places = Places::here(wanted);
    if places.clients < wanted {
        warn!(
            open_files = places.limit,
            connections = places.clients,
            wanted,
            "this process may open too few files for limits.max_connections: raise the limit on open files (ulimit -n, LimitNOFILE)"
        );
    }
    places.clients
}

fn data_dir(config: &Config, error: &io::Error) -> StartError {
    let path = config.data_dir.display().to_string();
    let reason = match error.kind() {
        io::ErrorKind::WouldBlock => {
            "another process uses it: stop that one, or choose another with --data-dir".to_owned()
        }
        _ => error.to_string(),
    };
    StartError::DataDir { path, reason }
}

fn serve_peers(
    listener: TcpListener,
    me: HelloSource,
    node: Node,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + Send, StartError> {
    let listener = listener.into_std()?;
    Ok(async move {
        let served = peer::stream::serve_peers(listener, me, Arc::new(node), stop.cancelled_owned()).await;
        if let Err(error) = served {
            warn!(%error, "other nodes are no longer served");
        }
    })
}

/// Says once when clients are served.
async fn announce(service: Service, stop: CancellationToken) {
    let ready = async {
        while service.ready().is_err() {
            time::sleep(READY_EVERY).await;
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = ready => {
            let options = service.node().options();
            info!(clients = options.client_addr, http = options.http_addr, peers = options.peer_addr, "ready");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_directory_that_a_newer_release_wrote_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::zero();
        config.data_dir = folder.path().to_owned();
        for address in [
            &mut config.client_addr,
            &mut config.http_addr,
            &mut config.peer_addr,
        ] {
            *address = "127.0.0.1:0".to_owned();
        }
        let content = [2, 7, 7];
        let mut node = 3_u32.to_le_bytes().to_vec();
        node.extend(crc32c::crc32c(&content).to_le_bytes());
        node.extend(content);
        fs::write(folder.path().join("NODE"), &node).unwrap();
        let refused = Assembly::start(&config).await.err().expect("it does not start");
        assert!(
            refused.to_string().contains("written by a newer release"),
            "{refused}"
        );
        let entries = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["LOCK", "NODE"]);
        assert_eq!(fs::read(folder.path().join("NODE")).unwrap(), node);
    }
}
