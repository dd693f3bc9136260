//! What a receive gets of one queue: first what waits and is due, then new messages; as many as wanted, and no more bytes than
//! one answer may carry and there is room for. What the consumer's filter does not let through is passed over.
//!
//! A look at new messages is short, because nothing is applied meanwhile. What was found is remembered (`looked.rs`), so that the
//! next receive does not look again; the log hears of it when something is delivered, or when it is worth an entry.

use flotilla_proto::{
    peer::seek_queue::To,
    record::{Command, Deliver, command},
};
use queue_core::{Fault, GroupId, QueueId, Selection, Stored};

use super::{
    filter::Filter,
    kv::Reading,
    looked::Runs,
    shard::{DataShard, DeliverError, Want},
};
use crate::{
    limits::{
        DELIVERED_OVERHEAD_BYTES, FILTER_LOOKS_AT, FILTER_LOOKS_FOR, FILTER_READ_BYTES, MAX_RECEIVE_BYTES,
        PASS_OVER_AT, PASS_OVER_MOST,
    },
    unread::Room,
};

/// What to deliver.
#[derive(Debug, Default)]
pub(super) struct Choice {
    redeliver: Vec<u64>,
    first_new: u64,
    /// From there on.
    new: Runs,
    /// There may be more behind them: it was not looked at any further for now.
    more: bool,
}

impl Choice {
    /// True if a consumer gets something.
    fn has_any(&self) -> bool {
        !self.redeliver.is_empty() || self.new.has_any()
    }

    /// The offset behind what was looked at.
    fn next(&self) -> u64 {
        self.first_new + self.new.len()
    }

    /// The command that says so; without a lease.
    pub(super) fn to_command(&self, queue: QueueId, want: &Want) -> Deliver {
        Deliver {
            group: want.group.id,
            queue: queue.0,
            redeliver: self.redeliver.clone(),
            first_new: self.first_new,
            new: self.new.to_wire(),
            filter: want.filter.id(),
            ..Deliver::default()
        }
    }
}

/// Where a consumer group is on a queue, where a seek would put it, and how many were done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SeekTarget {
    pub(crate) before: u64,
    pub(crate) after: u64,
    pub(crate) epoch: u64,
}

/// Bytes of one answer, as it grows.
struct Sizing<'a> {
    left: usize,
    is_empty: bool,
    room: &'a mut Room,
}

impl Sizing<'_> {
    /// Whether a message finds a place in the answer, which it then has. The first one does however large it is.
    fn fits(&mut self, stored: Option<Stored>) -> bool {
        let bytes = stored.map_or(0, |stored| stored.position.frame_len as usize);
        let fits = (self.is_empty || bytes <= self.left)
            && self.room.grow((bytes + DELIVERED_OVERHEAD_BYTES) as u64);
        self.left = self.left.saturating_sub(bytes);
        self.is_empty &= !fits;
        fits
    }
}

impl DataShard {
    /// What to deliver now, and when that is; nothing if there is nothing. Where much was passed over and nothing found, or nobody
    /// waits any longer, the log is told. There may be more behind it: then the next receive looks on at once.
    pub(super) async fn choose_any(
        &self,
        queue: QueueId,
        want: &Want,
        room: &mut Room,
    ) -> Result<Option<(Choice, u64)>, DeliverError> {
        let now = self.now_ms();
        let choice = self.choose(queue, want, now, room).await?;
        if choice.has_any() {
            return Ok(Some((choice, now)));
        }
        let looked = choice.new.len();
        let tells = looked >= PASS_OVER_AT || choice.more || want.is_last;
        if tells && looked > 0 {
            let command = command::Command::Deliver(choice.to_command(queue, want));
            let command = Command {
                command: Some(command),
            };
            self.proposer.submit(command).await?;
        }
        if choice.more {
            self.machine.ring_group((queue.topic(), want.group.id));
        }
        Ok(None)
    }

    /// What to deliver now. It may be that some are passed over and none is delivered, and that there is more behind them.
    async fn choose(
        &self,
        queue: QueueId,
        want: &Want,
        now: u64,
        room: &mut Room,
    ) -> Result<Choice, DeliverError> {
        let group = GroupId(want.group.id);
        let bound = self.bounds.in_flight_per_queue;
        let bound = plant!(InFlightWithoutBound => usize::MAX, else bound);
        let selection = self
            .machine
            .read(|core| core.selectable(group, queue, now, want.count, bound));
        let mut sizing = Sizing {
            left: MAX_RECEIVE_BYTES,
            is_empty: true,
            room,
        };
        let mut choice = Choice {
            first_new: selection.first_new,
            ..Choice::default()
        };
        let all = self.choose_due(queue, &selection, &mut choice, &mut sizing)?;
        let everything = plant!(FilterIgnored => true, else want.filter.is_everything());
        if all && everything {
            self.choose_new(queue, selection.new_count, &mut choice, &mut sizing)?;
        } else if all && selection.new_count > 0 {
            self.choose_filtered(queue, want, selection.new_count, &mut choice, &mut sizing)
                .await?;
        }
        Ok(choice)
    }

    /// What waits and is due. False if not all of it fits.
    fn choose_due(
        &self,
        queue: QueueId,
        selection: &Selection,
        choice: &mut Choice,
        sizing: &mut Sizing<'_>,
    ) -> Result<bool, DeliverError> {
        let due = selection.redeliver.iter().copied();
        for (offset, stored) in due.clone().zip(self.stored(queue, due)?) {
            if !sizing.fits(stored) {
                break;
            }
            choice.redeliver.push(offset);
        }
        match (choice.redeliver.len(), selection.redeliver.len()) {
            (0, 1..) => Err(DeliverError::NoRoom),
            (kept, wanted) => Ok(kept == wanted),
        }
    }

    fn choose_new(
        &self,
        queue: QueueId,
        most: u32,
        choice: &mut Choice,
        sizing: &mut Sizing<'_>,
    ) -> Result<(), DeliverError> {
        let offsets = choice.first_new..choice.first_new + u64::from(most);
        let stored = self.stored(queue, offsets)?;
        let fitting = stored.into_iter().take_while(|stored| sizing.fits(*stored));
        choice.new.add(false, fitting.count() as u32);
        if most > 0 && !choice.has_any() {
            return Err(DeliverError::NoRoom);
        }
        Ok(())
    }

    /// Looks through new messages, page by page, until there are enough or no more, or it is worth an entry to say so.
    async fn choose_filtered(
        &self,
        queue: QueueId,
        want: &Want,
        most: u32,
        choice: &mut Choice,
        sizing: &mut Sizing<'_>,
    ) -> Result<(), DeliverError> {
        let (key, filter) = ((GroupId(want.group.id), queue), want.filter.id());
        let mut ahead = self.looked.from(key, filter, choice.first_new);
        let mut most = most;
        let until_ms = self.time_ms() + FILTER_LOOKS_FOR.as_millis() as u64;
        loop {
            let is_full = self.take_passing(queue, &mut ahead, &mut most, choice, sizing)?;
            if is_full {
                break;
            }
            choice.more = choice.new.len() >= PASS_OVER_MOST || self.time_ms() >= until_ms;
            if choice.more {
                break;
            }
            ahead = self.look(queue, choice.next(), &want.filter).await?;
            if ahead.len() == 0 {
                break;
            }
            // Others have their turn between two looks.
            tokio::task::yield_now().await;
        }
        plant!(FilterPassesOverTheRest => choice.new.add(true, ahead.len() as u32));
        let mut known = choice.new.clone();
        ahead.iter().for_each(|run| known.add(run.filtered, run.count));
        self.looked.remember(key, filter, choice.first_new, known);
        Ok(())
    }

    /// Takes from what is known of the messages behind the choice. True if no more of them have a place in the answer.
    fn take_passing(
        &self,
        queue: QueueId,
        ahead: &mut Runs,
        most: &mut u32,
        choice: &mut Choice,
        sizing: &mut Sizing<'_>,
    ) -> Result<bool, DeliverError> {
        while let Some(run) = ahead.first() {
            if run.filtered {
                choice.new.add(true, run.count);
                ahead.drop_first(run.count);
                continue;
            }
            let wanted = run.count.min(*most);
            let from = choice.next();
            let stored = self.stored(queue, from..from + u64::from(wanted))?;
            let taken = stored
                .into_iter()
                .take_while(|stored| sizing.fits(*stored))
                .count() as u32;
            choice.new.add(false, taken);
            ahead.drop_first(taken);
            *most -= taken;
            if taken < run.count {
                return match choice.has_any() {
                    true => Ok(true),
                    false => Err(DeliverError::NoRoom),
                };
            }
        }
        Ok(*most == 0)
    }

    fn time_ms(&self) -> u64 {
        self.machine.time.steady_ms()
    }

    /// Which of the next messages from an offset on a filter lets through. Nothing if there are none, or they cannot be read now.
    async fn look(&self, queue: QueueId, from: u64, filter: &Filter) -> Result<Runs, DeliverError> {
        let page = self.new_from(queue, from, FILTER_LOOKS_AT)?;
        let mut runs = Runs::default();
        let by_tag = page.iter().map_while(|stored| filter.by_tag(stored.tag));
        by_tag.for_each(|passes| runs.add(!passes, 1));
        if runs.len() > 0 || page.is_empty() {
            return Ok(runs);
        }
        let mut bytes = 0;
        let fitting = page.iter().enumerate().take_while(|(at, stored)| {
            bytes += stored.position.frame_len as usize;
            *at == 0 || bytes <= FILTER_READ_BYTES
        });
        let places = (from..).zip(fitting.map(|(_, stored)| stored.position)).collect();
        let _turn = self.filter_reads.acquire().await.expect("nobody closes it");
        let messages = self.read_at(queue, places).await?;
        for ((offset, message), expected) in messages.into_iter().zip(from..) {
            // Nothing is said of what could not be read, and of what is behind it.
            if offset != expected {
                break;
            }
            runs.add(!filter.by_message(&message), 1);
        }
        Ok(runs)
    }

    /// Where a consumer group is on a queue, and where a seek would put it, as this replica knows.
    pub(crate) fn seek_target(&self, group: GroupId, queue: QueueId, to: To) -> Result<SeekTarget, Fault> {
        self.replica.read_state(|state| {
            self.machine.read(|core| {
                let ends = core.queue(queue).map_or((0, 0), |ends| (ends.first, ends.next));
                let wanted = match to {
                    To::Offset(offset) => offset,
                    To::AtMs(at_ms) => core.offset_at(&Reading(state), queue, at_ms)?,
                    To::First(_) => ends.0,
                    To::Last(_) => ends.1,
                };
                let known = core.subscription(group, queue);
                Ok(SeekTarget {
                    before: known.as_ref().map_or(ends.0, |known| known.cursor),
                    after: wanted.clamp(ends.0, ends.1),
                    epoch: known.map_or(0, |known| known.epoch),
                })
            })
        })
    }

    /// What the state knows of messages of a queue.
    fn stored(
        &self,
        queue: QueueId,
        offsets: impl Iterator<Item = u64>,
    ) -> Result<Vec<Option<Stored>>, Fault> {
        self.replica.read_state(|state| {
            self.machine.read(|core| {
                offsets
                    .map(|offset| core.locate(&Reading(state), queue, offset))
                    .collect()
            })
        })
    }

    /// What the state knows of the next messages of a queue.
    fn new_from(&self, queue: QueueId, from: u64, limit: usize) -> Result<Vec<Stored>, Fault> {
        self.replica.read_state(|state| {
            self.machine
                .read(|core| core.stored_from(&Reading(state), queue, from, limit))
        })
    }
}
