//! Order within message groups, for consumer groups that want it.
//!
//! A message group is locked while any message of it is in flight: the others wait for those before them, and nothing else does.
//! The cursor goes on: what it passes over of a locked message group is counted and found again by the chain, the rows of all
//! messages of a message group in their order. A message that is passed over costs no row of its own.
//!
//! When nothing of a message group is leased, the first of it that is not over is delivered next: by itself if it was delivered
//! before, else with what follows it. So what follows a poison message is not delivered each time together with it, and keeps
//! its attempts.

use std::collections::{BTreeMap, BTreeSet};

use bytes::BufMut;
use flotilla_proto::record::{Behind, Deliver, Run};

use crate::{
    core::Core,
    ids::{GroupId, QueueId},
    keys::{self, Reader},
    kv::{Fault, KeyValue},
    limits::MAX_LOOKED_IN_ORDER,
    outcome::Effect,
    places::on,
    queue::Message,
    subscription::Subscription,
    view::Stored,
};

/// What a consumer group has of a message group.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Lock {
    /// Offsets in flight.
    in_flight: BTreeSet<u64>,
    /// Of those, how many are leased.
    leased: usize,
    /// Messages below the cursor that were passed over: those of the chain from `next` on.
    blocked: u64,
    /// The first of them; 0 if there are none.
    next: u64,
    /// Since when nothing is in flight before it; 0 if something is, or there are none.
    ready_ms: u64,
}

impl Lock {
    pub(crate) fn in_flight(&self) -> &BTreeSet<u64> {
        &self.in_flight
    }

    pub(crate) fn blocked(&self) -> u64 {
        self.blocked
    }

    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn is_leased(&self) -> bool {
        self.leased > 0
    }

    pub(crate) fn is_over(&self) -> bool {
        self.in_flight.is_empty() && self.blocked == 0
    }

    /// What may be delivered next, and when; `waits` says of one in flight since when it can be, if it waits.
    pub(crate) fn turn(&self, waits: impl Fn(u64) -> Option<(u64, u64)>) -> Option<(u64, u64)> {
        match self.in_flight.first() {
            _ if self.leased > 0 => None,
            Some(&first) => waits(first),
            None => (self.blocked > 0).then_some((self.ready_ms, self.next)),
        }
    }

    pub(crate) fn enter(&mut self, offset: u64, leased: bool, was_leased: bool) {
        self.in_flight.insert(offset);
        self.leased = self.leased + usize::from(leased) - usize::from(was_leased);
        self.ready_ms = 0;
    }

    pub(crate) fn leave(&mut self, offset: u64, was_leased: bool, now_ms: u64) {
        self.in_flight.remove(&offset);
        self.leased -= usize::from(was_leased);
        if self.in_flight.is_empty() && self.blocked > 0 {
            self.ready_ms = now_ms;
        }
    }

    pub(crate) fn block(&mut self, offset: u64) {
        if self.blocked == 0 {
            self.next = offset;
        }
        self.blocked += 1;
    }

    pub(crate) fn unblock(&mut self, count: u64, next: Option<u64>) {
        self.blocked -= count;
        self.next = next.unwrap_or(0);
        if self.blocked == 0 {
            self.ready_ms = 0;
        }
    }

    /// Takes over its row; says how many were passed over.
    pub(crate) fn load(&mut self, mut value: Reader) -> Result<u64, Fault> {
        (self.blocked, self.next, self.ready_ms) = (value.long()?, value.long()?, value.long()?);
        value.end()?;
        match self.blocked {
            0 => Err(Fault::Corrupt(
                "a message group without messages has a row".into(),
            )),
            blocked => Ok(blocked),
        }
    }
}

/// A message that a consumer group may get next, or one that it passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Offset in the queue.
    pub offset: u64,
    /// What is known of the message.
    pub stored: Stored,
    /// Where it comes from.
    pub from: Source,
}

/// How a [`Candidate`] comes to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// It waits, and its time has come.
    Waiting,
    /// It was passed over, and what was before it is over, or is named before it.
    Behind,
    /// It is new.
    New,
    /// It is new, and passed over: an earlier message of its message group is not over.
    Blocked,
}

/// What a consumer group gets next in order. Any first so many of the candidates can be taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InOrder {
    /// In the order of delivery.
    pub candidates: Vec<Candidate>,
    /// The cursor.
    pub first_new: u64,
}

impl InOrder {
    /// Names what is taken of candidates, any first so many, in a deliver command: each leased, or passed over by a filter.
    pub fn name(taken: impl IntoIterator<Item = (Candidate, bool)>) -> Deliver {
        let mut deliver = Deliver::default();
        for (candidate, filtered) in taken {
            let message_group = candidate.stored.message_group;
            match candidate.from {
                Source::Waiting => deliver.redeliver.push(candidate.offset),
                Source::Behind => {
                    let last = deliver.behind.last_mut();
                    match last.filter(|last| last.message_group == message_group) {
                        Some(last) => add(&mut last.runs, filtered, false),
                        None => {
                            let mut runs = Vec::new();
                            add(&mut runs, filtered, false);
                            deliver.behind.push(Behind { message_group, runs });
                        }
                    }
                }
                Source::New => add(&mut deliver.new, filtered, false),
                Source::Blocked => add(&mut deliver.new, false, true),
            }
        }
        deliver.redeliver.sort_unstable();
        deliver
    }
}

/// Adds a message to runs.
fn add(runs: &mut Vec<Run>, filtered: bool, blocked: bool) {
    match runs
        .last_mut()
        .filter(|run| (run.filtered, run.blocked) == (filtered, blocked))
    {
        Some(run) => run.count += 1,
        None => runs.push(Run {
            count: 1,
            filtered,
            blocked,
        }),
    }
}

impl Core {
    /// True if messages of one message group come to a consumer group in their order.
    pub fn is_fifo(&self, group: GroupId) -> bool {
        self.rules.get(&group).is_some_and(|rules| rules.fifo)
    }

    /// What a deliver command could take at `now_ms` for a consumer group that wants order: at most so many messages, and
    /// looking through at most `page` new ones.
    pub fn in_order(
        &self,
        kv: &dyn KeyValue,
        (group, queue): (GroupId, QueueId),
        now_ms: u64,
        (max, max_in_flight, page): (usize, usize, usize),
    ) -> Result<InOrder, Fault> {
        let known = self.subscriptions.get(&(queue, group));
        let Some(known) = known.filter(|known| known.seeks_to.is_none() && !self.is_paused(group)) else {
            return Ok(InOrder::default());
        };
        let mut open = Open::default();
        let mut candidates = Vec::new();
        // What waits is in flight already; all others need room.
        let mut room = max_in_flight.saturating_sub(known.leased_or_waiting());
        let due = known.turns().range(..=(now_ms.max(self.now_ms), u64::MAX));
        for &(_, offset) in due {
            if candidates.len() >= max {
                break;
            }
            if room == 0 && !known.in_flight().contains_key(&offset) {
                continue;
            }
            let most = max - candidates.len();
            let turn = self.turn_of(kv, (queue, known), offset, &mut open, (most, room))?;
            room -= turn.iter().filter(|each| each.from == Source::Behind).count();
            candidates.extend(turn);
        }
        let most = room.min(max - candidates.len());
        let page = page.min(MAX_LOOKED_IN_ORDER);
        let stored = self.stored_from(kv, queue, known.cursor, if most > 0 { page } else { 0 })?;
        let mut taken = 0;
        for (offset, stored) in (known.cursor..).zip(stored) {
            let from = match open.is_free(known, stored.message_group) {
                true if taken == most => break,
                true => Source::New,
                false => Source::Blocked,
            };
            if from == Source::New {
                taken += 1;
                open.0.insert(stored.message_group);
            }
            candidates.push(Candidate { offset, stored, from });
        }
        Ok(InOrder {
            candidates,
            first_new: known.cursor,
        })
    }

    /// The messages whose turn it is with the one at this offset: at most so many, and of those that were passed over no more than
    /// there is room for.
    fn turn_of(
        &self,
        kv: &dyn KeyValue,
        (queue, known): (QueueId, &Subscription),
        offset: u64,
        open: &mut Open,
        (most, room): (usize, usize),
    ) -> Result<Vec<Candidate>, Fault> {
        let message = place(kv, queue, offset)?;
        let group = message.stored.message_group;
        let lock = known.locks().get(&group);
        let Some(lock) = lock.filter(|lock| lock.in_flight().is_empty()) else {
            return Ok(vec![Candidate {
                offset,
                stored: message.stored,
                from: Source::Waiting,
            }]);
        };
        let wanted = lock.blocked().min(most.min(room) as u64) as usize;
        let mut candidates = Vec::with_capacity(wanted);
        for offset in chain(kv, queue, group, lock.next(), wanted)? {
            let stored = place(kv, queue, offset)?.stored;
            candidates.push(Candidate {
                offset,
                stored,
                from: Source::Behind,
            });
        }
        if wanted as u64 == lock.blocked() {
            open.0.insert(group);
        }
        Ok(candidates)
    }

    /// Writes what was passed over of a message group. `was` says that there is a row.
    pub(crate) fn store_lock(
        &self,
        kv: &mut dyn KeyValue,
        (queue, group): (QueueId, GroupId),
        message_group: u64,
        was: bool,
    ) -> Result<(), Fault> {
        let key = keys::lock(queue, group, message_group);
        let lock = self.subscriptions[&(queue, group)].locks().get(&message_group);
        let Some(lock) = lock.filter(|lock| lock.blocked > 0) else {
            return if was { kv.delete(&key) } else { Ok(()) };
        };
        let mut value = keys::value(24);
        for number in [lock.blocked, lock.next, lock.ready_ms] {
            value.put_u64_le(number);
        }
        kv.put(&key, &value)
    }

    /// A message of a message group is over, or is leased no more: somebody may be waiting for what is next.
    pub(crate) fn passes_on(&self, queue: QueueId, group: GroupId, message_group: u64) -> Option<Effect> {
        let known = self
            .subscriptions
            .get(&(queue, group))
            .filter(|_| message_group != 0)?;
        let at_ms = match known.locks().get(&message_group) {
            Some(lock) => {
                let row = |offset: u64| known.in_flight().get(&offset).filter(|row| row.waits());
                lock.turn(|offset| row(offset).map(|row| (row.at_ms, offset)))?.0
            }
            None => {
                let next = self.queues.get(&queue)?.next;
                (known.cursor < next).then_some(self.now_ms)?
            }
        };
        Some(Effect::Visible { group, queue, at_ms })
    }

    /// Has nothing wait any more that was passed over, once nothing is in flight: so many message groups of it at most. Says how many
    /// messages that were.
    pub(crate) fn drop_blocked(
        &mut self,
        kv: &mut dyn KeyValue,
        (queue, group): (QueueId, GroupId),
        limit: usize,
    ) -> Result<u64, Fault> {
        let known = self.subscription_mut(queue, group).expect("the caller found it");
        if !known.in_flight().is_empty() {
            return Ok(0);
        }
        let some: Vec<(u64, u64)> = known
            .locks()
            .iter()
            .map(|(&message_group, lock)| (message_group, lock.blocked))
            .take(limit)
            .collect();
        for &(message_group, count) in &some {
            let known = self.subscription_mut(queue, group).expect("just read");
            known.unblock(message_group, count, None);
            self.store_lock(kv, (queue, group), message_group, true)?;
        }
        Ok(some.iter().map(|&(_, count)| count).sum())
    }

    /// Messages of these offsets are about to be forgotten: what was passed over of them is over.
    pub(crate) fn trim_blocked(
        &mut self,
        kv: &mut dyn KeyValue,
        queue: QueueId,
        gone: &[(u64, u64)],
        first: u64,
    ) -> Result<(), Fault> {
        for group in self.groups_on(queue) {
            let known = self.subscription_mut(queue, group).expect("just listed");
            if known.blocked() == 0 {
                continue;
            }
            let mut touched: BTreeMap<u64, u64> = BTreeMap::new();
            for &(message_group, offset) in gone {
                let lock = known.locks().get(&message_group);
                if lock.is_some_and(|lock| lock.blocked > 0 && lock.next <= offset && offset < known.cursor) {
                    *touched.entry(message_group).or_default() += 1;
                }
            }
            for (&message_group, &count) in &touched {
                let known = self.subscription_mut(queue, group).expect("just listed");
                let left = known.locks()[&message_group].blocked() - count;
                let next = match left {
                    0 => None,
                    _ => chain(kv, queue, message_group, first, 1)?.first().copied(),
                };
                known.unblock(message_group, count, next);
                known.trimmed += count;
                self.store_lock(kv, (queue, group), message_group, true)?;
            }
            if !touched.is_empty() {
                self.subscriptions[&(queue, group)].store(kv, queue, group)?;
            }
        }
        Ok(())
    }

    /// Consumer groups for which something of a queue was passed over: each costs a trim as much as the messages themselves.
    pub(crate) fn blocked_on(&self, queue: QueueId) -> usize {
        let subscribed = self.subscriptions.range(on(queue));
        subscribed.filter(|(_, known)| known.blocked() > 0).count()
    }
}

/// Message groups of which everything is delivered by one command: what comes next of them can be, too.
#[derive(Debug, Default)]
pub(crate) struct Open(pub(crate) BTreeSet<u64>);

impl Open {
    /// True if a new message of this message group need not wait.
    pub(crate) fn is_free(&self, known: &Subscription, message_group: u64) -> bool {
        plant!(OrderIgnored => return true);
        message_group == 0 || self.0.contains(&message_group) || !known.locks().contains_key(&message_group)
    }
}

/// Offsets of a message group's messages from one on, at most so many.
pub(crate) fn chain(
    kv: &dyn KeyValue,
    queue: QueueId,
    message_group: u64,
    from: u64,
    limit: usize,
) -> Result<Vec<u64>, Fault> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let (start, end) = (
        keys::chain(queue, message_group, from),
        keys::chain(queue, message_group, u64::MAX),
    );
    let rows = kv.scan(&start, &end, limit)?;
    let offsets = rows.into_iter().map(|(key, _)| {
        let mut key = Reader::key("message group", key)?;
        key.key_long()?;
        key.key_long()?;
        key.key_long()
    });
    offsets.collect()
}

fn place(kv: &dyn KeyValue, queue: QueueId, offset: u64) -> Result<Message, Fault> {
    Message::get(kv, queue, offset)?.ok_or_else(|| {
        Fault::Corrupt(format!(
            "message {queue:?}/{offset} can be delivered but has no place"
        ))
    })
}
