//! Retime: a message that waits is due at another time. The command has the message anew, with the date that it says.

use flotilla_proto::record::Retime;

use crate::{
    core::{Context, Core},
    ids::QueueId,
    keys,
    kv::{Fault, KeyValue},
    outcome::{Effect, Outcome, Reply},
    queue::Message,
    timers::{Timer, Wait},
};

pub(crate) fn apply(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    context: Context,
    retime: &Retime,
) -> Result<Outcome, Fault> {
    let (queue, number) = (QueueId(retime.queue), retime.timer);
    let timer = Timer::get(kv, queue, number)?;
    let Some(timer) = timer.filter(|timer| timer.wait == Wait::Delayed) else {
        return Ok(Reply::Retimed(false).into());
    };
    let late_ms = core.now_ms - context.time_ms;
    let at_ms = retime.due_ms.saturating_add(late_ms).max(core.now_ms);
    let room = queue.waiting_room();
    let Some(message) = Message::get(kv, room, number)? else {
        return Err(Fault::Corrupt(format!("timer {queue:?}/{number} has no message")));
    };
    core.displace(kv, room, number, &message, context.position)?;
    core.remove_timer(kv, queue, number, &timer)?;
    core.set_timer(kv, queue, number, Timer { at_ms, ..timer })?;
    core.seek_first_timer(kv, keys::DUE)?;
    Ok(Outcome {
        reply: Reply::Retimed(true),
        effects: vec![Effect::Due { at_ms }],
    })
}
