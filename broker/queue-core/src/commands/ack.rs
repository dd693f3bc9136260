//! Ack: a consumer group is done with messages. A receipt counts as long as its lease lasts, here as in every other command.

use flotilla_proto::record::Ack;

use crate::{
    core::Core,
    ids::{GroupId, QueueId},
    kv::{Fault, KeyValue},
    outcome::{AckResult, Outcome, Reply},
};

pub(crate) fn apply(core: &mut Core, kv: &mut dyn KeyValue, ack: &Ack) -> Result<Outcome, Fault> {
    let (queue, group) = (QueueId(ack.queue), GroupId(ack.group));
    let mut results = Vec::with_capacity(ack.leases.len());
    let mut done = 0;
    let mut effects = Vec::new();
    for lease in &ack.leases {
        let known = core.subscriptions.get(&(queue, group));
        let row = known.and_then(|known| known.in_flight().get(&lease.offset));
        let stale =
            plant!(StaleReceiptAccepted => row.is_none(), else row.is_none_or(|row| !row.holds(lease.nonce)));
        if stale {
            results.push(AckResult::Stale);
            continue;
        }
        let message_group = row.map_or(0, |row| row.message_group);
        core.remove_in_flight(kv, queue, group, lease.offset)?;
        effects.extend(core.passes_on(queue, group, message_group));
        done += 1;
        results.push(AckResult::Done);
    }
    if done > 0 {
        let known = core.subscription_mut(queue, group).expect("just read");
        known.acked += done;
        known.store(kv, queue, group)?;
    }
    Ok(Outcome {
        reply: Reply::Acked { results },
        effects,
    })
}
