//! Unpark: an operator decides on messages at which their message groups stopped. One that was decided on before is left as it is.

use flotilla_proto::record::{Unpark, unpark::Action};

use crate::{
    core::Core,
    history::What,
    ids::{GroupId, QueueId},
    kv::{Fault, KeyValue},
    limits::MAX_UNPARK,
    outcome::{Effect, Outcome, Refusal, Reply, UnparkResult},
    subscription::InFlight,
};

pub(crate) fn apply(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    wall_ms: u64,
    unpark: &Unpark,
) -> Result<Outcome, Fault> {
    let (queue, group) = (QueueId(unpark.queue), GroupId(unpark.group));
    let release = match Action::try_from(unpark.action) {
        Ok(Action::Release) => true,
        Ok(Action::Skip) => false,
        Ok(Action::Unspecified) | Err(_) => return Ok(Reply::Refused(Refusal::Malformed).into()),
    };
    let mut results = Vec::with_capacity(unpark.parked.len().min(MAX_UNPARK));
    let mut effects = Vec::new();
    for named in unpark.parked.iter().take(MAX_UNPARK) {
        let place = (queue, group, named.offset);
        let row = core.in_flight(group, queue, named.offset);
        let row =
            row.filter(|row| row.parked && plant!(LateDecisionCounts => true, else row.nonce == named.nonce));
        let Some(row) = row else {
            results.push(UnparkResult::Stale);
            continue;
        };
        let result = match release {
            true => release_one(core, kv, wall_ms, place)?,
            false => skip(core, kv, wall_ms, place, &mut effects)?,
        };
        results.push(result);
        effects.extend(core.passes_on(queue, group, row.message_group));
    }
    Ok(Outcome {
        reply: Reply::Unparked { results },
        effects,
    })
}

/// It is delivered again, with all its attempts.
fn release_one(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    wall_ms: u64,
    place: (QueueId, GroupId, u64),
) -> Result<UnparkResult, Fault> {
    let (queue, group, offset) = place;
    let row = core.note(kv, wall_ms, place, What::Released)?;
    let waits = InFlight {
        parked: false,
        attempt: plant!(ReleasedWithoutAttempts => row.attempt, else 0),
        at_ms: core.now_ms,
        ..row
    };
    core.set_in_flight(kv, queue, group, offset, waits)?;
    Ok(UnparkResult::Done)
}

/// It is a dead letter.
fn skip(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    wall_ms: u64,
    place: (QueueId, GroupId, u64),
    effects: &mut Vec<Effect>,
) -> Result<UnparkResult, Fault> {
    let row = core.note(kv, wall_ms, place, What::Skipped)?;
    let (queue, group, offset) = place;
    match core.dead_letter(kv, wall_ms, place)? {
        Some(effect) => {
            effects.push(effect);
            Ok(UnparkResult::Done)
        }
        None => {
            core.set_in_flight(kv, queue, group, offset, row)?;
            Ok(UnparkResult::NoPlace)
        }
    }
}
