//! Bodies of planted bugs: the queue core.

use crate::{
    core::Core,
    ids::{GroupId, QueueId},
    letter::Letter,
    outcome::{Effect, Lease, Outcome, Reply},
    view::Selection,
};

/// Of what could be delivered of several lanes, what is new, if anything is.
pub(crate) fn new_ones_first(all: &mut [(QueueId, Selection)]) {
    if all.iter().any(|(_, selection)| selection.new_count > 0) {
        all.iter_mut()
            .for_each(|(_, selection)| selection.redeliver.clear());
    }
}

/// A delivery without the consumer group's position.
pub(crate) fn unsaved(leases: Vec<Lease>, deadline_ms: u64) -> Outcome {
    Outcome {
        reply: Reply::Delivered { leases },
        effects: vec![Effect::LeaseDeadline { at_ms: deadline_ms }],
    }
}

/// What is known of a dead letter, without what became of it before its end.
pub(crate) fn last_note_of(letter: Letter) -> Letter {
    let history: Vec<_> = letter.history.last().copied().into_iter().collect();
    Letter {
        noted: history.len() as u32,
        history,
        ..letter
    }
}

impl Core {
    /// Acknowledges in this memory only; false without such a lease.
    pub fn planted_ack(&mut self, group: GroupId, queue: QueueId, offset: u64, nonce: u64) -> bool {
        let Some(known) = self.subscriptions.get_mut(&(queue, group)) else {
            return false;
        };
        let row = known.in_flight().get(&offset).copied();
        let Some(row) = row.filter(|row| row.nonce == nonce) else {
            return false;
        };
        known.remove(offset, 0);
        known.acked += 1;
        self.strike_lease(queue, group, offset, &row);
        true
    }
}
