//! Messages that wait to be due: when, by the shard's time, what the leader does once they are, and what administration asks of
//! them.

use std::time::Duration;

use flotilla_proto::{
    peer::{DelayedFound, DelayedLook, DelayedMessage, RetimeMessage},
    record::{self, Command, command},
};
use prost::Message;
use queue_core::{Fault, QueueId, Reply, TimerView, Wait};

use super::{DataShard, DeliverError};
use crate::{
    limits::{COPY_READS_AT_ONCE, MAX_DELAYED_PAGE},
    node::{
        keeper::{LOOK_EVERY, PAUSE},
        kv::Reading,
    },
};

impl DataShard {
    /// When a message is due that is to be delivered at a date, by the shard's time; 0 if the date is over. From here on no
    /// wall clock moves it.
    pub fn due_ms(&self, delivery_ms: u64) -> u64 {
        let wall_ms = self.clock.wall_ms();
        match delivery_ms.saturating_sub(wall_ms) {
            0 => 0,
            ahead => {
                let ahead = plant!(DelayCutShort => ahead - ahead / 8, else ahead);
                self.now_ms().saturating_add(ahead)
            }
        }
    }

    /// Brings some of what is due to its queues; tells how long nothing else will be. One command: leases end meanwhile, too.
    pub(in crate::node) async fn fire(&self) -> Result<Duration, Fault> {
        let now_ms = self.now_ms();
        let next_ms = || self.machine.read(|core| core.next_due());
        let Some(due_ms) = next_ms() else {
            return Ok(LOOK_EVERY);
        };
        if due_ms > now_ms {
            return Ok(Duration::from_millis(due_ms - now_ms));
        }
        let timers = self.replica.read_state(|state| {
            self.machine
                .read(|core| core.due(&Reading(state), now_ms, self.bounds.fire as usize))
        })?;
        let fire = command::Command::Fire(record::Fire { timers });
        let fired = self.proposer.submit(Command { command: Some(fire) }).await;
        Ok(match fired {
            Ok(Reply::Fired { fired, forgotten }) if fired + forgotten > 0 => {
                let next = next_ms().map(|due_ms| due_ms.saturating_sub(self.now_ms()));
                next.map_or(LOOK_EVERY, Duration::from_millis)
            }
            _ => PAUSE,
        })
    }
}

/// What administration asks.
impl DataShard {
    /// Messages that wait for one queue, from a timer on.
    pub(crate) async fn delayed(&self, look: &DelayedLook) -> Result<DelayedFound, DeliverError> {
        let queue = QueueId(look.queue);
        let limit = look.limit.min(MAX_DELAYED_PAGE) as usize;
        let page = self.replica.read_state(|state| {
            self.machine
                .read(|core| core.waiting_from(&Reading(state), queue, look.from, limit))
        })?;
        let looked_at = page.len() as u32;
        let next = page.last().filter(|_| page.len() == limit);
        let next = next.map(|last| last.timer.saturating_add(1));
        let wanted = |row: &TimerView| match row.wait {
            Wait::Delayed => !look.halves,
            Wait::Half | Wait::GivenUp => look.halves,
            _ => false,
        };
        let page: Vec<TimerView> = page.into_iter().filter(wanted).collect();
        let (mut messages, now_ms) = (Vec::new(), self.now_ms());
        for waiting in page.chunks(COPY_READS_AT_ONCE) {
            let places = waiting
                .iter()
                .filter_map(|it| Some((it.timer, it.stored?.position)));
            let read = self.read_at(queue.waiting_room(), places.collect()).await?;
            for (timer, message) in read {
                let row = waiting.iter().find(|it| it.timer == timer);
                let wanted = look.message_id.is_empty() || look.message_id == message.message_id;
                let Some((row, stored)) = row.and_then(|row| Some((row, row.stored?))).filter(|_| wanted)
                else {
                    continue;
                };
                messages.push(DelayedMessage {
                    timer,
                    message_id: message.message_id,
                    tag: message.tag,
                    keys: message.keys,
                    delivery_ms: message.delivery_ms.unwrap_or_default(),
                    left_ms: row.at_ms.saturating_sub(now_ms),
                    stored_ms: stored.stored_ms,
                    body_bytes: message.body.len() as u64,
                    checks: row.checks,
                    given_up: row.wait == Wait::GivenUp,
                });
            }
        }
        Ok(DelayedFound {
            messages,
            next,
            looked_at,
        })
    }

    /// Has a message delivered at another time; false if it does not wait.
    pub(crate) async fn retime(&self, retime: &RetimeMessage) -> Result<bool, DeliverError> {
        let (queue, timer) = (QueueId(retime.queue), retime.timer);
        // Else a copy that is on its way would have the old date.
        let _turn = self.copying.lock().await;
        let row = self.replica.read_state(|state| {
            self.machine
                .read(|core| core.waiting_from(&Reading(state), queue, timer, 1))
        })?;
        let stored = row
            .first()
            .filter(|row| row.timer == timer && row.wait == Wait::Delayed)
            .and_then(|row| row.stored);
        let Some(stored) = stored else {
            return Ok(false);
        };
        let read = self
            .read_at(queue.waiting_room(), vec![(timer, stored.position)])
            .await?;
        let Some((_, mut message)) = read.into_iter().next() else {
            return Ok(false);
        };
        message.delivery_ms = Some(retime.delivery_ms);
        let command = command::Command::Retime(record::Retime {
            queue: queue.0,
            timer,
            due_ms: self.due_ms(retime.delivery_ms),
            message: message.encode_to_vec().into(),
        });
        let command = Command {
            command: Some(command),
        };
        Ok(matches!(
            self.proposer.submit(command).await?,
            Reply::Retimed(true)
        ))
    }
}
