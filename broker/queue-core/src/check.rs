//! What must hold between commands. For tests and the simulator: it reads everything.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    core::Core,
    history::{self, Note},
    ids::{GroupId, QueueId},
    keys::{self, Key, Reader},
    kv::{Fault, KeyValue},
    letter::Letter,
    limits::MAX_NOTES,
    queue::Message,
    timers::{Timer, Wait, due_of},
};

/// Rows of messages by queue and offset.
type Places = BTreeMap<(QueueId, u64), Message>;

impl Core {
    /// Checks that the hot state is the stored one, that every message of every subscription is in
    /// exactly one place, and that every message somebody may read has a place in the log.
    pub fn check(&self, kv: &dyn KeyValue) -> Result<(), String> {
        let loaded = Self::load(kv).map_err(|fault| fault.to_string())?;
        if loaded != *self {
            return Err(format!(
                "the hot state is not the stored one:\n{self:?}\n{loaded:?}"
            ));
        }
        self.check_subscriptions()?;
        let rows = rows(kv).map_err(|fault| fault.to_string())?;
        let (waiting, kept): (BTreeMap<_, _>, BTreeMap<_, _>) = rows
            .iter()
            .partition(|((queue, _), _)| queue.waits_for().is_some());
        self.check_places(&kept)?;
        self.check_timers(kv, &waiting)?;
        self.check_message_groups(kv, &rows)?;
        check_displaced(kv, &rows)?;
        self.check_histories(kv, &rows)?;
        self.dedup.check(kv)?;
        let displaced = rows.values().filter(|message| message.displaced);
        let bytes = displaced
            .map(|message| u64::from(message.stored.position.frame_len))
            .sum::<u64>();
        if bytes != self.displaced_bytes {
            return Err(format!(
                "{bytes} bytes are displaced, not {}",
                self.displaced_bytes
            ));
        }
        let oldest = self.oldest_live_index(kv).map_err(|fault| fault.to_string())?;
        let expected = rows.values().map(|message| message.stored.position.index).min();
        if oldest != expected {
            return Err(format!("the oldest live entry is {expected:?}, not {oldest:?}"));
        }
        Ok(())
    }

    fn check_subscriptions(&self) -> Result<(), String> {
        let mut leased = 0;
        for (&(queue, group), known) in &self.subscriptions {
            let ends = self.queues.get(&queue).copied().unwrap_or_default();
            if !known.conserves() || known.cursor > ends.next || known.cursor < ends.first {
                return Err(format!("{group:?} on {queue:?} lost count: {known:?}, {ends:?}"));
            }
            for (&offset, row) in known.in_flight() {
                // One that was given back may be from before the beginning.
                if offset >= known.cursor || (offset < known.start && row.noted == 0) {
                    return Err(format!("{queue:?}/{offset} is in flight but was not delivered"));
                }
                if row.leased != self.deadlines.contains(&(row.at_ms, queue, group, offset)) {
                    return Err(format!("{queue:?}/{offset}: deadline and lease disagree"));
                }
                leased += usize::from(row.leased);
            }
        }
        if leased != self.deadlines.len() {
            return Err(format!("{leased} leases have {} deadlines", self.deadlines.len()));
        }
        Ok(())
    }

    /// Of each message group, what was passed over is what the chain has behind what is in flight; and the chain has every message
    /// of a message group, and nothing else.
    fn check_message_groups(
        &self,
        kv: &dyn KeyValue,
        rows: &BTreeMap<(QueueId, u64), Message>,
    ) -> Result<(), String> {
        let grouped = rows
            .iter()
            .filter(|(_, message)| message.stored.message_group != 0);
        let chain: BTreeSet<(QueueId, u64, u64)> = grouped
            .map(|(&(queue, offset), message)| (queue, message.stored.message_group, offset))
            .collect();
        let found = chained(kv).map_err(|fault| fault.to_string())?;
        if found != chain {
            return Err(format!("of message groups are {chain:?}, found are {found:?}"));
        }
        for (&(queue, group), known) in &self.subscriptions {
            for (&message_group, lock) in known.locks() {
                let first = lock
                    .in_flight()
                    .last()
                    .map_or(0, |&last| last + 1)
                    .max(lock.next());
                let behind = chain.range((queue, message_group, first)..(queue, message_group, known.cursor));
                let in_flight = known.in_flight().iter();
                let locking = in_flight.filter(|(_, row)| row.message_group == message_group);
                let holds = match lock.blocked() {
                    0 => lock.next() == 0,
                    blocked => {
                        behind.clone().next() == Some(&(queue, message_group, lock.next()))
                            && behind.count() as u64 == blocked
                    }
                };
                if !holds || !lock.in_flight().iter().eq(locking.map(|(offset, _)| offset)) {
                    return Err(format!(
                        "{group:?} on {queue:?}: message group {message_group} is {lock:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Exactly what has a history has a row of it, within its bound, and exactly dead letters say where from. What is parked is found.
    fn check_histories(&self, kv: &dyn KeyValue, rows: &Places) -> Result<(), String> {
        let mut letters = Vec::new();
        let all = keys::each(kv, Key::of(keys::LETTER), |key, value| {
            let mut key = Reader::key("dead letter", key)?;
            letters.push((QueueId(key.key_long()?), key.key_long()?));
            let letter = Letter::read(Reader::value("dead letter", value)?)?;
            check_notes(letter.noted, &letter.history)
        });
        all.map_err(|fault| fault.to_string())?;
        let dead = rows.iter().filter(|(_, message)| message.dead);
        if !dead.clone().map(|(&place, _)| place).eq(letters.iter().copied()) {
            return Err(format!(
                "dead letters {letters:?} are not {:?}",
                dead.collect::<Vec<_>>()
            ));
        }
        let mut histories = BTreeSet::new();
        let all = keys::each(kv, Key::of(keys::HISTORY), |key, value| {
            let mut key = Reader::key("history", key)?;
            let place = (
                QueueId(key.key_long()?),
                GroupId(key.key_short()?),
                key.key_long()?,
            );
            let notes = history::read(&mut Reader::value("history", value)?)?;
            let row = self.in_flight(place.1, place.0, place.2);
            histories.insert(place);
            check_notes(row.map_or(0, |row| row.noted), &notes)
        });
        all.map_err(|fault| fault.to_string())?;
        let mut parked = BTreeSet::new();
        for (&(queue, group), known) in &self.subscriptions {
            for (&offset, row) in known.in_flight() {
                if row.noted > 0 && !histories.contains(&(queue, group, offset)) {
                    return Err(format!("{queue:?}/{offset} lost its history for {group:?}"));
                }
                if row.parked && (row.leased || row.message_group == 0) {
                    return Err(format!("{queue:?}/{offset} is parked and {row:?}"));
                }
                parked.extend(row.parked.then_some((group, queue, offset)));
            }
        }
        match parked == self.parked {
            true => Ok(()),
            false => Err(format!("parked are {parked:?}, known as such {:?}", self.parked)),
        }
    }

    /// Rows are what is kept and what is in flight, and nothing else.
    fn check_places(&self, rows: &Places) -> Result<(), String> {
        let mut expected = BTreeSet::new();
        for (&queue, ends) in &self.queues {
            expected.extend((ends.first..ends.next).map(|offset| (queue, offset)));
        }
        for (&(queue, _), known) in &self.subscriptions {
            expected.extend(known.in_flight().keys().map(|&offset| (queue, offset)));
        }
        if !expected.iter().eq(rows.keys()) {
            return Err(format!(
                "kept or in flight: {expected:?}; places: {:?}",
                rows.keys()
            ));
        }
        check_dates(rows)?;
        let mut before: Option<(QueueId, u64)> = None;
        for (&(queue, offset), message) in rows.iter().filter(|(_, message)| !message.displaced) {
            let index = message.stored.position.index;
            if self.queues[&queue].in_order_end <= offset {
                return Err(format!(
                    "{queue:?}/{offset} stands in order beyond the last that does"
                ));
            }
            if before.is_some_and(|before| before.0 == queue && before.1 > index) {
                return Err(format!("{queue:?}/{offset} stands out of order"));
            }
            before = Some((queue, index));
        }
        Ok(())
    }

    /// A message that was to wait is in exactly one place: it waits, or it was fired or committed, or recalled or rolled back. What
    /// waits has a row in the waiting room, one that says when it is due, and one in the order of time, unless it was given up; what
    /// is remembered has the last two.
    fn check_timers(&self, kv: &dyn KeyValue, waiting: &Places) -> Result<(), String> {
        let mut timers = BTreeMap::new();
        let mut by_time = BTreeSet::new();
        let all = keys::each(kv, Key::of(keys::TIMER), |key, value| {
            let mut key = Reader::key("timer", key)?;
            timers.insert((QueueId(key.key_long()?), key.key_long()?), Timer::read(value)?);
            Ok(())
        });
        all.map_err(|fault| fault.to_string())?;
        for order in [keys::DUE, keys::CHECK] {
            let all = keys::each(kv, Key::of(order), |key, _| {
                by_time.insert((order, due_of(key)?));
                Ok(())
            });
            all.map_err(|fault| fault.to_string())?;
        }
        let expected: BTreeSet<_> = timers
            .iter()
            .filter_map(|(&(queue, number), timer)| Some((timer.order()?, (timer.at_ms, queue, number))))
            .collect();
        if by_time != expected {
            return Err(format!("timers {timers:?} are in the order {by_time:?}"));
        }
        let places = timers.iter().filter(|(_, timer)| timer.wait.has_message());
        let places = places.map(|(&(queue, number), _)| (queue.waiting_room(), number));
        if !places.eq(waiting.keys().copied()) || waiting.values().any(|message| !message.displaced) {
            return Err(format!("timers {timers:?} have the places {:?}", waiting.keys()));
        }
        for (&queue, room) in &self.timers.rooms {
            let rows = |of: &dyn Fn(Wait) -> bool| {
                let theirs = timers.range((queue, 0)..=(queue, u64::MAX));
                theirs.filter(|(_, timer)| of(timer.wait)).count() as u64
            };
            let counts = [
                (room.waiting, rows(&Wait::has_message)),
                (room.remembered, rows(&|wait| !wait.has_message())),
                (room.undecided, rows(&|wait| wait == Wait::Half)),
                (room.given_up, rows(&|wait| wait == Wait::GivenUp)),
            ];
            if !room.conserves() || counts.iter().any(|(counted, rows)| counted != rows) {
                return Err(format!(
                    "{queue:?} lost count of what waits: {room:?}, {timers:?}"
                ));
            }
        }
        match timers
            .keys()
            .find(|(queue, _)| !self.timers.rooms.contains_key(queue))
        {
            Some(orphan) => Err(format!("timer {orphan:?} has no waiting room")),
            None => Ok(()),
        }
    }
}

fn check_notes(noted: u32, notes: &[Note]) -> Result<(), Fault> {
    if notes.is_empty() || notes.len() != (noted as usize).min(MAX_NOTES) {
        let kept = notes.len();
        return Err(Fault::Corrupt(format!("of {noted} notes {kept} are kept")));
    }
    Ok(())
}

/// None is dated before its predecessor in its queue.
fn check_dates(rows: &Places) -> Result<(), String> {
    for (((before, _), earlier), ((queue, offset), later)) in rows.iter().zip(rows.iter().skip(1)) {
        if before == queue && earlier.stored.stored_ms > later.stored.stored_ms {
            return Err(format!("{queue:?}/{offset} is dated before its predecessor"));
        }
    }
    Ok(())
}

fn rows(kv: &dyn KeyValue) -> Result<Places, Fault> {
    let mut rows = BTreeMap::new();
    keys::each(kv, Key::of(keys::MESSAGE), |key, value| {
        let mut key = Reader::key("message", key)?;
        rows.insert((QueueId(key.key_long()?), key.key_long()?), Message::read(value)?);
        Ok(())
    })?;
    Ok(rows)
}

fn chained(kv: &dyn KeyValue) -> Result<BTreeSet<(QueueId, u64, u64)>, Fault> {
    let mut found = BTreeSet::new();
    keys::each(kv, Key::of(keys::CHAIN), |key, _| {
        let mut key = Reader::key("message group", key)?;
        found.insert((QueueId(key.key_long()?), key.key_long()?, key.key_long()?));
        Ok(())
    })?;
    Ok(found)
}

/// Displaced messages, and no others, are found by their entry.
fn check_displaced(kv: &dyn KeyValue, rows: &Places) -> Result<(), String> {
    let displaced = rows.iter().filter(|(_, message)| message.displaced);
    let expected: BTreeSet<(u64, QueueId, u64)> = displaced
        .map(|(&(queue, offset), message)| (message.stored.position.index, queue, offset))
        .collect();
    let mut found = BTreeSet::new();
    keys::each(kv, Key::of(keys::DISPLACED), |key, _| {
        let mut key = Reader::key("displaced", key)?;
        found.insert((key.key_long()?, QueueId(key.key_long()?), key.key_long()?));
        Ok(())
    })
    .map_err(|fault| fault.to_string())?;
    if found != expected {
        return Err(format!("displaced are {expected:?}, found are {found:?}"));
    }
    Ok(())
}
