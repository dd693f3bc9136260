//! The hot state in memory, always equal to what is written through.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use bytes::BufMut;
use flotilla_proto::record::{Command, command};

use crate::{
    commands,
    dedup::Dedup,
    held::Held,
    ids::{GroupId, Position, QueueId},
    keys::{self, Key, Reader},
    kv::{Fault, KeyValue},
    limits::LOOK_PAGE,
    outcome::{Effect, Outcome, Refusal, Reply},
    queue::{self, Message, Queue},
    subscription::{self, InFlight, Rules, Subscription},
    view::{InFlightView, QueueView, Selection, Stored, SubscriptionView},
};

/// What an entry says about its commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// Where the command stands in the log.
    pub position: Position,
    /// The shard's time as its leader reckoned it, milliseconds. The core's time never goes back: to a leader that was
    /// behind, times in its commands are later by as much, so that what was to last as long as it should does.
    pub time_ms: u64,
}

/// One data shard's state.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Core {
    pub(crate) now_ms: u64,
    pub(crate) queues: BTreeMap<QueueId, Queue>,
    pub(crate) subscriptions: BTreeMap<(QueueId, GroupId), Subscription>,
    /// Leases by their end.
    pub(crate) deadlines: BTreeSet<(u64, QueueId, GroupId, u64)>,
    /// Leases that the server prolongs, by who holds them.
    pub(crate) held: BTreeSet<Held>,
    pub(crate) dedup: Dedup,
}

impl Core {
    /// Rebuilds the hot state from the key-value state.
    pub fn load(kv: &dyn KeyValue) -> Result<Self, Fault> {
        let mut core = Self::default();
        if let Some(value) = kv.get(keys::NOW)? {
            core.now_ms = Reader::value("time", value)?.long()?;
        }
        keys::each(kv, Key::of(keys::QUEUE), |key, value| {
            let id = QueueId(Reader::key("queue", key)?.key_long()?);
            core.queues
                .insert(id, Queue::load(Reader::value("queue", value)?)?);
            Ok(())
        })?;
        keys::each(kv, Key::of(keys::SUBSCRIPTION), |key, value| {
            let (queue, group, _) = subscription_key(key)?;
            let loaded = Subscription::load(Reader::value("subscription", value)?)?;
            core.subscriptions.insert((queue, group), loaded);
            Ok(())
        })?;
        keys::each(kv, Key::of(keys::RULES), |key, value| {
            let (queue, group, _) = subscription_key(key)?;
            let rules = Rules::load(Reader::value("rules", value)?)?;
            core.subscription_mut(queue, group).ok_or_else(orphan)?.rules = rules;
            Ok(())
        })?;
        keys::each(kv, Key::of(keys::IN_FLIGHT), |key, value| {
            let (queue, group, mut rest) = subscription_key(key)?;
            let offset = rest.key_long()?;
            let row = InFlight::load(Reader::value("lease", value)?)?;
            // Planted: who held it is forgotten.
            #[cfg(madsim)]
            let row = InFlight {
                leased: row.leased && !plant::is(plant::Bug::LeasesForgottenAtRestart),
                ..row
            };
            core.subscription_mut(queue, group)
                .ok_or_else(orphan)?
                .set(offset, row);
            // Planted: the timers are not part of the state.
            #[cfg(madsim)]
            if plant::is(plant::Bug::DeadlinesForgottenAtRestart) {
                return Ok(());
            }
            core.enter_lease(queue, group, offset, &row);
            Ok(())
        })?;
        keys::each(kv, Key::of(keys::DEDUP), |key, value| {
            // Planted: the window begins anew.
            #[cfg(madsim)]
            if plant::is(plant::Bug::DedupForgottenAtRestart) {
                return Ok(());
            }
            core.dedup
                .load(Reader::key("dedup", key)?, Reader::value("dedup", value)?)
        })?;
        core.dedup.loaded();
        Ok(core)
    }

    /// Carries out one command.
    ///
    /// An error means that the state cannot be read or written; the core must not be used after it.
    pub fn apply(
        &mut self,
        kv: &mut dyn KeyValue,
        context: Context,
        command: &Command,
    ) -> Result<Outcome, Fault> {
        if context.time_ms > self.now_ms {
            self.now_ms = context.time_ms;
            let mut value = keys::value(8);
            value.put_u64_le(self.now_ms);
            kv.put(keys::NOW, &value)?;
        }
        let at = context.position;
        let late_ms = self.now_ms - context.time_ms;
        match &command.command {
            Some(command::Command::Append(append)) => commands::append::apply(self, kv, at, append),
            Some(command::Command::Deliver(deliver)) => commands::deliver::apply(self, kv, late_ms, deliver),
            Some(command::Command::Ack(ack)) => commands::ack::apply(self, kv, ack),
            Some(command::Command::Release(release)) => commands::release::apply(self, kv, late_ms, release),
            Some(command::Command::Tick(tick)) => commands::tick::apply(self, kv, tick),
            Some(command::Command::Trim(trim)) => commands::trim::apply(self, kv, trim),
            Some(command::Command::Configure(configure)) => commands::configure::apply(self, kv, configure),
            Some(command::Command::CopyForward(copy)) => commands::copy_forward::apply(self, kv, at, copy),
            Some(command::Command::Written(written)) => commands::written::apply(self, kv, late_ms, written),
            Some(command::Command::Renew(renew)) => commands::renew::apply(self, kv, late_ms, renew),
            Some(command::Command::Depart(depart)) => commands::depart::apply(self, kv, late_ms, depart),
            None => Ok(Reply::Refused(Refusal::Malformed).into()),
        }
    }

    /// The core's time: the latest a leader has stamped.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// A queue's ends; nothing if nothing was ever stored in it.
    pub fn queue(&self, queue: QueueId) -> Option<QueueView> {
        self.queues.get(&queue).map(|queue| QueueView {
            first: queue.first,
            next: queue.next,
        })
    }

    /// All queues.
    pub fn queues(&self) -> impl Iterator<Item = (QueueId, QueueView)> + '_ {
        self.queues.iter().map(|(&id, queue)| {
            (
                id,
                QueueView {
                    first: queue.first,
                    next: queue.next,
                },
            )
        })
    }

    /// A consumer group's place in a queue.
    pub fn subscription(&self, group: GroupId, queue: QueueId) -> Option<SubscriptionView> {
        self.subscriptions
            .get(&(queue, group))
            .map(|known| self.view(queue, known))
    }

    /// All subscriptions.
    pub fn subscriptions(&self) -> impl Iterator<Item = (GroupId, QueueId, SubscriptionView)> + '_ {
        self.subscriptions
            .iter()
            .map(|(&(queue, group), known)| (group, queue, self.view(queue, known)))
    }

    fn view(&self, queue: QueueId, known: &Subscription) -> SubscriptionView {
        let next = self.queues.get(&queue).map_or(0, |queue| queue.next);
        let due = known.waiting().range(..=(self.now_ms, u64::MAX)).count();
        SubscriptionView {
            cursor: known.cursor,
            ready: next.saturating_sub(known.cursor) + due as u64,
            leased: (known.in_flight().len() - known.waiting().len()) as u64,
            waiting: (known.waiting().len() - due) as u64,
            acked: known.acked,
            dead_lettered: known.dead_lettered,
            trimmed: known.trimmed,
            max_attempts: known.rules.max_attempts,
            backoff: known.rules.backoff.clone(),
            dead_letter_queue: known.rules.dead_letter_queue,
        }
    }

    /// What a deliver command could take at `now_ms`: what waits and is due, longest due first, then new messages.
    pub fn selectable(
        &self,
        group: GroupId,
        queue: QueueId,
        now_ms: u64,
        max: usize,
        max_in_flight: usize,
    ) -> Selection {
        let Some(known) = self.subscriptions.get(&(queue, group)) else {
            return Selection::default();
        };
        let now_ms = now_ms.max(self.now_ms);
        let due = known.waiting().range(..=(now_ms, u64::MAX)).take(max);
        let mut redeliver: Vec<u64> = due.map(|&(_, offset)| offset).collect();
        redeliver.sort_unstable();
        let next = self.queues.get(&queue).map_or(0, |queue| queue.next);
        let room = max_in_flight
            .saturating_sub(known.in_flight().len())
            .min(max - redeliver.len());
        let new_count = next.saturating_sub(known.cursor).min(room as u64) as u32;
        Selection {
            redeliver,
            first_new: known.cursor,
            new_count,
        }
    }

    /// One message in flight.
    pub fn in_flight(&self, group: GroupId, queue: QueueId, offset: u64) -> Option<InFlightView> {
        let row = self
            .subscriptions
            .get(&(queue, group))?
            .in_flight()
            .get(&offset)?;
        Some(in_flight_view(offset, row))
    }

    /// When the earliest lease ends.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|&(at_ms, ..)| at_ms)
    }

    /// When the earliest waiting message of a subscription may be delivered.
    pub fn next_visible(&self, group: GroupId, queue: QueueId) -> Option<u64> {
        self.subscriptions
            .get(&(queue, group))?
            .waiting()
            .first()
            .map(|&(at_ms, _)| at_ms)
    }

    /// Where a message's bytes are; nothing if it is forgotten.
    pub fn locate(&self, kv: &dyn KeyValue, queue: QueueId, offset: u64) -> Result<Option<Stored>, Fault> {
        Ok(Message::get(kv, queue, offset)?.map(|message| message.stored))
    }

    /// The smallest index of an entry that still holds a message somebody may get.
    pub fn oldest_live_index(&self, kv: &dyn KeyValue) -> Result<Option<u64>, Fault> {
        let mut oldest = None;
        let all = Key::of(keys::DISPLACED);
        if let Some((key, _)) = kv.scan(&all, &all.end(), 1)?.into_iter().next() {
            oldest = Some(Reader::key("displaced", key)?.key_long()?);
        }
        // Planted: only what stands in order is looked at.
        #[cfg(madsim)]
        if plant::is(plant::Bug::DeadLettersNotKept) {
            oldest = None;
        }
        for (&queue, ends) in &self.queues {
            if let Some(index) = first_in_order(kv, queue, ends)? {
                oldest = Some(oldest.map_or(index, |known: u64| known.min(index)));
            }
        }
        Ok(oldest)
    }

    /// Messages at or below entry `through` that only a copy lets go: in flight below their queue's
    /// first offset, dead letters, and what was copied before.
    pub fn stragglers(
        &self,
        kv: &dyn KeyValue,
        through: u64,
        limit: usize,
    ) -> Result<Vec<(QueueId, u64, Position)>, Fault> {
        let mut found = Vec::new();
        if limit == 0 {
            return Ok(found);
        }
        let all = Key::of(keys::DISPLACED);
        for (key, _) in kv.scan(&all, &all.long(through).end(), limit)? {
            let mut key = Reader::key("displaced", key)?;
            let (_, queue, offset) = (key.key_long()?, QueueId(key.key_long()?), key.key_long()?);
            if let Some(message) = Message::get(kv, queue, offset)? {
                found.push((queue, offset, message.stored.position));
            }
        }
        for (&queue, ends) in &self.queues {
            let below = keys::message(queue, ends.first.min(ends.in_order_end));
            // Displaced ones are passed over, however many: they were found above.
            keys::each_until(kv, &queue::rows(queue), &below, LOOK_PAGE, |key, value| {
                let message = Message::read(value)?;
                if found.len() >= limit || (!message.displaced && message.stored.position.index > through) {
                    return Ok(ControlFlow::Break(()));
                }
                if !message.displaced {
                    let mut key = Reader::key("message", key)?;
                    let (_, offset) = (key.key_long()?, key.key_long()?);
                    found.push((queue, offset, message.stored.position));
                }
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(found)
    }

    pub(crate) fn subscription_mut(&mut self, queue: QueueId, group: GroupId) -> Option<&mut Subscription> {
        self.subscriptions.get_mut(&(queue, group))
    }

    /// Consumer groups that are on a queue.
    pub(crate) fn groups_on(&self, queue: QueueId) -> Vec<GroupId> {
        let range = (queue, GroupId(0))..=(queue, GroupId(u32::MAX));
        self.subscriptions
            .range(range)
            .map(|(&(_, group), _)| group)
            .collect()
    }

    /// Puts a message at the end of a queue.
    pub(crate) fn push(
        &mut self,
        kv: &mut dyn KeyValue,
        id: QueueId,
        position: Position,
        displaced: bool,
    ) -> Result<u64, Fault> {
        let queue = self.queues.entry(id).or_default();
        let offset = queue.next;
        queue.next = offset.checked_add(1).expect("offsets do not run out");
        if !displaced {
            queue.in_order_end = queue.next;
        }
        queue.store(kv, id)?;
        Message {
            displaced,
            stored: Stored {
                position,
                stored_ms: self.now_ms,
            },
        }
        .put(kv, id, offset)?;
        Ok(offset)
    }

    /// Writes a message in flight, in memory and through.
    pub(crate) fn set_in_flight(
        &mut self,
        kv: &mut dyn KeyValue,
        queue: QueueId,
        group: GroupId,
        offset: u64,
        row: InFlight,
    ) -> Result<(), Fault> {
        let known = self.subscription_mut(queue, group).expect("the caller found it");
        let before = known.set(offset, row);
        if let Some(before) = before {
            self.strike_lease(queue, group, offset, &before);
        }
        self.enter_lease(queue, group, offset, &row);
        subscription::put_in_flight(kv, queue, group, offset, &row)
    }

    /// Takes a message out of flight; the caller counts it and stores the subscription.
    pub(crate) fn remove_in_flight(
        &mut self,
        kv: &mut dyn KeyValue,
        queue: QueueId,
        group: GroupId,
        offset: u64,
    ) -> Result<(), Fault> {
        let known = self.subscription_mut(queue, group).expect("the caller found it");
        let before = known.remove(offset).expect("the caller found it");
        self.strike_lease(queue, group, offset, &before);
        kv.delete(&keys::in_flight(queue, group, offset))?;
        let forgotten = self.queues.get(&queue).is_none_or(|ends| offset < ends.first);
        if forgotten && !self.is_in_flight(queue, offset) {
            Message::delete(kv, queue, offset)?;
        }
        Ok(())
    }

    /// The planted bug of an acknowledgement beside the log: in this memory only.
    #[cfg(madsim)]
    pub fn planted_ack(&mut self, group: GroupId, queue: QueueId, offset: u64, nonce: u64) -> bool {
        let Some(known) = self.subscriptions.get_mut(&(queue, group)) else {
            return false;
        };
        let Some(row) = known
            .in_flight()
            .get(&offset)
            .filter(|row| row.nonce == nonce)
            .copied()
        else {
            return false;
        };
        known.remove(offset);
        known.acked += 1;
        self.strike_lease(queue, group, offset, &row);
        true
    }

    /// True if any consumer group has the message in flight.
    pub(crate) fn is_in_flight(&self, queue: QueueId, offset: u64) -> bool {
        let range = (queue, GroupId(0))..=(queue, GroupId(u32::MAX));
        self.subscriptions
            .range(range)
            .any(|(_, known)| known.in_flight().contains_key(&offset))
    }

    /// Gives a message up: it gets a place in the dead-letter queue, its bytes stay where they are.
    ///
    /// Nothing if there is no such queue, or the message is a dead letter already: it then waits on,
    /// because it must not be lost.
    pub(crate) fn dead_letter(
        &mut self,
        kv: &mut dyn KeyValue,
        queue: QueueId,
        group: GroupId,
        offset: u64,
    ) -> Result<Option<Effect>, Fault> {
        let known = &self.subscriptions[&(queue, group)];
        let target = known.rules.dead_letter_queue;
        if target == QueueId(0) || target == queue {
            return Ok(None);
        }
        let Some(message) = Message::get(kv, queue, offset)? else {
            return Err(Fault(format!(
                "message {queue:?}/{offset} is in flight but has no place"
            )));
        };
        // Planted: the first thing to be done is done twice, or not at all.
        #[cfg(madsim)]
        if plant::is(plant::Bug::DeadLetterTwice) {
            self.push(kv, target, message.stored.position, true)?;
        }
        #[cfg(madsim)]
        if plant::is(plant::Bug::DeadLetterLost) {
            self.remove_in_flight(kv, queue, group, offset)?;
            let known = self.subscription_mut(queue, group).expect("just read");
            known.dead_lettered += 1;
            known.store(kv, queue, group)?;
            return Ok(Some(Effect::Appended { queue: target }));
        }
        self.push(kv, target, message.stored.position, true)?;
        self.remove_in_flight(kv, queue, group, offset)?;
        let known = self.subscription_mut(queue, group).expect("just read");
        known.dead_lettered += 1;
        known.store(kv, queue, group)?;
        Ok(Some(Effect::Appended { queue: target }))
    }
}

fn in_flight_view(offset: u64, row: &InFlight) -> InFlightView {
    InFlightView {
        offset,
        nonce: row.nonce,
        attempt: row.attempt,
        leased: row.leased,
        at_ms: row.at_ms,
        auto_renew: row.auto_renew,
        written: row.written,
        client: row.client,
        first_leased_ms: row.first_leased_ms,
    }
}

/// The entry of a queue's first message that stands in order.
fn first_in_order(kv: &dyn KeyValue, queue: QueueId, ends: &Queue) -> Result<Option<u64>, Fault> {
    let mut first = None;
    if ends.in_order_end == 0 {
        return Ok(first);
    }
    let end = keys::message(queue, ends.in_order_end);
    keys::each_until(kv, &queue::rows(queue), &end, LOOK_PAGE, |_, value| {
        let message = Message::read(value)?;
        if message.displaced {
            return Ok(ControlFlow::Continue(()));
        }
        first = Some(message.stored.position.index);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(first)
}

fn subscription_key(key: bytes::Bytes) -> Result<(QueueId, GroupId, Reader), Fault> {
    let mut key = Reader::key("subscription", key)?;
    let queue = QueueId(key.key_long()?);
    let group = GroupId(key.key_short()?);
    Ok((queue, group, key))
}

fn orphan() -> Fault {
    Fault("a row belongs to a subscription that does not exist".into())
}
