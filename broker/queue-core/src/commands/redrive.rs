//! Redrive: dead letters go back to the consumer group that they died in, and to no other.
//!
//! A message that is given back is in flight again where it came from: it waits, and is delivered next, under its old offset, to that
//! consumer group alone. Its attempts begin anew, and what became of it is kept. The dead letter stays where it is, marked, so that
//! none is given back twice, however often it is asked for.

use std::ops::ControlFlow;

use flotilla_proto::record::Redrive;

use crate::{
    core::Core,
    history::{self, Note, What},
    ids::{GroupId, QueueId},
    kv::{Fault, KeyValue},
    letter::Letter,
    limits::{MAX_GIVEN_BACK, MAX_REDRIVE},
    outcome::{Effect, Outcome, RedriveResult, Reply},
    queue::Message,
    subscription::{InFlight, Subscription},
    view::Stored,
};

pub(crate) fn apply(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    wall_ms: u64,
    redrive: &Redrive,
) -> Result<Outcome, Fault> {
    let (queue, group) = (QueueId(redrive.queue), GroupId(redrive.group));
    let mut results = Vec::with_capacity(redrive.offsets.len().min(MAX_REDRIVE));
    let mut effects = Vec::new();
    for &at in redrive.offsets.iter().take(MAX_REDRIVE) {
        let (letter, message) = match core.can_redrive(kv, group, (queue, at), redrive.id)? {
            ControlFlow::Continue(found) => found,
            ControlFlow::Break(result) => {
                results.push(result);
                continue;
            }
        };
        effects.extend(core.give_back(kv, wall_ms, &letter, &message)?);
        let marked = Letter {
            redriven_ms: wall_ms.max(1),
            redriven_by: redrive.id,
            ..letter
        };
        plant!(RedriveNotMarked => (), else marked.put(kv, queue, at)?);
        results.push(RedriveResult::Done);
    }
    Ok(Outcome {
        reply: Reply::Redriven { results },
        effects,
    })
}

impl Core {
    /// What would become of a dead letter that a request is to give back.
    pub fn look_redrive(
        &self,
        kv: &dyn KeyValue,
        group: GroupId,
        place: (QueueId, u64),
        id: u64,
    ) -> Result<RedriveResult, Fault> {
        Ok(match self.can_redrive(kv, group, place, id)? {
            ControlFlow::Continue(_) => RedriveResult::Done,
            ControlFlow::Break(result) => result,
        })
    }

    fn can_redrive(
        &self,
        kv: &dyn KeyValue,
        group: GroupId,
        (queue, at): (QueueId, u64),
        id: u64,
    ) -> Result<ControlFlow<RedriveResult, (Letter, Message)>, Fault> {
        let (Some(letter), Some(message)) = (Letter::get(kv, queue, at)?, Message::get(kv, queue, at)?)
        else {
            return Ok(ControlFlow::Break(RedriveResult::Gone));
        };
        if letter.group != group {
            return Ok(ControlFlow::Break(RedriveResult::AnotherGroup));
        }
        if letter.redriven_ms != 0 {
            let is_this = id != 0 && letter.redriven_by == id;
            return Ok(ControlFlow::Break(match is_this {
                true => RedriveResult::Done,
                false => RedriveResult::Already,
            }));
        }
        let Some(known) = self.subscriptions.get(&(letter.queue, group)) else {
            return Ok(ControlFlow::Break(RedriveResult::NoQueue));
        };
        Ok(match refusal(known, &letter) {
            Some(result) => ControlFlow::Break(result),
            None => ControlFlow::Continue((letter, message)),
        })
    }

    /// The message waits in its queue, as if it had never been delivered.
    fn give_back(
        &mut self,
        kv: &mut dyn KeyValue,
        wall_ms: u64,
        letter: &Letter,
        message: &Message,
    ) -> Result<Option<Effect>, Fault> {
        let (group, queue, offset) = (letter.group, letter.queue, letter.offset);
        let at_ms = self.now_ms;
        plant!(RedriveMarksOnly => return Ok(None));
        // Its queue may have forgotten it.
        if Message::get(kv, queue, offset)?.is_none() {
            let stored = Stored {
                time_ms: at_ms,
                stored_ms: letter.stored_ms,
                message_group: letter.message_group,
                ..message.stored
            };
            let place = Message {
                displaced: true,
                dead: false,
                stored,
            };
            place.put(kv, queue, offset)?;
            self.displaced_at(stored.position);
        }
        let mut notes = letter.history.clone();
        let note = Note {
            attempt: 0,
            at_ms,
            wall_ms,
            client: 0,
            what: What::Redriven,
        };
        history::add(&mut notes, note);
        history::put_history(kv, (queue, group, offset), &notes)?;
        let message_group = if self.is_fifo(group) {
            letter.message_group
        } else {
            0
        };
        let waits = InFlight {
            leased: false,
            auto_renew: false,
            written: false,
            attempt: plant!(RedriveKeepsItsAttempts => self.rules(group).max_attempts, else 0),
            at_ms,
            nonce: 0,
            client: 0,
            first_leased_ms: 0,
            message_group,
            request: 0,
            departed: false,
            parked: false,
            noted: letter.noted.saturating_add(1),
        };
        self.set_in_flight(kv, queue, group, offset, waits)?;
        self.store_lock(kv, (queue, group), message_group, false)?;
        let known = self.subscription_mut(queue, group).expect("just read");
        known.redriven += 1;
        known.store(kv, queue, group)?;
        let visible = Effect::Visible { group, queue, at_ms };
        Ok(self.passes_on(queue, group, message_group).or(Some(visible)))
    }
}

/// Why a message cannot be given back to a consumer group where it came from, if it cannot.
fn refusal(known: &Subscription, letter: &Letter) -> Option<RedriveResult> {
    let offset = letter.offset;
    let lock = known.locks().get(&letter.message_group);
    let is_behind = lock.is_some_and(|lock| lock.blocked() > 0 && lock.next() <= offset);
    if known.seeks_to.is_some() {
        return Some(RedriveResult::Seeks);
    }
    // It was put before it, or has it.
    if offset >= known.cursor || is_behind || known.in_flight().contains_key(&offset) {
        return Some(RedriveResult::Comes);
    }
    // It was put before it, and has read it again; not if it may have been forgotten unread: better twice than never.
    if letter.epoch != known.epoch && offset >= known.start && known.trimmed == 0 {
        return Some(RedriveResult::ReadSince);
    }
    (known.leased_or_waiting() >= MAX_GIVEN_BACK).then_some(RedriveResult::Full)
}
