//! Messages that wait to be due: when, by the shard's time, and what the leader does once they are.

use std::time::Duration;

use flotilla_proto::record::{self, Command, command};
use queue_core::{Fault, Reply};

use super::DataShard;
use crate::node::{
    keeper::{LOOK_EVERY, PAUSE},
    kv::Reading,
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
