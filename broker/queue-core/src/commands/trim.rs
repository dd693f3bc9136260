//! Trim: a queue forgets its oldest messages.
//!
//! What is in flight stays readable until its last consumer group is done with it.

use std::ops::Range;

use flotilla_proto::record::Trim;

use crate::{
    core::Core,
    ids::QueueId,
    keys,
    kv::{Fault, KeyValue},
    limits::MAX_FORGET,
    outcome::{Outcome, Reply},
    queue::Message,
};

pub(crate) fn apply(core: &mut Core, kv: &mut dyn KeyValue, trim: &Trim) -> Result<Outcome, Fault> {
    let queue = QueueId(trim.queue);
    let Some(ends) = core.queues.get(&queue).copied() else {
        return Ok(Reply::Trimmed {
            first: 0,
            more: false,
        }
        .into());
    };
    let wanted = trim.first.clamp(ends.first, ends.next);
    let wanted = plant!(TrimOneTooMany => (wanted + 1).min(ends.next), else wanted);
    // Each consumer group that has something to be forgotten here costs as much once more.
    let most = MAX_FORGET / (core.blocked_on(queue) as u32).max(1);
    let first = wanted.min(ends.first.saturating_add(u64::from(trim.limit.min(most.max(1)))));
    if first > ends.first {
        forget(core, kv, queue, ends.first..first)?;
        let forgotten = ends.first..first;
        let ends = core.queues.get_mut(&queue).expect("just read");
        ends.first = first;
        ends.store(kv, queue)?;
        core.gone(kv, queue, forgotten)?;
        for group in core.groups_on(queue) {
            let known = core.subscription_mut(queue, group).expect("just listed");
            if known.cursor < first {
                known.trimmed += first - known.cursor;
                known.cursor = first;
                plant!(TrimmedPositionNotSaved => continue);
                known.store(kv, queue, group)?;
            }
        }
    }
    Ok(Reply::Trimmed {
        first,
        more: first < wanted,
    }
    .into())
}

/// Removes the messages at these offsets, but not those in flight.
fn forget(core: &mut Core, kv: &mut dyn KeyValue, queue: QueueId, range: Range<u64>) -> Result<(), Fault> {
    let held = core.held(queue, range.clone());
    let (from, to) = (keys::message(queue, range.start), keys::message(queue, range.end));
    let mut grouped = Vec::new();
    for (key, value) in kv.scan(&from, &to, (range.end - range.start) as usize)? {
        let offset = keys::offset(key)?;
        let message = Message::read(value)?;
        if message.stored.message_group != 0 {
            grouped.push((message.stored.message_group, offset));
        }
        let keep = plant!(TrimForgetsLeased => false, else held.contains(&offset));
        if !keep {
            core.forget(kv, queue, offset, &message)?;
        }
    }
    core.trim_blocked(kv, queue, &grouped, range.end)
}
