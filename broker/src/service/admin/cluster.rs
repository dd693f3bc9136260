//! The cluster, as one node sees it.

use crate::{
    service::Service,
    views::{ClusterView, NodeView},
};

impl Service {
    /// Ready to serve, or why not.
    pub fn ready(&self) -> Result<(), String> {
        if self.node().stopping() {
            return Err("the node is stopping".into());
        }
        self.node().ready()
    }

    /// Which stored records this node cannot read, if there are any.
    pub fn damage(&self) -> Option<String> {
        let count = self.node().store().damages().len();
        let shards = self.node().damaged_shards();
        (count > 0).then(|| {
            format!(
                "{count} stored records of shards {shards:?} cannot be read; other nodes are asked for them, see the log"
            )
        })
    }

    /// The cluster as this node sees it.
    pub fn cluster(&self) -> ClusterView {
        let node = self.node();
        let meta = node.meta();
        let shards = node.shard_views();
        let alive = node.alive_nodes();
        let strangers = node.strangers();
        let nodes = meta
            .nodes()
            .values()
            .map(|known| NodeView {
                id: known.id,
                incarnation: known.incarnation,
                alive: alive.contains(&known.id),
                problem: strangers.get(&known.id).cloned(),
                damaged: node.damaged_on(known.id).into_iter().collect(),
                client_addr: known.client_addr.clone(),
                http_addr: known.http_addr.clone(),
                peer_addr: known.peer_addr.clone(),
                leads: shards
                    .iter()
                    .filter(|shard| shard.leader == Some(known.id))
                    .count() as u32,
            })
            .collect();
        ClusterView {
            cluster: meta.cluster().map(|id| format!("{id:016x}")),
            node: node.id(),
            problem: self.ready().err(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            nodes,
            shards,
        }
    }
}
