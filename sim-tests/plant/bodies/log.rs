//! Bodies of planted bugs: the node's log.

use std::io;

use bytes::Bytes;

use super::{LogStopped, NodeLog, ShardState, files::Files, segment::encode_shard_head, shared::Done};
use crate::record::{Corrupt, Record, RecordHead, RecordView};

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

/// A record as it comes from the disk, by its head; the checksum is not looked at.
pub(super) fn unchecked(record: &Bytes) -> Result<RecordView, Corrupt> {
    let head = RecordHead::parse(record)?;
    if head.record_bytes() != record.len() {
        return Err(Corrupt("length does not fit"));
    }
    Ok(Record::view(head, record))
}

/// Tells everyone concerned, and lets them act on it before the log knows where their records are: its thread is taken off its
/// processor in between. Nobody is left to tell.
pub(super) async fn told_early(dones: Vec<Done>) -> Vec<Done> {
    for done in dones {
        done.tell(Ok(()));
    }
    tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    Vec::new()
}
