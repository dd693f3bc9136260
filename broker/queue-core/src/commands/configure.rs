//! Configure: consumer groups start on queues; queues and consumer groups end.

use bytes::BufMut;
use flotilla_proto::record::{Configure, DropGroup, DropQueue, StartAt, Subscribe, configure::What};

use crate::{
    core::Core,
    ids::{GroupId, QueueId},
    keys,
    kv::{Fault, KeyValue},
    limits::MAX_FORGET,
    outcome::{Effect, Outcome, Refusal, Reply},
    queue::Message,
    rules::Rules,
    subscription::Subscription,
};

pub(crate) fn apply(core: &mut Core, kv: &mut dyn KeyValue, configure: &Configure) -> Result<Outcome, Fault> {
    match &configure.what {
        Some(What::Subscribe(subscribe)) => start(core, kv, subscribe),
        Some(What::Rules(rules)) => change(core, kv, rules),
        Some(What::DropQueue(drop)) => drop_queue(core, kv, drop),
        Some(What::DropGroup(drop)) => drop_group(core, kv, drop),
        None => Ok(Reply::Refused(Refusal::Malformed).into()),
    }
}

fn start(core: &mut Core, kv: &mut dyn KeyValue, subscribe: &Subscribe) -> Result<Outcome, Fault> {
    let (queue, group) = (QueueId(subscribe.queue), GroupId(subscribe.group));
    // Else a leader that has not heard of the deletion yet would have a consumer group begin once more that is dropped.
    if subscribe.deletions < core.deletions {
        return Ok(Reply::Refused(Refusal::Behind).into());
    }
    let ends = core.queues.get(&queue).copied().unwrap_or_default();
    core.set_rules(kv, group, Rules::of(subscribe))?;
    if core.subscriptions.contains_key(&(queue, group)) {
        return Ok(Reply::Configured { more: false }.into());
    }
    let start = if subscribe.start_at == StartAt::Last as i32 {
        ends.next
    } else {
        ends.first
    };
    let known = Subscription::starting(start);
    known.store(kv, queue, group)?;
    core.subscriptions.insert((queue, group), known);
    core.by_group.insert((group, queue));
    Ok(Reply::Configured { more: false }.into())
}

/// A consumer group has other rules from now on, on the queues that it is on. Those it begins on later have them, too: a
/// catalogue that does not know of the change is not believed any more.
fn change(core: &mut Core, kv: &mut dyn KeyValue, rules: &Subscribe) -> Result<Outcome, Fault> {
    know_of(core, kv, rules.deletions)?;
    let group = GroupId(rules.group);
    let mut effects = Vec::new();
    if core.rules.contains_key(&group) {
        let was_paused = core.is_paused(group);
        core.set_rules(kv, group, Rules::of(rules))?;
        if was_paused && !core.is_paused(group) {
            let at_ms = core.now_ms;
            let queues = core.queues_of_group(group);
            effects.extend(queues.map(|queue| Effect::Visible { group, queue, at_ms }));
        }
    }
    Ok(Outcome {
        reply: Reply::Configured { more: false },
        effects,
    })
}

fn drop_queue(core: &mut Core, kv: &mut dyn KeyValue, drop: &DropQueue) -> Result<Outcome, Fault> {
    let queue = QueueId(drop.queue);
    know_of(core, kv, drop.deletions)?;
    let mut budget = drop.limit.min(MAX_FORGET) as usize;
    for group in core.groups_on(queue) {
        if !drop_subscription(core, kv, queue, group, &mut budget)? {
            return Ok(Reply::Configured { more: true }.into());
        }
    }
    if !core.drop_waiting(kv, queue, &mut budget)? {
        return Ok(Reply::Configured { more: true }.into());
    }
    let mut ends = core.queues.get(&queue).copied().unwrap_or_default();
    // With the last subscription everything below the first that is kept has gone.
    let begin = ends.first;
    let found = kv.scan(
        &keys::message(queue, begin),
        &keys::message(queue, ends.next),
        budget,
    )?;
    let all = found.len() < budget;
    for (key, value) in found {
        let offset = keys::offset(key)?;
        core.forget(kv, queue, offset, &Message::read(value)?)?;
        ends.first = offset + 1;
    }
    if all {
        core.remove_queue(kv, queue)?;
    } else if ends.first > begin {
        core.queues.get_mut(&queue).expect("just read").first = ends.first;
        ends.store(kv, queue)?;
        core.gone(kv, queue, begin..ends.first)?;
    }
    Ok(Reply::Configured { more: !all }.into())
}

fn drop_group(core: &mut Core, kv: &mut dyn KeyValue, drop: &DropGroup) -> Result<Outcome, Fault> {
    let group = GroupId(drop.group);
    know_of(core, kv, drop.deletions)?;
    let mut budget = drop.limit.min(MAX_FORGET) as usize;
    let queues: Vec<QueueId> = core.queues_of_group(group).take(budget + 1).collect();
    for queue in queues {
        if !drop_subscription(core, kv, queue, group, &mut budget)? {
            return Ok(Reply::Configured { more: true }.into());
        }
    }
    Ok(Reply::Configured { more: false }.into())
}

/// From here on no catalogue is believed that knows of fewer deletions.
fn know_of(core: &mut Core, kv: &mut dyn KeyValue, deletions: u64) -> Result<(), Fault> {
    if deletions > core.deletions {
        core.deletions = deletions;
        let mut value = keys::value(8);
        value.put_u64_le(deletions);
        kv.put(keys::DELETIONS, &value)?;
    }
    Ok(())
}

/// Removes a subscription within the budget; false if the budget ran out first.
fn drop_subscription(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    queue: QueueId,
    group: GroupId,
    budget: &mut usize,
) -> Result<bool, Fault> {
    let known = &core.subscriptions[&(queue, group)];
    let some: Vec<u64> = known.in_flight().keys().copied().take(*budget).collect();
    for &offset in &some {
        core.remove_in_flight(kv, queue, group, offset)?;
        // Nobody will ever ask, but the count must hold until the subscription is gone.
        core.subscription_mut(queue, group).expect("just read").acked += 1;
    }
    *budget -= some.len();
    let locks = core.subscriptions[&(queue, group)].locks().len();
    let blocked = core.drop_blocked(kv, (queue, group), *budget)?;
    core.subscription_mut(queue, group).expect("just read").acked += blocked;
    *budget -= locks.min(*budget);
    if *budget == 0 {
        core.subscriptions[&(queue, group)].store(kv, queue, group)?;
        return Ok(false);
    }
    *budget -= 1;
    core.subscriptions.remove(&(queue, group));
    core.by_group.remove(&(group, queue));
    core.seeking.remove(&(queue, group));
    kv.delete(&keys::subscription(queue, group))?;
    core.drop_unused_rules(kv, group)?;
    Ok(true)
}
