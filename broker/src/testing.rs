//! One real node for the tests of the rim: real service and replicas, simulated disk, no sockets.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use raft_store::{disk::SimDisk, engine::memory::MemoryEngine};
use tokio::time;

use crate::{
    cli::serve::options::{Addresses, node_options},
    clock::SystemClock,
    config::Config,
    node::Node,
    peer::{Body, PeerError, PeerTransport},
    service::Service,
    unread::Unread,
};

/// A node that is a cluster of its own and ready to serve.
pub(crate) struct OneNode {
    pub(crate) service: Service,
}

impl OneNode {
    /// Starts it and waits until it serves.
    pub(crate) async fn start() -> OneNode {
        OneNode::with(Unread::default()).await
    }

    /// The same with bounds of its own for answers that wait to be read.
    pub(crate) async fn with(unread: Unread) -> OneNode {
        let mut config = Config::zero();
        config.log.segment_size = crate::config::Size(16 << 20);
        let address = || "127.0.0.1:1".to_owned();
        let addresses = Addresses {
            client: address(),
            http: address(),
            peer: address(),
        };
        let node = Node::start(
            node_options(&config, addresses),
            SimDisk::new(1).mount(),
            MemoryEngine::new().mount(),
            Arc::new(Alone),
            Arc::new(SystemClock::default()),
        )
        .await
        .unwrap();
        let service = Service::with_unread(node, unread);
        let ready = async {
            while service.ready().is_err() {
                time::sleep(Duration::from_millis(5)).await;
            }
        };
        time::timeout(Duration::from_secs(30), ready)
            .await
            .expect("the node becomes ready");
        OneNode { service }
    }
}

/// There is nobody else.
struct Alone;

#[async_trait]
impl PeerTransport for Alone {
    async fn call(&self, _: u32, _: Body, _: Duration) -> Result<Body, PeerError> {
        Err(PeerError::NotConnected)
    }

    fn set_peers(&self, _: BTreeMap<u32, String>) {}
}
