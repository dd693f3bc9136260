//! Messages that wait to be due.
//!
//! A waiting message stands in the *waiting room* of its queue, which is a queue id of its own: there it is displaced, so that
//! its entry is kept, copied forward and given up like that of a dead letter, and nobody can read it. Its number in the
//! room never names another one. Rows say when it is due, and list what waits by that time. Memory holds the counts of each room
//! and the first time, however many wait.
//!
//! That a message was recalled is remembered for a while: its row stays, and its time, when it comes, removes it.
//!
//! A half message waits in the same way until its transaction is ended. What comes at its time is a check, and stands in an order of
//! its own: however many transactions are open, they hold up nothing that waits for its date.

use std::collections::BTreeMap;

use bytes::BufMut;

use crate::{
    core::Core,
    ids::QueueId,
    keys::{self, Key, Reader},
    kv::{Fault, KeyValue},
    places::{Arrival, on},
    queue::Message,
    tag::message_id_hash,
    view::Stored,
};

/// When it is due, the queue that it will come to, its number.
pub(crate) type Due = (u64, QueueId, u64);

/// What is known of timers without reading a row.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Timers {
    /// By the queue that its messages will come to.
    pub(crate) rooms: BTreeMap<QueueId, Room>,
    /// What is due first, messages that are only remembered included.
    pub(crate) first: Option<Due>,
    /// The half message that is to be checked back first.
    pub(crate) first_check: Option<Due>,
}

impl Timers {
    /// The first of an order by time.
    fn first_of(&mut self, order: u8) -> &mut Option<Due> {
        match order {
            keys::CHECK => &mut self.first_check,
            _ => &mut self.first,
        }
    }

    /// True if what waits so comes before all others that do.
    pub(crate) fn is_first(&self, due: Due, how: Wait) -> bool {
        let first = match how {
            Wait::Half => self.first_check,
            _ => self.first,
        };
        first == Some(due)
    }
}

/// One waiting room.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Room {
    /// The number that comes next.
    pub(crate) next: u64,
    pub(crate) waiting: u64,
    /// They got a place in their queue.
    pub(crate) fired: u64,
    /// Or were rolled back, or dropped with their queue.
    pub(crate) recalled: u64,
    /// Of those, what is remembered, and how transactions ended.
    pub(crate) remembered: u64,
    /// Of those that wait, half messages that are checked back,
    pub(crate) undecided: u64,
    /// and those that are not any more.
    pub(crate) given_up: u64,
}

impl Room {
    /// Every message that came waits, was fired or was recalled.
    pub(crate) fn conserves(&self) -> bool {
        self.waiting + self.fired + self.recalled == self.next
            && self.remembered <= self.fired + self.recalled
            && self.undecided + self.given_up <= self.waiting
    }

    /// Rows that dropping it costs.
    pub(crate) fn rows(&self) -> u64 {
        self.waiting + self.remembered
    }

    fn store(&self, kv: &mut dyn KeyValue, queue: QueueId) -> Result<(), Fault> {
        let mut value = keys::value(56);
        for number in [
            self.next,
            self.waiting,
            self.fired,
            self.recalled,
            self.remembered,
            self.undecided,
            self.given_up,
        ] {
            value.put_u64_le(number);
        }
        kv.put(&keys::room(queue), &value)
    }

    fn load(mut value: Reader) -> Result<Self, Fault> {
        let room = Self {
            next: value.long()?,
            waiting: value.long()?,
            fired: value.long()?,
            recalled: value.long()?,
            remembered: value.long()?,
            undecided: value.long()?,
            given_up: value.long()?,
        };
        value.end()?;
        Ok(room)
    }
}

/// What a message waits for, or what is remembered of one that does not wait any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Its date.
    Delayed,
    /// It was recalled. Only that is remembered.
    Recalled,
    /// The end of its transaction, about which producers are asked.
    Half,
    /// The same, and nobody is asked any more.
    GivenUp,
    /// Its transaction was committed. Only that is remembered.
    Committed,
    /// It was rolled back.
    RolledBack,
}

impl Wait {
    fn read(byte: u8) -> Result<Self, Fault> {
        Ok(match byte {
            0 => Self::Delayed,
            1 => Self::Recalled,
            2 => Self::Half,
            3 => Self::GivenUp,
            4 => Self::Committed,
            5 => Self::RolledBack,
            other => return Err(Fault::Corrupt(format!("timer: {other} is no way to wait"))),
        })
    }

    /// There is a message.
    pub(crate) fn has_message(self) -> bool {
        matches!(self, Self::Delayed | Self::Half | Self::GivenUp)
    }
}

/// A timer's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timer {
    pub(crate) wait: Wait,
    /// When it is due, when it is checked back next, or until when it is remembered.
    pub(crate) at_ms: u64,
    /// Where its id stands among those that are remembered, if it still does.
    pub(crate) dedup: u64,
    /// Hash of its id.
    pub(crate) message_id: u64,
    /// How often it was checked back.
    pub(crate) checks: u32,
}

impl Timer {
    pub(crate) fn get(kv: &dyn KeyValue, queue: QueueId, number: u64) -> Result<Option<Self>, Fault> {
        kv.get(&keys::timer(queue, number))?.map(Self::read).transpose()
    }

    pub(crate) fn read(value: bytes::Bytes) -> Result<Self, Fault> {
        let mut value = Reader::value("timer", value)?;
        let timer = Self {
            wait: Wait::read(value.byte()?)?,
            at_ms: value.long()?,
            dedup: value.long()?,
            message_id: value.long()?,
            checks: value.short()?,
        };
        value.end()?;
        Ok(timer)
    }

    fn put(&self, kv: &mut dyn KeyValue, queue: QueueId, number: u64) -> Result<(), Fault> {
        let mut value = keys::value(29);
        value.put_u8(self.wait as u8);
        value.put_u64_le(self.at_ms);
        value.put_u64_le(self.dedup);
        value.put_u64_le(self.message_id);
        value.put_u32_le(self.checks);
        kv.put(&keys::timer(queue, number), &value)?;
        match self.order() {
            Some(order) => kv.put(&keys::due(order, self.at_ms, queue, number), &keys::value(0)),
            None => Ok(()),
        }
    }

    fn delete(&self, kv: &mut dyn KeyValue, queue: QueueId, number: u64) -> Result<(), Fault> {
        kv.delete(&keys::timer(queue, number))?;
        match self.order() {
            Some(order) => kv.delete(&keys::due(order, self.at_ms, queue, number)),
            None => Ok(()),
        }
    }

    /// The order by time that it stands in, if its time comes at all.
    pub(crate) fn order(&self) -> Option<u8> {
        match self.wait {
            Wait::Half => Some(keys::CHECK),
            Wait::GivenUp => None,
            _ => Some(keys::DUE),
        }
    }
}

/// What is shown of a timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerView {
    /// Its number.
    pub timer: u64,
    /// What it waits for.
    pub wait: Wait,
    /// When that is, by the shard's time, as far as it has a time.
    pub at_ms: u64,
    /// How often its producers were asked about it.
    pub checks: u32,
    /// What is known of the message; nothing if it does not wait any more.
    pub stored: Option<Stored>,
}

impl Core {
    /// Queues to which messages came that had waited, which stand in no order there; each with the offset that all consumer groups
    /// which have begun on it have looked at; nothing if none has.
    pub fn queues_fired_into(&self) -> Vec<(QueueId, Option<u64>)> {
        let rooms = self.timers.rooms.iter().filter(|(_, room)| room.fired > 0);
        let looked_at = rooms.map(|(&queue, _)| {
            let subscribed = self.subscriptions.range(on(queue));
            (queue, subscribed.map(|(_, known)| known.cursor).min())
        });
        looked_at.collect()
    }

    /// Timers of a queue from a number on, at most so many.
    pub fn waiting_from(
        &self,
        kv: &dyn KeyValue,
        queue: QueueId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<TimerView>, Fault> {
        let end = Key::of(keys::TIMER).long(queue.0).end();
        let found = kv.scan(&keys::timer(queue, from), &end, limit)?;
        let view = |(key, value)| {
            let (number, timer) = (keys::offset(key)?, Timer::read(value)?);
            let stored = self.locate(kv, queue.waiting_room(), number)?;
            Ok(TimerView {
                timer: number,
                wait: timer.wait,
                at_ms: timer.at_ms,
                checks: timer.checks,
                stored,
            })
        };
        found.into_iter().map(view).collect()
    }

    /// Messages that wait for a queue.
    pub fn waiting_for(&self, queue: QueueId) -> u64 {
        self.timers.rooms.get(&queue).map_or(0, |room| room.waiting)
    }

    /// When something is due next.
    pub fn next_due(&self) -> Option<u64> {
        self.timers.first.map(|(at_ms, ..)| at_ms)
    }

    /// Takes in a message that is not due yet; its number in the waiting room.
    pub(crate) fn wait_until(
        &mut self,
        kv: &mut dyn KeyValue,
        queue: QueueId,
        arrival: Arrival,
        (at_ms, wait, message_id): (u64, Wait, &str),
    ) -> Result<u64, Fault> {
        let number = self.timers.rooms.get(&queue).map_or(0, |room| room.next);
        let room = queue.waiting_room();
        let dedup = self.dedup.remember(kv, message_id, room, number, self.now_ms)?;
        let stored = Stored {
            message_group: 0,
            position: arrival.position,
            time_ms: self.now_ms,
            stored_ms: arrival.wall_ms,
            tag: arrival.tag,
        };
        let message = Message {
            displaced: true,
            dead: false,
            stored,
        };
        message.put(kv, room, number)?;
        self.displaced_at(arrival.position);
        let timer = Timer {
            wait,
            at_ms,
            dedup,
            message_id: message_id_hash(message_id),
            checks: 0,
        };
        self.set_timer(kv, queue, number, timer)?;
        self.count_timer(kv, queue, |room| {
            room.next += 1;
            room.waiting += 1;
            room.undecided += u64::from(wait == Wait::Half);
        })?;
        Ok(number)
    }

    /// The message of a timer, whose row goes with it.
    pub(crate) fn take_waiting(
        &mut self,
        kv: &mut dyn KeyValue,
        queue: QueueId,
        number: u64,
    ) -> Result<Message, Fault> {
        let room = queue.waiting_room();
        let Some(message) = Message::get(kv, room, number)? else {
            return Err(Fault::Corrupt(format!("timer {queue:?}/{number} has no message")));
        };
        self.forget(kv, room, number, &message)?;
        Ok(message)
    }

    /// Writes a timer's row; whatever it had before was removed.
    pub(crate) fn set_timer(
        &mut self,
        kv: &mut dyn KeyValue,
        queue: QueueId,
        number: u64,
        timer: Timer,
    ) -> Result<(), Fault> {
        timer.put(kv, queue, number)?;
        let Some(order) = timer.order() else {
            return Ok(());
        };
        let (due, first) = ((timer.at_ms, queue, number), self.timers.first_of(order));
        if first.is_none_or(|first| due < first) {
            *first = Some(due);
        }
        Ok(())
    }

    /// Removes a timer's row. Whoever removes the first one has the next one [found](Self::seek_first_timer).
    pub(crate) fn remove_timer(
        &mut self,
        kv: &mut dyn KeyValue,
        queue: QueueId,
        number: u64,
        timer: &Timer,
    ) -> Result<(), Fault> {
        timer.delete(kv, queue, number)
    }

    /// Changes the counts of a waiting room.
    pub(crate) fn count_timer(
        &mut self,
        kv: &mut dyn KeyValue,
        queue: QueueId,
        change: impl FnOnce(&mut Room),
    ) -> Result<(), Fault> {
        let room = self.timers.rooms.entry(queue).or_default();
        change(room);
        room.store(kv, queue)
    }

    /// Finds the first of an order. There is nothing before what was: the rows that are gone are not passed over again.
    pub(crate) fn seek_first_timer(&mut self, kv: &dyn KeyValue, order: u8) -> Result<(), Fault> {
        let first = self.timers.first_of(order);
        if let Some((at_ms, queue, number)) = *first {
            *first = first_from(kv, order, &keys::due(order, at_ms, queue, number))?;
        }
        Ok(())
    }

    /// Drops what waits for a queue, within a budget of rows; false if the budget ran out first.
    pub(crate) fn drop_waiting(
        &mut self,
        kv: &mut dyn KeyValue,
        queue: QueueId,
        budget: &mut usize,
    ) -> Result<bool, Fault> {
        let Some(&(mut room)) = self.timers.rooms.get(&queue) else {
            return Ok(true);
        };
        let prefix = Key::of(keys::TIMER).long(queue.0);
        let found = kv.scan(&prefix, &prefix.end(), *budget)?;
        *budget -= found.len();
        for (key, value) in found {
            let (number, timer) = (keys::offset(key)?, Timer::read(value)?);
            self.remove_timer(kv, queue, number, &timer)?;
            if timer.wait.has_message() {
                self.take_waiting(kv, queue, number)?;
                room.waiting -= 1;
                room.recalled += 1;
                room.undecided -= u64::from(timer.wait == Wait::Half);
                room.given_up -= u64::from(timer.wait == Wait::GivenUp);
            } else {
                room.remembered -= 1;
            }
        }
        self.seek_first_timer(kv, keys::DUE)?;
        self.seek_first_timer(kv, keys::CHECK)?;
        if *budget == 0 {
            self.count_timer(kv, queue, |known| *known = room)?;
            return Ok(false);
        }
        self.timers.rooms.remove(&queue);
        kv.delete(&keys::room(queue))?;
        Ok(true)
    }

    /// Reads what memory holds of timers, and none of their rows but the first ones.
    pub(crate) fn load_timers(&mut self, kv: &dyn KeyValue) -> Result<(), Fault> {
        keys::each(kv, Key::of(keys::ROOM), |key, value| {
            let queue = QueueId(Reader::key("waiting room", key)?.key_long()?);
            let room = Room::load(Reader::value("waiting room", value)?)?;
            self.timers.rooms.insert(queue, room);
            Ok(())
        })?;
        plant!(TimersForgottenAtRestart => return Ok(()));
        self.timers.first = first_from(kv, keys::DUE, &Key::of(keys::DUE))?;
        self.timers.first_check = first_from(kv, keys::CHECK, &Key::of(keys::CHECK))?;
        Ok(())
    }
}

/// What comes first in an order by time, at or after a key of it.
fn first_from(kv: &dyn KeyValue, order: u8, from: &Key) -> Result<Option<Due>, Fault> {
    let found = kv.scan(from, &Key::of(order).end(), 1)?.into_iter().next();
    found.map(|(key, _)| due_of(key)).transpose()
}

pub(crate) fn due_of(key: bytes::Bytes) -> Result<Due, Fault> {
    let mut key = Reader::key("due", key)?;
    Ok((key.key_long()?, QueueId(key.key_long()?), key.key_long()?))
}
