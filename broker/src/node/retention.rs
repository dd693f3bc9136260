//! Forgets messages that are past retention, and gives their segments back.
//!
//! Leaders decide what is forgotten, through the log (`Trim`), so all replicas agree.
//! Each node then recycles those of its own segments that no shard's state points into
//! any more. A message that must outlive its segment (leased, waiting, dead letter) is
//! copied to the end of the log first (`CopyForward`).

use std::time::Duration;

use flotilla_proto::record::{self, Command, command};
use prost::Message;
use queue_core::{Core, Fault, QueueId, Reply};
use raft_store::{PayloadError, RetentionError};

use super::{Node, StopReason, kv::Reading, shard::DataShard};
use crate::{limits::TRIM_LIMIT, meta::DEAD_LETTER_PREFIX};

const EVERY: Duration = Duration::from_secs(10);
/// Messages copied forward in one round and shard.
const COPIES_AT_ONCE: usize = 256;

/// Runs until the node stops.
pub(super) async fn run(node: Node) {
    let mut stop = node.inner.stop.subscribe();
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(Option::is_some) => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        if let Err(fault) = round(&node).await {
            tracing::error!(%fault, "retention cannot read the state");
            node.stop(StopReason::Condemned(fault.0));
        }
    }
}

/// What may be forgotten.
#[derive(Debug, Clone, Copy)]
struct Horizon {
    /// Stored before this time of the shard.
    before_ms: u64,
    /// Or at or below this index, because the log is too large.
    through_index: Option<u64>,
}

async fn round(node: &Node) -> Result<(), Fault> {
    let log = node.store().log();
    let segments = log.segments();
    let total: u64 = segments.iter().map(|segment| segment.bytes).sum();
    // Only closed segments can be given back; with none there is nothing to gain.
    let Some(oldest) = segments.iter().find(|segment| !segment.open) else {
        return Ok(());
    };
    let retention_ms = node.options().retention.as_millis() as u64;
    let too_large = total > node.options().retention_bytes;
    for shard in node.shards() {
        let Some(&(_, last)) = oldest.shards.get(&shard.id) else {
            continue;
        };
        if shard.leads() {
            let horizon = Horizon {
                before_ms: shard.now_ms().saturating_sub(retention_ms),
                through_index: too_large.then_some(last),
            };
            trim(node, &shard, horizon).await?;
            copy_forward(node, &shard, last).await?;
        }
    }
    recycle(node).await;
    Ok(())
}

/// Trims every queue of a shard to the horizon.
async fn trim(node: &Node, shard: &DataShard, horizon: Horizon) -> Result<(), Fault> {
    let meta = node.meta();
    let queues: Vec<QueueId> = shard
        .machine
        .read(|core| core.queues().map(|(queue, _)| queue).collect());
    for queue in queues {
        let mut horizon = horizon;
        let topic = meta.topic_by_id(queue.topic());
        if topic.is_some_and(|topic| topic.name.starts_with(DEAD_LETTER_PREFIX)) {
            // Dead letters point wherever their originals are: they are copied forward, not trimmed for room.
            horizon.through_index = None;
        }
        let keep_from = shard.replica.read_state(|state| {
            shard
                .machine
                .read(|core| first_kept(core, &Reading(state), queue, horizon))
        })?;
        let Some(first) = keep_from else { continue };
        loop {
            let trim = record::Trim {
                queue: queue.0,
                first,
                limit: TRIM_LIMIT,
            };
            let command = Command {
                command: Some(command::Command::Trim(trim)),
            };
            match shard.proposer.submit(command).await {
                Ok(Reply::Trimmed { more: true, .. }) => {}
                _ => break,
            }
        }
    }
    Ok(())
}

/// The offset below which a queue is past the horizon; nothing if there is nothing to forget.
fn first_kept(core: &Core, kv: &Reading<'_>, queue: QueueId, horizon: Horizon) -> Result<Option<u64>, Fault> {
    let Some(view) = core.queue(queue) else {
        return Ok(None);
    };
    let expired = |offset: u64| -> Result<bool, Fault> {
        let stored = core.locate(kv, queue, offset)?;
        Ok(stored.is_none_or(|stored| {
            stored.stored_ms < horizon.before_ms
                || horizon
                    .through_index
                    .is_some_and(|index| stored.position.index <= index)
        }))
    };
    if view.first == view.next || !expired(view.first)? {
        return Ok(None);
    }
    // Offsets are stored in order of time: halve the range until the border is found.
    let (mut low, mut high) = (view.first, view.next);
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        if expired(middle)? {
            low = middle
        } else {
            high = middle
        }
    }
    Ok(Some(high))
}

/// Copies what must stay although its segment should go.
async fn copy_forward(node: &Node, shard: &DataShard, through: u64) -> Result<(), Fault> {
    let kept = shard.replica.read_state(|state| {
        shard
            .machine
            .read(|core| core.stragglers(&Reading(state), through, COPIES_AT_ONCE))
    })?;
    for (queue, offset, position) in kept {
        let message = match shard.read_message(position).await {
            Ok(message) => message,
            Err(error @ PayloadError::Corrupt(_)) => {
                node.report_read_error(&error);
                return Ok(());
            }
            Err(_) => continue,
        };
        let copy = record::CopyForward {
            queue: queue.0,
            offset,
            message: message.encode_to_vec().into(),
        };
        let command = Command {
            command: Some(command::Command::CopyForward(copy)),
        };
        if shard.proposer.submit(command).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Gives back the oldest segments that nothing points into any more.
async fn recycle(node: &Node) {
    let store = node.store();
    for segment in store.log().segments().iter().filter(|segment| !segment.open) {
        match store.recycle_through(segment.sequence).await {
            Ok(_) => tracing::info!(
                sequence = segment.sequence,
                "a segment is past retention and given back"
            ),
            Err(RetentionError::Needed { .. } | RetentionError::Purge(_) | RetentionError::NotOpen(_)) => {
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "a segment could not be given back; tried again later");
                return;
            }
        }
    }
}
