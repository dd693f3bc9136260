//! Forgets messages that are past retention, and gives their segments back.
//!
//! Leaders decide what is forgotten, through the log (`Trim`), so all replicas agree. Each node then recycles those of its
//! own segments that no shard's state points into any more. A message that must outlive its segment (leased, waiting,
//! dead letter) is copied to the end of the log first (`CopyForward`).
//!
//! Replicas have the same entries, and not in equally large logs: leaders go by the largest (`needs`).
//!
//! A round begins when the log has begun another segment, and takes on all segments that are too many, so it keeps up with
//! the disk. It looks only at queues that have something in them. One step of a shard, of a bounded number of rows or
//! bytes, is under way at a time. Dead letters, and what was copied before, are copied ahead, beside the rounds: by the time that
//! their segment has to go there is only left what is leased or waits there.

use std::{collections::BTreeMap, ops::ControlFlow, time::Duration};

use flotilla_proto::{
    record::{self, Command, command},
    rocketmq::MessageType,
};
use futures::future::join_all;
use prost::Message;
use queue_core::{Fault, Position, QueueId, Reply, frame};
use raft_store::{
    PayloadError, RetentionError,
    blocking::{Work, blocking},
    log::SegmentView,
};
use tokio::time::timeout;

use gain::{Gain, Turnover, last_entries, must_stay};

use super::{
    Node,
    kv::{Reading, stop_reason},
    shard::DataShard,
};
use crate::{
    limits::{COPY_BYTES_AT_ONCE, COPY_READS_AT_ONCE, SWEEP_AT_ONCE, TRIM_AT_ONCE},
    meta::{DEAD_LETTER_PREFIX, MetaState},
};

mod gain;
pub(super) mod needs;

#[cfg(madsim)]
#[path = "../../../sim-tests/plant/bodies/retention.rs"]
mod planted;

/// Time between two rounds when the log does not grow.
const EVERY: Duration = Duration::from_secs(10);
/// Time between two rounds while the log is too large, because other nodes have not yet let go, or do not lead yet.
const AGAIN: Duration = Duration::from_millis(250);

/// Entries before one that are looked at for when it was written: those that change who takes part, or who leads, do not say.
const LOOKED_BACK: u64 = 8;
/// Of the log's bound, the part in which what must stay is copied before its segment has to go.
const AHEAD: u64 = 4;

/// Runs until the node stops.
pub(super) async fn run(node: Node) {
    let mut stop = node.inner.stop.subscribe();
    let turnover = Turnover::default();
    let rounds = async {
        let mut ages = BTreeMap::new();
        let mut seen = node.store().log().begun();
        loop {
            if node.store().log().size() > limit(&node) {
                tokio::time::sleep(AGAIN).await;
            } else {
                pause(&node, &mut seen).await;
            }
            let done = round(&node, &mut ages, &turnover).await;
            stop_at_fault(&node, done);
        }
    };
    let copying_ahead = async {
        let mut seen = node.store().log().begun();
        loop {
            pause(&node, &mut seen).await;
            let done = copy_ahead(&node, &turnover).await;
            stop_at_fault(&node, done);
        }
    };
    tokio::select! {
        biased;
        _ = stop.wait_for(Option::is_some) => {}
        () = rounds => {}
        () = copying_ahead => {}
    }
}

/// Waits until the log has begun another segment, but not for long.
async fn pause(node: &Node, seen: &mut u64) {
    let _ = timeout(EVERY, node.store().log().rolled(seen)).await;
}

fn stop_at_fault(node: &Node, done: Result<(), Fault>) {
    if let Err(fault) = done {
        tracing::error!(%fault, "retention cannot read the state");
        node.stop(stop_reason(fault));
    }
}

/// Bytes of segments that may stay: with the spares for later ones, or with the next one if there is no spare, the log is
/// within its size.
fn limit(node: &Node) -> u64 {
    let options = node.options();
    let next = options.store.segment_bytes.max(node.store().log().spare_bytes());
    options.retention_bytes.saturating_sub(next)
}

/// Bytes of segments below which nothing is copied.
fn copied_above(node: &Node) -> u64 {
    limit(node) - limit(node) / AHEAD
}

/// False when so much must stay that each copy would be in the way again before long.
fn copies_last(node: &Node) -> bool {
    must_stay(node) <= limit(node) / 2
}

/// Copies what must stay out of the segments that will have to go next.
async fn copy_ahead(node: &Node, turnover: &Turnover) -> Result<(), Fault> {
    if !copies_last(node) {
        return Ok(());
    }
    let segments = node.store().log().segments();
    let soon = turnover.allows(&segments, too_many(&segments, copied_above(node)));
    let shards = node.shards().into_iter();
    let copied = shards.filter_map(|shard| {
        let through = *soon.get(&shard.id)?;
        Some(async move { copy_forward(node, &shard, through).await })
    });
    join_all(copied).await.into_iter().collect()
}

/// `ages` tells how far in each shard queues have been looked through for messages that are too old.
async fn round(node: &Node, ages: &mut BTreeMap<u32, QueueId>, turnover: &Turnover) -> Result<(), Fault> {
    let segments = node.store().log().segments();
    let too_many = too_many(&segments, limit(node));
    // Else copies for one node's log would be in the way of another's, and so on without end.
    let copies_last = copies_last(node);
    let copied = match copies_last {
        true => turnover.allows(&segments, too_many.clone()),
        false => BTreeMap::new(),
    };
    *node.inner.too_many.lock().expect("no panic while held") = needs::TooMany {
        through: too_many.clone(),
        copied,
    };
    let leads: Vec<_> = node.shards().into_iter().filter(|shard| shard.leads()).collect();
    let needed: BTreeMap<u32, needs::Elsewhere> = leads
        .iter()
        .map(|shard| (shard.id, needs::elsewhere(node, shard)))
        .collect();
    // Only closed segments can be given back; with none there is nothing to gain.
    if segments.iter().any(|segment| !segment.open) || needed.values().any(|needed| needed.through > 0) {
        let gain = Gain::of(node, &segments)?;
        let allowed = turnover.bound(&segments);
        let each = leads.iter().map(|shard| {
            let looked = ages.get(&shard.id).copied().unwrap_or_default();
            let too_many = too_many.get(&shard.id).copied().unwrap_or(0);
            let for_others = needed[&shard.id];
            let allowed = allowed.get(&shard.id).copied().unwrap_or(0);
            let segments = &segments;
            async move {
                let next = trim_aged(node, shard, looked).await?;
                trim_through(node, shard, too_many.max(for_others.through)).await?;
                let own = if gain.pays_for_age() {
                    too_many.max(aged(shard, segments)?)
                } else if gain.pays_for_room() {
                    too_many
                } else {
                    0
                };
                let others = if copies_last { for_others.copied_through } else { 0 };
                copy_forward(node, shard, own.min(allowed).max(others)).await?;
                Ok::<_, Fault>((shard.id, next))
            }
        });
        for looked in join_all(each).await {
            ages.extend([looked?]);
        }
        recycle(node).await;
    }
    Ok(())
}

/// The last entry of each shard in the oldest closed segments that have to go for the log to have so many bytes.
fn too_many(segments: &[SegmentView], limit: u64) -> BTreeMap<u32, u64> {
    let total: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut over = plant!(TooManyIsEverything => total, else total.saturating_sub(limit));
    let closed = segments.iter().filter(|segment| !segment.open);
    let going = closed.take_while(|segment| {
        let is_over = over > 0;
        over = over.saturating_sub(segment.bytes);
        is_over
    });
    last_entries(going)
}

/// The last entry of a shard in the oldest closed segments in which it keeps nothing but what a copy lets go; 0 if there
/// are none.
fn aged(shard: &DataShard, segments: &[SegmentView]) -> Result<u64, Fault> {
    let mut through = 0;
    let closed = segments.iter().filter(|segment| !segment.open);
    for &(_, last) in closed.filter_map(|segment| segment.shards.get(&shard.id)) {
        let kept = shard.replica.read_state(|state| {
            shard
                .machine
                .read(|core| core.keeps_through(&Reading(state), last))
        })?;
        if kept {
            break;
        }
        through = last.max(through);
    }
    Ok(through)
}

/// Trims the queues of one page whose first message is too old; tells where the next page begins.
async fn trim_aged(node: &Node, shard: &DataShard, from: QueueId) -> Result<QueueId, Fault> {
    plant!(RetentionNeverByAge => return Ok(from));
    let retention_ms = node.options().retention.as_millis() as u64;
    let retention_ms = plant!(RetentionHalved => retention_ms / 2, else retention_ms);
    let before_ms = shard.now_ms().saturating_sub(retention_ms);
    let page: Vec<QueueId> = shard
        .machine
        .read(|core| core.queues_from(from).take(SWEEP_AT_ONCE).collect());
    let mut trims = Vec::new();
    for &queue in &page {
        let first = first_kept(shard, queue, |stored| stored.time_ms < before_ms)?;
        trims.extend(first.map(|first| (queue, first)));
    }
    // What it takes no commands for now is trimmed in the next round.
    let _ = trim(shard, trims).await;
    let last = page.last().filter(|_| page.len() == SWEEP_AT_ONCE);
    Ok(last.map_or(QueueId(0), |last| QueueId(last.0.saturating_add(1))))
}

/// Trims every queue that has a message in order at or below entry `through`. Dead letters point wherever their originals
/// are: they are copied forward, never trimmed for room, however many they are. Only their age ends them.
async fn trim_through(node: &Node, shard: &DataShard, through: u64) -> Result<(), Fault> {
    let meta = node.meta();
    plant!(RetentionForgetsDeadLettersForRoom => planted::forget_dead_letters(shard, &meta, through).await?);
    let queues: Vec<QueueId> = shard.machine.read(|core| core.queues_through(through).collect());
    for page in queues.chunks(SWEEP_AT_ONCE) {
        let mut trims = Vec::new();
        for &queue in page.iter().filter(|&&queue| !is_dead_letters(&meta, queue)) {
            let first = shard.replica.read_state(|state| {
                shard
                    .machine
                    .read(|core| core.first_beyond(&Reading(state), queue, through))
            })?;
            trims.extend(first.map(|first| (queue, first)));
        }
        if trim(shard, trims).await.is_break() {
            return Ok(());
        }
    }
    trim_fired(node, shard, through).await
}

/// Trims what had waited for its date, came to its queue before entry `through` was written, and was looked at by all who read the
/// queue, and what was committed before. It stands in no order, so no entry tells how old it is there, and it would be copied forward until its age ends it, although
/// it was read long ago.
async fn trim_fired(node: &Node, shard: &DataShard, through: u64) -> Result<(), Fault> {
    let queues = shard.machine.read(queue_core::Core::queues_fired_into);
    let meta = node.meta();
    let Some(then_ms) = (if queues.is_empty() {
        None
    } else {
        written_ms(shard, through).await
    }) else {
        return Ok(());
    };
    for page in queues.chunks(SWEEP_AT_ONCE) {
        let mut trims = Vec::new();
        for &(queue, looked_at) in page.iter().filter(|(queue, _)| !is_dead_letters(&meta, *queue)) {
            // What a topic has of transactions is all that it has, and goes as in other topics, whoever has looked at it.
            let most = match looked_at {
                _ if is_transactional(&meta, queue) => u64::MAX,
                Some(looked_at) => looked_at,
                None => continue,
            };
            let first = first_kept(shard, queue, |stored| stored.time_ms <= then_ms)?;
            trims.extend(first.map(|first| (queue, first.min(most))));
        }
        if trim(shard, trims).await.is_break() {
            break;
        }
    }
    Ok(())
}

/// When an entry was written, by the shard's time, or one of those right before it if it has no commands; nothing if it cannot be
/// read.
async fn written_ms(shard: &DataShard, index: u64) -> Option<u64> {
    let replica = shard.replica.clone();
    let read = blocking(Work::Read, move || {
        let near = (index.saturating_sub(LOOKED_BACK)..=index).rev();
        let mut payloads = near.filter_map(|index| replica.read_payload(index).ok());
        payloads.find_map(|payload| Some(frame::decode_entry(&payload).ok()?.time_ms))
    });
    read.await
}

fn is_transactional(meta: &MetaState, queue: QueueId) -> bool {
    let topic = meta.topic_by_id(queue.topic());
    topic.is_some_and(|topic| topic.message_type == MessageType::Transaction as i32)
}

fn is_dead_letters(meta: &MetaState, queue: QueueId) -> bool {
    let topic = meta.topic_by_id(queue.topic());
    topic.is_some_and(|topic| topic.name.starts_with(DEAD_LETTER_PREFIX))
}

/// Trims queues to their new first offsets, one step of at most [`TRIM_LIMIT`](crate::limits::TRIM_LIMIT) rows after the other. Breaks off if the shard
/// takes no commands now.
async fn trim(shard: &DataShard, queues: Vec<(QueueId, u64)>) -> ControlFlow<()> {
    let mut queues = queues.into_iter().peekable();
    while queues.peek().is_some() {
        let (mut step, mut rows) = (Vec::new(), u64::from(shard.bounds.trim));
        while rows > 0
            && step.len() < TRIM_AT_ONCE
            && let Some(&(queue, wanted)) = queues.peek()
        {
            let first = shard
                .machine
                .read(|core| core.queue(queue))
                .map_or(wanted, |ends| ends.first);
            let part = wanted.min(first.saturating_add(rows));
            rows -= part.saturating_sub(first);
            step.push(command::Command::Trim(record::Trim {
                queue: queue.0,
                first: part,
                limit: shard.bounds.trim,
            }));
            if part == wanted {
                queues.next();
            }
        }
        carry_out(shard, step).await?;
    }
    ControlFlow::Continue(())
}

/// Proposes commands together and waits for all of them.
async fn carry_out(shard: &DataShard, commands: Vec<command::Command>) -> ControlFlow<()> {
    let command = |command| Command {
        command: Some(command),
    };
    let answers: Vec<_> = commands
        .into_iter()
        .map(|each| shard.proposer.enqueue(command(each)))
        .collect();
    let mut done = ControlFlow::Continue(());
    for answer in answers {
        let answer = match answer {
            Ok(answer) => answer.await.ok(),
            Err(refused) => Some(Err(refused)),
        };
        if !matches!(answer, Some(Ok(Reply::Trimmed { .. } | Reply::Copied(_)))) {
            done = ControlFlow::Break(());
        }
    }
    done
}

/// The offset below which all of a queue's messages are `over`; nothing if there is nothing to forget.
fn first_kept(
    shard: &DataShard,
    queue: QueueId,
    over: impl Fn(&queue_core::Stored) -> bool,
) -> Result<Option<u64>, Fault> {
    shard.replica.read_state(|state| {
        shard.machine.read(|core| {
            let Some(view) = core.queue(queue) else {
                return Ok(None);
            };
            let over = |offset: u64| -> Result<bool, Fault> {
                let stored = core.locate(&Reading(state), queue, offset)?;
                Ok(stored.is_none_or(|stored| over(&stored)))
            };
            if view.first == view.next || !over(view.first)? {
                return Ok(None);
            }
            // Offsets are stored in order of time: halve the range until the border is found.
            let (mut low, mut high) = (view.first, view.next);
            while low + 1 < high {
                let middle = low + (high - low) / 2;
                if over(middle)? {
                    low = middle
                } else {
                    high = middle
                }
            }
            Ok(Some(high))
        })
    })
}

/// Copies what must stay although its segment should go, step by step.
async fn copy_forward(node: &Node, shard: &DataShard, through: u64) -> Result<(), Fault> {
    while shard.leads() {
        let _turn = shard.copying.lock().await;
        let kept = shard.replica.read_state(|state| {
            shard.machine.read(|core| {
                core.stragglers(
                    &Reading(state),
                    through,
                    shard.bounds.copy_commands,
                    COPY_BYTES_AT_ONCE as u64,
                )
            })
        })?;
        if kept.is_empty() {
            return Ok(());
        }
        let copies = match copies(shard, kept).await {
            Ok(copies) => copies,
            Err(error @ PayloadError::Corrupt(_)) => {
                node.report_read_error(&error);
                return Ok(());
            }
            // It was moved or forgotten since: looked up anew in the next round.
            Err(error) => {
                tracing::debug!(%error, shard = shard.id, "copying forward is tried again");
                return Ok(());
            }
        };
        if carry_out(shard, copies).await.is_break() {
            return Ok(());
        }
    }
    Ok(())
}

/// The commands that copy these messages. A message that was read holds on to its whole entry, so few are read at a time.
async fn copies(
    shard: &DataShard,
    kept: Vec<(QueueId, u64, Position)>,
) -> Result<Vec<command::Command>, PayloadError> {
    let mut copies = Vec::with_capacity(kept.len());
    for kept in kept.chunks(COPY_READS_AT_ONCE) {
        let places = kept.iter().map(|&(_, _, at)| at).collect();
        let messages = shard.read_messages(places).await?;
        for (&(queue, offset, _), message) in kept.iter().zip(messages) {
            copies.push(command::Command::CopyForward(record::CopyForward {
                queue: queue.0,
                offset,
                message: message.encode_to_vec().into(),
            }));
        }
    }
    Ok(copies)
}

/// Gives back the oldest segments that nothing points into any more.
async fn recycle(node: &Node) {
    match node.store().recycle_unneeded().await {
        Ok(None)
        | Err(RetentionError::Needed { .. } | RetentionError::Purge(_) | RetentionError::NotOpen(_)) => {}
        Ok(Some(sequence)) => tracing::info!(
            sequence,
            "segments up to this one are past retention and given back"
        ),
        Err(error) => tracing::warn!(%error, "segments could not be given back; tried again later"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn segment(sequence: u64, open: bool, shards: &[(u32, u64)]) -> SegmentView {
        SegmentView {
            sequence,
            bytes: 10,
            filled: if open { 0 } else { 9 },
            open,
            shards: shards.iter().map(|&(shard, last)| (shard, (1, last))).collect(),
        }
    }

    #[test]
    fn all_segments_that_are_too_many_go_at_once_and_never_the_open_one() {
        let segments = [
            segment(1, false, &[(1, 5)]),
            segment(2, false, &[(1, 7), (2, 3)]),
            segment(3, false, &[(2, 9)]),
            segment(4, true, &[(1, 20)]),
        ];
        assert_eq!(too_many(&segments, 40), BTreeMap::new());
        assert_eq!(too_many(&segments, 39), BTreeMap::from([(1, 5)]));
        assert_eq!(too_many(&segments, 21), BTreeMap::from([(1, 7), (2, 3)]));
        assert_eq!(too_many(&segments, 0), BTreeMap::from([(1, 7), (2, 9)]));
    }
}
