//! The hot state in memory, always equal to what is written through.

use std::collections::{BTreeMap, BTreeSet};

use bytes::BufMut;
use flotilla_proto::record::{Command, command};

use crate::{
    commands,
    dedup::Dedup,
    held::Held,
    ids::{GroupId, Position, QueueId},
    keys::{self, Key, Reader},
    kv::{Fault, KeyValue},
    outcome::{Outcome, Refusal, Reply},
    places::{Floor, on},
    queue::{Message, Queue},
    rules::Rules,
    subscription::{self, InFlight, Subscription},
    timers::Timers,
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
    /// The leader's wall clock, milliseconds since 1970. It may jump: it dates messages, and decides nothing else.
    pub wall_ms: u64,
}

/// One data shard's state.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Core {
    pub(crate) now_ms: u64,
    /// How many deletions a catalogue must know of to be believed: what it takes for alive may be dropped here.
    pub(crate) deletions: u64,
    pub(crate) queues: BTreeMap<QueueId, Queue>,
    pub(crate) subscriptions: BTreeMap<(QueueId, GroupId), Subscription>,
    /// Of every consumer group that is on a queue.
    pub(crate) rules: BTreeMap<GroupId, Rules>,
    /// Leases by their end.
    pub(crate) deadlines: BTreeSet<(u64, QueueId, GroupId, u64)>,
    /// Leases that the server prolongs, by who holds them.
    pub(crate) held: BTreeSet<Held>,
    /// Leases by the request that they were delivered to: its hash, consumer group, queue, offset.
    pub(crate) requests: BTreeSet<(u64, GroupId, QueueId, u64)>,
    pub(crate) dedup: Dedup,
    /// Messages at which their message groups stopped.
    pub(crate) parked: BTreeSet<(GroupId, QueueId, u64)>,
    /// Subscriptions by their consumer group.
    pub(crate) by_group: BTreeSet<(GroupId, QueueId)>,
    /// Where consumer groups are on their way to another message.
    pub(crate) seeking: BTreeSet<(QueueId, GroupId)>,
    /// Each queue's first message that stands in order, by its entry.
    pub(crate) in_order: BTreeSet<(u64, QueueId)>,
    /// Bytes in the log of what is displaced.
    pub(crate) displaced_bytes: u64,
    pub(crate) displaced_from: Floor,
    /// Messages that wait to be due.
    pub(crate) timers: Timers,
}

impl Core {
    /// Rebuilds the hot state from the key-value state.
    pub fn load(kv: &dyn KeyValue) -> Result<Self, Fault> {
        let mut core = Self::default();
        if let Some(value) = kv.get(keys::NOW)? {
            core.now_ms = Reader::value("time", value)?.long()?;
        }
        if let Some(value) = kv.get(keys::DELETIONS)? {
            core.deletions = Reader::value("deletions", value)?.long()?;
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
            if loaded.seeks_to.is_some() {
                core.seeking.insert((queue, group));
            }
            core.subscriptions.insert((queue, group), loaded);
            core.by_group.insert((group, queue));
            Ok(())
        })?;
        keys::each(kv, Key::of(keys::RULES), |key, value| {
            core.load_rules(Reader::key("rules", key)?, Reader::value("rules", value)?)
        })?;
        core.check_rules()?;
        keys::each(kv, Key::of(keys::IN_FLIGHT), |key, value| {
            let (queue, group, mut rest) = subscription_key(key)?;
            let offset = rest.key_long()?;
            let row = InFlight::load(Reader::value("lease", value)?)?;
            let row = plant!(LeasesForgottenAtRestart => InFlight { leased: false, ..row }, else row);
            let row = plant!(ParkingForgottenAtRestart => InFlight { parked: false, ..row }, else row);
            core.subscription_mut(queue, group)
                .ok_or_else(orphan)?
                .set(offset, row);
            plant!(DeadlinesForgottenAtRestart => return Ok(()));
            core.enter_lease(queue, group, offset, &row);
            Ok(())
        })?;
        keys::each(kv, Key::of(keys::LOCK), |key, value| {
            let (queue, group, mut rest) = subscription_key(key)?;
            let known = core.subscription_mut(queue, group).ok_or_else(orphan)?;
            known.load_lock(rest.key_long()?, Reader::value("message group", value)?)
        })?;
        core.dedup = Dedup::load(kv)?;
        if let Some(value) = kv.get(keys::DISPLACED_BYTES)? {
            core.displaced_bytes = Reader::value("displaced bytes", value)?.long()?;
        }
        core.load_timers(kv)?;
        core.load_oldest(kv)?;
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
        let displaced_bytes = self.displaced_bytes;
        let outcome = self.carry_out(kv, context, command)?;
        // Once, however much was displaced or gone: a start must not have to look at all of it.
        if self.displaced_bytes != displaced_bytes {
            let mut value = keys::value(8);
            value.put_u64_le(self.displaced_bytes);
            kv.put(keys::DISPLACED_BYTES, &value)?;
        }
        Ok(outcome)
    }

    fn carry_out(
        &mut self,
        kv: &mut dyn KeyValue,
        context: Context,
        command: &Command,
    ) -> Result<Outcome, Fault> {
        let (at, wall_ms) = (context.position, context.wall_ms);
        let late_ms = self.now_ms - context.time_ms;
        match &command.command {
            Some(command::Command::Append(append)) => commands::append::apply(self, kv, context, append),
            Some(command::Command::Deliver(deliver)) => commands::deliver::apply(self, kv, late_ms, deliver),
            Some(command::Command::Ack(ack)) => commands::ack::apply(self, kv, ack),
            Some(command::Command::Release(release)) => commands::release::apply(self, kv, context, release),
            Some(command::Command::Tick(tick)) => commands::tick::apply(self, kv, wall_ms, tick),
            Some(command::Command::Trim(trim)) => commands::trim::apply(self, kv, trim),
            Some(command::Command::Configure(configure)) => commands::configure::apply(self, kv, configure),
            Some(command::Command::CopyForward(copy)) => commands::copy_forward::apply(self, kv, at, copy),
            Some(command::Command::Written(written)) => commands::written::apply(self, kv, late_ms, written),
            Some(command::Command::Renew(renew)) => commands::renew::apply(self, kv, late_ms, renew),
            Some(command::Command::Seek(seek)) => commands::seek::apply(self, kv, wall_ms, seek),
            Some(command::Command::Fire(fire)) => commands::fire::apply(self, kv, wall_ms, fire),
            Some(command::Command::Recall(recall)) => commands::recall::apply(self, kv, recall),
            Some(command::Command::Retime(retime)) => commands::retime::apply(self, kv, context, retime),
            Some(command::Command::Redrive(redrive)) => commands::redrive::apply(self, kv, wall_ms, redrive),
            Some(command::Command::Unpark(unpark)) => commands::unpark::apply(self, kv, wall_ms, unpark),
            Some(command::Command::Commit(end)) => commands::end::commit(self, kv, wall_ms, end),
            Some(command::Command::Rollback(end)) => commands::end::roll_back(self, kv, end),
            Some(command::Command::CheckBack(check)) => commands::check_back::apply(self, kv, late_ms, check),
            Some(command::Command::GiveUp(give_up)) => commands::give_up::apply(self, kv, give_up),
            Some(command::Command::Depart(depart)) => commands::depart::apply(self, kv, late_ms, depart),
            None => Ok(Reply::Refused(Refusal::Malformed).into()),
        }
    }

    /// A catalogue that knows of fewer deletions is not believed: the core refuses to let a consumer group begin for it.
    pub fn deletions(&self) -> u64 {
        self.deletions
    }

    /// Message ids that were forgotten before their time because there were too many, since this core was loaded; and how old the last of
    /// them was, milliseconds.
    pub fn dedup_shortened(&self) -> (u64, u64) {
        self.dedup.shortened()
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

    /// The queues that a consumer group is on.
    pub fn queues_of_group(&self, group: GroupId) -> impl Iterator<Item = QueueId> + '_ {
        let all = (group, QueueId(0))..=(group, QueueId(u64::MAX));
        self.by_group.range(all).map(|&(_, queue)| queue)
    }

    /// The next consumer groups from this one on that are on any queue, at most so many.
    pub fn groups_from(&self, group: GroupId, limit: usize) -> Vec<GroupId> {
        let mut found = Vec::new();
        let mut from = Some(group);
        while found.len() < limit
            && let Some(start) = from
            && let Some(&(next, _)) = self.by_group.range((start, QueueId(0))..).next()
        {
            found.push(next);
            from = next.0.checked_add(1).map(GroupId);
        }
        found
    }

    /// The queues from this one on.
    pub fn queues_from(&self, queue: QueueId) -> impl Iterator<Item = QueueId> + '_ {
        self.queues.range(queue..).map(|(&queue, _)| queue)
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
            .map(|known| self.view(group, queue, known))
    }

    /// All subscriptions.
    pub fn subscriptions(&self) -> impl Iterator<Item = (GroupId, QueueId, SubscriptionView)> + '_ {
        self.subscriptions
            .iter()
            .map(|(&(queue, group), known)| (group, queue, self.view(group, queue, known)))
    }

    fn view(&self, group: GroupId, queue: QueueId, known: &Subscription) -> SubscriptionView {
        let rules = self.rules(group);
        let next = self.queues.get(&queue).map_or(0, |queue| queue.next);
        let (in_flight, leased) = (known.in_flight().len(), known.leased());
        let due = known.turns().range(..=(self.now_ms, u64::MAX));
        let due = due
            .filter(|(_, offset)| known.in_flight().contains_key(offset))
            .count();
        SubscriptionView {
            cursor: known.cursor,
            ready: next.saturating_sub(known.cursor) + due as u64,
            leased: leased as u64,
            waiting: (in_flight - leased - due) as u64,
            blocked: known.blocked(),
            acked: known.acked,
            dead_lettered: known.dead_lettered,
            parked: known.parked() as u64,
            redriven: known.redriven,
            trimmed: known.trimmed,
            filtered: known.filtered,
            sought: known.sought,
            last_seek: known.last_seek,
            start: known.start,
            epoch: known.epoch,
            seeks_to: known.seeks_to,
            max_attempts: rules.max_attempts,
            backoff: rules.backoff.clone(),
            dead_letter_queue: rules.dead_letter_queue,
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
        let known = self.subscriptions.get(&(queue, group));
        let Some(known) = known.filter(|known| known.seeks_to.is_none() && !self.is_paused(group)) else {
            return Selection::default();
        };
        let now_ms = now_ms.max(self.now_ms);
        let due = known.turns().range(..=(now_ms, u64::MAX)).take(max);
        let mut redeliver: Vec<u64> = due.map(|&(_, offset)| offset).collect();
        redeliver.sort_unstable();
        let next = self.queues.get(&queue).map_or(0, |queue| queue.next);
        let room = max_in_flight
            .saturating_sub(known.leased_or_waiting())
            .min(max - redeliver.len());
        let new_count = next.saturating_sub(known.cursor).min(room as u64) as u32;
        Selection {
            redeliver,
            first_new: known.cursor,
            new_count,
        }
    }

    /// Rows of a consumer group's place in a queue: what it has in flight, and message groups of which something was passed over.
    pub fn count_held(&self, group: GroupId, queue: QueueId) -> u64 {
        let known = self.subscriptions.get(&(queue, group));
        known.map_or(0, |known| (known.in_flight().len() + known.locks().len()) as u64)
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
        let known = self.subscriptions.get(&(queue, group))?;
        let first = known.turns().first().map(|&(at_ms, _)| at_ms);
        first.filter(|_| !self.is_paused(group))
    }

    /// Where a message's bytes are; nothing if it is forgotten.
    pub fn locate(&self, kv: &dyn KeyValue, queue: QueueId, offset: u64) -> Result<Option<Stored>, Fault> {
        Ok(Message::get(kv, queue, offset)?.map(|message| message.stored))
    }

    /// What is known of the messages of a queue from an offset on, without a gap; at most so many.
    pub fn stored_from(
        &self,
        kv: &dyn KeyValue,
        queue: QueueId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Stored>, Fault> {
        let (start, end) = (keys::message(queue, from), keys::message(queue, u64::MAX));
        let rows = kv.scan(&start, &end, limit)?;
        let mut found = Vec::with_capacity(rows.len());
        for ((key, value), expected) in rows.into_iter().zip(from..) {
            if keys::offset(key)? != expected {
                break;
            }
            found.push(Message::read(value)?.stored);
        }
        Ok(found)
    }

    pub(crate) fn subscription_mut(&mut self, queue: QueueId, group: GroupId) -> Option<&mut Subscription> {
        self.subscriptions.get_mut(&(queue, group))
    }

    /// Consumer groups that are on a queue.
    pub(crate) fn groups_on(&self, queue: QueueId) -> Vec<GroupId> {
        self.subscriptions
            .range(on(queue))
            .map(|(&(_, group), _)| group)
            .collect()
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
        let now_ms = self.now_ms;
        let known = self.subscription_mut(queue, group).expect("the caller found it");
        let before = known.remove(offset, now_ms).expect("the caller found it");
        let mut locks = known.locks().get(&before.message_group).into_iter();
        // It is the turn of what was passed over behind it.
        let has_row = locks.any(|lock| lock.in_flight().is_empty());
        self.strike_lease(queue, group, offset, &before);
        kv.delete(&keys::in_flight(queue, group, offset))?;
        if before.noted > 0 {
            kv.delete(&keys::history(queue, group, offset))?;
        }
        if has_row {
            self.store_lock(kv, (queue, group), before.message_group, true)?;
        }
        let forgotten = self.queues.get(&queue).is_none_or(|ends| offset < ends.first);
        if forgotten
            && !self.is_in_flight(queue, offset)
            && let Some(message) = Message::get(kv, queue, offset)?
        {
            self.forget(kv, queue, offset, &message)?;
            self.gone(kv, queue, offset..offset + 1)?;
        }
        Ok(())
    }

    /// True if any consumer group has the message in flight.
    pub(crate) fn is_in_flight(&self, queue: QueueId, offset: u64) -> bool {
        self.subscriptions
            .range(on(queue))
            .any(|(_, known)| known.in_flight().contains_key(&offset))
    }
}

pub(crate) fn in_flight_view(offset: u64, row: &InFlight) -> InFlightView {
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
        message_group: row.message_group,
        request: row.request,
        departed: row.departed,
        parked: row.parked,
        noted: row.noted,
    }
}

fn subscription_key(key: bytes::Bytes) -> Result<(QueueId, GroupId, Reader), Fault> {
    let mut key = Reader::key("subscription", key)?;
    let queue = QueueId(key.key_long()?);
    let group = GroupId(key.key_short()?);
    Ok((queue, group, key))
}

fn orphan() -> Fault {
    Fault::Corrupt("a row belongs to a subscription that does not exist".into())
}
