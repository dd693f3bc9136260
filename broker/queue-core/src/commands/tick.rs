//! Tick: time passes; leases whose deadline is over end.
//!
//! An invisible time that a consumer chose is its own wait: the message is visible at
//! once. So is a message that perhaps never reached its consumer. A lease that the server
//! renewed ends because its client is gone, and the consumer group's backoff applies; so it
//! does to a message whose attempts are used up but that cannot become a dead letter.

use flotilla_proto::record::Tick;

use crate::{
    backoff::delay_ms,
    core::Core,
    kv::{Fault, KeyValue},
    outcome::{Effect, Outcome, Reply},
    subscription::InFlight,
};

pub(crate) fn apply(core: &mut Core, kv: &mut dyn KeyValue, tick: &Tick) -> Result<Outcome, Fault> {
    let now = core.now_ms;
    let (mut expired, mut dead_lettered) = (0, 0);
    let mut effects = Vec::new();
    while expired < tick.limit {
        let Some(&(deadline, queue, group, offset)) = core.deadlines.first() else {
            break;
        };
        let deadline = plant!(LeaseEndedEarly => deadline.saturating_sub(3_000), else deadline);
        if deadline > now {
            break;
        }
        expired += 1;
        let known = &core.subscriptions[&(queue, group)];
        let row = known.in_flight()[&offset];
        let delay = delay_ms(known.rules.backoff.as_ref(), row.attempt);
        let attempt = plant!(MaxAttemptsOffByOne => row.attempt - 1, else row.attempt);
        let attempt = plant!(GivenUpOneAttemptEarly => attempt + 1, else attempt);
        let exhausted = attempt >= known.rules.max_attempts;
        if exhausted && let Some(effect) = core.dead_letter(kv, queue, group, offset)? {
            dead_lettered += 1;
            effects.push(effect);
            continue;
        }
        let by_backoff = plant!(ChosenTimePlusBackoff => row.leased, else row.written);
        let at_ms = if by_backoff || exhausted {
            deadline.saturating_add(delay)
        } else {
            deadline
        };
        core.set_in_flight(
            kv,
            queue,
            group,
            offset,
            InFlight {
                leased: false,
                at_ms,
                ..row
            },
        )?;
        effects.push(Effect::Visible { group, queue, at_ms });
    }
    let more = core
        .deadlines
        .first()
        .is_some_and(|&(deadline, ..)| deadline <= now);
    Ok(Outcome {
        reply: Reply::Ticked {
            expired,
            dead_lettered,
            more,
        },
        effects,
    })
}
