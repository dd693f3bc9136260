//! How operations on a replica fail.

/// A proposal, or another request that only the leader can do, was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another replica leads. Nothing was done: ask there.
    #[error("not the leader of the shard")]
    NotLeader {
        /// Replica id of the leader, if known.
        leader: Option<u64>,
    },
    /// Leadership was lost with the entry in the log. The next leader may or may not have it; asking again may
    /// do it twice.
    #[error("leadership was lost before the outcome was known")]
    Unknown {
        /// Replica id of the leader, if known.
        leader: Option<u64>,
    },
    /// The payload is longer than [`crate::limits::MAX_PAYLOAD_BYTES`].
    #[error("a payload of {0} bytes is too long")]
    TooLarge(usize),
    /// The disk is full to the last byte: nothing was done. Free space, or shorten the retention.
    #[error("the disk is full")]
    NoRoom,
    /// This replica has stopped; restart the node, or see why in the message.
    #[error("the replica has stopped: {0}")]
    Stopped(String),
}

/// A linearizable read point could not be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BarrierError {
    /// Another replica leads.
    #[error("not the leader of the shard")]
    NotLeader {
        /// Replica id of the leader, if known.
        leader: Option<u64>,
    },
    /// No quorum confirmed the leadership; the shard may have another leader by now.
    #[error("no quorum confirmed the leadership")]
    NoQuorum,
    /// This replica has stopped.
    #[error("the replica has stopped: {0}")]
    Stopped(String),
}

/// A change of membership was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Another replica leads.
    #[error("not the leader of the shard")]
    NotLeader {
        /// Replica id of the leader, if known.
        leader: Option<u64>,
    },
    /// Another change is not committed yet; try again when it is.
    #[error("another membership change is under way")]
    InProgress,
    /// The change makes no sense, e.g. a voter that is not a learner yet, or no voter at all.
    #[error("the membership change was refused: {0}")]
    Refused(String),
    /// This replica has stopped.
    #[error("the replica has stopped: {0}")]
    Stopped(String),
}

/// A payload could not be read from the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The log has no such entry: it was never written here, or retention has removed it.
    #[error("entry {0} is not in the log")]
    NotFound(u64),
    /// The entry at this index is one of Raft's own and has no payload.
    #[error("entry {0} carries no payload")]
    NoPayload(u64),
    /// The record at this index cannot be read. It may be repaired: [`crate::Replica::repair`].
    #[error("entry {0} cannot be read")]
    Damaged(u64),
    /// The stored bytes are not what was written. The node must stop and be rebuilt from its peers.
    #[error("corrupt record: {0}")]
    Corrupt(String),
    /// The disk failed.
    #[error("reading the log failed: {0}")]
    Io(String),
}

/// The log could not be given up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PurgeError {
    /// Not yet: the entries are not applied, or still being sent to a replica. Try again later.
    #[error("the log of shard {shard} cannot be purged up to {asked} yet, only to {reached:?}")]
    NotYet {
        /// The shard.
        shard: u32,
        /// What was asked for.
        asked: u64,
        /// What was reached.
        reached: Option<u64>,
    },
    /// This replica has stopped.
    #[error("the replica has stopped: {0}")]
    Stopped(String),
}
