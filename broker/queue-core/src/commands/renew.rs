//! Renew: the leases of clients that live are prolonged, many by one command. Receipts stay as they are.

use std::collections::BTreeSet;

use flotilla_proto::record::Renew;

use crate::{
    core::Core,
    held::Held,
    kv::{Fault, KeyValue},
    limits::{MAX_RENEW_CLIENTS, MAX_RENEW_LEASES},
    outcome::{Outcome, Reply},
    subscription::InFlight,
};

pub(crate) fn apply(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    late_ms: u64,
    renew: &Renew,
) -> Result<Outcome, Fault> {
    let before_ms = renew.before_ms.saturating_add(late_ms);
    // What is renewed must not be due again at once, or the same command would find it again.
    let until_ms = renew.until_ms.saturating_add(late_ms).max(before_ms);
    let since_ms = plant!(RenewalWithoutLimit => 0, else renew.since_ms);
    let limit = (renew.limit as usize).min(MAX_RENEW_LEASES);
    let mut due: Vec<Held> = Vec::new();
    // Each once, however often it is named.
    let clients: BTreeSet<u64> = renew.clients.iter().copied().take(MAX_RENEW_CLIENTS).collect();
    for client in clients {
        let of_client = core.held_by(client, true, 0);
        let ending = of_client.take_while(|&&(_, _, at_ms, ..)| at_ms < before_ms);
        // Held for too long: it ends as if its client were gone.
        let young = ending.filter(|&&(_, _, _, queue, group, offset)| {
            let lease = core.in_flight(group, queue, offset);
            lease.is_some_and(|lease| lease.first_leased_ms >= since_ms)
        });
        due.extend(young.take(limit + 1 - due.len()));
    }
    let more = due.len() > limit;
    due.truncate(limit);
    let changed = due.len() as u32;
    for (_, _, _, queue, group, offset) in due {
        let row = InFlight {
            at_ms: until_ms,
            ..core.subscriptions[&(queue, group)].in_flight()[&offset]
        };
        core.set_in_flight(kv, queue, group, offset, row)?;
    }
    Ok(Reply::Prolonged { changed, more }.into())
}
