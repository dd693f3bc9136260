//! The production form of [`PeerTransport`]: one tonic bidirectional stream to each other node.
//!
//! Requests of this node go out on streams it opened (`link.rs`) and their answers come back on them;
//! requests of other nodes come in on streams they opened (`server.rs`). Both directions begin with a
//! `Hello`; nothing else is sent before the other side's was checked. A broken connection is made
//! again for ever, with a bounded pause; while a node is known to be dead, calls to it fail at once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use super::{Body, HelloSource, PeerError, PeerTransport, calls::Calls};
use link::Link;

mod link;
mod server;
mod socket;

pub use server::serve_peers;

/// The links of one node to all others.
pub struct StreamTransport {
    me: HelloSource,
    links: Mutex<BTreeMap<u32, Link>>,
}

impl StreamTransport {
    /// Knows no other node until [`PeerTransport::set_peers`].
    #[must_use]
    pub fn new(me: HelloSource) -> Arc<Self> {
        Arc::new(StreamTransport {
            me,
            links: Mutex::new(BTreeMap::new()),
        })
    }

    fn calls(&self, node: u32) -> Option<Arc<Calls>> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.get(&node).map(|link| link.calls().clone())
    }
}

#[async_trait]
impl PeerTransport for StreamTransport {
    async fn call(&self, node: u32, body: Body, ttl: Duration) -> Result<Body, PeerError> {
        let calls = self.calls(node).ok_or(PeerError::NotConnected)?;
        calls.begin(body)?.answer(ttl).await
    }

    fn set_peers(&self, mut addresses: BTreeMap<u32, String>) {
        addresses.remove(&self.me.node());
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|node, link| addresses.get(node).is_some_and(|address| link.leads_to(address)));
        for (node, address) in addresses {
            links
                .entry(node)
                .or_insert_with(|| Link::start(node, address, self.me.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
