//! Where messages are, and what of that is kept in memory: each queue's first message that stands in order, so that
//! retention looks at what it may forget and not at everything that is stored.

use std::{cell::Cell, collections::BTreeSet, ops::ControlFlow, ops::Range};

use crate::{
    core::Core,
    ids::{GroupId, Position, QueueId},
    keys::{self, Key, Reader},
    kv::{Fault, KeyValue},
    limits::{LOAD_PAGE, LOOK_PAGE},
    queue::Message,
    view::Stored,
};

/// No displaced message is in an entry before this. A hint: it saves passing over the keys that were removed before, and
/// is no part of the state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Floor(Cell<u64>);

impl PartialEq for Floor {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// A message that comes to a queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) position: Position,
    pub(crate) tag: u64,
    pub(crate) message_group: u64,
    /// What the leader's wall clock shows.
    pub(crate) wall_ms: u64,
    pub(crate) displaced: bool,
    /// It is a dead letter.
    pub(crate) dead: bool,
}

impl Core {
    /// The smallest index of an entry that still holds a message somebody may get.
    pub fn oldest_live_index(&self, kv: &dyn KeyValue) -> Result<Option<u64>, Fault> {
        let displaced = self.displaced_through(kv, u64::MAX, 1)?;
        let displaced = plant!(DeadLettersNotKept => None, else displaced.first().map(|&(index, ..)| index));
        let in_order = self.in_order.first().map(|&(index, _)| index);
        Ok(displaced.into_iter().chain(in_order).min())
    }

    /// Whether a message is among the last `within` dead letters of a consumer group. False also if it was and nobody can tell
    /// any more, because it was forgotten, or one of both was copied since: a dead letter stands where its message does.
    pub fn is_dead_letter(
        &self,
        kv: &dyn KeyValue,
        (group, queue, offset): (GroupId, QueueId, u64),
        within: u64,
    ) -> Result<bool, Fault> {
        let dead_letters = self.rules.get(&group).map(|rules| rules.dead_letter_queue);
        let Some((target, ends)) = dead_letters.and_then(|target| Some((target, self.queues.get(&target)?)))
        else {
            return Ok(false);
        };
        let Some(message) = Message::get(kv, queue, offset)? else {
            return Ok(false);
        };
        for dead in (ends.first.max(ends.next.saturating_sub(within))..ends.next).rev() {
            let dead = Message::get(kv, target, dead)?;
            if dead.is_some_and(|dead| dead.stored.position == message.stored.position) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The first message of a queue that is dated `at_ms` or later: its offset, or the end of the queue.
    pub fn offset_at(&self, kv: &dyn KeyValue, queue: QueueId, at_ms: u64) -> Result<u64, Fault> {
        let Some(ends) = self.queues.get(&queue) else {
            return Ok(0);
        };
        let (mut from, mut to) = (ends.first, ends.next);
        while from < to {
            let middle = from + (to - from) / 2;
            let Some(message) = Message::get(kv, queue, middle)? else {
                return Err(Fault::Corrupt(format!(
                    "message {queue:?}/{middle} is kept but has no place"
                )));
            };
            if message.stored.stored_ms < at_ms {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        Ok(plant!(DateFoundOneOff => from.saturating_sub(1).max(ends.first), else from))
    }

    /// Queues with a message that stands in order at or below entry `through`, the oldest first.
    pub fn queues_through(&self, through: u64) -> impl Iterator<Item = QueueId> + '_ {
        let range = ..=(through, QueueId(u64::MAX));
        self.in_order.range(range).map(|&(_, queue)| queue)
    }

    /// True if a queue keeps a message that stands in order at or below entry `through`: one that a trim lets go.
    pub fn keeps_through(&self, kv: &dyn KeyValue, through: u64) -> Result<bool, Fault> {
        for queue in self.queues_through(through) {
            let ends = &self.queues[&queue];
            let kept = match ends.oldest {
                Some((offset, _)) if offset >= ends.first => true,
                // What is older is in flight; the first that is kept stands behind it.
                _ => first_in_order(kv, queue, ends.first..ends.in_order_end)?
                    .is_some_and(|(_, index)| index <= through),
            };
            if kept {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Up to where a queue can be forgotten for it to keep nothing that stands in order at or below entry `through`, or a part of
    /// the way there; nothing if it keeps nothing such. Displaced messages are in no order: those between go with their neighbours.
    pub fn first_beyond(
        &self,
        kv: &dyn KeyValue,
        queue: QueueId,
        through: u64,
    ) -> Result<Option<u64>, Fault> {
        let Some(ends) = self.queues.get(&queue) else {
            return Ok(None);
        };
        let oldest = match ends.oldest {
            Some((offset, _)) if offset < ends.first => {
                first_in_order(kv, queue, ends.first..ends.in_order_end)?
            }
            oldest => oldest,
        };
        let Some((mut low, _)) = oldest.filter(|&(_, index)| index <= through) else {
            return Ok(None);
        };
        let mut high = ends.in_order_end;
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            // No further than this, however many are displaced: what is beyond them is found the next time.
            let near = middle..high.min(middle + LOAD_PAGE as u64);
            match first_in_order(kv, queue, near)? {
                Some((offset, index)) if index <= through => low = offset,
                _ => high = middle,
            }
        }
        Ok(Some(low + 1))
    }

    /// Bytes in the log of the messages that are displaced.
    pub fn displaced_bytes(&self) -> u64 {
        self.displaced_bytes
    }

    /// Messages at or below entry `through` that only a copy lets go: in flight below their queue's
    /// first offset, dead letters, and what was copied before. The first `limit` of them, and so many as have `limit_bytes`
    /// in the log; a single larger one stands alone.
    pub fn stragglers(
        &self,
        kv: &dyn KeyValue,
        through: u64,
        limit: usize,
        limit_bytes: u64,
    ) -> Result<Vec<(QueueId, u64, Position)>, Fault> {
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut is_too_large = |frame_len: u32, is_first: bool| {
            bytes += u64::from(frame_len);
            bytes > limit_bytes && !is_first
        };
        for (_, queue, offset, frame_len) in self.displaced_through(kv, through, limit)? {
            // Asked first: what does not fit is not looked up, now and each time.
            if is_too_large(frame_len, found.is_empty()) {
                return Ok(found);
            }
            if let Some(message) = Message::get(kv, queue, offset)? {
                found.push((queue, offset, message.stored.position));
            }
        }
        for &(_, queue) in self.in_order.range(..=(through, QueueId(u64::MAX))) {
            let ends = &self.queues[&queue];
            let mut from = ends.oldest.map_or(0, |(offset, _)| offset);
            while found.len() < limit
                && let Some(offset) = self.next_held(queue, from..ends.first)
            {
                from = offset + 1;
                // Displaced ones are passed over, however many: they were found above.
                let Some(message) = Message::get(kv, queue, offset)?.filter(|message| !message.displaced)
                else {
                    continue;
                };
                if message.stored.position.index > through {
                    break;
                }
                if is_too_large(message.stored.position.frame_len, found.is_empty()) {
                    return Ok(found);
                }
                found.push((queue, offset, message.stored.position));
            }
        }
        Ok(found)
    }

    /// Displaced messages in entries up to `through`: entry, queue, offset, bytes; the first so many.
    fn displaced_through(
        &self,
        kv: &dyn KeyValue,
        through: u64,
        limit: usize,
    ) -> Result<Vec<(u64, QueueId, u64, u32)>, Fault> {
        let all = Key::of(keys::DISPLACED);
        let floor = self.displaced_from.0.get();
        if limit == 0 || floor > through {
            return Ok(Vec::new());
        }
        let pairs = kv.scan(&all.long(floor), &all.long(through).end(), limit)?;
        let found = pairs
            .into_iter()
            .map(|(key, value)| {
                let mut key = Reader::key("displaced", key)?;
                let frame_len = Reader::value("displaced", value)?.short()?;
                Ok((
                    key.key_long()?,
                    QueueId(key.key_long()?),
                    key.key_long()?,
                    frame_len,
                ))
            })
            .collect::<Result<Vec<_>, Fault>>()?;
        let next = found
            .first()
            .map_or(through.saturating_add(1), |&(index, ..)| index);
        self.displaced_from.0.set(next);
        Ok(found)
    }

    /// Puts a message at the end of a queue.
    pub(crate) fn push(
        &mut self,
        kv: &mut dyn KeyValue,
        id: QueueId,
        arrival: Arrival,
    ) -> Result<u64, Fault> {
        let Arrival {
            position,
            tag,
            message_group,
            wall_ms,
            displaced,
            dead,
        } = arrival;
        let queue = self.queues.entry(id).or_default();
        let offset = queue.next;
        queue.next = offset.checked_add(1).expect("offsets do not run out");
        queue.stored_ms = plant!(DatesGoBack => wall_ms, else queue.stored_ms.max(wall_ms));
        let stored_ms = queue.stored_ms;
        if !displaced {
            queue.in_order_end = queue.next;
            if queue.oldest.is_none() {
                queue.oldest = Some((offset, position.index));
                self.in_order.insert((position.index, id));
            }
        }
        queue.store(kv, id)?;
        let stored = Stored {
            position,
            time_ms: self.now_ms,
            stored_ms,
            tag,
            message_group,
        };
        let message = Message {
            displaced,
            dead,
            stored,
        };
        message.put(kv, id, offset)?;
        if displaced {
            self.displaced_at(position);
        }
        Ok(offset)
    }

    /// A message is read from another entry from now on.
    pub(crate) fn displace(
        &mut self,
        kv: &mut dyn KeyValue,
        queue: QueueId,
        offset: u64,
        message: &Message,
        position: Position,
    ) -> Result<(), Fault> {
        self.remove_place(kv, queue, offset, message)?;
        let time_ms = plant!(CopyMakesYoung => self.now_ms, else message.stored.time_ms);
        let moved = Message {
            displaced: true,
            dead: message.dead,
            stored: Stored {
                position,
                time_ms,
                ..message.stored
            },
        };
        moved.put(kv, queue, offset)?;
        self.displaced_at(position);
        self.gone(kv, queue, offset..offset + 1)
    }

    pub(crate) fn displaced_at(&mut self, position: Position) {
        self.displaced_bytes += u64::from(position.frame_len);
        let floor = self.displaced_from.0.get_mut();
        *floor = (*floor).min(position.index);
    }

    /// After the last row of everything else.
    pub(crate) fn load_oldest(&mut self, kv: &dyn KeyValue) -> Result<(), Fault> {
        let queues: Vec<QueueId> = self.queues.keys().copied().collect();
        for queue in queues {
            self.seek_oldest(kv, queue, 0)?;
        }
        Ok(())
    }

    /// Removes what is known of a message. The caller says with [`Self::gone`] what has gone, once for many.
    pub(crate) fn forget(
        &mut self,
        kv: &mut dyn KeyValue,
        queue: QueueId,
        offset: u64,
        message: &Message,
    ) -> Result<(), Fault> {
        if message.dead {
            kv.delete(&keys::letter(queue, offset))?;
        }
        self.remove_place(kv, queue, offset, message)
    }

    fn remove_place(
        &mut self,
        kv: &mut dyn KeyValue,
        queue: QueueId,
        offset: u64,
        message: &Message,
    ) -> Result<(), Fault> {
        if message.displaced {
            self.displaced_bytes -= u64::from(message.stored.position.frame_len);
        }
        message.delete(kv, queue, offset)
    }

    /// Messages that stood at these offsets are gone or were moved: the first that stands in order may be another.
    pub(crate) fn gone(&mut self, kv: &dyn KeyValue, queue: QueueId, range: Range<u64>) -> Result<(), Fault> {
        let oldest = self.queues.get(&queue).and_then(|ends| ends.oldest);
        match oldest {
            Some((offset, _)) if range.contains(&offset) => self.seek_oldest(kv, queue, offset),
            _ => Ok(()),
        }
    }

    /// Finds a queue's first message that stands in order; there is none before `from`.
    fn seek_oldest(&mut self, kv: &dyn KeyValue, queue: QueueId, from: u64) -> Result<(), Fault> {
        let ends = self.queues[&queue];
        let mut oldest = None;
        let mut at = from;
        // Below the first that is kept there is only what is in flight: the rows between are long gone.
        while oldest.is_none()
            && let Some(offset) = self.next_held(queue, at..ends.first.min(ends.in_order_end))
        {
            at = offset + 1;
            let message = Message::get(kv, queue, offset)?.filter(|message| !message.displaced);
            oldest = message.map(|message| (offset, message.stored.position.index));
        }
        if oldest.is_none() {
            oldest = first_in_order(kv, queue, from.max(ends.first)..ends.in_order_end)?;
        }
        self.set_oldest(queue, oldest);
        Ok(())
    }

    fn set_oldest(&mut self, queue: QueueId, oldest: Option<(u64, u64)>) {
        let ends = self.queues.get_mut(&queue).expect("the caller read it");
        if let Some((_, index)) = std::mem::replace(&mut ends.oldest, oldest) {
            self.in_order.remove(&(index, queue));
        }
        self.in_order.extend(oldest.map(|(_, index)| (index, queue)));
    }

    /// Forgets a queue that has no messages left.
    pub(crate) fn remove_queue(&mut self, kv: &mut dyn KeyValue, queue: QueueId) -> Result<(), Fault> {
        if self.queues.contains_key(&queue) {
            self.set_oldest(queue, None);
            self.queues.remove(&queue);
            kv.delete(&keys::queue(queue))?;
        }
        Ok(())
    }

    /// The first offset in a range that any consumer group has in flight.
    pub(crate) fn next_held(&self, queue: QueueId, range: Range<u64>) -> Option<u64> {
        if range.is_empty() {
            return None;
        }
        let firsts = self
            .subscriptions
            .range(on(queue))
            .filter_map(|(_, known)| known.in_flight().range(range.clone()).next());
        firsts.map(|(&offset, _)| offset).min()
    }

    /// All offsets in a range that any consumer group has in flight.
    pub(crate) fn held(&self, queue: QueueId, range: Range<u64>) -> BTreeSet<u64> {
        self.subscriptions
            .range(on(queue))
            .flat_map(|(_, known)| known.in_flight().range(range.clone()).map(|(&offset, _)| offset))
            .collect()
    }
}

/// The first message of these offsets that stands in order: its offset and its entry.
fn first_in_order(
    kv: &dyn KeyValue,
    queue: QueueId,
    offsets: Range<u64>,
) -> Result<Option<(u64, u64)>, Fault> {
    let mut found = None;
    if offsets.is_empty() {
        return Ok(found);
    }
    let (start, end) = (
        keys::message(queue, offsets.start),
        keys::message(queue, offsets.end),
    );
    keys::each_until(kv, &start, &end, LOOK_PAGE, |key, value| {
        let message = Message::read(value)?;
        if message.displaced {
            return Ok(ControlFlow::Continue(()));
        }
        found = Some((keys::offset(key)?, message.stored.position.index));
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

/// All subscriptions of a queue.
pub(crate) fn on(queue: QueueId) -> std::ops::RangeInclusive<(QueueId, GroupId)> {
    (queue, GroupId(0))..=(queue, GroupId(u32::MAX))
}
