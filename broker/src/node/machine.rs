//! The pure core as a replicated machine: entries in, replies out, hints to the shell.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use flotilla_proto::record::{Command, command};
use prost::Message;
use queue_core::{
    AckResult, Context, Core, Effect, Outcome, Position, Reply,
    frame::{self, FrameError},
};
use raft_store::{Applied, EngineError, LogId, Machine, StateRead, StateWrite};
use tokio::sync::{Notify, Semaphore};

use super::{
    hub::{Hub, Pair},
    kv::{Reading, Writing, engine},
    shard_time::ShardTime,
};
use crate::{clock::Clock, tally::Tally};

#[cfg(madsim)]
#[path = "../../../sim-tests/plant/bodies/machine.rs"]
mod planted;

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
    /// What took effect while this node led, by topic and consumer group (0: none): messages stored, their bytes, messages
    /// acknowledged, messages given up.
    pub tally: Tally<(u32, u32), 4>,
    counting: AtomicBool,
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
            tally: Tally::default(),
            counting: AtomicBool::new(false),
        }
    }

    /// This node leads, and what was proposed before its start is applied: from here on it counts.
    pub fn start_counting(&self) {
        self.counting.store(true, Ordering::Relaxed);
    }

    /// Counts what took effect, whoever waits for the reply by now.
    fn count(&self, command: &Command, outcome: &Outcome) {
        match (&command.command, &outcome.reply) {
            (Some(command::Command::Append(append)), Reply::Appended { queue, duplicate, .. })
                if !duplicate =>
            {
                self.tally
                    .add((queue.topic(), 0), [1, append.message.len() as u64, 0, 0]);
            }
            (Some(command::Command::Ack(ack)), Reply::Acked { results }) => {
                let done = results
                    .iter()
                    .filter(|&&result| result == AckResult::Done)
                    .count();
                let topic = queue_core::QueueId(ack.queue).topic();
                if done > 0 {
                    self.tally.add((topic, ack.group), [0, 0, done as u64, 0]);
                }
            }
            _ => {}
        }
        for effect in &outcome.effects {
            if let Effect::DeadLettered { group, queue, .. } = effect {
                self.tally.add((queue.topic(), group.0), [0, 0, 0, 1]);
            }
        }
    }

    /// Reads the core. Keep it short: applying waits meanwhile.
    pub fn read<R>(&self, f: impl FnOnce(&Core) -> R) -> R {
        f(&self.core.lock().expect("a panic in the core stops the node"))
    }

    /// Taken by who reads messages to evaluate a condition.
    pub(super) fn filter_reads(&self) -> &Semaphore {
        &self.hub.filter_reads
    }

    /// Taken by pulls that read messages.
    pub(super) fn pull_reads(&self) -> &Semaphore {
        &self.hub.tails().reads
    }

    /// Who waits for a message on this node.
    pub(super) fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Waiters of a consumer group look again.
    pub(super) fn ring_group(&self, pair: Pair) {
        self.hub.ring_group(pair);
    }

    /// Every replica applies; only where the message can be had is there anything to wake for.
    fn hint(&self, effects: &[Effect], leads: bool) {
        for effect in effects {
            // Who waits here asks the leader, which has it.
            if let Effect::Appended { queue } | Effect::DeadLettered { to: queue, .. } = effect {
                self.hub.tails().ring(*queue);
            }
            match effect {
                Effect::Appended { queue } if leads => self.hub.ring(queue.topic()),
                Effect::Visible { group, queue, .. } if leads => {
                    self.hub.ring_group((queue.topic(), group.0));
                }
                Effect::DeadLettered { to, .. } if leads => self.hub.ring(to.topic()),
                Effect::Appended { .. } | Effect::Visible { .. } | Effect::DeadLettered { .. } => {}
                Effect::LeaseDeadline { .. } | Effect::Due { .. } => self.timer.notify_one(),
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
        let ((time_ms, wall_ms), commands) = understood(at, payload)?;
        let time_ms = plant!(LocalTimeInState => self.time.now_ms(), else time_ms);
        let mut core = self.core.lock().expect("a panic in the core stops the node");
        let mut replies: Vec<Reply> = Vec::new();
        let mut view = Writing(state);
        for (frame_offset, frame_len, command) in commands {
            let context = Context {
                position: Position {
                    index: at.index,
                    frame_offset,
                    frame_len,
                },
                time_ms,
                wall_ms,
            };
            let outcome = core.apply(&mut view, context, &command).map_err(engine)?;
            self.hint(&outcome.effects, at.node == self.replica);
            if at.node == self.replica && self.counting.load(Ordering::Relaxed) {
                self.count(&command, &outcome);
            }
            replies.push(outcome.reply);
        }
        if at.node == self.replica {
            plant!(LeaderTimeStands => self.time.followed_to(core.now_ms()), else self.time.led_to(core.now_ms()));
        } else {
            plant!(FollowerTimeAhead => self.time.led_to(core.now_ms()), else self.time.followed_to(core.now_ms()));
        }
        Ok(Applied::of(replies))
    }

    fn oldest_live_index(&self, state: &dyn StateRead) -> Result<Option<u64>, EngineError> {
        self.read(|core| core.oldest_live_index(&Reading(state)))
            .map_err(engine)
    }
}

/// Offset and length of a frame, and the command in it.
type Framed = (u32, u32, Command);

/// The shard's time and the leader's wall clock.
type Times = (u64, u64);

/// An entry as this release understands it: all of it or nothing, before the first command is applied. A quorum agreed on it,
/// so a command that is not known may not be skipped, or this replica would go its own way.
fn understood(at: LogId, payload: &Bytes) -> Result<(Times, Vec<Framed>), EngineError> {
    let newer = |what: String| {
        let release = env!("CARGO_PKG_VERSION");
        EngineError::Newer(format!(
            "entry {} of the log {what}, which release {release} does not know; run the release that wrote it, or newer",
            at.index
        ))
    };
    let unreadable = |error| match error {
        FrameError::Version(version) => newer(format!("has version {version}")),
        // The record's checksum held: this is no damage, and all replicas meet it alike. Nobody may throw its data away for it.
        error => EngineError::Failed(format!("entry {} of the log: {error}", at.index)),
    };
    let entry = frame::decode_entry(payload).map_err(unreadable)?;
    let mut commands = Vec::new();
    for item in entry.frames {
        let (offset, bytes, command) = item.map_err(unreadable)?;
        // Decoding drops fields that it does not know, which may change what the others mean.
        if command.encoded_len() != bytes as usize {
            return Err(newer(format!("has a command or field at byte {offset}")));
        }
        commands.push((offset, bytes, command));
    }
    Ok(((entry.time_ms, entry.wall_ms), commands))
}

#[cfg(test)]
mod tests {
    use flotilla_proto::record::{Append, command};
    use queue_core::frame::EntryBuilder;

    use super::*;

    const AT: LogId = LogId {
        term: 1,
        node: 1,
        index: 7,
    };

    fn entry(more: &[u8]) -> Bytes {
        let append = Append {
            queue: 3,
            ..Append::default()
        };
        let known = Command {
            command: Some(command::Command::Append(append)),
        };
        let mut builder = EntryBuilder::new(5, 6);
        builder.push(&known);
        let mut payload = builder.finish().to_vec();
        let mut frame = known.encode_to_vec();
        frame.extend_from_slice(more);
        payload.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        payload.extend_from_slice(&frame);
        payload.into()
    }

    fn stops(payload: &Bytes) -> String {
        match understood(AT, payload) {
            Err(EngineError::Newer(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_entry_of_this_release_is_understood() {
        assert_eq!(understood(AT, &entry(&[])).unwrap().1.len(), 2);
    }

    #[test]
    fn an_unknown_command_or_field_stops_before_anything_of_its_entry_is_applied() {
        // Field 1000, a number; and field 900, a message.
        for more in [&[0xc0, 0x3e, 1][..], &[0xa2, 0x38, 0]] {
            let why = stops(&entry(more));
            assert!(
                why.contains("entry 7") && why.contains("run the release that wrote it"),
                "{why}"
            );
        }
        let mut newer = entry(&[]).to_vec();
        newer[0] = 3;
        assert!(stops(&newer.into()).contains("has version 3"));
    }
}
