//! Seek: a consumer group goes on from another message of a queue.
//!
//! Whatever it has in flight there ends, in bounded steps, and nothing is delivered before the last of them. What is parked, or was
//! given back to it and forgotten by its queue, is a dead letter, unless the consumer group comes to it again. Then its counts begin
//! anew. A seek that has begun stands in the state, so whoever leads finishes it. One that comes late, or twice, would
//! undo what came after it: it names the epoch it was decided in, and itself.

use flotilla_proto::record::Seek;

use crate::{
    core::Core,
    history::What,
    ids::{GroupId, QueueId},
    kv::{Fault, KeyValue},
    limits::MAX_FORGET,
    outcome::{Effect, Outcome, Refusal, Reply},
    subscription::Subscription,
};

pub(crate) fn apply(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    wall_ms: u64,
    seek: &Seek,
) -> Result<Outcome, Fault> {
    let (queue, group) = (QueueId(seek.queue), GroupId(seek.group));
    let Some(known) = core.subscription_mut(queue, group) else {
        return Ok(Reply::Refused(Refusal::NoSubscription).into());
    };
    let outdated = plant!(LateSeekCounts => false, else known.epoch != seek.epoch);
    if outdated {
        let is_done = known.last_seek == seek.id && known.epoch.checked_sub(1) == Some(seek.epoch);
        let at = Some(known.start);
        return Ok(match is_done {
            true => Reply::Sought { at },
            false => Reply::Refused(Refusal::Outdated),
        }
        .into());
    }
    known.seeks_to = Some(seek.to);
    known.last_seek = seek.id;
    core.seeking.insert((queue, group));
    let limit = seek.limit.min(MAX_FORGET) as usize;
    step(core, kv, wall_ms, (queue, group), limit)
}

/// Ends some of what is in flight; the seek is done once nothing is left.
fn step(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    wall_ms: u64,
    (queue, group): (QueueId, GroupId),
    limit: usize,
) -> Result<Outcome, Fault> {
    let known = &core.subscriptions[&(queue, group)];
    let some: Vec<u64> = known.in_flight().keys().copied().take(limit).collect();
    let mut effects = Vec::new();
    for &offset in &some {
        if core.stays_a_letter(kv, (queue, group, offset))?
            && let Some(effect) = core.dead_letter(kv, wall_ms, (queue, group, offset))?
        {
            effects.push(effect);
            continue;
        }
        core.remove_in_flight(kv, queue, group, offset)?;
    }
    let blocked = core.drop_blocked(kv, (queue, group), limit - some.len())?;
    let ends = core.queues.get(&queue).copied().unwrap_or_default();
    let known = core.subscription_mut(queue, group).expect("just read");
    known.sought += plant!(SoughtNotCounted => 0, else (some.len() - effects.len()) as u64 + blocked);
    let is_over = known.in_flight().is_empty() && known.blocked() == 0;
    let Some(to) = known.seeks_to.filter(|_| is_over) else {
        known.store(kv, queue, group)?;
        return Ok(Outcome {
            reply: Reply::Sought { at: None },
            effects,
        });
    };
    let at = to.clamp(ends.first, ends.next);
    let (epoch, last_seek) = (known.epoch + 1, known.last_seek);
    *known = Subscription::starting(at);
    (known.epoch, known.last_seek) = (epoch, last_seek);
    known.store(kv, queue, group)?;
    core.seeking.remove(&(queue, group));
    effects.push(Effect::Visible {
        group,
        queue,
        at_ms: core.now_ms,
    });
    Ok(Outcome {
        reply: Reply::Sought { at: Some(at) },
        effects,
    })
}

impl Core {
    /// True of a message in flight that an operator was to decide on, or has given back, and that the consumer group does not come to
    /// again after a seek: nobody else would know of it any more.
    fn stays_a_letter(
        &self,
        kv: &dyn KeyValue,
        (queue, group, offset): (QueueId, GroupId, u64),
    ) -> Result<bool, Fault> {
        let known = &self.subscriptions[&(queue, group)];
        let (row, to) = (known.in_flight()[&offset], known.seeks_to);
        let ends = self.queues.get(&queue).copied().unwrap_or_default();
        let comes_again = to.is_some_and(|to| offset >= to.clamp(ends.first, ends.next));
        if comes_again || row.parked || row.noted == 0 || offset >= ends.first {
            return Ok(row.parked && !comes_again);
        }
        let history = self.history(kv, (group, queue, offset))?;
        Ok(history.iter().any(|note| note.what == What::Redriven))
    }

    /// A seek that is not done yet: a step of it that ends at most so many messages in flight.
    pub fn next_seek(&self, limit: u32) -> Option<Seek> {
        let &(queue, group) = self.seeking.first()?;
        let known = &self.subscriptions[&(queue, group)];
        Some(Seek {
            group: group.0,
            queue: queue.0,
            from: known.cursor,
            to: known.seeks_to?,
            limit,
            epoch: known.epoch,
            id: known.last_seek,
        })
    }
}
