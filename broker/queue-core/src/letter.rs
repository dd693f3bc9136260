//! Dead letters: where each comes from, what became of it, and whether it was given back. One row for each, beside its place.

use bytes::BufMut;

use crate::{
    core::Core,
    history::{self, Note},
    ids::{GroupId, QueueId},
    keys::{self, Reader},
    kv::{Fault, KeyValue},
    outcome::Effect,
    places::Arrival,
    queue::Message,
    view::Stored,
};

/// What is known of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The consumer group that it died in.
    pub group: GroupId,
    /// Where it came from: the queue, ...
    pub queue: QueueId,
    /// ... its offset there, ...
    pub offset: u64,
    /// ... how often the consumer group had been put elsewhere there, ...
    pub epoch: u64,
    /// ... when it was stored there, by the wall clock, ...
    pub stored_ms: u64,
    /// ... and the [hash](crate::message_group_hash) of its message group; 0 if it has none.
    pub message_group: u64,
    /// When it was given back, by the wall clock; 0: it was not.
    pub redriven_ms: u64,
    /// The request that gave it back.
    pub redriven_by: u64,
    /// How often something became of it.
    pub noted: u32,
    /// The last of that, the latest last.
    pub history: Vec<Note>,
}

impl Letter {
    pub(crate) fn get(kv: &dyn KeyValue, queue: QueueId, offset: u64) -> Result<Option<Self>, Fault> {
        let found = kv.get(&keys::letter(queue, offset))?;
        found
            .map(|value| Self::read(Reader::value("dead letter", value)?))
            .transpose()
    }

    pub(crate) fn read(mut value: Reader) -> Result<Self, Fault> {
        Ok(Self {
            group: GroupId(value.short()?),
            queue: QueueId(value.long()?),
            offset: value.long()?,
            epoch: value.long()?,
            stored_ms: value.long()?,
            message_group: value.long()?,
            redriven_ms: value.long()?,
            redriven_by: value.long()?,
            noted: value.short()?,
            history: history::read(&mut value)?,
        })
    }

    pub(crate) fn put(&self, kv: &mut dyn KeyValue, queue: QueueId, offset: u64) -> Result<(), Fault> {
        let mut value = keys::value(64);
        value.put_u32_le(self.group.0);
        for number in [
            self.queue.0,
            self.offset,
            self.epoch,
            self.stored_ms,
            self.message_group,
            self.redriven_ms,
            self.redriven_by,
        ] {
            value.put_u64_le(number);
        }
        value.put_u32_le(self.noted);
        history::put(&mut value, &self.history);
        kv.put(&keys::letter(queue, offset), &value)
    }
}

/// A dead letter in its queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterView {
    /// Its offset.
    pub at: u64,
    /// Where its bytes are, and since when it is one.
    pub stored: Stored,
    /// What is known of it.
    pub letter: Letter,
}

impl Core {
    /// Dead letters of a queue from an offset on; at most so many.
    pub fn letters_from(
        &self,
        kv: &dyn KeyValue,
        queue: QueueId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<LetterView>, Fault> {
        // What was forgotten is not walked over: below the first that its queue keeps only what is held is looked up.
        let first = self.queues.get(&queue).map_or(0, |ends| ends.first);
        let mut letters = Vec::new();
        let mut from = from;
        while letters.len() < limit
            && let Some(at) = self.next_held(queue, from..first)
        {
            letters.extend(Letter::get(kv, queue, at)?.map(|letter| (at, letter)));
            from = at + 1;
        }
        let (start, end) = (
            keys::letter(queue, from.max(first)),
            keys::letter(queue, u64::MAX),
        );
        for (key, value) in kv.scan(&start, &end, limit - letters.len())? {
            let letter = Letter::read(Reader::value("dead letter", value)?)?;
            letters.push((keys::offset(key)?, letter));
        }
        let views = letters.into_iter().map(|(at, letter)| {
            let Some(stored) = self.locate(kv, queue, at)? else {
                return Err(Fault::Corrupt(format!("dead letter {queue:?}/{at} has no place")));
            };
            Ok(LetterView { at, stored, letter })
        });
        views.collect()
    }

    /// Gives a message up: it gets a place in the dead-letter queue, its bytes stay where they are.
    ///
    /// Nothing if there is no such queue, or the message is a dead letter already: it then waits on,
    /// because it must not be lost.
    pub(crate) fn dead_letter(
        &mut self,
        kv: &mut dyn KeyValue,
        wall_ms: u64,
        (queue, group, offset): (QueueId, GroupId, u64),
    ) -> Result<Option<Effect>, Fault> {
        let target = self.rules(group).dead_letter_queue;
        if target == QueueId(0) || target == queue {
            return Ok(None);
        }
        let Some(message) = Message::get(kv, queue, offset)? else {
            return Err(Fault::Corrupt(format!(
                "message {queue:?}/{offset} is in flight but has no place"
            )));
        };
        let known = &self.subscriptions[&(queue, group)];
        let letter = Letter {
            group,
            queue,
            offset,
            epoch: known.epoch,
            stored_ms: message.stored.stored_ms,
            message_group: message.stored.message_group,
            redriven_ms: 0,
            redriven_by: 0,
            noted: known.in_flight()[&offset].noted,
            history: self.history(kv, (group, queue, offset))?,
        };
        let letter = plant!(HistoryEndsWithTheLastLife => crate::planted::last_note_of(letter), else letter);
        plant!(DeadLetterTwice => self.bury(kv, target, wall_ms, &message, &letter)?);
        plant!(DeadLetterLost => (), else self.bury(kv, target, wall_ms, &message, &letter)?);
        self.remove_in_flight(kv, queue, group, offset)?;
        let known = self.subscription_mut(queue, group).expect("just read");
        known.dead_lettered += 1;
        known.store(kv, queue, group)?;
        Ok(Some(Effect::DeadLettered {
            group,
            queue,
            to: target,
        }))
    }

    fn bury(
        &mut self,
        kv: &mut dyn KeyValue,
        target: QueueId,
        wall_ms: u64,
        message: &Message,
        letter: &Letter,
    ) -> Result<(), Fault> {
        let arrival = Arrival {
            position: message.stored.position,
            tag: message.stored.tag,
            // Whoever reads dead letters takes each for itself.
            message_group: 0,
            wall_ms,
            displaced: true,
            dead: true,
        };
        let at = self.push(kv, target, arrival)?;
        letter.put(kv, target, at)
    }
}
