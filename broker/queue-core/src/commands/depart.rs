//! Depart: clients said good-bye, so what the server would renew for them ends soon. Until then their receipts count: what
//! they acknowledged before they left may still arrive.

use std::collections::BTreeSet;

use flotilla_proto::record::Depart;

use crate::{
    core::Core,
    held::Held,
    kv::{Fault, KeyValue},
    limits::{MAX_RENEW_CLIENTS, MAX_RENEW_LEASES},
    outcome::{Effect, Outcome, Reply},
    subscription::InFlight,
};

pub(crate) fn apply(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    late_ms: u64,
    depart: &Depart,
) -> Result<Outcome, Fault> {
    let at_ms = depart.at_ms.saturating_add(late_ms).max(core.now_ms);
    let limit = (depart.limit as usize).min(MAX_RENEW_LEASES);
    let mut theirs: Vec<Held> = Vec::new();
    // Each once, however often it is named.
    let clients: BTreeSet<u64> = depart.clients.iter().copied().take(MAX_RENEW_CLIENTS).collect();
    for client in clients {
        for (written, from_ms) in [(true, 0), (false, at_ms.saturating_add(1))] {
            let room = limit + 1 - theirs.len();
            theirs.extend(core.held_by(client, written, from_ms).take(room));
        }
    }
    let more = theirs.len() > limit;
    theirs.truncate(limit);
    let changed = theirs.len() as u32;
    for (_, _, ends_ms, queue, group, offset) in theirs {
        let row = core.subscriptions[&(queue, group)].in_flight()[&offset];
        let row = InFlight {
            written: false,
            departed: true,
            at_ms: ends_ms.min(at_ms),
            ..row
        };
        core.set_in_flight(kv, queue, group, offset, row)?;
    }
    let reply = Reply::Prolonged { changed, more };
    let effects = vec![Effect::LeaseDeadline { at_ms }];
    Ok(Outcome { reply, effects })
}
