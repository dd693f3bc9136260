//! A request that was repeated because its answer was lost gets what it has already, under the receipts that it has: no attempt is
//! counted, and the leases begin anew. Not for ever, or a client that cannot take what it gets would keep it from all others.

use flotilla_proto::record::Deliver;

use crate::{
    core::Core,
    ids::{GroupId, QueueId},
    kv::{Fault, KeyValue},
    limits::{MAX_DELIVER, REPEATED_WITHIN_MS},
    outcome::{Effect, Lease, Outcome, Reply},
    queue::Message,
    subscription::InFlight,
};

pub(super) fn apply(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    deadline_ms: u64,
    deliver: &Deliver,
) -> Result<Outcome, Fault> {
    let (queue, group) = (QueueId(deliver.queue), GroupId(deliver.group));
    let mut leases = Vec::new();
    for &offset in deliver.again.iter().take(MAX_DELIVER) {
        let known = &core.subscriptions[&(queue, group)];
        let row = known.in_flight().get(&offset);
        let had = row.filter(|row| row.request == deliver.request && row.client == deliver.client);
        let Some(row) = had.filter(|row| core.can_be_repeated(row)) else {
            continue;
        };
        // What is before it in its message group is in the same answer, or it waits for that. Not for what was given back and not
        // delivered since: that waits for what is leased.
        let is_had = |offset: u64| leases.iter().any(|lease: &Lease| lease.offset == offset);
        let is_in_the_way = |offset: u64| known.in_flight()[&offset].nonce != 0 && !is_had(offset);
        let lock = known.locks().get(&row.message_group);
        if lock.is_some_and(|lock| lock.in_flight().range(..offset).any(|&it| is_in_the_way(it))) {
            continue;
        }
        let row = InFlight {
            auto_renew: deliver.auto_renew,
            written: false,
            departed: false,
            attempt: plant!(RepeatCountsAnAttempt => row.attempt + 1, else row.attempt),
            nonce: plant!(RepeatVoidsTheReceipt => deliver.nonce, else row.nonce),
            at_ms: deadline_ms,
            ..*row
        };
        let Some(message) = Message::get(kv, queue, offset)? else {
            return Err(Fault::Corrupt(format!(
                "message {queue:?}/{offset} is leased but has no place"
            )));
        };
        core.set_in_flight(kv, queue, group, offset, row)?;
        leases.push(Lease {
            offset,
            attempt: row.attempt,
            nonce: row.nonce,
            position: message.stored.position,
            stored_ms: message.stored.stored_ms,
            message_group: row.message_group,
        });
    }
    Ok(Outcome {
        reply: Reply::Delivered { leases },
        effects: vec![Effect::LeaseDeadline { at_ms: deadline_ms }],
    })
}

impl Core {
    /// A lease that a request gets once more if it is repeated.
    fn can_be_repeated(&self, row: &InFlight) -> bool {
        let age_ms = self.now_ms.saturating_sub(row.first_leased_ms);
        row.leased && row.request != 0 && age_ms < REPEATED_WITHIN_MS
    }

    /// Leases that a request has already, by its hash, on the queues of a topic, and can be given again; at most so many.
    pub fn had_by(&self, request: u64, group: GroupId, topic: u32, limit: usize) -> Vec<(QueueId, u64)> {
        let from = (request, group, QueueId::new(topic, 0), 0);
        let to = (request, group, QueueId::new(topic, u32::MAX), u64::MAX);
        let had = self.requests.range(from..=to).filter(|&&(_, _, queue, offset)| {
            let known = &self.subscriptions[&(queue, group)];
            known.seeks_to.is_none() && self.can_be_repeated(&known.in_flight()[&offset])
        });
        let had = had.filter(|_| request != 0 && !self.is_paused(group));
        had.take(limit)
            .map(|&(.., queue, offset)| (queue, offset))
            .collect()
    }
}
