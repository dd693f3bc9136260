//! Bodies of planted bugs: a shard's state in memory, changed beside its log.

use queue_core::{GroupId, QueueId};

use super::QueueMachine;

impl QueueMachine {
    /// Acknowledges in this node's memory only; false without such a lease.
    pub(crate) fn planted_ack(&self, group: GroupId, queue: QueueId, offset: u64, nonce: u64) -> bool {
        let mut core = self.core.lock().expect("a panic in the core stops the node");
        core.planted_ack(group, queue, offset, nonce)
    }
}
