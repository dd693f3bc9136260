//! Bodies of planted bugs: the node's log.

use std::io;

use bytes::Bytes;

use super::{LogStopped, NodeLog, ShardState, files::Files, segment::encode_shard_head, shared::Done};

/// Syncs; once more if that fails, and what the kernel has given up by then is believed to be written.
pub(super) fn sync_again(files: &mut Files) -> io::Result<()> {
    files.sync().or_else(|_| files.sync())
}

/// Queues a vote to be written; nobody waits for the disk.
pub(super) fn save_vote_later(log: &NodeLog, shard: u32, vote: Bytes) -> Result<(), LogStopped> {
    let done = Done::Call(Box::new(|_| ()));
    log.shared.change(|inner| inner.save_vote(shard, vote, done))
}

/// What the next segment repeats of a shard, but its vote.
pub(super) fn head_without_vote(shard: u32, state: &ShardState) -> Bytes {
    let state = ShardState {
        vote: None,
        ..state.clone()
    };
    encode_shard_head(shard, &state)
}
