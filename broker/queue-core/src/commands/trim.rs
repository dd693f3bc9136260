//! Trim: a queue forgets its oldest messages.
//!
//! What is in flight stays readable until its last consumer group is done with it.

use flotilla_proto::record::Trim;

use crate::{
    core::Core,
    ids::QueueId,
    kv::{Fault, KeyValue},
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
    // Planted: up to it, and with it.
    #[cfg(madsim)]
    let wanted = (wanted + u64::from(plant::is(plant::Bug::TrimOneTooMany))).min(ends.next);
    let first = wanted.min(ends.first.saturating_add(u64::from(trim.limit)));
    for offset in ends.first..first {
        let keep = core.is_in_flight(queue, offset);
        // Planted: who still works on it is not asked.
        #[cfg(madsim)]
        let keep = keep && !plant::is(plant::Bug::TrimForgetsLeased);
        if !keep {
            Message::delete(kv, queue, offset)?;
        }
    }
    if first > ends.first {
        let ends = core.queues.get_mut(&queue).expect("just read");
        ends.first = first;
        ends.store(kv, queue)?;
        for group in core.groups_on(queue) {
            let known = core.subscription_mut(queue, group).expect("just listed");
            if known.cursor < first {
                known.trimmed += first - known.cursor;
                known.cursor = first;
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
