//! A request that was repeated because its answer was lost gets what it has already, under the receipts that it has: no attempt is
//! counted, and the leases begin anew.

use flotilla_proto::record::Deliver;

use crate::{
    core::Core,
    ids::{GroupId, QueueId},
    kv::{Fault, KeyValue},
    limits::MAX_DELIVER,
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
        let row = core.subscriptions[&(queue, group)].in_flight().get(&offset);
        let Some(row) = row.filter(|row| row.leased && row.request == deliver.request && row.request != 0)
        else {
            continue;
        };
        let row = InFlight {
            auto_renew: deliver.auto_renew,
            written: false,
            attempt: plant!(RepeatCountsAnAttempt => row.attempt + 1, else row.attempt),
            nonce: plant!(RepeatVoidsTheReceipt => deliver.nonce, else row.nonce),
            at_ms: deadline_ms,
            client: deliver.client,
            first_leased_ms: core.now_ms,
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
    /// Leases that a request has already, by its hash, on the queues of a topic, and can be given again; at most so many.
    pub fn had_by(&self, request: u64, group: GroupId, topic: u32, limit: usize) -> Vec<(QueueId, u64)> {
        let from = (request, group, QueueId::new(topic, 0), 0);
        let to = (request, group, QueueId::new(topic, u32::MAX), u64::MAX);
        let had = self.requests.range(from..=to);
        let had = had.filter(|_| request != 0 && !self.is_paused(group));
        had.take(limit)
            .map(|&(.., queue, offset)| (queue, offset))
            .collect()
    }
}
