//! Deliver: messages become leases of one consumer.
//!
//! The leader chose them; what no longer holds is left out of the reply.

use flotilla_proto::record::Deliver;

use crate::{
    core::Core,
    ids::{GroupId, QueueId},
    kv::{Fault, KeyValue},
    limits::{MAX_DELIVER, MAX_IN_FLIGHT},
    outcome::{Effect, Lease, Outcome, Refusal, Reply},
    queue::Message,
    subscription::InFlight,
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
    let next = core.queues.get(&queue).map_or(0, |queue| queue.next);
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
    if deliver.first_new == known.cursor {
        let room = MAX_IN_FLIGHT
            .saturating_sub(known.in_flight().len())
            .min(MAX_DELIVER - chosen.len());
        let count = u64::from(deliver.new_count)
            .min(room as u64)
            .min(next - known.cursor);
        chosen.extend((known.cursor..known.cursor + count).map(|offset| (offset, 1)));
    }
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
        let known = core.subscription_mut(queue, group).expect("just read");
        known.cursor = known.cursor.max(offset + 1);
    }
    let mut effects = Vec::new();
    plant!(CursorNotSaved => if deliver.redeliver.is_empty() { return Ok(crate::planted::unsaved(leases, deadline_ms)) });
    if !leases.is_empty() {
        core.subscriptions[&(queue, group)].store(kv, queue, group)?;
        effects.push(Effect::LeaseDeadline { at_ms: deadline_ms });
    }
    Ok(Outcome {
        reply: Reply::Delivered { leases },
        effects,
    })
}
