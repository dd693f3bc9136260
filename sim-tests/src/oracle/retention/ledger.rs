//! An account of all that is stored: what was forgotten, whether it was too early, and what should be gone by now.
//!
//! Looks come now and then, so each figure is judged by what it can have been between two of them: a message is too young only
//! if it was at the later look, and a log was within its bound only if it was with everything that either look saw.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::history::{DEAD_LETTERS, DELAYED, Event, Place, TRANSACTIONS, Why};

/// What is past retention is forgotten so soon, once the cluster is whole: a round each ten seconds, some time for it,
/// and one that was refused.
pub const GONE_WITHIN: Duration = Duration::from_secs(25);
/// A log is within its bound again so soon: what is in it has to be forgotten or copied, and the state flushed, by every
/// node, and the latter is done each thirty seconds.
pub const FITS_WITHIN: Duration = Duration::from_secs(60);

/// Full name of the topic, number of the queue.
pub type Queue = (String, i32);

/// What nodes are told to keep.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Messages older than this may be forgotten.
    pub age: Duration,
    /// The oldest messages are forgotten when a log is larger, bytes.
    pub bytes: u64,
    /// Size of a segment, bytes.
    pub segment_bytes: u64,
    /// Consumer groups; each receives every message.
    pub groups: BTreeSet<String>,
    /// The consumer group that reads dead letters.
    pub undertaker: String,
}

/// A stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its id, if it could be read.
    pub id: Option<String>,
    /// When it was stored, by its shard's time, milliseconds.
    pub stored_ms: u64,
    /// The entry that it stands in, or one before.
    pub index: u64,
}

/// Where a consumer group is on a queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reader {
    /// The next offset to be delivered for the first time.
    pub cursor: u64,
    /// What is leased or waits.
    pub in_flight: BTreeSet<u64>,
    /// Of that, what has no place any more.
    pub lost: BTreeSet<u64>,
}

/// A queue at a look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueLook {
    /// First offset kept.
    pub first: u64,
    /// Offset of the next message.
    pub next: u64,
    /// What no look before has seen.
    pub rows: BTreeMap<u64, Row>,
    /// Consumer groups that have begun on it.
    pub readers: BTreeMap<String, Reader>,
}

/// A shard at a look, as the replica has it that is furthest.
#[derive(Debug, Clone, Default)]
pub struct ShardLook {
    /// Its number.
    pub shard: u32,
    /// Its time, milliseconds.
    pub now_ms: u64,
    /// All queues of topics that exist.
    pub queues: BTreeMap<Queue, QueueLook>,
}

/// A segment of a node's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Size of the file.
    pub bytes: u64,
    /// The last entry in it, by shard.
    pub last: BTreeMap<u32, u64>,
}

/// A node at a look.
#[derive(Debug, Clone, Default)]
pub struct NodeLook {
    /// All segments by their sequence number; the last one is open.
    pub segments: BTreeMap<u64, Segment>,
    /// Bytes of the spare segments.
    pub spare_bytes: u64,
    /// Bytes of its log that only a copy lets go.
    pub displaced_bytes: u64,
    /// What time it is in the shards that it leads, milliseconds.
    pub leads: BTreeMap<u32, u64>,
    /// The shards in which it is a voter.
    pub votes: BTreeSet<u32>,
}

/// A queue as the last look saw it.
#[derive(Default)]
struct Account {
    first: u64,
    next: u64,
    rows: BTreeMap<u64, Row>,
    /// When each of them was seen first.
    seen: BTreeMap<u64, Duration>,
    cursors: BTreeMap<String, u64>,
    /// Its shard's time then, milliseconds.
    now_ms: u64,
}

/// The account.
pub struct Ledger {
    rules: Rules,
    calm: Option<Duration>,
    nodes: BTreeMap<u32, NodeLook>,
    /// Entries up to this one had to go for some voter's log to have its size, by shard.
    had_to_go: BTreeMap<u32, u64>,
    queues: BTreeMap<(u32, Queue), Account>,
    /// Where an id stands, by topic.
    copies: BTreeMap<(String, String), BTreeSet<Place>>,
    /// Forgotten before the consumer group had it.
    taken: BTreeSet<(String, Place)>,
    /// Past retention since, though it could be forgotten.
    old: BTreeMap<(Queue, u64), Duration>,
    /// Something may still have to be forgotten.
    pending: bool,
    /// Nodes whose logs are too large since.
    large: BTreeMap<u32, Duration>,
}

impl Ledger {
    /// Of a world in which nothing was stored yet.
    #[must_use]
    pub fn new(rules: Rules) -> Ledger {
        Ledger {
            rules,
            calm: None,
            nodes: BTreeMap::new(),
            had_to_go: BTreeMap::new(),
            queues: BTreeMap::new(),
            copies: BTreeMap::new(),
            taken: BTreeSet::new(),
            old: BTreeMap::new(),
            pending: true,
            large: BTreeMap::new(),
        }
    }

    /// The faults are over, and the cluster is whole.
    pub fn calm(&mut self, at: Duration) {
        self.calm.get_or_insert(at);
    }

    /// Whether everything is gone that has to go, and every log within its bound.
    #[must_use]
    pub fn settled(&self) -> bool {
        !self.pending && self.old.is_empty() && self.large.is_empty()
    }

    /// A topic was deleted, with all that was in it.
    pub fn dropped(&mut self, topic: &str) {
        self.queues.retain(|(_, queue), _| queue.0 != topic);
        self.copies.retain(|(of, _), _| of != topic);
    }

    /// Up to which offset a queue's messages are known.
    #[must_use]
    pub fn known(&self, shard: u32, queue: &Queue) -> u64 {
        let account = self.queues.get(&(shard, queue.clone()));
        account.map_or(0, |account| account.next)
    }

    /// All nodes that run, before their shards. How many segments they have given back.
    pub fn nodes(&mut self, at: Duration, nodes: BTreeMap<u32, NodeLook>, wrong: &mut Vec<String>) -> usize {
        let mut recycled = 0;
        for (id, before) in &self.nodes {
            let mut both = before.clone();
            match nodes.get(id) {
                Some(now) => {
                    let oldest = now.segments.keys().next().copied().unwrap_or(0);
                    recycled += before.segments.range(..oldest).count();
                    both.join(now);
                }
                // It may have begun one more before it died.
                None => both.begin(self.rules.segment_bytes),
            }
            for (shard, last) in both.too_many(&self.rules) {
                let known = self.had_to_go.entry(shard).or_default();
                *known = last.max(*known);
            }
        }
        for (id, before) in std::mem::replace(&mut self.nodes, nodes) {
            // What it had when it died is looked at again when it is back.
            let leads = BTreeMap::new();
            self.nodes.entry(id).or_insert(NodeLook { leads, ..before });
        }
        self.judge_sizes(at, wrong);
        recycled
    }

    fn judge_sizes(&mut self, at: Duration, wrong: &mut Vec<String>) {
        for (id, node) in &self.nodes {
            // Its segments; what the product itself aims at leaves room for one more.
            let bound = self.rules.bytes;
            let size = node.segments.values().map(|segment| segment.bytes).sum::<u64>();
            // The open segment stays, and with more that must stay than half it is nobody's fault.
            let is_large = size > bound
                && node.segments.len() > 1
                && node.displaced_bytes <= self.rules.room(node.spare_bytes) / 2;
            let Some(calm) = self.calm.filter(|_| is_large) else {
                self.large.remove(id);
                continue;
            };
            let since = *self.large.entry(*id).or_insert(at);
            if at > since.max(calm) + FITS_WITHIN {
                wrong.push(format!(
                    "retention: since {since:?} the log of node {id} has {size} bytes, and {bound} are its bound"
                ));
            }
        }
    }

    /// One shard that is further than at the look before; what was forgotten since.
    pub fn shard(&mut self, at: Duration, look: ShardLook, wrong: &mut Vec<String>) -> Vec<Event> {
        let ShardLook {
            shard,
            now_ms,
            queues,
        } = look;
        let mut events = Vec::new();
        for (queue, look) in queues {
            for (group, reader) in &look.readers {
                for offset in &reader.lost {
                    wrong.push(format!(
                        "retention: {:?} is gone, and {group} is not done with it",
                        place(&queue, *offset)
                    ));
                }
            }
            let key = (shard, queue.clone());
            let mut account = self.queues.remove(&key).unwrap_or_default();
            self.learn(at, now_ms, &queue, (&mut account, &look), wrong);
            if look.first < account.first || look.next < account.next {
                wrong.push(format!(
                    "retention: {queue:?} had {}..{} and has {}..{}",
                    account.first, account.next, look.first, look.next
                ));
            }
            let gone = account.first..look.first;
            for offset in gone {
                // What went back was said.
                let Some(row) = account.rows.remove(&offset) else {
                    continue;
                };
                account.seen.remove(&offset);
                // Who reads what waits is not followed here, but where it is sent (`workload/delayed`, `workload/transactions`).
                let looked_at = look.readers.values().all(|reader| offset < reader.cursor);
                let why = self.why((shard, now_ms), &queue, &row, looked_at);
                if why.is_none() {
                    wrong.push(format!(
                        "retention: {:?} with {:?} was forgotten {} ms after it was stored, of {:?}, in entry {} of shard {shard}",
                        place(&queue, offset), row.id, now_ms.saturating_sub(row.stored_ms), self.rules.age, row.index
                    ));
                }
                let groups = self.take(&queue, offset, row.id.as_ref(), (&account, &look));
                events.push(Event::Forgotten {
                    place: place(&queue, offset),
                    id: row.id,
                    groups,
                    why: why.unwrap_or(Why::Room),
                });
            }
            account.now_ms = now_ms;
            account.first = look.first;
            account.next = look.next;
            account.cursors = look
                .readers
                .into_iter()
                .map(|(group, it)| (group, it.cursor))
                .collect();
            self.queues.insert(key, account);
        }
        events
    }

    /// Takes down what came since the look before.
    fn learn(
        &mut self,
        at: Duration,
        now_ms: u64,
        queue: &Queue,
        (account, look): (&mut Account, &QueueLook),
        wrong: &mut Vec<String>,
    ) {
        for (&offset, row) in &look.rows {
            if row.stored_ms < account.now_ms || row.stored_ms > now_ms {
                wrong.push(format!(
                    "retention: {:?} came between {} and {now_ms} ms, and counts as stored at {}",
                    place(queue, offset),
                    account.now_ms,
                    row.stored_ms
                ));
            }
            account.seen.insert(offset, at);
            account.rows.insert(offset, row.clone());
            if let Some(id) = &row.id {
                let copies = self.copies.entry((queue.0.clone(), id.clone())).or_default();
                copies.insert(place(queue, offset));
            }
        }
    }

    fn why(&self, (shard, now_ms): (u32, u64), queue: &Queue, row: &Row, looked_at: bool) -> Option<Why> {
        let is_dead = queue.0.starts_with(DEAD_LETTERS);
        // What had waited stands in no order, and goes with the others once everybody has looked at it; what was committed, anyway.
        let had_waited = queue.0 == TRANSACTIONS || (queue.0 == DELAYED && looked_at);
        let had_to_go = self.had_to_go.get(&shard);
        let had_to_go = had_to_go.is_some_and(|last| row.index <= *last || had_waited);
        if had_to_go && !is_dead {
            return Some(Why::Room);
        }
        self.rules
            .is_old(now_ms, row)
            .then_some(Why::Aged(self.rules.age))
    }

    /// The consumer groups that will not get a message because it was forgotten: neither from there nor from where else it
    /// stands.
    fn take(
        &mut self,
        (topic, number): &Queue,
        offset: u64,
        id: Option<&String>,
        (before, now): (&Account, &QueueLook),
    ) -> Vec<String> {
        let stood = place(&(topic.clone(), *number), offset);
        let dead_of = topic.strip_prefix(DEAD_LETTERS);
        let readers = match dead_of {
            Some(_) => BTreeSet::from([self.rules.undertaker.clone()]),
            None => self.rules.groups.clone(),
        };
        let mut taken = Vec::new();
        for group in readers {
            let had = before.cursors.get(&group).is_some_and(|cursor| offset < *cursor);
            let has = now
                .readers
                .get(&group)
                .is_some_and(|it| it.in_flight.contains(&offset));
            if had || has {
                continue;
            }
            self.taken.insert((group.clone(), stood.clone()));
            let copies = id.and_then(|id| self.copies.get(&(topic.clone(), id.clone())));
            let is_left = |place: &&Place| !self.taken.contains(&(group.clone(), (*place).clone()));
            if copies.is_none_or(|copies| !copies.iter().any(|place| is_left(&place))) {
                taken.push(dead_of.map_or(group, Into::into));
            }
        }
        taken
    }

    /// After all shards: what should be gone by now.
    pub fn judge_age(&mut self, at: Duration, wrong: &mut Vec<String>) {
        let Some(calm) = self.calm else { return };
        self.pending = false;
        let mut old = BTreeMap::new();
        for node in self.nodes.values().filter(|node| node.segments.len() > 1) {
            for (shard, now_ms) in &node.leads {
                let queues = self.queues.iter().filter(|((of, _), _)| of == shard);
                for ((_, queue), account) in queues {
                    let Some(row) = account.rows.get(&account.first) else {
                        continue;
                    };
                    self.pending |= self.rules.age < FOR_EVER;
                    let since = account.seen[&account.first].max(calm);
                    if self.rules.is_old(*now_ms, row) || at > since + self.rules.age {
                        let key = (queue.clone(), account.first);
                        let since = self.old.get(&key).copied().unwrap_or(at);
                        old.insert(key, since);
                    }
                }
            }
        }
        self.old = old;
        for ((queue, offset), since) in &self.old {
            if at > *since + GONE_WITHIN {
                wrong.push(format!(
                    "retention: {:?} is past retention since {since:?} at the latest, and was not forgotten",
                    place(queue, *offset)
                ));
            }
        }
    }
}

/// No world lasts so long.
pub const FOR_EVER: Duration = Duration::from_secs(24 * 3_600);

impl Rules {
    /// Bytes of segments that may stay.
    fn room(&self, spare_bytes: u64) -> u64 {
        self.bytes.saturating_sub(self.segment_bytes.max(spare_bytes))
    }

    fn is_old(&self, now_ms: u64, row: &Row) -> bool {
        now_ms.saturating_sub(row.stored_ms) > self.age.as_millis() as u64
    }
}

impl NodeLook {
    /// With all that was there at a later look.
    fn join(&mut self, later: &NodeLook) {
        for (sequence, segment) in &later.segments {
            let known = self.segments.entry(*sequence).or_insert_with(|| segment.clone());
            known.bytes = known.bytes.max(segment.bytes);
            known.last.clone_from(&segment.last);
        }
        self.spare_bytes = self.spare_bytes.max(later.spare_bytes);
        self.leads.extend(&later.leads);
        self.votes.extend(&later.votes);
    }

    /// With one more segment.
    fn begin(&mut self, bytes: u64) {
        let next = self.segments.keys().next_back().map_or(0, |last| last + 1);
        let last = BTreeMap::new();
        self.segments.insert(next, Segment { bytes, last });
    }

    /// Of the shards in which it votes, the last entries that have to go for the log to have its size.
    fn too_many(&self, rules: &Rules) -> BTreeMap<u32, u64> {
        let total = self.segments.values().map(|segment| segment.bytes).sum::<u64>();
        let mut over = total.saturating_sub(rules.room(self.spare_bytes));
        let mut through = BTreeMap::new();
        let closed = self.segments.len().saturating_sub(1);
        for segment in self.segments.values().take(closed) {
            if over == 0 {
                break;
            }
            over = over.saturating_sub(segment.bytes);
            let counts = segment
                .last
                .iter()
                .filter(|(shard, _)| self.votes.contains(shard));
            for (shard, last) in counts {
                // A segment from before a snapshot came may go on to later entries than those that were put in behind it, and is given back
                // when none of them is needed.
                let known: &mut u64 = through.entry(*shard).or_default();
                *known = (*last).max(*known);
            }
        }
        through
    }
}

fn place((topic, queue): &Queue, offset: u64) -> Place {
    Place {
        topic: topic.clone(),
        queue: *queue,
        offset: offset as i64,
    }
}

#[cfg(test)]
mod tests;
