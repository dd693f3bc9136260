//! Deliver: messages become leases of one consumer, and what its filter does not let through is passed over.
//!
//! The leader chose them; what no longer holds is left out of the reply.

use flotilla_proto::record::Deliver;

use crate::{
    core::Core,
    ids::{GroupId, QueueId},
    kv::{Fault, KeyValue},
    limits::{MAX_DELIVER, MAX_IN_FLIGHT, MAX_PASSED_OVER},
    outcome::{Effect, Lease, Outcome, Refusal, Reply},
    queue::Message,
    subscription::{InFlight, Subscription},
};

pub(crate) fn apply(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    late_ms: u64,
    deliver: &Deliver,
) -> Result<Outcome, Fault> {
    let (queue, group) = (QueueId(deliver.queue), GroupId(deliver.group));
    let now = core.now_ms;
    let Some(known) = core.subscriptions.get(&(queue, group)) else {
        return Ok(Reply::Refused(Refusal::NoSubscription).into());
    };
    if known.seeks_to.is_some() || core.is_paused(group) {
        return Ok(Reply::Delivered { leases: Vec::new() }.into());
    }
    let mut chosen: Vec<(u64, u32)> = Vec::new();
    for &offset in deliver.redeliver.iter().take(MAX_DELIVER) {
        let due = known
            .in_flight()
            .get(&offset)
            .filter(|row| !row.leased && row.at_ms <= now);
        if let Some(row) = due.filter(|_| chosen.last().is_none_or(|&(last, _)| last < offset)) {
            let attempt = plant!(AttemptCountedTwice => row.attempt + 2, else row.attempt.saturating_add(1));
            chosen.push((offset, plant!(AttemptNotCounted => row.attempt, else attempt)));
        }
    }
    let (new, filtered, cursor) = look_through(core, known, deliver, MAX_DELIVER - chosen.len());
    chosen.extend(new.into_iter().map(|offset| (offset, 1)));
    let deadline_ms = deliver.deadline_ms.saturating_add(late_ms).max(now);
    let deadline_ms = plant!(LeaseTwiceAsLong => deadline_ms + (deadline_ms - now), else deadline_ms);
    let mut leases = Vec::with_capacity(chosen.len());
    for (offset, attempt) in chosen {
        let Some(message) = Message::get(kv, queue, offset)? else {
            return Err(Fault::Corrupt(format!(
                "message {queue:?}/{offset} can be delivered but has no place"
            )));
        };
        let row = InFlight {
            leased: true,
            auto_renew: deliver.auto_renew,
            written: plant!(LostAnswersRenewed => deliver.auto_renew, else false),
            attempt,
            at_ms: deadline_ms,
            nonce: deliver.nonce,
            client: deliver.client,
            first_leased_ms: now,
        };
        core.set_in_flight(kv, queue, group, offset, row)?;
        let stored = message.stored;
        leases.push(Lease {
            offset,
            attempt,
            position: stored.position,
            stored_ms: stored.stored_ms,
        });
    }
    let mut effects = Vec::new();
    let known = core.subscription_mut(queue, group).expect("just read");
    known.cursor = cursor;
    known.filtered += plant!(FilteredNotCounted => 0, else filtered);
    plant!(CursorNotSaved => if deliver.redeliver.is_empty() { return Ok(crate::planted::unsaved(leases, deadline_ms)) });
    let moved = plant!(FilteredPositionNotSaved => false, else filtered > 0);
    if !leases.is_empty() || moved {
        core.subscriptions[&(queue, group)].store(kv, queue, group)?;
    }
    if !leases.is_empty() {
        effects.push(Effect::LeaseDeadline { at_ms: deadline_ms });
    }
    Ok(Outcome {
        reply: Reply::Delivered { leases },
        effects,
    })
}

/// New messages as far as the command names them, there are any, and there is room: those to be leased, how many are passed
/// over, and the cursor behind all of them.
fn look_through(core: &Core, known: &Subscription, deliver: &Deliver, most: usize) -> (Vec<u64>, u64, u64) {
    let queue = QueueId(deliver.queue);
    let next = core.queues.get(&queue).map_or(0, |queue| queue.next);
    let mut cursor = known.cursor;
    let mut room = MAX_IN_FLIGHT.saturating_sub(known.in_flight().len()).min(most) as u64;
    let (mut new, mut filtered) = (Vec::new(), 0);
    // Decided for another place: nothing of it holds.
    let runs = deliver.new.iter().filter(|_| deliver.first_new == known.cursor);
    for run in runs {
        let left = if run.filtered {
            MAX_PASSED_OVER - filtered
        } else {
            room
        };
        let count = u64::from(run.count).min(left).min(next - cursor);
        if run.filtered {
            filtered += count;
        } else {
            room -= count;
            new.extend(cursor..cursor + count);
        }
        cursor += count;
        if count < u64::from(run.count) {
            break;
        }
    }
    (new, filtered, cursor)
}
