//! The production form of [`PeerTransport`]: tonic bidirectional streams to each other node, one for each lane.
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

use super::{
    Body, HelloSource, PeerError, PeerTransport,
    calls::{Calls, SEND_RPC},
    limits::LANES,
};
use link::Link;

mod link;
mod server;
mod socket;

pub use server::serve_peers;

/// What travels on a connection of its own: whatever waits on a lane waits for what is on the same one only, here, in the
/// kernel and on the way. On one connection a heartbeat came after all the records and forwarded messages before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    /// What leads to elections when it is late: votes, heartbeats, status. Small, and few.
    Urgent,
    /// Records and snapshots.
    Raft,
    /// Messages of clients on their way in.
    Send,
    /// Receives, whose answers bring messages.
    Receive,
    /// What is small of clients and of the nodes for them: acknowledgements, what was written out, hints.
    Small,
}

impl Lane {
    const ALL: [Lane; LANES] = [Lane::Urgent, Lane::Raft, Lane::Send, Lane::Receive, Lane::Small];

    fn of(body: &Body) -> Lane {
        match body {
            Body::Forward(request) => match request.rpc.as_str() {
                SEND_RPC => Lane::Send,
                // With whole messages, and in no hurry.
                RECEIVE_RPC | CHECK_BACK_RPC => Lane::Receive,
                _ => Lane::Small,
            },
            Body::Raft(request) if !request.urgent => Lane::Raft,
            _ => Lane::Urgent,
        }
    }
}

/// What looks for messages at another node are called.
const RECEIVE_RPC: &str = "ReceiveMessage";
/// And questions for producers.
const CHECK_BACK_RPC: &str = "flotilla.CheckBack";

/// The links of one node to all others.
pub struct StreamTransport {
    me: HelloSource,
    links: Mutex<BTreeMap<(u32, Lane), Link>>,
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

    fn calls(&self, node: u32, lane: Lane) -> Option<Arc<Calls>> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.get(&(node, lane)).map(|link| link.calls().clone())
    }
}

#[async_trait]
impl PeerTransport for StreamTransport {
    async fn call(&self, node: u32, body: Body, ttl: Duration) -> Result<Body, PeerError> {
        let calls = self.calls(node, Lane::of(&body)).ok_or(PeerError::NotConnected)?;
        calls.begin(body)?.answer(ttl).await
    }

    fn set_peers(&self, mut addresses: BTreeMap<u32, String>) {
        addresses.remove(&self.me.node());
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|(node, _), link| addresses.get(node).is_some_and(|address| link.leads_to(address)));
        for (node, address) in addresses {
            for lane in Lane::ALL {
                links
                    .entry((node, lane))
                    .or_insert_with(|| Link::start(node, lane, address.clone(), self.me.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
