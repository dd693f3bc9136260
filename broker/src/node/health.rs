//! Whether this node serves, and what keeps it from it. What is shown must be true within seconds: a leader that no majority
//! has confirmed lately leads nobody, and a replica that has not answered lately is no redundancy, whatever was heard before.

use raft_store::ReplicaStatus;

use super::{ALIVE_FOR_MS, META_SHARD, Node};

impl Node {
    /// Ready to serve: the catalogue is known, and every shard has a leader with a majority behind it.
    ///
    /// # Errors
    /// What is missing, and why if that is known.
    pub fn ready(&self) -> Result<(), String> {
        let meta = self.meta();
        if meta.cluster().is_none() {
            let waits = self.inner.waits_for.lock().expect("no panic while held").clone();
            let missing = waits.unwrap_or_else(|| "are all nodes of initial_cluster running?".into());
            return Err(self.with_refusals(format!("the cluster is not formed yet, or not found: {missing}")));
        }
        for shard in META_SHARD..=meta.data_shards() {
            if !self.is_served(shard) {
                return Err(self.with_refusals(format!(
                    "shard {shard} has no leader with a majority; a majority of the nodes must run"
                )));
            }
        }
        Ok(())
    }

    /// Whether a shard has a leader, and that leader a majority, as far as this node has heard within seconds.
    pub(crate) fn is_served(&self, shard: u32) -> bool {
        let Some(leader) = self.leader(shard) else {
            return false;
        };
        if leader == self.id() {
            return self.status_of(shard).is_some_and(|status| has_quorum(&status));
        }
        let heard = self.inner.heard.lock().expect("no panic while held");
        heard.get(&leader).is_some_and(|sign| {
            sign.at_ms + ALIVE_FOR_MS > self.clock().steady_ms() && sign.leads.contains(&shard)
        })
    }

    fn status_of(&self, shard: u32) -> Option<ReplicaStatus> {
        if shard == META_SHARD {
            return self.meta_replica().map(raft_store::Replica::status);
        }
        self.shard(shard).map(|shard| shard.replica.status())
    }

    /// What other nodes have against this one may be the reason.
    fn with_refusals(&self, problem: String) -> String {
        let strangers = || {
            let strangers = self.strangers();
            let (node, reason) = strangers.first_key_value()?;
            Some(format!("this node does not talk to node {node}: {reason}"))
        };
        match self.refused_by_others().or_else(strangers) {
            Some(refusal) => format!("{problem}. {refusal}"),
            None => problem,
        }
    }
}

/// Whether a majority has confirmed lately that this replica leads.
pub(super) fn has_quorum(status: &ReplicaStatus) -> bool {
    let alone = status
        .voters
        .iter()
        .all(|voters| voters.iter().eq([&status.replica]));
    let confirmed = status.quorum_acked_ms_ago.is_some_and(|ago| ago < ALIVE_FOR_MS);
    status.is_leader && (alone || confirmed)
}
