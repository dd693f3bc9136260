//! Fire: messages that waited are due, and get the next places in their queues.
//!
//! The leader names them; what waits no more, or not yet long enough, is left for the next command.

use std::collections::BTreeSet;

use flotilla_proto::record::{self, Fire};

use crate::{
    core::Core,
    ids::QueueId,
    keys::{self, Key},
    kv::{Fault, KeyValue},
    limits::MAX_FIRE,
    outcome::{Effect, Outcome, Reply},
    places::Arrival,
    timers::{Timer, Wait, due_of},
};

pub(crate) fn apply(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    wall_ms: u64,
    fire: &Fire,
) -> Result<Outcome, Fault> {
    let (mut fired, mut forgotten) = (0, 0);
    let mut queues = BTreeSet::new();
    for named in fire.timers.iter().take(MAX_FIRE) {
        let (queue, number) = (QueueId(named.queue), named.timer);
        let timer = Timer::get(kv, queue, number)?;
        let Some(timer) =
            timer.filter(|timer| timer.order() == Some(keys::DUE) && timer.at_ms <= core.now_ms)
        else {
            continue;
        };
        core.remove_timer(kv, queue, number, &timer)?;
        if timer.wait != Wait::Delayed {
            core.count_timer(kv, queue, |room| room.remembered -= 1)?;
            forgotten += 1;
            continue;
        }
        core.come_due(kv, wall_ms, (queue, number), &timer)?;
        queues.insert(queue);
        fired += 1;
    }
    core.seek_first_timer(kv, keys::DUE)?;
    let effects = queues.into_iter().map(|queue| Effect::Appended { queue });
    Ok(Outcome {
        reply: Reply::Fired { fired, forgotten },
        effects: effects.collect(),
    })
}

impl Core {
    /// What is due at `now_ms`, the first that was due first, at most so many: what a [`Fire`] names.
    pub fn due(&self, kv: &dyn KeyValue, now_ms: u64, limit: usize) -> Result<Vec<record::Timer>, Fault> {
        let now_ms = now_ms.max(self.now_ms);
        let Some((at_ms, queue, number)) = self.timers.first.filter(|&(at_ms, ..)| at_ms <= now_ms) else {
            return Ok(Vec::new());
        };
        let from = keys::due(keys::DUE, at_ms, queue, number);
        let found = kv.scan(&from, &Key::of(keys::DUE).long(now_ms).end(), limit)?;
        let named = found.into_iter().map(|(key, _)| {
            let (_, queue, timer) = due_of(key)?;
            Ok(record::Timer {
                queue: queue.0,
                timer,
            })
        });
        named.collect()
    }

    /// A message that waited for its date stands in its queue.
    fn come_due(
        &mut self,
        kv: &mut dyn KeyValue,
        wall_ms: u64,
        (queue, number): (QueueId, u64),
        timer: &Timer,
    ) -> Result<(), Fault> {
        let offset = self.leave_room(kv, wall_ms, (queue, number))?;
        let dedup = plant!(FiredUnknownToItsSender => u64::MAX, else timer.dedup);
        self.dedup
            .moved(kv, dedup, (queue.waiting_room(), number), (queue, offset))
    }

    /// A message that waited gets the next place in its queue. It is displaced there: its entry is older than those around it.
    pub(crate) fn leave_room(
        &mut self,
        kv: &mut dyn KeyValue,
        wall_ms: u64,
        (queue, number): (QueueId, u64),
    ) -> Result<u64, Fault> {
        let message = self.take_waiting(kv, queue, number)?;
        let arrival = Arrival {
            message_group: 0,
            position: message.stored.position,
            tag: message.stored.tag,
            wall_ms,
            displaced: true,
            dead: false,
        };
        let offset = self.push(kv, queue, arrival)?;
        self.count_timer(kv, queue, |room| {
            room.waiting -= 1;
            room.fired += 1;
        })?;
        Ok(offset)
    }
}
