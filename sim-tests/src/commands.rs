//! Counts the commands that shards apply, by kind, so that a sweep shows which of the core's commands it had, and what copies
//! of messages write beside all else.

use std::collections::BTreeMap;

use broker::node::Node;
use flotilla_proto::record::{command::Command, release::Action};
use queue_core::frame;
use tracing::debug;

use crate::{
    coverage::Coverage,
    oracle::copies::{Again, Copies},
};

/// Entries of one shard that are counted in one look; more are passed over.
const MOST: u64 = 1_000;

/// How far each shard was counted.
#[derive(Default)]
pub struct Counted {
    upto: BTreeMap<u32, u64>,
    /// What copies wrote.
    pub copies: Copies,
    again: Again,
}

impl Counted {
    /// Counts what was applied since the last look, as far as it is still in some node's memory: the counting reads no
    /// disk, and so changes nothing.
    pub fn look(&mut self, nodes: &[Node], coverage: &Coverage, wrong: &mut Vec<String>) {
        self.again.run(nodes.iter().map(Node::id).collect());
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
                for command in commands.iter().flatten() {
                    if let Command::CopyForward(copy) = command {
                        let place = (shard.id, copy.queue, copy.offset);
                        let is_kept = |shard, index| is_kept(nodes, shard, index);
                        wrong.extend(self.again.add(place, index, is_kept));
                    }
                }
                for command in commands.iter().flatten() {
                    if let Command::Deliver(deliver) = command
                        && deliver.new.iter().any(|run| run.filtered)
                    {
                        coverage.count("messages passed over");
                    }
                }
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

/// Whether each node's log has this entry still, or has yet to get it.
fn is_kept(nodes: &[Node], shard: u32, index: u64) -> bool {
    nodes.iter().all(|node| {
        let segments = node.store().log().segments();
        let ranges = segments.iter().filter_map(|segment| segment.shards.get(&shard));
        let (mut is_there, mut is_later) = (false, false);
        for &(first, last) in ranges {
            is_there |= (first..=last).contains(&index);
            is_later |= last >= index;
        }
        is_there || !is_later
    })
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
        Some(Command::Seek(_)) => "command seek",
        Some(Command::Fire(_)) => "command fire",
        Some(Command::Recall(_)) => "command recall",
        Some(Command::Retime(_)) => "command retime",
        Some(Command::Redrive(_)) => "command redrive",
        Some(Command::Unpark(_)) => "command unpark",
        Some(Command::Commit(_)) => "command commit",
        Some(Command::Rollback(_)) => "command roll back",
        Some(Command::CheckBack(_)) => "command check back",
        Some(Command::GiveUp(_)) => "command give up",
        Some(Command::CopyForward(_)) => "command copy forward",
        None => "command unknown",
    }
}
