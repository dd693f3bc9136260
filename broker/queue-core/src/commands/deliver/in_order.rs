//! What of a delivery in order holds: nothing of a message group is delivered while an earlier message of it is neither over nor
//! delivered by the same command.

use flotilla_proto::record::{Behind, Deliver, Run};

use super::{Choice, Chosen, first_attempt, next_attempt};
use crate::{
    core::Core,
    ids::QueueId,
    keys,
    kv::{Fault, KeyValue},
    limits::{MAX_DELIVER, MAX_IN_FLIGHT, MAX_LOOKED_IN_ORDER},
    message_group::{Open, chain},
    queue::Message,
    subscription::Subscription,
};

/// What is chosen so far.
struct Choosing<'a> {
    known: &'a Subscription,
    now_ms: u64,
    choice: Choice,
    /// How many are chosen that were not in flight.
    fresh: usize,
    open: Open,
}

pub(super) fn choose(
    core: &Core,
    kv: &dyn KeyValue,
    known: &Subscription,
    deliver: &Deliver,
) -> Result<Choice, Fault> {
    let queue = QueueId(deliver.queue);
    let mut choosing = Choosing {
        known,
        now_ms: core.now_ms,
        choice: Choice {
            cursor: known.cursor,
            ..Choice::default()
        },
        fresh: 0,
        open: Open::default(),
    };
    for &offset in deliver.redeliver.iter().take(MAX_DELIVER) {
        choosing.waiting(offset);
    }
    for behind in deliver.behind.iter().take(MAX_DELIVER) {
        choosing.behind(kv, queue, behind)?;
    }
    choosing.new_ones(core, kv, deliver)?;
    Ok(choosing.choice)
}

impl Choosing<'_> {
    /// One more can be leased.
    fn has_room(&self) -> bool {
        self.choice.leases.len() < MAX_DELIVER && self.known.in_flight().len() + self.fresh < MAX_IN_FLIGHT
    }

    /// Takes a message that was not in flight.
    fn take(&mut self, offset: u64, message_group: u64) {
        self.fresh += 1;
        self.choice.leases.push(Chosen {
            message_group,
            ..first_attempt(offset)
        });
    }

    /// Takes a message that waits, if it is its turn.
    fn waiting(&mut self, offset: u64) {
        let row = self.known.in_flight().get(&offset).filter(|row| row.waits());
        let ascends = self.choice.leases.last().is_none_or(|last| last.offset < offset);
        let Some(row) = row.filter(|_| ascends) else {
            return;
        };
        let is_due = row.at_ms <= self.now_ms;
        let is_turn = match self.known.locks().get(&row.message_group) {
            None => is_due,
            Some(lock) => is_due && !lock.is_leased() && lock.in_flight().first() == Some(&offset),
        };
        if is_turn && self.choice.leases.len() < MAX_DELIVER {
            self.choice.leases.push(next_attempt(offset, row));
        }
    }

    /// Takes messages of a message group that were passed over, if all before them are over.
    fn behind(&mut self, kv: &dyn KeyValue, queue: QueueId, behind: &Behind) -> Result<(), Fault> {
        let group = behind.message_group;
        let lock = self.known.locks().get(&group);
        let lock = lock.filter(|lock| lock.in_flight().is_empty() && lock.blocked() > 0);
        let Some(lock) = lock.filter(|_| self.choice.unblocked.iter().all(|&(known, ..)| known != group))
        else {
            return Ok(());
        };
        let wanted = behind.runs.iter().map(|run| u64::from(run.count)).sum::<u64>();
        let wanted = wanted.min(lock.blocked()).min(MAX_LOOKED_IN_ORDER as u64) as usize;
        let offsets = chain(kv, queue, group, lock.next(), wanted + 1)?;
        let mut taken = 0;
        for (&offset, run) in offsets.iter().take(wanted).zip(each(&behind.runs)) {
            if !run.filtered && !self.has_room() {
                break;
            }
            match run.filtered {
                true => self.choice.filtered += 1,
                false => self.take(offset, group),
            }
            taken += 1;
        }
        if taken > 0 {
            let left = lock.blocked() - taken as u64;
            let at = plant!(NextInOrderSkipped => taken + 1, else taken);
            let next = offsets.get(at).copied().filter(|_| left > 0);
            self.choice.unblocked.push((group, taken as u64, next));
            if left == 0 {
                self.open.0.insert(group);
            }
        }
        Ok(())
    }

    /// Goes on from the cursor as far as what the leader saw still holds.
    fn new_ones(&mut self, core: &Core, kv: &dyn KeyValue, deliver: &Deliver) -> Result<(), Fault> {
        let queue = QueueId(deliver.queue);
        let next = core.queues.get(&queue).map_or(0, |queue| queue.next);
        let from = self.known.cursor;
        let wanted = deliver.new.iter().map(|run| u64::from(run.count)).sum::<u64>();
        let wanted = wanted.min(MAX_LOOKED_IN_ORDER as u64).min(next - from);
        if deliver.first_new != from || wanted == 0 {
            return Ok(());
        }
        let (start, end) = (keys::message(queue, from), keys::message(queue, from + wanted));
        let rows = kv.scan(&start, &end, wanted as usize)?;
        for ((_, value), run) in rows.into_iter().zip(each(&deliver.new)) {
            let group = Message::read(value)?.stored.message_group;
            let offset = self.choice.cursor;
            let is_free = self.open.is_free(self.known, group);
            match (run.blocked, run.filtered) {
                (true, _) if is_free => break,
                (true, _) => self.choice.blocked.push((group, offset)),
                (false, _) if !is_free => break,
                (false, true) => self.choice.filtered += 1,
                (false, false) if !self.has_room() => break,
                (false, false) => {
                    self.open.0.insert(group);
                    self.take(offset, group);
                }
            }
            self.choice.cursor += 1;
        }
        Ok(())
    }
}

/// Run by run, message by message.
fn each(runs: &[Run]) -> impl Iterator<Item = Run> + '_ {
    runs.iter()
        .flat_map(|&run| std::iter::repeat_n(run, run.count as usize))
}
