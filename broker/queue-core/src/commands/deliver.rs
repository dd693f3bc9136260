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

mod again;
mod in_order;

/// What of a command holds.
#[derive(Debug, Default)]
struct Choice {
    leases: Vec<Chosen>,
    cursor: u64,
    filtered: u64,
    /// Message groups of which messages that were passed over have their turn: how many, and the next one that has not.
    unblocked: Vec<(u64, u64, Option<u64>)>,
    /// Messages that are passed over until their turn comes: message group and offset.
    blocked: Vec<(u64, u64)>,
}

/// A message to be leased.
#[derive(Debug)]
struct Chosen {
    offset: u64,
    attempt: u32,
    /// That it locks.
    message_group: u64,
}

pub(crate) fn apply(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    late_ms: u64,
    deliver: &Deliver,
) -> Result<Outcome, Fault> {
    let (queue, group) = (QueueId(deliver.queue), GroupId(deliver.group));
    let Some(known) = core.subscriptions.get(&(queue, group)) else {
        return Ok(Reply::Refused(Refusal::NoSubscription).into());
    };
    if known.seeks_to.is_some() || core.is_paused(group) || !follows(core, group, deliver) {
        return Ok(Reply::Delivered { leases: Vec::new() }.into());
    }
    let deadline_ms = deliver.deadline_ms.saturating_add(late_ms).max(core.now_ms);
    let deadline_ms = plant!(LeaseTwiceAsLong => deadline_ms + (deadline_ms - core.now_ms), else deadline_ms);
    if !deliver.again.is_empty() {
        return again::apply(core, kv, deadline_ms, deliver);
    }
    let choice = match core.is_fifo(group) {
        true => in_order::choose(core, kv, known, deliver)?,
        false => choose(core, known, deliver),
    };
    let mut leases = Vec::with_capacity(choice.leases.len());
    for &(message_group, count, next) in &choice.unblocked {
        let known = core.subscription_mut(queue, group).expect("just read");
        known.unblock(message_group, count, next);
    }
    for chosen in &choice.leases {
        leases.push(lease(core, kv, deadline_ms, deliver, chosen)?);
    }
    carry_on(core, kv, deliver, &choice)?;
    plant!(CursorNotSaved => if deliver.redeliver.is_empty() { return Ok(crate::planted::unsaved(leases, deadline_ms)) });
    let moved = plant!(FilteredPositionNotSaved => !choice.blocked.is_empty(), else choice.filtered > 0 || !choice.blocked.is_empty());
    if !leases.is_empty() || moved {
        core.subscriptions[&(queue, group)].store(kv, queue, group)?;
    }
    let ends = (!leases.is_empty()).then_some(Effect::LeaseDeadline { at_ms: deadline_ms });
    Ok(Outcome {
        reply: Reply::Delivered { leases },
        effects: ends.into_iter().collect(),
    })
}

/// True if the lanes above were delivered as decided: else something may be left there that comes first.
fn follows(core: &Core, group: GroupId, deliver: &Deliver) -> bool {
    deliver.above.iter().all(|above| {
        let known = core.subscriptions.get(&(QueueId(above.queue), group));
        known.is_some_and(|known| known.cursor == above.cursor)
    })
}

/// Leases one message.
fn lease(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    deadline_ms: u64,
    deliver: &Deliver,
    chosen: &Chosen,
) -> Result<Lease, Fault> {
    let (queue, group) = (QueueId(deliver.queue), GroupId(deliver.group));
    let &Chosen {
        offset,
        attempt,
        message_group,
    } = chosen;
    let Some(message) = Message::get(kv, queue, offset)? else {
        return Err(Fault::Corrupt(format!(
            "message {queue:?}/{offset} can be delivered but has no place"
        )));
    };
    let before = core.subscriptions[&(queue, group)].in_flight().get(&offset);
    let noted = before.map_or(0, |before| before.noted);
    let row = InFlight {
        leased: true,
        auto_renew: deliver.auto_renew,
        written: plant!(LostAnswersRenewed => deliver.auto_renew, else false),
        attempt,
        at_ms: deadline_ms,
        nonce: deliver.nonce,
        client: deliver.client,
        first_leased_ms: core.now_ms,
        message_group,
        request: deliver.request,
        departed: false,
        parked: false,
        noted,
    };
    core.set_in_flight(kv, queue, group, offset, row)?;
    let stored = message.stored;
    Ok(Lease {
        offset,
        attempt,
        nonce: deliver.nonce,
        position: stored.position,
        stored_ms: stored.stored_ms,
        message_group,
    })
}

/// The consumer group goes on behind what it got and what was passed over.
fn carry_on(core: &mut Core, kv: &mut dyn KeyValue, deliver: &Deliver, choice: &Choice) -> Result<(), Fault> {
    let (queue, group) = (QueueId(deliver.queue), GroupId(deliver.group));
    let known = core.subscription_mut(queue, group).expect("just read");
    known.cursor = choice.cursor;
    known.filtered += plant!(FilteredNotCounted => 0, else choice.filtered);
    for &(message_group, offset) in &choice.blocked {
        known.block(offset, message_group);
    }
    let unblocked = choice.unblocked.iter().map(|&(message_group, ..)| message_group);
    for message_group in unblocked {
        core.store_lock(kv, (queue, group), message_group, true)?;
    }
    plant!(BlockedNotSaved => return Ok(()));
    let mut blocked: Vec<u64> = choice
        .blocked
        .iter()
        .map(|&(message_group, _)| message_group)
        .collect();
    blocked.sort_unstable();
    blocked.dedup();
    for message_group in blocked {
        core.store_lock(kv, (queue, group), message_group, false)?;
    }
    Ok(())
}

fn choose(core: &Core, known: &Subscription, deliver: &Deliver) -> Choice {
    let mut chosen: Vec<Chosen> = Vec::new();
    for &offset in deliver.redeliver.iter().take(MAX_DELIVER) {
        let due = known
            .in_flight()
            .get(&offset)
            .filter(|row| row.waits() && row.at_ms <= core.now_ms);
        if let Some(row) = due.filter(|_| chosen.last().is_none_or(|last| last.offset < offset)) {
            chosen.push(next_attempt(offset, row));
        }
    }
    let (new, filtered, cursor) = look_through(core, known, deliver, MAX_DELIVER - chosen.len());
    chosen.extend(new.into_iter().map(first_attempt));
    Choice {
        leases: chosen,
        cursor,
        filtered,
        ..Choice::default()
    }
}

fn first_attempt(offset: u64) -> Chosen {
    Chosen {
        offset,
        attempt: 1,
        message_group: 0,
    }
}

fn next_attempt(offset: u64, row: &InFlight) -> Chosen {
    let attempt = plant!(AttemptCountedTwice => row.attempt + 2, else row.attempt.saturating_add(1));
    Chosen {
        offset,
        attempt: plant!(AttemptNotCounted => row.attempt, else attempt),
        message_group: row.message_group,
    }
}

/// New messages as far as the command names them, there are any, and there is room: those to be leased, how many are passed
/// over, and the cursor behind all of them.
fn look_through(core: &Core, known: &Subscription, deliver: &Deliver, most: usize) -> (Vec<u64>, u64, u64) {
    let queue = QueueId(deliver.queue);
    let next = core.queues.get(&queue).map_or(0, |queue| queue.next);
    let mut cursor = known.cursor;
    let mut room = MAX_IN_FLIGHT.saturating_sub(known.in_flight().len()).min(most) as u64;
    let (mut new, mut filtered) = (Vec::new(), 0);
    // Decided for another place, or for another order: nothing of it holds.
    let holds = deliver.first_new == known.cursor && deliver.new.iter().all(|run| !run.blocked);
    let runs = deliver.new.iter().filter(|_| holds);
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
