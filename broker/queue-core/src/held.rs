//! The orders by which leases are found: by their end, by who holds them if the server prolongs them, and by the request they were
//! delivered to. And what is parked.

use crate::{
    core::Core,
    ids::{GroupId, QueueId},
    subscription::InFlight,
};

/// (client, its answer was written out, end, queue, consumer group, offset) of a lease that the server prolongs.
pub(crate) type Held = (u64, bool, u64, QueueId, GroupId, u64);

impl Core {
    /// The first so many clients, from `from` on, that hold leases which the server prolongs, each with the earliest end of
    /// those whose answers were written out. It costs as much as there are clients, whatever they hold.
    pub fn holders(&self, from: u64, limit: usize) -> Vec<(u64, Option<u64>)> {
        let mut found = Vec::new();
        let mut next = Some(from);
        while let Some(from) = next
            && found.len() < limit
            && let Some(&(client, ..)) = self.held.range(first_of(from, false, 0)..).next()
        {
            let written = self.held_by(client, true, 0).next();
            found.push((client, written.map(|&(_, _, at_ms, ..)| at_ms)));
            next = client.checked_add(1);
        }
        found
    }

    /// True if a client holds a lease that the server prolongs and that ends after `at_ms`.
    pub fn holds_beyond(&self, client: u64, at_ms: u64) -> bool {
        let after = at_ms.saturating_add(1);
        [true, false]
            .into_iter()
            .any(|written| self.held_by(client, written, after).next().is_some())
    }

    /// Leases of one client that the server prolongs, from the first that ends at `from_ms` or later.
    pub(crate) fn held_by(&self, client: u64, written: bool, from_ms: u64) -> impl Iterator<Item = &Held> {
        let from = first_of(client, written, from_ms);
        self.held
            .range(from..)
            .take_while(move |held| (held.0, held.1) == (client, written))
    }

    /// Puts a lease into the orders by which leases are found.
    pub(crate) fn enter_lease(&mut self, queue: QueueId, group: GroupId, offset: u64, row: &InFlight) {
        if row.parked {
            self.parked.insert((group, queue, offset));
        }
        if row.leased {
            self.deadlines.insert((row.at_ms, queue, group, offset));
        }
        if row.leased && row.auto_renew {
            self.held
                .insert((row.client, row.written, row.at_ms, queue, group, offset));
        }
        if row.leased && row.request != 0 {
            self.requests.insert((row.request, group, queue, offset));
        }
    }

    /// Takes it out of them.
    pub(crate) fn strike_lease(&mut self, queue: QueueId, group: GroupId, offset: u64, row: &InFlight) {
        if row.parked {
            self.parked.remove(&(group, queue, offset));
        }
        self.deadlines.remove(&(row.at_ms, queue, group, offset));
        self.held
            .remove(&(row.client, row.written, row.at_ms, queue, group, offset));
        if row.request != 0 {
            self.requests.remove(&(row.request, group, queue, offset));
        }
    }
}

/// Before all leases of a client that end at `from_ms` or later.
fn first_of(client: u64, written: bool, from_ms: u64) -> Held {
    (client, written, from_ms, QueueId(0), GroupId(0), 0)
}
