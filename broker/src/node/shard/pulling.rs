//! What a pull gets of one queue: messages from an offset on, in order and without a gap. Nothing is leased, nothing is
//! written, and nothing is remembered of who asked.

use queue_core::{Fault, QueueId, Stored};
use raft_store::PayloadError;

use super::{DataShard, DeliverError, Delivery, looked::Runs};
use crate::{
    filter::Filter,
    limits::{DELIVERED_OVERHEAD_BYTES, FILTER_LOOKS_FOR, MAX_PULL_BYTES},
    node::kv::Reading,
    unread::Room,
};

/// Messages, and the offset behind what was looked at.
#[derive(Debug)]
pub(crate) struct Pulled {
    pub(crate) messages: Vec<Delivery>,
    pub(crate) next: u64,
}

/// What an answer has so far.
struct Answer<'a> {
    chosen: Vec<(u64, Stored)>,
    next: u64,
    most: usize,
    left: usize,
    room: &'a mut Room,
}

impl Answer<'_> {
    /// Whether a message finds a place, which it then has. The first does however large it is. The last quarter of the room is
    /// left to receives: what is leased must be read, and what is pulled can be pulled later.
    fn fits(&mut self, stored: &Stored) -> bool {
        let bytes = stored.position.frame_len as usize;
        let fits = (self.chosen.is_empty() || bytes <= self.left)
            && self.room.grow_spare((bytes + DELIVERED_OVERHEAD_BYTES) as u64);
        self.left = self.left.saturating_sub(bytes);
        fits
    }
}

impl DataShard {
    /// The first offset that a queue keeps, and that of its next message, as this replica knows.
    pub(crate) fn ends(&self, queue: QueueId) -> (u64, u64) {
        let ends = self.machine.read(|core| core.queue(queue));
        ends.map_or((0, 0), |ends| (ends.first, ends.next))
    }

    /// Messages from an offset on that a filter lets through, at most so many. Looks through no more of them than a receive does.
    pub(crate) async fn pull(
        &self,
        queue: QueueId,
        from: u64,
        most: usize,
        filter: &Filter,
        room: &mut Room,
    ) -> Result<Pulled, DeliverError> {
        let until_ms = self.time_ms() + FILTER_LOOKS_FOR.as_millis() as u64;
        let mut answer = Answer {
            chosen: Vec::new(),
            next: from,
            most,
            left: MAX_PULL_BYTES,
            room,
        };
        loop {
            let runs = match filter.is_everything() {
                true => self.everything(queue, from, most)?,
                false => self.look(queue, answer.next, filter, until_ms).await?,
            };
            let is_full = self.take(queue, &runs, &mut answer)?;
            let looked = answer.next - from;
            if is_full
                || runs.len() == 0
                || !answer.chosen.is_empty()
                || looked >= self.bounds.pass_over_most
                || self.time_ms() >= until_ms
            {
                break;
            }
            // Others have their turn between two looks.
            tokio::task::yield_now().await;
        }
        let Answer { chosen, next, .. } = answer;
        self.read_chosen(queue, chosen, next).await
    }

    fn everything(&self, queue: QueueId, from: u64, most: usize) -> Result<Runs, Fault> {
        let mut runs = Runs::default();
        runs.add(false, self.new_from(queue, from, most)?.len() as u32);
        Ok(runs)
    }

    /// Takes what was looked at. True if no more has a place in the answer.
    fn take(&self, queue: QueueId, runs: &Runs, answer: &mut Answer<'_>) -> Result<bool, DeliverError> {
        for run in runs.iter() {
            if run.filtered {
                answer.next += u64::from(run.count);
                continue;
            }
            let wanted = (run.count as usize).min(answer.most - answer.chosen.len());
            let page = self.new_from(queue, answer.next, wanted)?;
            let found = page.len();
            for stored in page {
                if !answer.fits(&stored) {
                    return match answer.chosen.is_empty() {
                        true => Err(DeliverError::NoRoom),
                        false => Ok(true),
                    };
                }
                answer.chosen.push((answer.next, stored));
                answer.next += 1;
            }
            // The answer is full, or retention took what was looked at.
            if found < run.count as usize {
                return Ok(true);
            }
        }
        Ok(answer.chosen.len() == answer.most)
    }

    /// Reads them. What retention took meanwhile is left out; what cannot be read now ends the answer before it: whoever
    /// goes on behind what came must not miss it.
    async fn read_chosen(
        &self,
        queue: QueueId,
        chosen: Vec<(u64, Stored)>,
        mut next: u64,
    ) -> Result<Pulled, DeliverError> {
        let mut messages = Vec::with_capacity(chosen.len());
        let places = chosen.iter().map(|&(offset, stored)| (offset, stored.position));
        let read = match chosen.is_empty() {
            true => Vec::new(),
            false => {
                let _turn = self
                    .machine
                    .pull_reads()
                    .acquire()
                    .await
                    .expect("nobody closes it");
                self.read_at(queue, places.collect()).await?
            }
        };
        let mut read = read.into_iter().peekable();
        for (offset, stored) in chosen {
            if let Some((_, message)) = read.next_if(|&(at, _)| at == offset) {
                messages.push(Delivery {
                    queue,
                    offset,
                    attempt: 0,
                    nonce: 0,
                    stored_ms: stored.stored_ms,
                    message,
                });
            } else if self.is_kept(queue, offset)? {
                if messages.is_empty() {
                    return Err(PayloadError::Damaged(stored.position.index).into());
                }
                next = offset;
                break;
            }
        }
        Ok(Pulled { messages, next })
    }

    fn is_kept(&self, queue: QueueId, offset: u64) -> Result<bool, Fault> {
        self.replica.read_state(|state| {
            self.machine
                .read(|core| core.locate(&Reading(state), queue, offset))
                .map(|stored| stored.is_some())
        })
    }
}
