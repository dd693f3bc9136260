//! Counts the commands that shards apply, by kind, so that a sweep shows which of the core's commands it had, and what copies
//! of messages write beside all else.

use std::collections::BTreeMap;

use broker::node::Node;
use flotilla_proto::record::{command::Command, release::Action};
use queue_core::frame;
use tracing::debug;

use crate::{coverage::Coverage, oracle::copies::Copies};

/// Entries of one shard that are counted in one look; more are passed over.
const MOST: u64 = 1_000;

/// How far each shard was counted.
#[derive(Default)]
pub struct Counted {
    upto: BTreeMap<u32, u64>,
    /// What copies wrote.
    pub copies: Copies,
}

impl Counted {
    /// Counts what was applied since the last look, as far as it is still in some node's memory: the counting reads no
    /// disk, and so changes nothing.
    pub fn look(&mut self, nodes: &[Node], coverage: &Coverage) {
        for shard in nodes.iter().flat_map(Node::shards) {
            let Some(applied) = shard.replica.status().applied.map(|at| at.index) else {
                continue;
            };
            let upto = self.upto.entry(shard.id).or_default();
            for index in (*upto + 1).max(applied.saturating_sub(MOST))..=applied {
                *upto = index;
                if !shard.replica.is_recent(index) {
                    continue;
                }
                // Entries of Raft's own have no payload.
                let Ok(payload) = shard.replica.read_payload(index) else {
                    continue;
                };
                let entry = frame::decode_entry(&payload).expect("it was applied");
                let commands = entry
                    .frames
                    .filter_map(Result::ok)
                    .map(|(_, _, command)| command.command);
                let commands: Vec<_> = commands.collect();
                self.copies.add(payload.len(), &commands);
                let names: Vec<&str> = commands.iter().map(name).collect();
                debug!(
                    shard = shard.id,
                    index,
                    time_ms = entry.time_ms,
                    ?names,
                    "applied"
                );
                names.into_iter().for_each(|name| coverage.count(name));
            }
        }
    }
}

fn name(command: &Option<Command>) -> &'static str {
    match command {
        Some(Command::Append(_)) => "command append",
        Some(Command::Deliver(_)) => "command deliver",
        Some(Command::Ack(_)) => "command ack",
        Some(Command::Release(release)) => match release.action() {
            Action::Retry => "command release: retry",
            Action::Extend => "command release: extend",
            Action::DeadLetter => "command release: dead letter",
            Action::Unspecified => "command unknown",
        },
        Some(Command::Tick(_)) => "command tick",
        Some(Command::Written(_)) => "command written",
        Some(Command::Renew(_)) => "command renew",
        Some(Command::Depart(_)) => "command depart",
        Some(Command::Trim(_)) => "command trim",
        Some(Command::Configure(_)) => "command configure",
        Some(Command::CopyForward(_)) => "command copy forward",
        None => "command unknown",
    }
}
