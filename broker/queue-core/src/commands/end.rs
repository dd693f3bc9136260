//! Commit and rollback: the end of a transaction. The first one decides: its half message gets the next place in its queue, or is
//! dropped. How it ended is remembered for a while, so that whoever repeats the end, or comes with the other one, learns it.

use flotilla_proto::record::EndHalf;

use crate::{
    core::Core,
    ids::QueueId,
    keys,
    kv::{Fault, KeyValue},
    limits::ENDED_KEPT_MS,
    outcome::{Effect, EndResult, Outcome, Reply},
    timers::{Timer, Wait},
};

pub(crate) fn commit(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    wall_ms: u64,
    end: &EndHalf,
) -> Result<Outcome, Fault> {
    apply(core, kv, wall_ms, (end, Wait::Committed))
}

pub(crate) fn roll_back(core: &mut Core, kv: &mut dyn KeyValue, end: &EndHalf) -> Result<Outcome, Fault> {
    // Nothing is dated by it.
    apply(core, kv, 0, (end, Wait::RolledBack))
}

fn apply(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    wall_ms: u64,
    (end, how): (&EndHalf, Wait),
) -> Result<Outcome, Fault> {
    let (queue, number) = (QueueId(end.queue), end.timer);
    let timer = Timer::get(kv, queue, number)?;
    let Some(timer) = timer.filter(|timer| timer.message_id == end.message_id) else {
        return Ok(Reply::Ended(EndResult::Unknown).into());
    };
    let result = match timer.wait {
        Wait::Half | Wait::GivenUp => EndResult::Done,
        Wait::Committed | Wait::RolledBack if timer.wait == how => EndResult::Again,
        Wait::Committed | Wait::RolledBack => {
            plant!(ContraryEndAnsweredOk => EndResult::Again, else EndResult::Contrary)
        }
        Wait::Delayed | Wait::Recalled => EndResult::Unknown,
    };
    if result != EndResult::Done {
        return Ok(Reply::Ended(result).into());
    }
    core.end_half(kv, wall_ms, (queue, number), (timer, how))?;
    let committed = (how == Wait::Committed).then_some(Effect::Appended { queue });
    Ok(Outcome {
        reply: Reply::Ended(EndResult::Done),
        effects: committed.into_iter().collect(),
    })
}

impl Core {
    /// Its id points to the waiting room all the same: a half message that is sent again is answered as it was first.
    fn end_half(
        &mut self,
        kv: &mut dyn KeyValue,
        wall_ms: u64,
        (queue, number): (QueueId, u64),
        (timer, how): (Timer, Wait),
    ) -> Result<(), Fault> {
        self.remove_timer(kv, queue, number, &timer)?;
        let delivers = plant!(RolledBackIsDelivered => true, else how == Wait::Committed);
        if delivers {
            self.leave_room(kv, wall_ms, (queue, number))?;
        } else {
            self.take_waiting(kv, queue, number)?;
            self.count_timer(kv, queue, |room| {
                room.waiting -= 1;
                room.recalled += 1;
            })?;
        }
        self.count_timer(kv, queue, |room| {
            room.undecided -= u64::from(timer.wait == Wait::Half);
            room.given_up -= u64::from(timer.wait == Wait::GivenUp);
            room.remembered += 1;
        })?;
        let remembered = Timer {
            wait: how,
            at_ms: self.now_ms.saturating_add(ENDED_KEPT_MS),
            ..timer
        };
        self.set_timer(kv, queue, number, remembered)?;
        self.seek_first_timer(kv, keys::CHECK)
    }
}
