//! Written: the answers that carried leases have reached their clients, as far as the node that has the connection can know.
//!
//! Only such leases are prolonged: what an answer carried that never left would else stay invisible for as long as its
//! client lives. It stands in the state, because a new leader has to know it too.

use flotilla_proto::record::Written;

use crate::{
    core::Core,
    ids::{GroupId, QueueId},
    kv::{Fault, KeyValue},
    limits::MAX_RENEW_LEASES,
    outcome::{Outcome, Reply},
    subscription::InFlight,
};

pub(crate) fn apply(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    late_ms: u64,
    written: &Written,
) -> Result<Outcome, Fault> {
    let until_ms = written.until_ms.saturating_add(late_ms);
    let named = written.leases.iter().flat_map(|leases| {
        let place = (QueueId(leases.queue), GroupId(leases.group), leases.nonce);
        leases.offsets.iter().map(move |&offset| (place, offset))
    });
    let mut changed = 0;
    for ((queue, group, nonce), offset) in named.take(MAX_RENEW_LEASES) {
        let known = core.subscriptions.get(&(queue, group));
        let row = known.and_then(|known| known.in_flight().get(&offset));
        let Some(row) = row.filter(|row| row.holds(nonce) && row.auto_renew && !row.written) else {
            continue;
        };
        let row = InFlight {
            written: true,
            departed: false,
            at_ms: row.at_ms.max(until_ms),
            ..*row
        };
        core.set_in_flight(kv, queue, group, offset, row)?;
        changed += 1;
    }
    Ok(Reply::Prolonged { changed, more: false }.into())
}
