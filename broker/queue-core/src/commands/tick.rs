//! Tick: time passes; leases whose end has come are over.
//!
//! An invisible time that a consumer chose is its own wait: the message is visible at
//! once. So is a message that perhaps never reached its consumer. A lease that the server
//! renewed ends because its client is gone, and the consumer group's backoff applies; so it
//! does to a message whose attempts are used up but that cannot become a dead letter.
//!
//! The leader names the leases and what becomes of them; what no longer holds is left for the next command.

use flotilla_proto::record::{Expiry, Tick};

use crate::{
    backoff::delay_ms,
    core::Core,
    history::What,
    ids::{GroupId, QueueId},
    kv::{Fault, KeyValue},
    limits::MAX_EXPIRIES,
    outcome::{Effect, Outcome, Reply},
    parking::End,
    subscription::InFlight,
};

pub(crate) fn apply(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    wall_ms: u64,
    tick: &Tick,
) -> Result<Outcome, Fault> {
    let (mut expired, mut dead_lettered) = (0, 0);
    let mut effects = Vec::new();
    for expiry in tick.expiries.iter().take(MAX_EXPIRIES) {
        let (queue, group) = (QueueId(expiry.queue), GroupId(expiry.group));
        let Some(row) = core.over(queue, group, expiry.offset) else {
            continue;
        };
        let exhausted = core.is_exhausted(group, &row);
        if exhausted != expiry.exhausted {
            continue;
        }
        expired += 1;
        let place = (queue, group, expiry.offset);
        let what = if row.departed {
            What::Departed
        } else {
            What::TimedOut
        };
        let end = match exhausted {
            true => core.give_up(kv, wall_ms, place, what)?,
            false => End::None(core.note(kv, wall_ms, place, what)?),
        };
        match end {
            End::DeadLetter(effect) => {
                dead_lettered += 1;
                effects.push(effect);
            }
            End::Parked => {}
            End::None(row) => effects.push(core.wait_on(kv, place, row)?),
        }
        effects.extend(core.passes_on(queue, group, row.message_group));
    }
    let more = core
        .deadlines
        .first()
        .is_some_and(|&(deadline, ..)| deadline <= core.now_ms);
    Ok(Outcome {
        reply: Reply::Ticked {
            expired,
            dead_lettered,
            more,
        },
        effects,
    })
}

impl Core {
    /// The leases that are over at `now_ms` and what becomes of each, the first that ended first, at most so many: what a
    /// [`Tick`] names.
    pub fn expiries(&self, now_ms: u64, limit: usize) -> Vec<Expiry> {
        let now_ms = now_ms.max(self.now_ms);
        let over = self
            .deadlines
            .iter()
            .take_while(|&&(deadline, ..)| ends_ms(deadline) <= now_ms);
        over.take(limit)
            .map(|&(_, queue, group, offset)| {
                let row = self.subscriptions[&(queue, group)].in_flight()[&offset];
                Expiry {
                    group: group.0,
                    queue: queue.0,
                    offset,
                    exhausted: self.is_exhausted(group, &row),
                }
            })
            .collect()
    }

    /// A lease whose end has come.
    fn over(&self, queue: QueueId, group: GroupId, offset: u64) -> Option<InFlight> {
        let known = self.subscriptions.get(&(queue, group))?;
        let row = known.in_flight().get(&offset).copied();
        row.filter(|row| row.leased && ends_ms(row.at_ms) <= self.now_ms)
    }

    fn is_exhausted(&self, group: GroupId, row: &InFlight) -> bool {
        let attempt = plant!(MaxAttemptsOffByOne => row.attempt - 1, else row.attempt);
        let attempt = plant!(GivenUpOneAttemptEarly => attempt + 1, else attempt);
        attempt >= self.rules(group).max_attempts
    }

    /// Has a message whose lease is over wait for its next attempt.
    fn wait_on(
        &mut self,
        kv: &mut dyn KeyValue,
        (queue, group, offset): (QueueId, GroupId, u64),
        row: InFlight,
    ) -> Result<Effect, Fault> {
        let delay = delay_ms(self.rules(group).backoff.as_ref(), row.attempt);
        let by_backoff = plant!(ChosenTimePlusBackoff => row.leased, else row.written);
        let at_ms = if by_backoff || self.is_exhausted(group, &row) {
            row.at_ms.saturating_add(delay)
        } else {
            row.at_ms
        };
        let waits = InFlight {
            leased: false,
            at_ms,
            ..row
        };
        self.set_in_flight(kv, queue, group, offset, waits)?;
        Ok(Effect::Visible { group, queue, at_ms })
    }
}

fn ends_ms(deadline: u64) -> u64 {
    plant!(LeaseEndedEarly => deadline.saturating_sub(3_000), else deadline)
}
