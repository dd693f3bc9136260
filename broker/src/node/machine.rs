//! The pure core as a replicated machine: entries in, replies out, hints to the shell.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use queue_core::{Context, Core, Effect, Position, Reply, frame};
use raft_store::{Applied, EngineError, LogId, Machine, StateRead, StateWrite};
use tokio::sync::Notify;

use super::{
    hub::Hub,
    kv::{Reading, Writing},
    shard_time::ShardTime,
};
use crate::clock::Clock;

/// One data shard's core, shared between the log that changes it and the leader that reads it.
pub struct QueueMachine {
    core: Mutex<Core>,
    /// Id of the replica whose state this is.
    replica: u64,
    hub: Arc<Hub>,
    /// Rings when a deadline appeared that may be earlier than all before.
    pub timer: Notify,
    /// By which deadlines are measured.
    pub time: ShardTime,
}

impl QueueMachine {
    /// An empty core; `restore` fills it before anything else happens.
    pub fn new(replica: u64, hub: Arc<Hub>, clock: Arc<dyn Clock>) -> Self {
        Self {
            core: Mutex::new(Core::default()),
            replica,
            hub,
            timer: Notify::new(),
            time: ShardTime::new(clock),
        }
    }

    /// Reads the core. Keep it short: applying waits meanwhile.
    pub fn read<R>(&self, f: impl FnOnce(&Core) -> R) -> R {
        f(&self.core.lock().expect("a panic in the core stops the node"))
    }

    /// The planted bug of an acknowledgement beside the log.
    #[cfg(madsim)]
    pub fn planted_ack(
        &self,
        group: queue_core::GroupId,
        queue: queue_core::QueueId,
        offset: u64,
        nonce: u64,
    ) -> bool {
        let mut core = self.core.lock().expect("a panic in the core stops the node");
        core.planted_ack(group, queue, offset, nonce)
    }

    /// Every replica applies; only where the message can be had is there anything to wake for.
    fn hint(&self, effects: &[Effect], leads: bool) {
        for effect in effects {
            match effect {
                Effect::Appended { queue } if leads => self.hub.ring(queue.topic()),
                Effect::Visible { group, queue, .. } if leads => {
                    self.hub.ring_group((queue.topic(), group.0));
                }
                Effect::Appended { .. } | Effect::Visible { .. } => {}
                Effect::LeaseDeadline { .. } => self.timer.notify_one(),
            }
        }
    }
}

impl Machine for QueueMachine {
    fn restore(&self, state: &dyn StateRead) -> Result<(), EngineError> {
        let core = Core::load(&Reading(state)).map_err(engine)?;
        if core.now_ms() > 0 {
            self.time.followed_to(core.now_ms());
        }
        *self.core.lock().expect("a panic in the core stops the node") = core;
        self.timer.notify_one();
        self.hub.ring_all();
        Ok(())
    }

    fn apply(&self, at: LogId, payload: &Bytes, state: &mut dyn StateWrite) -> Result<Applied, EngineError> {
        // The record's checksum held and a leader of ours wrote it: anything else is a broken invariant.
        let entry = frame::decode_entry(payload).expect("a committed entry decodes");
        // Planted: every replica has a clock.
        #[cfg(madsim)]
        let entry = match plant::is(plant::Bug::LocalTimeInState) {
            true => frame::Entry {
                time_ms: self.time.now_ms(),
                ..entry
            },
            false => entry,
        };
        let mut core = self.core.lock().expect("a panic in the core stops the node");
        let mut replies: Vec<Reply> = Vec::new();
        let mut view = Writing(state);
        for item in entry.frames {
            let (frame_offset, frame_len, command) = item.expect("a committed frame decodes");
            let context = Context {
                position: Position {
                    index: at.index,
                    frame_offset,
                    frame_len,
                },
                time_ms: entry.time_ms,
            };
            let outcome = core.apply(&mut view, context, &command).map_err(engine)?;
            self.hint(&outcome.effects, at.node == self.replica);
            replies.push(outcome.reply);
        }
        if at.node == self.replica {
            self.time.led_to(core.now_ms());
        } else {
            self.time.followed_to(core.now_ms());
        }
        Ok(Applied::of(replies))
    }

    fn oldest_live_index(&self, state: &dyn StateRead) -> Result<Option<u64>, EngineError> {
        self.read(|core| core.oldest_live_index(&Reading(state)))
            .map_err(engine)
    }
}

fn engine(fault: queue_core::Fault) -> EngineError {
    EngineError::Corrupt(fault.0)
}
