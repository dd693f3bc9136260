//! Reads the nodes for the ledger.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use broker::node::{Node, kv::Reading, shard::DataShard};
use flotilla_proto::record::{StoredMessage, command::Command};
use prost::Message;
use queue_core::{Core, GroupId, Position, QueueId, frame};

use super::ledger::{Ledger, NodeLook, Queue, QueueLook, Reader, Row, Rules, Segment, ShardLook};
use crate::{
    coverage::Coverage,
    history::{Event, Why},
};

/// Looks again and again.
pub struct Looks {
    ledger: Ledger,
    /// Names of all consumer groups.
    groups: BTreeSet<String>,
    group_ids: BTreeMap<GroupId, String>,
    topics: BTreeMap<u32, String>,
    /// Topics that some node knows to be deleted: one that is behind must not bring them back, as the name may be another's now.
    gone: BTreeSet<u32>,
    shards: BTreeMap<u32, Seen>,
    /// The last entry that each node had applied, by shard.
    applied: BTreeMap<(u32, u32), u64>,
}

/// What was seen of a shard.
#[derive(Default)]
struct Seen {
    /// The last entry whose outcome was.
    index: u64,
    /// The shard's time then, milliseconds.
    now_ms: u64,
    /// Ids below this number.
    remembered: u64,
    ids: BTreeMap<(QueueId, u64), String>,
    /// What stands in the log where.
    at: BTreeMap<Position, String>,
}

impl Looks {
    /// At nodes that nothing was stored in yet.
    #[must_use]
    pub fn new(rules: Rules) -> Looks {
        let undertaker = rules.undertaker.clone();
        Looks {
            groups: rules.groups.iter().cloned().chain([undertaker]).collect(),
            ledger: Ledger::new(rules),
            group_ids: BTreeMap::new(),
            topics: BTreeMap::new(),
            gone: BTreeSet::new(),
            shards: BTreeMap::new(),
            applied: BTreeMap::new(),
        }
    }

    /// The faults are over, and the cluster is whole.
    pub fn calm(&mut self, at: Duration) {
        self.ledger.calm(at);
    }

    /// Whether everything is gone that has to go, and every log within its bound.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.ledger.settled()
    }

    /// Looks at all nodes that run; what was forgotten since the look before.
    pub fn look(
        &mut self,
        at: Duration,
        nodes: &[Node],
        coverage: &Coverage,
        wrong: &mut Vec<String>,
    ) -> Vec<Event> {
        self.learn_names(nodes);
        let logs = nodes.iter().map(|node| (node.id(), node_look(node)));
        let recycled = self.ledger.nodes(at, logs.collect(), wrong);
        (0..recycled).for_each(|_| coverage.count("segment recycled"));
        nodes.iter().for_each(|node| self.count_snapshots(node, coverage));
        let mut furthest: BTreeMap<u32, (u64, Arc<DataShard>)> = BTreeMap::new();
        for shard in nodes.iter().flat_map(Node::shards) {
            let applied = shard.replica.status().applied.map_or(0, |at| at.index);
            let known = self.shards.entry(shard.id).or_default().index;
            let best = furthest.get(&shard.id).map_or(known, |(index, _)| *index);
            if applied > best {
                furthest.insert(shard.id, (applied, shard));
            }
        }
        let mut events = Vec::new();
        for (_, shard) in furthest.into_values() {
            if let Some(look) = self.shard_look(&shard) {
                events.extend(self.ledger.shard(at, look, wrong));
            }
        }
        self.ledger.judge_age(at, wrong);
        events.iter().for_each(|event| count(event, coverage));
        events
    }

    /// Whose log begins after the last entry that it had applied got the rest in another way.
    fn count_snapshots(&mut self, node: &Node, coverage: &Coverage) {
        for shard in node.shards() {
            let status = shard.replica.status();
            let applied = status.applied.map_or(0, |at| at.index);
            let before = self.applied.insert((node.id(), shard.id), applied);
            if status
                .purged
                .is_some_and(|purged| purged.index > before.unwrap_or(0))
            {
                coverage.count(match before {
                    Some(1..) => "snapshot to one that was behind",
                    _ => "snapshot to a new replica",
                });
            }
        }
    }

    fn learn_names(&mut self, nodes: &[Node]) {
        for meta in nodes.iter().map(Node::meta) {
            let there = meta.topics().filter(|topic| !self.gone.contains(&topic.id));
            self.topics
                .extend(there.map(|topic| (topic.id, topic.name.clone())));
            for name in &self.groups {
                let known = meta.group(name).map(|group| (GroupId(group.id), name.clone()));
                self.group_ids.extend(known);
            }
            self.topics.retain(|id, name| {
                let is_there = !meta.topic_is_gone(*id);
                if !is_there {
                    self.gone.insert(*id);
                    self.ledger.dropped(name);
                }
                is_there
            });
        }
    }

    /// Nothing while what is written through is behind.
    fn shard_look(&mut self, shard: &DataShard) -> Option<ShardLook> {
        let seen = self.shards.entry(shard.id).or_default();
        let (ledger, topics, groups) = (&self.ledger, &self.topics, &self.group_ids);
        shard.replica.read_state_at(|applied, state| {
            let state = Reading(state);
            shard.machine.read(|core| {
                seen.learn_ids(core, &state);
                let mut look = ShardLook {
                    shard: shard.id,
                    now_ms: core.now_ms(),
                    queues: BTreeMap::new(),
                };
                for (id, ends) in core.queues() {
                    let Some(topic) = topics.get(&id.topic()) else {
                        continue;
                    };
                    let queue: Queue = (topic.clone(), id.number() as i32);
                    let mut it = QueueLook {
                        first: ends.first,
                        next: ends.next,
                        ..QueueLook::default()
                    };
                    for (group, name) in groups {
                        let reader = seen.reader(core, &state, (*group, id), ends.first);
                        it.readers.extend(reader.map(|reader| (name.clone(), reader)));
                    }
                    let known = ledger.known(shard.id, &queue);
                    seen.rows(core, &state, shard, id, known, &mut it)?;
                    look.queues.insert(queue, it);
                }
                seen.index = applied.map_or(0, |at| at.index);
                seen.now_ms = core.now_ms();
                Some(look)
            })
        })
    }
}

impl Seen {
    fn learn_ids(&mut self, core: &Core, state: &Reading<'_>) {
        for (sequence, queue, offset, id) in core.remembered_from(state, self.remembered) {
            let id = String::from_utf8_lossy(&id).into_owned();
            self.ids.insert((queue, offset), id);
            self.remembered = sequence + 1;
        }
    }

    /// Where a consumer group is; what it has in flight may have been copied forward.
    fn reader(
        &mut self,
        core: &Core,
        state: &Reading<'_>,
        (group, queue): (GroupId, QueueId),
        first: u64,
    ) -> Option<Reader> {
        let mut reader = Reader {
            cursor: core.cursor(group, queue)?,
            in_flight: core.offsets_in_flight(group, queue).collect(),
            lost: BTreeSet::new(),
        };
        for &offset in reader.in_flight.range(..first) {
            let stored = core.locate(state, queue, offset).expect("the state can be read");
            match (stored, self.ids.get(&(queue, offset))) {
                (None, _) => {
                    reader.lost.insert(offset);
                }
                (Some(stored), Some(id)) => {
                    self.at.insert(stored.position, id.clone());
                }
                (Some(_), None) => {}
            }
        }
        Some(reader)
    }

    /// What stands in a queue from `known` on.
    fn rows(
        &mut self,
        core: &Core,
        state: &Reading<'_>,
        shard: &DataShard,
        queue: QueueId,
        known: u64,
        look: &mut QueueLook,
    ) -> Option<()> {
        for offset in known..look.next {
            let stored = core.locate(state, queue, offset).expect("the state can be read");
            let Some(stored) = stored else {
                if offset >= look.first {
                    return None;
                }
                // Came and went since the last look, and may be as old as that: its entry may have waited for a disk.
                let row = Row {
                    id: self.ids.get(&(queue, offset)).cloned(),
                    stored_ms: self.now_ms,
                    index: self.index + 1,
                };
                look.rows.insert(offset, row);
                continue;
            };
            let known = self
                .ids
                .get(&(queue, offset))
                .or_else(|| self.at.get(&stored.position));
            let id = known.cloned().or_else(|| read_id(shard, stored.position));
            if let Some(id) = &id {
                self.at.insert(stored.position, id.clone());
                self.ids.insert((queue, offset), id.clone());
            }
            let row = Row {
                id,
                stored_ms: stored.time_ms,
                // What is forgotten and in flight may have been copied since: it stood in some entry after the last look.
                index: match offset < look.first {
                    true => self.index + 1,
                    false => stored.position.index,
                },
            };
            look.rows.insert(offset, row);
        }
        Some(())
    }
}

/// The id of a message, if its entry is in memory.
fn read_id(shard: &DataShard, at: Position) -> Option<String> {
    if !shard.replica.is_recent(at.index) {
        return None;
    }
    let payload = shard.replica.read_payload(at.index).ok()?;
    let mut frames = frame::decode_entry(&payload).ok()?.frames.filter_map(Result::ok);
    let (_, _, command) = frames.find(|(offset, _, _)| *offset == at.frame_offset)?;
    match command.command? {
        Command::Append(append) => Some(append.message_id),
        Command::CopyForward(copy) => Some(StoredMessage::decode(copy.message).ok()?.message_id),
        Command::Retime(retime) => Some(StoredMessage::decode(retime.message).ok()?.message_id),
        _ => None,
    }
}

fn count(event: &Event, coverage: &Coverage) {
    let Event::Forgotten { groups, why, .. } = event else {
        return;
    };
    coverage.count(match why {
        Why::Aged(_) => "forgotten for its age",
        Why::Room => "forgotten for room",
    });
    if !groups.is_empty() {
        coverage.count("forgotten before it came");
    }
}

fn node_look(node: &Node) -> NodeLook {
    let log = node.store().log();
    let segments = log.segments().into_iter().map(|segment| {
        let last = segment.shards.iter().map(|(shard, (_, last))| (*shard, *last));
        let last = last.collect();
        let bytes = segment.bytes;
        (segment.sequence, Segment { bytes, last })
    });
    let mut look = NodeLook {
        segments: segments.collect(),
        spare_bytes: log.spare_bytes(),
        displaced_bytes: 0,
        leads: BTreeMap::new(),
        votes: BTreeSet::new(),
    };
    for shard in node.shards() {
        look.displaced_bytes += shard.machine.read(Core::displaced_bytes);
        let status = shard.replica.status();
        if status
            .voters
            .iter()
            .any(|voters| voters.contains(&status.replica))
        {
            look.votes.insert(shard.id);
        }
        if shard.leads() || status.is_leader {
            look.leads.insert(shard.id, shard.now_ms());
        }
    }
    look
}
