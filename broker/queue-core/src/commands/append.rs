//! Append: one message at the end of a queue, or into its waiting room until it is due or its transaction ended; once per message id.

use flotilla_proto::record::Append;

use crate::{
    core::{Context, Core},
    ids::QueueId,
    kv::{Fault, KeyValue},
    limits::MAX_OPEN_HALVES,
    outcome::{Effect, Outcome, Refusal, Reply},
    places::Arrival,
    timers::Wait,
};

pub(crate) fn apply(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    context: Context,
    append: &Append,
) -> Result<Outcome, Fault> {
    let queue = QueueId(append.queue);
    let known = core
        .dedup
        .find(kv, queue.topic(), &append.message_id, core.now_ms)?;
    let known = plant!(DedupIgnored => None, else known);
    if let Some((queue, offset)) = known {
        return Ok(Reply::Appended {
            queue,
            offset,
            duplicate: true,
        }
        .into());
    }
    let arrival = Arrival {
        position: context.position,
        tag: append.tag,
        message_group: append.message_group,
        wall_ms: context.wall_ms,
        displaced: false,
        dead: false,
    };
    let is_half = plant!(HalfSeenAtOnce => false, else append.half);
    if is_half {
        let (open, given_up) = core.halves_of(queue);
        if open + given_up >= MAX_OPEN_HALVES {
            return Ok(Reply::Refused(Refusal::TooManyOpen).into());
        }
    }
    if append.due_ms > 0 || is_half {
        let at_ms = append.due_ms.saturating_add(core.now_ms - context.time_ms);
        let how = if is_half { Wait::Half } else { Wait::Delayed };
        return wait(core, kv, append, (arrival, at_ms, how));
    }
    let offset = core.push(kv, queue, arrival)?;
    core.dedup
        .remember(kv, &append.message_id, queue, offset, core.now_ms)?;
    Ok(Outcome {
        reply: Reply::Appended {
            queue,
            offset,
            duplicate: false,
        },
        effects: vec![Effect::Appended { queue }],
    })
}

/// It is not due yet, or half.
fn wait(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    append: &Append,
    (arrival, at_ms, how): (Arrival, u64, Wait),
) -> Result<Outcome, Fault> {
    let queue = QueueId(append.queue);
    let number = core.wait_until(kv, queue, arrival, (at_ms, how, &append.message_id))?;
    let is_first = core.timers.is_first((at_ms, queue, number), how);
    Ok(Outcome {
        reply: Reply::Appended {
            queue: queue.waiting_room(),
            offset: number,
            duplicate: false,
        },
        effects: is_first.then_some(Effect::Due { at_ms }).into_iter().collect(),
    })
}
