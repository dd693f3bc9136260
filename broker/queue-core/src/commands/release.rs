//! Release: a lease gets another end than acknowledgement or its deadline. What is not leased (any more) has no receipt.

use flotilla_proto::record::{Release, release::Action};

use crate::{
    backoff::delay_ms,
    core::{Context, Core},
    history::What,
    ids::{GroupId, QueueId},
    kv::{Fault, KeyValue},
    outcome::{Effect, Outcome, Refusal, ReleaseResult, Reply},
    parking::End,
    subscription::InFlight,
};

pub(crate) fn apply(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    context: Context,
    release: &Release,
) -> Result<Outcome, Fault> {
    let (queue, group) = (QueueId(release.queue), GroupId(release.group));
    let (Some(lease), Ok(action)) = (&release.lease, Action::try_from(release.action)) else {
        return Ok(Reply::Refused(Refusal::Malformed).into());
    };
    let now = core.now_ms;
    let late_ms = now - context.time_ms;
    let known = core.subscriptions.get(&(queue, group));
    let row = known
        .and_then(|known| known.in_flight().get(&lease.offset))
        .copied();
    let Some(row) = row.filter(|row| row.holds(lease.nonce)) else {
        return Ok(Reply::Released(ReleaseResult::Stale).into());
    };
    let rules = core.rules(group);
    let exhausted = row.attempt >= rules.max_attempts;
    let by_backoff = now.saturating_add(delay_ms(rules.backoff.as_ref(), row.attempt));
    let asked = release.at_ms.map(|at_ms| at_ms.saturating_add(late_ms));
    let at_ms = asked.unwrap_or(by_backoff).max(now);
    let at_ms = plant!(ShorterTimeIgnored => at_ms.max(row.at_ms), else at_ms);
    let place = (queue, group, lease.offset);
    let row = match action {
        Action::Unspecified => return Ok(Reply::Refused(Refusal::Malformed).into()),
        Action::DeadLetter => {
            let waits = InFlight {
                leased: false,
                at_ms,
                ..row
            };
            return give_up(core, kv, context.wall_ms, place, (What::GivenUp, waits));
        }
        Action::Retry => {
            let waits = InFlight {
                leased: false,
                attempt: plant!(NackCountsNoAttempt => row.attempt - 1, else row.attempt),
                at_ms,
                nonce: release.new_nonce,
                ..row
            };
            if exhausted {
                return give_up(core, kv, context.wall_ms, place, (What::Refused, waits));
            }
            let noted = core.note(kv, context.wall_ms, place, What::Refused)?.noted;
            InFlight { noted, ..waits }
        }
        // Who chooses an end renews the lease itself from then on. (What was to be a retry, decided on an older state, ends
        // at the time that was asked for, too.)
        Action::Extend => {
            let extended = InFlight {
                at_ms,
                nonce: plant!(ChangeKeepsTheOldReceipt => row.nonce, else release.new_nonce),
                auto_renew: false,
                written: false,
                departed: false,
                ..row
            };
            plant!(HideIgnored => InFlight { nonce: release.new_nonce, ..row }, else extended)
        }
    };
    core.set_in_flight(kv, queue, group, lease.offset, row)?;
    let mut effects = vec![if row.leased {
        Effect::LeaseDeadline { at_ms: row.at_ms }
    } else {
        Effect::Visible {
            group,
            queue,
            at_ms: row.at_ms,
        }
    }];
    effects.extend(core.passes_on(queue, group, row.message_group));
    Ok(Outcome {
        reply: Reply::Released(ReleaseResult::Done),
        effects,
    })
}

/// Makes a dead letter, or stops its message group; what cannot become either waits, as `waits` says.
fn give_up(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    wall_ms: u64,
    place: (QueueId, GroupId, u64),
    (what, waits): (What, InFlight),
) -> Result<Outcome, Fault> {
    let (queue, group, offset) = place;
    let (result, effect) = match core.give_up(kv, wall_ms, place, what)? {
        End::DeadLetter(effect) => (ReleaseResult::DeadLettered, Some(effect)),
        End::Parked => (ReleaseResult::Parked, None),
        End::None(InFlight { noted, .. }) => {
            core.set_in_flight(kv, queue, group, offset, InFlight { noted, ..waits })?;
            let at_ms = waits.at_ms;
            let visible = Effect::Visible { group, queue, at_ms };
            (ReleaseResult::Done, Some(visible))
        }
    };
    let passes_on = core.passes_on(queue, group, waits.message_group);
    Ok(Outcome {
        reply: Reply::Released(result),
        effects: effect.into_iter().chain(passes_on).collect(),
    })
}
