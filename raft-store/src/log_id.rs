//! Where an entry stands in a shard's log.

/// The position of an entry: who was leading when it was proposed, and its index.
///
/// Ordered as Raft orders logs: by leadership first, then by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogId {
    /// Term of the leader that proposed the entry.
    pub term: u64,
    /// Replica id of that leader.
    pub node: u64,
    /// Position in the log, from 0, without gaps.
    pub index: u64,
}

impl std::fmt::Display for LogId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}@{}", self.term, self.node, self.index)
    }
}
