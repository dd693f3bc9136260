//! What a receive gets of one queue: first what waits and is due, then new messages; as many as wanted, and no more bytes than
//! one answer may carry and there is room for. What the consumer's filter does not let through is passed over.
//!
//! A look at new messages is short, because nothing is applied meanwhile. What was found is remembered (`looked.rs`), so that the
//! next receive does not look again; the log hears of it when something is delivered, or when it is worth an entry.

use flotilla_proto::{
    peer::seek_queue::To,
    record::{Command, Deliver, command},
};
use queue_core::{Fault, GroupId, Position, QueueId, Selection, Stored};
use tokio::time::Instant;

use super::{DataShard, DeliverError, Want, looked::Runs};
use crate::{
    filter::Filter,
    limits::{
        DELIVERED_OVERHEAD_BYTES, FILTER_LOOKS_FOR, FILTER_READ_BYTES, FILTER_READ_ENTRIES,
        FILTER_RESTS_EVERY_MS, MAX_RECEIVE_BATCH, MAX_RECEIVE_BYTES,
    },
    node::kv::Reading,
    unread::Room,
};

mod by_priority;
mod in_order;

/// What to deliver.
#[derive(Debug, Default)]
pub(super) struct Choice {
    redeliver: Vec<u64>,
    first_new: u64,
    /// From there on.
    new: Runs,
    /// There may be more behind them: it was not looked at any further for now.
    more: bool,
    /// What the request that asks was given already.
    again: Vec<u64>,
    /// Where order matters: what the command names, how many of it are leased, and how many passed over.
    in_order: Option<Deliver>,
    leased: usize,
    passed_over: u64,
}

impl Choice {
    /// True if a consumer gets something.
    fn has_any(&self) -> bool {
        !self.redeliver.is_empty() || self.new.has_any() || self.leased > 0 || !self.again.is_empty()
    }

    /// The offset behind what was looked at.
    fn next(&self) -> u64 {
        self.first_new + self.new.len()
    }

    /// The command that leases it.
    pub(super) fn to_lease(&self, queue: QueueId, want: &Want, now_ms: u64, nonce: u64) -> Deliver {
        Deliver {
            deadline_ms: now_ms + want.lease_ms,
            nonce,
            auto_renew: want.auto_renew,
            client: want.client,
            ..self.to_command(queue, want)
        }
    }

    /// The command that says so; without a lease.
    pub(super) fn to_command(&self, queue: QueueId, want: &Want) -> Deliver {
        Deliver {
            group: want.group.id,
            queue: queue.0,
            first_new: self.first_new,
            filter: want.filter.id(),
            request: want.request,
            again: self.again.clone(),
            ..self.in_order.clone().unwrap_or_else(|| Deliver {
                redeliver: self.redeliver.clone(),
                new: self.new.to_wire(),
                ..Deliver::default()
            })
        }
    }
}

/// Where a consumer group is on a queue, where a seek would put it, and how many were done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SeekTarget {
    pub(crate) before: u64,
    pub(crate) after: u64,
    pub(crate) epoch: u64,
    /// The one that was done last, if none is under way, and where the consumer group began by it.
    pub(crate) last_seek: u64,
    pub(crate) start: u64,
    /// It has begun there.
    pub(crate) begun: bool,
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
    /// What to deliver now, and when that is; nothing if there is nothing, or its caller has given up by now. Where nothing was
    /// found the log is told what was passed over, if that is much, or was found long ago. There may be more behind it: then the
    /// next receive looks on at once.
    pub(super) async fn choose_any(
        &self,
        queue: QueueId,
        want: &Want,
        room: &mut Room,
    ) -> Result<Option<(Choice, u64)>, DeliverError> {
        let now = self.now_ms();
        let choice = self.choose(queue, want, now, room).await?;
        if choice.has_any() {
            // What is leased for nobody waits for its lease to end, and an attempt is spent.
            let gone = want.give_up.is_some_and(|at| Instant::now() >= at);
            return Ok((!gone).then_some((choice, now)));
        }
        self.tell_passed_over(queue, want, &choice).await?;
        Ok(None)
    }

    /// What a receive that found nothing tells the log of what it passed over, if that is much, or was found long ago.
    async fn tell_passed_over(
        &self,
        queue: QueueId,
        want: &Want,
        choice: &Choice,
    ) -> Result<(), DeliverError> {
        let looked = choice.new.len() + choice.passed_over;
        let key = (GroupId(want.group.id), queue, want.filter.id());
        let old = self.time_ms().saturating_sub(self.bounds.pass_over_after_ms);
        let is_old = self.looked.since(key).is_some_and(|since| since <= old);
        let tells = looked >= self.bounds.pass_over_at || choice.more || is_old;
        if tells && looked > 0 {
            let command = command::Command::Deliver(choice.to_command(queue, want));
            let command = Command {
                command: Some(command),
            };
            self.proposer.submit(command).await?;
            // Told: what is passed over next is not as old.
            self.looked
                .remember(key, choice.first_new, Runs::default(), self.time_ms());
        }
        if choice.more {
            self.machine.ring_group((queue.topic(), want.group.id));
        }
        Ok(())
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
        let mut sizing = Sizing {
            left: MAX_RECEIVE_BYTES,
            is_empty: true,
            room,
        };
        let had = self.had(queue, want);
        if !had.is_empty() {
            return self.choose_again(queue, had, &mut sizing);
        }
        if self.machine.read(|core| core.is_fifo(group)) {
            return self.choose_in_order(queue, want, now, &mut sizing).await;
        }
        let selection = self
            .machine
            .read(|core| core.selectable(group, queue, now, want.count, bound));
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

    /// What a request that is repeated was given of a queue already.
    fn had(&self, queue: QueueId, want: &Want) -> Vec<u64> {
        let group = GroupId(want.group.id);
        let request = plant!(RepeatedRequestIgnored => 0, else want.request);
        let had = self
            .machine
            .read(|core| core.had_by(request, group, queue.topic(), MAX_RECEIVE_BATCH));
        let of_queue = had.into_iter().filter(|&(of, _)| of == queue);
        of_queue.map(|(_, offset)| offset).take(want.count).collect()
    }

    /// As much of that as fits: once more.
    fn choose_again(
        &self,
        queue: QueueId,
        had: Vec<u64>,
        sizing: &mut Sizing<'_>,
    ) -> Result<Choice, DeliverError> {
        let stored = self.stored(queue, had.iter().copied())?;
        let fitting = had.into_iter().zip(stored);
        let again: Vec<u64> = fitting
            .take_while(|&(_, stored)| sizing.fits(stored))
            .map(|(offset, _)| offset)
            .collect();
        if again.is_empty() {
            return Err(DeliverError::NoRoom);
        }
        Ok(Choice {
            again,
            ..Choice::default()
        })
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

    /// Looks through new messages, page by page, until something is found, or there are no more, or it has taken long. What a page
    /// has is remembered before the next one: whoever gives up leaves it to those who come after it.
    async fn choose_filtered(
        &self,
        queue: QueueId,
        want: &Want,
        mut most: u32,
        choice: &mut Choice,
        sizing: &mut Sizing<'_>,
    ) -> Result<(), DeliverError> {
        let key = (GroupId(want.group.id), queue, want.filter.id());
        let mut ahead = self.looked.from(key, choice.first_new);
        let until_ms = self.time_ms() + FILTER_LOOKS_FOR.as_millis() as u64;
        loop {
            let is_full = self.take_passing(queue, &mut ahead, &mut most, choice, sizing);
            plant!(FilterPassesOverTheRest => choice.new.add(true, ahead.len() as u32));
            let mut known = choice.new.clone();
            ahead.iter().for_each(|run| known.add(run.filtered, run.count));
            let now = self.time_ms();
            self.looked.remember(key, choice.first_new, known, now);
            if is_full? || choice.has_any() {
                return Ok(());
            }
            choice.more = choice.new.len() >= self.bounds.pass_over_most || now >= until_ms;
            if choice.more {
                return Ok(());
            }
            ahead = self.look(queue, choice.next(), &want.filter, until_ms).await?;
            if ahead.len() == 0 {
                return Ok(());
            }
            // Others have their turn between two looks.
            tokio::task::yield_now().await;
        }
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

    pub(super) fn time_ms(&self) -> u64 {
        self.machine.time.steady_ms()
    }

    /// Which of the next messages from an offset on a filter lets through. Nothing if there are none.
    pub(super) async fn look(
        &self,
        queue: QueueId,
        from: u64,
        filter: &Filter,
        until_ms: u64,
    ) -> Result<Runs, DeliverError> {
        let page = self.new_from(queue, from, self.bounds.filter_page)?;
        let mut runs = Runs::default();
        let by_tag = page.iter().map_while(|stored| filter.by_tag(stored.tag));
        by_tag.for_each(|passes| runs.add(!passes, 1));
        if runs.len() > 0 || page.is_empty() {
            return Ok(runs);
        }
        let places: Vec<(u64, Position)> = (from..).zip(at_once(&page)).collect();
        let passes = self.evaluate(queue, places, filter, until_ms).await?;
        passes.into_iter().for_each(|passes| runs.add(!passes, 1));
        Ok(runs)
    }

    /// Whether messages pass a filter that has to read them: of the first of them, as far as there is time. One that cannot be read
    /// now, or is forgotten, is let through.
    async fn evaluate(
        &self,
        queue: QueueId,
        places: Vec<(u64, Position)>,
        filter: &Filter,
        until_ms: u64,
    ) -> Result<Vec<bool>, DeliverError> {
        let asked: Vec<u64> = places.iter().map(|&(offset, _)| offset).collect();
        let mut fates = Vec::with_capacity(asked.len());
        let _turn = self
            .machine
            .filter_reads()
            .acquire()
            .await
            .expect("nobody closes it");
        let messages = match self.read_at(queue, places).await {
            // As without a filter: who gets it is told, and the others are not kept from what is behind it.
            Err(DeliverError::Unreadable(_)) => Vec::new(),
            read => read?,
        };
        let mut messages = messages.into_iter().peekable();
        let mut rested_ms = self.time_ms();
        for offset in asked {
            let message = messages.next_if(|(at, _)| *at == offset);
            fates.push(message.is_none_or(|(_, message)| filter.by_message(&message)));
            let now = self.time_ms();
            if now >= until_ms {
                break;
            }
            if now > rested_ms + FILTER_RESTS_EVERY_MS {
                tokio::task::yield_now().await;
                rested_ms = now;
            }
        }
        Ok(fates)
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
                let done = known.as_ref().filter(|known| known.seeks_to.is_none());
                Ok(SeekTarget {
                    before: known.as_ref().map_or(ends.0, |known| known.cursor),
                    after: wanted.clamp(ends.0, ends.1),
                    epoch: known.as_ref().map_or(0, |known| known.epoch),
                    last_seek: done.map_or(0, |known| known.last_seek),
                    begun: known.is_some(),
                    start: known.map_or(ends.0, |known| known.start),
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
    pub(super) fn new_from(&self, queue: QueueId, from: u64, limit: usize) -> Result<Vec<Stored>, Fault> {
        self.replica.read_state(|state| {
            self.machine
                .read(|core| core.stored_from(&Reading(state), queue, from, limit))
        })
    }
}

/// Of a page, what is read at once: so many bytes, from so many entries, each of which is read as a whole.
fn at_once(page: &[Stored]) -> impl Iterator<Item = Position> + '_ {
    let (mut bytes, mut entries, mut last) = (0, 0, 0);
    let places = page.iter().map(|stored| stored.position);
    places.take_while(move |at| {
        bytes += at.frame_len as usize;
        entries += usize::from(at.index != last);
        last = at.index;
        entries == 1 || (bytes <= FILTER_READ_BYTES && entries <= FILTER_READ_ENTRIES)
    })
}
