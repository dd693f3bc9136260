//! Recall: a message that waits is not wanted any more. Either it waits still, and never comes to its queue, or it came before.

use flotilla_proto::record::Recall;

use crate::{
    core::Core,
    ids::QueueId,
    keys,
    kv::{Fault, KeyValue},
    limits::RECALLED_KEPT_MS,
    outcome::{Outcome, RecallResult, Reply},
    timers::{Timer, Wait},
};

pub(crate) fn apply(core: &mut Core, kv: &mut dyn KeyValue, recall: &Recall) -> Result<Outcome, Fault> {
    let (queue, number) = (QueueId(recall.queue), recall.timer);
    let timer = Timer::get(kv, queue, number)?;
    let is_meant = |timer: &Timer| {
        matches!(timer.wait, Wait::Delayed | Wait::Recalled)
            && [0, timer.message_id].contains(&recall.message_id)
    };
    let Some(timer) = timer.filter(is_meant) else {
        return Ok(Reply::Recalled(RecallResult::Over).into());
    };
    if timer.wait == Wait::Recalled {
        return Ok(Reply::Recalled(RecallResult::Again).into());
    }
    plant!(RecallLeavesTheMessage => return Ok(Reply::Recalled(RecallResult::Done).into()));
    core.take_waiting(kv, queue, number)?;
    core.remove_timer(kv, queue, number, &timer)?;
    let remembered = Timer {
        wait: Wait::Recalled,
        at_ms: core.now_ms.saturating_add(RECALLED_KEPT_MS),
        ..timer
    };
    core.set_timer(kv, queue, number, remembered)?;
    core.seek_first_timer(kv, keys::DUE)?;
    core.count_timer(kv, queue, |room| {
        room.waiting -= 1;
        room.recalled += 1;
        room.remembered += 1;
    })?;
    Ok(Reply::Recalled(RecallResult::Done).into())
}
