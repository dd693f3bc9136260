//! GiveUp: producers were asked about transactions as often as they are, and are not asked again. The half messages wait on: whoever
//! ends them decides, a producer or an operator.

use flotilla_proto::record::GiveUp;

use crate::{
    core::Core,
    ids::QueueId,
    keys,
    kv::{Fault, KeyValue},
    limits::MAX_CHECK_BACK,
    outcome::{Outcome, Reply},
    timers::{Timer, Wait},
};

pub(crate) fn apply(core: &mut Core, kv: &mut dyn KeyValue, give_up: &GiveUp) -> Result<Outcome, Fault> {
    let mut given_up = 0;
    for named in give_up.halves.iter().take(MAX_CHECK_BACK) {
        let (queue, number) = (QueueId(named.queue), named.timer);
        let Some(timer) = core.checkable(kv, queue, number)? else {
            continue;
        };
        core.remove_timer(kv, queue, number, &timer)?;
        let timer = Timer {
            wait: Wait::GivenUp,
            at_ms: core.now_ms,
            ..timer
        };
        core.set_timer(kv, queue, number, timer)?;
        core.count_timer(kv, queue, |room| {
            room.undecided -= 1;
            room.given_up += 1;
        })?;
        given_up += 1;
    }
    core.seek_first_timer(kv, keys::CHECK)?;
    Ok(Reply::GivenUp(given_up).into())
}
