//! How this node and others meet: what it says of itself, how it judges what they say, and what it does when they say that
//! it does not belong.

use std::sync::Arc;

use flotilla_proto::{
    peer::{Hello, Stranger, stranger::Kind},
    record,
};

use super::{Node, StopReason, identity, replica_of};
use crate::{
    limits::MAX_REASON_BYTES,
    peer::{Greeter, Seat},
};

/// As much of another node's reason as is kept and shown.
pub(super) fn beginning(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)]
}

impl Node {
    /// How this node greets others, and signs what it says.
    pub fn hello(&self) -> Hello {
        let (cluster, incarnation) = {
            let identity = self.inner.identity.lock().expect("no panic while held");
            identity
                .as_ref()
                .map_or((0, 0), |identity| (identity.cluster, identity.incarnation))
        };
        Hello {
            version: crate::peer::PROTOCOL_VERSION,
            node: self.id(),
            directory: self.inner.store.identity(),
            cluster,
            incarnation,
            session: self.inner.session,
            opened: self.inner.opened,
            synced: self.inner.store.log().synced(),
            refused: None,
        }
    }

    /// The greeting of a node that does not talk to the other one, and says why.
    pub(super) fn refusing(&self, stranger: Stranger) -> Hello {
        Hello {
            refused: Some(stranger),
            ..self.hello()
        }
    }

    /// A node as the catalogue has it; before there is one, as it was when the cluster formed.
    fn listed(&self, node: u32) -> Option<record::Node> {
        let meta = self.meta();
        if meta.cluster().is_some() {
            return meta.nodes().get(&node).cloned();
        }
        let identity = self.inner.identity.lock().expect("no panic while held");
        identity.as_ref()?.nodes.get(&node).cloned()
    }

    /// The other nodes' replicas, as the catalogue has them; before there is one, as they were when the cluster formed.
    pub(super) fn other_replicas(&self) -> Vec<u64> {
        let meta = self.meta();
        let identity = self.inner.identity.lock().expect("no panic while held");
        let listed = match (&*identity, meta.cluster()) {
            (_, Some(_)) => meta.nodes(),
            (Some(identity), None) => &identity.nodes,
            (None, None) => return Vec::new(),
        };
        let others = listed.values().filter(|node| node.id != self.id());
        others.map(|node| replica_of(node.id, node.incarnation)).collect()
    }

    /// Judges who says something.
    ///
    /// # Errors
    /// Why nothing that it says counts.
    pub(super) fn hear(&self, other: &Hello) -> Result<(), Stranger> {
        let listed = self.listed(other.node);
        self.inner
            .roster
            .hear(&self.hello(), listed.as_ref(), other, self.clock().steady_ms())
    }

    /// Takes in that another node, which the caller knows to be the one that says so, refuses this one. A directory that has lost something, or was replaced, may never take part
    /// again: that is written down in it, and the node stops.
    pub(super) fn told(&self, by: &Hello) {
        let Some(stranger) = &by.refused else { return };
        if self.listed(by.node).is_none() {
            return; // Its word counts for nothing, and is not remembered.
        }
        let me = self.hello();
        let stranger = &Stranger {
            message: beginning(&stranger.message).to_owned(),
            ..stranger.clone()
        };
        if self
            .inner
            .roster
            .told(by.node, stranger, self.clock().steady_ms())
        {
            tracing::warn!(
                by = by.node,
                kind = stranger.kind().as_str_name(),
                reason = stranger.message,
                "another node does not talk to this one"
            );
        }
        let lost = match stranger.kind() {
            Kind::Replaced => stranger.incarnation > me.incarnation,
            Kind::Older => stranger.synced > me.opened,
            _ => false,
        };
        if lost && by.cluster == me.cluster {
            let reason = format!(
                "node {} refuses this data directory: {}. It may not take part any more. Move it away and start the node \
                 with an empty one, which the other nodes fill; if the newer directory is at hand, put that back instead",
                by.node, stranger.message
            );
            if let Err(error) = identity::refuse(&self.inner.disk, &reason) {
                tracing::warn!(%error, "that this directory may not take part could not be written down in it");
            }
            self.stop(StopReason::Refused(reason));
        }
    }

    /// Why most of the other nodes do not talk to this one, if they do not.
    pub(crate) fn refused_by_others(&self) -> Option<String> {
        let refusals = self.inner.roster.refusals_of_me(self.clock().steady_ms());
        let (by, reason) = refusals.first_key_value()?;
        Some(format!("node {by} does not talk to this one: {reason}"))
    }
}

impl Greeter for Node {
    fn node(&self) -> u32 {
        self.id()
    }

    fn hello(&self) -> Option<Hello> {
        Some(Node::hello(self))
    }

    fn meet(&self, other: &Hello) -> Result<Seat, Box<Hello>> {
        match self.hear(other) {
            Ok(()) => Ok(Box::new(self.inner.roster.seat(other))),
            Err(stranger) => Err(Box::new(self.refusing(stranger))),
        }
    }

    fn refused(&self, by: &Hello) {
        self.told(by);
    }
}

/// A node that is not there yet: it has its number, and greets nobody.
pub struct Greeting {
    number: u32,
    node: std::sync::OnceLock<Node>,
}

impl Greeting {
    /// Of the node with this number.
    #[must_use]
    pub fn new(number: u32) -> Arc<Greeting> {
        Arc::new(Greeting {
            number,
            node: std::sync::OnceLock::new(),
        })
    }

    /// From now on this node greets.
    ///
    /// # Panics
    /// When called twice.
    pub fn is(&self, node: &Node) {
        assert!(self.node.set(node.clone()).is_ok(), "a node starts once");
    }
}

impl Greeter for Greeting {
    fn node(&self) -> u32 {
        self.number
    }

    fn hello(&self) -> Option<Hello> {
        self.node.get().map(Node::hello)
    }

    fn meet(&self, other: &Hello) -> Result<Seat, Box<Hello>> {
        match self.node.get() {
            Some(node) => node.meet(other),
            None => Err(Box::default()),
        }
    }

    fn refused(&self, by: &Hello) {
        if let Some(node) = self.node.get() {
            node.told(by);
        }
    }
}

#[cfg(all(test, feature = "server"))]
mod tests;
