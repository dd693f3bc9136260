//! Seek: a consumer group goes on from another message of a queue.
//!
//! Whatever it has in flight there ends, in bounded steps, and nothing is delivered before the last of them. Then its counts
//! begin anew. A seek that has begun stands in the state, so whoever leads finishes it. One that comes late, or twice, would
//! undo what came after it: it names the epoch it was decided in, and itself.

use flotilla_proto::record::Seek;

use crate::{
    core::Core,
    ids::{GroupId, QueueId},
    kv::{Fault, KeyValue},
    limits::MAX_FORGET,
    outcome::{Effect, Outcome, Refusal, Reply},
    subscription::Subscription,
};

pub(crate) fn apply(core: &mut Core, kv: &mut dyn KeyValue, seek: &Seek) -> Result<Outcome, Fault> {
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
    step(core, kv, (queue, group), seek.limit.min(MAX_FORGET) as usize)
}

/// Ends some of what is in flight; the seek is done once nothing is left.
fn step(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    (queue, group): (QueueId, GroupId),
    limit: usize,
) -> Result<Outcome, Fault> {
    let known = &core.subscriptions[&(queue, group)];
    let some: Vec<u64> = known.in_flight().keys().copied().take(limit).collect();
    for &offset in &some {
        core.remove_in_flight(kv, queue, group, offset)?;
    }
    let blocked = core.drop_blocked(kv, (queue, group), limit - some.len())?;
    let ends = core.queues.get(&queue).copied().unwrap_or_default();
    let known = core.subscription_mut(queue, group).expect("just read");
    known.sought += plant!(SoughtNotCounted => 0, else some.len() as u64 + blocked);
    let is_over = known.in_flight().is_empty() && known.blocked() == 0;
    let Some(to) = known.seeks_to.filter(|_| is_over) else {
        known.store(kv, queue, group)?;
        return Ok(Reply::Sought { at: None }.into());
    };
    let at = to.clamp(ends.first, ends.next);
    let (epoch, last_seek) = (known.epoch + 1, known.last_seek);
    *known = Subscription::starting(at);
    (known.epoch, known.last_seek) = (epoch, last_seek);
    known.store(kv, queue, group)?;
    core.seeking.remove(&(queue, group));
    Ok(Outcome {
        reply: Reply::Sought { at: Some(at) },
        effects: vec![Effect::Visible {
            group,
            queue,
            at_ms: core.now_ms,
        }],
    })
}

impl Core {
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
