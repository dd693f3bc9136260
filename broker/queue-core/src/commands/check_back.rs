//! CheckBack: producers are asked how transactions ended that nobody has ended.
//!
//! The leader names them, and says when they are asked for again; who is over by now, or not due yet, is left for the next command.
//! Whether anybody hears the question is not known here: it counts when it is asked.

use flotilla_proto::record::{self, CheckBack};

use crate::{
    core::Core,
    ids::QueueId,
    keys::{self, Key},
    kv::{Fault, KeyValue},
    limits::MAX_CHECK_BACK,
    outcome::{Half, Outcome, Reply},
    queue::Message,
    timers::{Timer, Wait, due_of},
};

pub(crate) fn apply(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    late_ms: u64,
    check: &CheckBack,
) -> Result<Outcome, Fault> {
    let next_ms = check.next_ms.saturating_add(late_ms).max(core.now_ms);
    let mut halves = Vec::new();
    for named in check.halves.iter().take(MAX_CHECK_BACK) {
        let (queue, number) = (QueueId(named.queue), named.timer);
        let Some(timer) = core.checkable(kv, queue, number)? else {
            continue;
        };
        let Some(message) = Message::get(kv, queue.waiting_room(), number)? else {
            return Err(Fault::Corrupt(format!("timer {queue:?}/{number} has no message")));
        };
        core.remove_timer(kv, queue, number, &timer)?;
        let checks = plant!(ChecksNotCounted => timer.checks, else timer.checks.saturating_add(1));
        let timer = Timer {
            at_ms: next_ms,
            checks,
            ..timer
        };
        core.set_timer(kv, queue, number, timer)?;
        halves.push(Half {
            queue,
            timer: number,
            checks,
            position: message.stored.position,
            stored_ms: message.stored.stored_ms,
        });
    }
    core.seek_first_timer(kv, keys::CHECK)?;
    Ok(Reply::CheckedBack { halves }.into())
}

/// A half message whose check is due, and how often it was checked back before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DueCheck {
    /// What a command names it by.
    pub half: record::Timer,
    /// So often.
    pub checks: u32,
}

impl Core {
    /// When something is to be checked back next.
    pub fn next_check(&self) -> Option<u64> {
        self.timers.first_check.map(|(at_ms, ..)| at_ms)
    }

    /// What is to be checked back at `now_ms`, the first that was due first, at most so many.
    pub fn due_checks(&self, kv: &dyn KeyValue, now_ms: u64, limit: usize) -> Result<Vec<DueCheck>, Fault> {
        let now_ms = now_ms.max(self.now_ms);
        let first = self.timers.first_check.filter(|&(at_ms, ..)| at_ms <= now_ms);
        let Some((at_ms, queue, number)) = first else {
            return Ok(Vec::new());
        };
        let from = keys::due(keys::CHECK, at_ms, queue, number);
        let found = kv.scan(&from, &Key::of(keys::CHECK).long(now_ms).end(), limit)?;
        let mut due = Vec::with_capacity(found.len());
        for (key, _) in found {
            let (_, queue, timer) = due_of(key)?;
            let checks = Timer::get(kv, queue, timer)?.map_or(0, |timer| timer.checks);
            let half = record::Timer {
                queue: queue.0,
                timer,
            };
            due.push(DueCheck { half, checks });
        }
        Ok(due)
    }

    /// Half messages of a queue: those that are checked back, and those that are not any more.
    pub fn halves_of(&self, queue: QueueId) -> (u64, u64) {
        let room = self.timers.rooms.get(&queue);
        room.map_or((0, 0), |room| (room.undecided, room.given_up))
    }

    /// The same of all queues.
    pub fn halves(&self) -> impl Iterator<Item = (QueueId, (u64, u64))> + '_ {
        let rooms = self.timers.rooms.iter();
        rooms.map(|(&queue, room)| (queue, (room.undecided, room.given_up)))
    }

    /// A half message whose check is due.
    pub(crate) fn checkable(
        &self,
        kv: &dyn KeyValue,
        queue: QueueId,
        number: u64,
    ) -> Result<Option<Timer>, Fault> {
        let timer = Timer::get(kv, queue, number)?;
        Ok(timer.filter(|timer| timer.wait == Wait::Half && timer.at_ms <= self.now_ms))
    }
}
