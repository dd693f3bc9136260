//! Parked messages: in order, where the rules of the consumer group say so, a message whose attempts are used up stops its
//! message group until an operator decides. It stays in flight, neither leased nor waiting, so nothing behind it has its turn, and
//! nothing else in the queue notices.

use crate::{
    core::Core,
    history::{Note, What},
    ids::{GroupId, QueueId},
    kv::{Fault, KeyValue},
    limits::MAX_PARKED,
    outcome::Effect,
    subscription::InFlight,
    view::Stored,
};

/// What became of a message that was given up.
#[derive(Debug)]
pub(crate) enum End {
    DeadLetter(Effect),
    Parked,
    /// There is no place for it. The caller has it wait.
    None(InFlight),
}

/// A parked message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedView {
    /// The queue that it is in.
    pub queue: QueueId,
    /// Its offset there.
    pub offset: u64,
    /// Names this parking: another one of the same message has another.
    pub nonce: u64,
    /// How often it was delivered.
    pub attempt: u32,
    /// Since when it is parked, by the shard's time.
    pub since_ms: u64,
    /// Where its bytes are.
    pub stored: Stored,
    /// Messages of its message group that were passed over because of it.
    pub blocked: u64,
    /// What became of it.
    pub history: Vec<Note>,
}

impl Core {
    /// A message's attempts are used up, or its consumer does not want it any more.
    pub(crate) fn give_up(
        &mut self,
        kv: &mut dyn KeyValue,
        wall_ms: u64,
        place: (QueueId, GroupId, u64),
        what: What,
    ) -> Result<End, Fault> {
        let (queue, group, offset) = place;
        let row = self.note(kv, wall_ms, place, what)?;
        if self.rules(group).park && row.message_group != 0 {
            if self.subscriptions[&(queue, group)].parked() >= MAX_PARKED {
                return Ok(End::None(row));
            }
            let parked = InFlight {
                leased: false,
                parked: true,
                at_ms: self.now_ms,
                ..row
            };
            self.set_in_flight(kv, queue, group, offset, parked)?;
            return Ok(End::Parked);
        }
        Ok(match self.dead_letter(kv, wall_ms, place)? {
            Some(effect) => End::DeadLetter(effect),
            None => End::None(row),
        })
    }

    /// Messages of a consumer group at which their message groups stopped, from a place on; at most so many.
    pub fn parked_from(
        &self,
        kv: &dyn KeyValue,
        group: GroupId,
        (queue, offset): (QueueId, u64),
        limit: usize,
    ) -> Result<Vec<ParkedView>, Fault> {
        let all = (group, queue, offset)..=(group, QueueId(u64::MAX), u64::MAX);
        let mut found = Vec::new();
        for &(_, queue, offset) in self.parked.range(all).take(limit) {
            let known = &self.subscriptions[&(queue, group)];
            let row = known.in_flight()[&offset];
            let Some(stored) = self.locate(kv, queue, offset)? else {
                return Err(Fault::Corrupt(format!(
                    "message {queue:?}/{offset} is parked but has no place"
                )));
            };
            let lock = known.locks().get(&row.message_group);
            found.push(ParkedView {
                queue,
                offset,
                nonce: row.nonce,
                attempt: row.attempt,
                since_ms: row.at_ms,
                stored,
                blocked: lock.map_or(0, |lock| lock.blocked()),
                history: self.history(kv, (group, queue, offset))?,
            });
        }
        Ok(found)
    }

    /// True if a message is parked since the delivery that a receipt is of.
    pub fn is_parked(&self, group: GroupId, queue: QueueId, offset: u64, nonce: u64) -> bool {
        let row = self.in_flight(group, queue, offset);
        row.is_some_and(|row| row.parked && row.nonce == nonce)
    }
}
