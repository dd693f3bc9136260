//! The core again, as simple as can be: lists, and one state for each message of each
//! consumer group. No index, no cache, no keys. Whatever it does slowly, it does plainly.

use flotilla_proto::record::{
    Ack, Append, Backoff, Command, Configure, CopyForward, Deliver, Depart, LeaseRef, Release, Renew,
    StartAt, Subscribe, Tick, Trim, Written, backoff::Strategy, command::Command as Kind, configure::What,
    release::Action,
};
use queue_core::{
    AckResult, Context, Core, GroupId, InFlightView, KeyValue, Lease, Position, QueueId, QueueView, Refusal,
    ReleaseResult, Reply, Selection,
    limits::{DEDUP_WINDOW_MS, DEFAULT_BACKOFF_MS},
};

/// One shard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) now: u64,
    pub(crate) queues: Vec<Queue>,
    pub(crate) subs: Vec<Sub>,
    sent: Vec<Sent>,
}

/// Its messages from offset 0 on, forgotten ones included.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    pub(crate) id: u64,
    pub(crate) first: usize,
    pub(crate) messages: Vec<Message>,
}

#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) position: Position,
    stored_ms: u64,
    /// Not in the order of its queue: a dead letter, or copied forward.
    moved: bool,
}

/// A consumer group on a queue, with one state for each message from `start` on.
#[derive(Debug, Clone)]
pub(crate) struct Sub {
    pub(crate) group: u32,
    pub(crate) queue: u64,
    pub(crate) rules: Subscribe,
    start: usize,
    states: Vec<State>,
}

/// What a message is for a consumer group: exactly one of these.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum State {
    New,
    Leased(InFlightView),
    Waiting(InFlightView),
    Acked,
    Dead,
    Trimmed,
}

#[derive(Debug, Clone)]
struct Sent {
    topic: u64,
    id: String,
    at: u64,
    queue: u64,
    offset: u64,
}

impl State {
    fn view(&self) -> Option<&InFlightView> {
        match self {
            State::Leased(view) | State::Waiting(view) => Some(view),
            _ => None,
        }
    }

    fn of(view: InFlightView) -> Self {
        if view.leased {
            State::Leased(view)
        } else {
            State::Waiting(view)
        }
    }
}

impl Sub {
    pub(crate) fn cursor(&self) -> usize {
        self.start + self.states.iter().filter(|state| **state != State::New).count()
    }

    pub(crate) fn in_flight(&self) -> Vec<InFlightView> {
        self.states.iter().filter_map(State::view).copied().collect()
    }

    fn state(&mut self, offset: u64) -> Option<&mut State> {
        (offset as usize)
            .checked_sub(self.start)
            .and_then(|at| self.states.get_mut(at))
    }

    fn count(&self, like: impl Fn(&State) -> bool) -> u64 {
        self.states.iter().filter(|state| like(state)).count() as u64
    }

    fn wait(&self, attempt: u32) -> u64 {
        wait(self.rules.backoff.as_ref(), attempt)
    }

    fn due(&self, now: u64) -> Vec<InFlightView> {
        let mut due: Vec<InFlightView> = self
            .in_flight()
            .into_iter()
            .filter(|view| !view.leased && view.at_ms <= now)
            .collect();
        due.sort_by_key(|view| (view.at_ms, view.offset));
        due
    }
}

fn wait(backoff: Option<&Backoff>, attempt: u32) -> u64 {
    match backoff.and_then(|backoff| backoff.strategy.clone()) {
        None => DEFAULT_BACKOFF_MS,
        Some(Strategy::Customized(rule)) => {
            let mut waits = rule.next_ms;
            waits.truncate(attempt.max(1) as usize);
            waits.pop().unwrap_or(DEFAULT_BACKOFF_MS)
        }
        Some(Strategy::Exponential(rule)) => {
            let mut wait = u128::from(rule.initial_ms);
            for _ in 1..attempt {
                wait = (wait.min(rule.max_ms.into()) * u128::from(rule.multiplier_percent)) / 100;
            }
            wait.min(rule.max_ms.into()) as u64
        }
    }
}

impl Model {
    pub(crate) fn queue(&self, id: u64) -> Option<&Queue> {
        self.queues.iter().find(|queue| queue.id == id)
    }

    pub(crate) fn sub(&self, group: u32, queue: u64) -> Option<&Sub> {
        self.subs
            .iter()
            .find(|sub| sub.group == group && sub.queue == queue)
    }

    fn sub_mut(&mut self, group: u32, queue: u64) -> Option<&mut Sub> {
        self.subs
            .iter_mut()
            .find(|sub| sub.group == group && sub.queue == queue)
    }

    /// Messages somebody may still read.
    pub(crate) fn kept(&self) -> Vec<(u64, u64, Message)> {
        let mut kept = Vec::new();
        for queue in &self.queues {
            for (offset, message) in queue.messages.iter().enumerate() {
                let in_flight = |sub: &Sub| {
                    sub.queue == queue.id && sub.in_flight().iter().any(|view| view.offset == offset as u64)
                };
                if offset >= queue.first || self.subs.iter().any(in_flight) {
                    kept.push((queue.id, offset as u64, message.clone()));
                }
            }
        }
        kept
    }

    fn push(&mut self, id: u64, position: Position, moved: bool) -> u64 {
        let message = Message {
            position,
            stored_ms: self.now,
            moved,
        };
        for sub in self.subs.iter_mut().filter(|sub| sub.queue == id) {
            sub.states.push(State::New);
        }
        match self.queues.iter_mut().find(|queue| queue.id == id) {
            Some(queue) => {
                queue.messages.push(message);
                queue.messages.len() as u64 - 1
            }
            None => {
                self.queues.push(Queue {
                    id,
                    first: 0,
                    messages: vec![message],
                });
                0
            }
        }
    }

    pub(crate) fn apply(&mut self, context: Context, command: &Command) -> Reply {
        self.now = self.now.max(context.time_ms);
        let late = self.now - context.time_ms;
        match &command.command {
            None => Reply::Refused(Refusal::Malformed),
            Some(Kind::Append(append)) => self.append(context.position, append),
            Some(Kind::Deliver(deliver)) => self.deliver(late, deliver),
            Some(Kind::Ack(ack)) => self.ack(ack),
            Some(Kind::Release(release)) => self.release(late, release),
            Some(Kind::Tick(tick)) => self.tick(tick),
            Some(Kind::Trim(trim)) => self.trim(trim),
            Some(Kind::CopyForward(copy)) => self.copy_forward(context.position, copy),
            Some(Kind::Written(written)) => self.written(late, written),
            Some(Kind::Renew(renew)) => self.renew(late, renew),
            Some(Kind::Depart(depart)) => self.depart(late, depart),
            Some(Kind::Configure(configure)) => self.configure(configure),
        }
    }

    fn append(&mut self, position: Position, append: &Append) -> Reply {
        let (topic, id) = (append.queue >> 32, &append.message_id);
        let before = self
            .sent
            .iter()
            .rev()
            .find(|sent| sent.topic == topic && sent.id == *id);
        if let Some(sent) = before.filter(|sent| self.now - sent.at < DEDUP_WINDOW_MS) {
            return Reply::Appended {
                queue: QueueId(sent.queue),
                offset: sent.offset,
                duplicate: true,
            };
        }
        let offset = self.push(append.queue, position, false);
        self.sent.push(Sent {
            topic,
            id: id.clone(),
            at: self.now,
            queue: append.queue,
            offset,
        });
        Reply::Appended {
            queue: QueueId(append.queue),
            offset,
            duplicate: false,
        }
    }

    fn deliver(&mut self, late: u64, deliver: &Deliver) -> Reply {
        let now = self.now;
        let messages = self
            .queue(deliver.queue)
            .map_or(Vec::new(), |queue| queue.messages.clone());
        let Some(sub) = self.sub_mut(deliver.group, deliver.queue) else {
            return Reply::Refused(Refusal::NoSubscription);
        };
        let mut wanted: Vec<(u64, u32)> = Vec::new();
        for &offset in &deliver.redeliver {
            if let Some(due) = sub.due(now).iter().find(|view| view.offset == offset)
                && wanted.iter().all(|&(before, _)| before < offset)
            {
                wanted.push((offset, due.attempt + 1));
            }
        }
        let cursor = sub.cursor() as u64;
        if cursor == deliver.first_new {
            let end = messages.len() as u64;
            wanted.extend(
                (cursor..end)
                    .take(deliver.new_count as usize)
                    .map(|offset| (offset, 1)),
            );
        }
        let mut leases = Vec::new();
        for (offset, attempt) in wanted {
            *sub.state(offset).unwrap() = State::Leased(InFlightView {
                offset,
                nonce: deliver.nonce,
                attempt,
                leased: true,
                at_ms: deliver.deadline_ms.saturating_add(late).max(now),
                auto_renew: deliver.auto_renew,
                written: false,
                client: deliver.client,
                first_leased_ms: now,
            });
            let Message {
                position, stored_ms, ..
            } = messages[offset as usize];
            leases.push(Lease {
                offset,
                attempt,
                position,
                stored_ms,
            });
        }
        Reply::Delivered { leases }
    }

    /// The message in flight that a lease names.
    fn named(&mut self, group: u32, queue: u64, lease: &LeaseRef) -> Option<InFlightView> {
        let state = self.sub_mut(group, queue)?.state(lease.offset)?;
        state
            .view()
            .copied()
            .filter(|view| view.leased && view.nonce == lease.nonce)
    }

    fn set(&mut self, group: u32, queue: u64, offset: u64, state: State) {
        *self.sub_mut(group, queue).unwrap().state(offset).unwrap() = state;
    }

    fn ack(&mut self, ack: &Ack) -> Reply {
        let mut results = Vec::new();
        for lease in &ack.leases {
            results.push(match self.named(ack.group, ack.queue, lease) {
                Some(_) => {
                    self.set(ack.group, ack.queue, lease.offset, State::Acked);
                    AckResult::Done
                }
                None => AckResult::Stale,
            });
        }
        Reply::Acked { results }
    }

    /// Makes a dead letter, if there is a place for it.
    fn bury(&mut self, group: u32, queue: u64, offset: u64) -> bool {
        let target = self.sub(group, queue).unwrap().rules.dead_letter_queue;
        if target == 0 || target == queue {
            return false;
        }
        let position = self.queue(queue).unwrap().messages[offset as usize].position;
        self.set(group, queue, offset, State::Dead);
        self.push(target, position, true);
        true
    }

    fn release(&mut self, late: u64, release: &Release) -> Reply {
        let malformed = Reply::Refused(Refusal::Malformed);
        let (group, queue) = (release.group, release.queue);
        let (Some(lease), Ok(action)) = (&release.lease, Action::try_from(release.action)) else {
            return malformed;
        };
        let Some(view) = self.named(group, queue, lease) else {
            return Reply::Released(ReleaseResult::Stale);
        };
        let sub = self.sub(group, queue).unwrap();
        let last = view.attempt >= sub.rules.max_attempts;
        let at_ms = release
            .at_ms
            .map(|at| at.saturating_add(late))
            .unwrap_or(self.now + sub.wait(view.attempt))
            .max(self.now);
        let give_up = action == Action::DeadLetter || (action == Action::Retry && last);
        if give_up && self.bury(group, queue, lease.offset) {
            return Reply::Released(ReleaseResult::DeadLettered);
        }
        let changed = match action {
            Action::Unspecified => return malformed,
            Action::DeadLetter => InFlightView {
                leased: false,
                at_ms,
                ..view
            },
            Action::Retry => InFlightView {
                leased: false,
                at_ms,
                nonce: release.new_nonce,
                ..view
            },
            Action::Extend => InFlightView {
                at_ms,
                nonce: release.new_nonce,
                auto_renew: false,
                written: false,
                ..view
            },
        };
        self.set(group, queue, lease.offset, State::of(changed));
        Reply::Released(ReleaseResult::Done)
    }

    /// What push consumers have leased: by client, not written out before written out, earliest end first.
    fn held(&self) -> Vec<(u64, u32, InFlightView)> {
        let mut held = Vec::new();
        for sub in &self.subs {
            let theirs = sub
                .in_flight()
                .into_iter()
                .filter(|view| view.leased && view.auto_renew);
            held.extend(theirs.map(|view| (sub.queue, sub.group, view)));
        }
        held.sort_by_key(|&(queue, group, view)| {
            (view.client, view.written, view.at_ms, queue, group, view.offset)
        });
        held
    }

    fn written(&mut self, late: u64, written: &Written) -> Reply {
        let mut changed = 0;
        for named in &written.leases {
            for &offset in &named.offsets {
                let lease = LeaseRef {
                    offset,
                    nonce: named.nonce,
                };
                let view = self.named(named.group, named.queue, &lease);
                let Some(view) = view.filter(|view| view.auto_renew && !view.written) else {
                    continue;
                };
                let at_ms = view.at_ms.max(written.until_ms + late);
                let view = InFlightView {
                    written: true,
                    at_ms,
                    ..view
                };
                self.set(named.group, named.queue, offset, State::Leased(view));
                changed += 1;
            }
        }
        Reply::Prolonged { changed, more: false }
    }

    fn renew(&mut self, late: u64, renew: &Renew) -> Reply {
        let before_ms = renew.before_ms + late;
        let mut due = self.held();
        due.retain(|(_, _, view)| {
            view.written && view.at_ms < before_ms && view.first_leased_ms >= renew.since_ms
        });
        due.retain(|(_, _, view)| renew.clients.contains(&view.client));
        self.end_at(due, renew.limit, |view| InFlightView {
            at_ms: (renew.until_ms + late).max(before_ms),
            ..view
        })
    }

    fn depart(&mut self, late: u64, depart: &Depart) -> Reply {
        let at_ms = (depart.at_ms + late).max(self.now);
        let mut theirs = self.held();
        theirs.retain(|(_, _, view)| view.written || view.at_ms > at_ms);
        theirs.retain(|(_, _, view)| depart.clients.contains(&view.client));
        theirs.sort_by_key(|(_, _, view)| (view.client, !view.written));
        self.end_at(theirs, depart.limit, |view| InFlightView {
            written: false,
            at_ms: view.at_ms.min(at_ms),
            ..view
        })
    }

    fn end_at(
        &mut self,
        mut leases: Vec<(u64, u32, InFlightView)>,
        limit: u32,
        end: impl Fn(InFlightView) -> InFlightView,
    ) -> Reply {
        let more = leases.len() > limit as usize;
        leases.truncate(limit as usize);
        for &(queue, group, view) in &leases {
            self.set(group, queue, view.offset, State::Leased(end(view)));
        }
        let changed = leases.len() as u32;
        Reply::Prolonged { changed, more }
    }

    /// (deadline, queue, group, offset) of every lease, earliest first.
    fn leases(&self) -> Vec<(u64, u64, u32, u64)> {
        let mut leases = Vec::new();
        for sub in &self.subs {
            let leased = sub.in_flight().into_iter().filter(|view| view.leased);
            leases.extend(leased.map(|view| (view.at_ms, sub.queue, sub.group, view.offset)));
        }
        leases.sort_unstable();
        leases
    }

    fn tick(&mut self, tick: &Tick) -> Reply {
        let mut over = self.leases();
        over.retain(|&(deadline, ..)| deadline <= self.now);
        let more = over.len() > tick.limit as usize;
        over.truncate(tick.limit as usize);
        let mut dead_lettered = 0;
        for &(deadline, queue, group, offset) in &over {
            let sub = self.sub(group, queue).unwrap();
            let view = *sub.states[offset as usize - sub.start].view().unwrap();
            let last = view.attempt >= sub.rules.max_attempts;
            let wait = if last || view.written {
                sub.wait(view.attempt)
            } else {
                0
            };
            if last && self.bury(group, queue, offset) {
                dead_lettered += 1;
            } else {
                let waiting = InFlightView {
                    leased: false,
                    at_ms: deadline + wait,
                    ..view
                };
                self.set(group, queue, offset, State::Waiting(waiting));
            }
        }
        Reply::Ticked {
            expired: over.len() as u32,
            dead_lettered,
            more,
        }
    }

    fn trim(&mut self, trim: &Trim) -> Reply {
        let Some(queue) = self.queues.iter_mut().find(|queue| queue.id == trim.queue) else {
            return Reply::Trimmed {
                first: 0,
                more: false,
            };
        };
        let mut left = trim.limit;
        while (queue.first as u64) < trim.first && queue.first < queue.messages.len() && left > 0 {
            for sub in self.subs.iter_mut().filter(|sub| sub.queue == trim.queue) {
                if let Some(state) = sub
                    .state(queue.first as u64)
                    .filter(|state| **state == State::New)
                {
                    *state = State::Trimmed;
                }
            }
            queue.first += 1;
            left -= 1;
        }
        let more = (queue.first as u64) < trim.first && queue.first < queue.messages.len();
        Reply::Trimmed {
            first: queue.first as u64,
            more,
        }
    }

    fn copy_forward(&mut self, position: Position, copy: &CopyForward) -> Reply {
        if !self
            .kept()
            .iter()
            .any(|&(queue, offset, _)| (queue, offset) == (copy.queue, copy.offset))
        {
            return Reply::Copied(false);
        }
        let queue = self
            .queues
            .iter_mut()
            .find(|queue| queue.id == copy.queue)
            .unwrap();
        let message = &mut queue.messages[copy.offset as usize];
        (message.position, message.moved) = (position, true);
        Reply::Copied(true)
    }

    fn configure(&mut self, configure: &Configure) -> Reply {
        match &configure.what {
            None => Reply::Refused(Refusal::Malformed),
            Some(What::Subscribe(rules)) => {
                self.subscribe(rules);
                Reply::Configured { more: false }
            }
            Some(What::DropQueue(drop)) => {
                let mut budget = drop.limit;
                let groups: Vec<u32> = self
                    .subs
                    .iter()
                    .filter(|sub| sub.queue == drop.queue)
                    .map(|sub| sub.group)
                    .collect();
                let done = groups.is_sorted()
                    && groups
                        .iter()
                        .all(|&group| self.drop_sub(group, drop.queue, &mut budget))
                    && self.drop_messages(drop.queue, &mut budget);
                Reply::Configured { more: !done }
            }
            Some(What::DropGroup(drop)) => {
                let mut budget = drop.limit;
                let queues: Vec<u64> = self
                    .subs
                    .iter()
                    .filter(|sub| sub.group == drop.group)
                    .map(|sub| sub.queue)
                    .collect();
                let done = queues
                    .iter()
                    .all(|&queue| self.drop_sub(drop.group, queue, &mut budget));
                Reply::Configured { more: !done }
            }
        }
    }

    fn subscribe(&mut self, rules: &Subscribe) {
        let mut rules = rules.clone();
        rules.backoff = rules.backoff.filter(|backoff| backoff.strategy.is_some());
        if let Some(sub) = self.sub_mut(rules.group, rules.queue) {
            sub.rules = rules;
            return;
        }
        let (first, next) = self
            .queue(rules.queue)
            .map_or((0, 0), |queue| (queue.first, queue.messages.len()));
        let start = if rules.start_at == StartAt::Last as i32 {
            next
        } else {
            first
        };
        let states = vec![State::New; next - start];
        self.subs.push(Sub {
            group: rules.group,
            queue: rules.queue,
            rules,
            start,
            states,
        });
        self.subs.sort_by_key(|sub| (sub.queue, sub.group));
    }

    /// One unit of the budget for each message in flight, one for the subscription.
    fn drop_sub(&mut self, group: u32, queue: u64, budget: &mut u32) -> bool {
        for view in self.sub(group, queue).unwrap().in_flight() {
            if *budget == 0 {
                return false;
            }
            *budget -= 1;
            self.set(group, queue, view.offset, State::Acked);
        }
        if *budget == 0 {
            return false;
        }
        *budget -= 1;
        self.subs.retain(|sub| (sub.group, sub.queue) != (group, queue));
        true
    }

    /// One unit of the budget for each message, one for the queue.
    fn drop_messages(&mut self, id: u64, budget: &mut u32) -> bool {
        if let Some(queue) = self.queues.iter_mut().find(|queue| queue.id == id) {
            while *budget > 0 && queue.first < queue.messages.len() {
                queue.first += 1;
                *budget -= 1;
            }
        }
        if *budget == 0 {
            return false;
        }
        self.queues.retain(|queue| queue.id != id);
        true
    }

    /// Says where a core differs from the model.
    pub(crate) fn agrees(&self, core: &Core, kv: &dyn KeyValue) -> Result<(), String> {
        equal("time", core.now_ms(), self.now)?;
        let mut queues: Vec<(QueueId, QueueView)> = Vec::new();
        for queue in &self.queues {
            let view = QueueView {
                first: queue.first as u64,
                next: queue.messages.len() as u64,
            };
            queues.push((QueueId(queue.id), view));
            let kept = self.kept();
            for offset in 0..view.next + 2 {
                let stored = core
                    .locate(kv, QueueId(queue.id), offset)
                    .map_err(|fault| fault.to_string())?;
                let expected = kept.iter().find(|kept| (kept.0, kept.1) == (queue.id, offset));
                let expected = expected.map(|(_, _, message)| (message.position, message.stored_ms));
                let stored = stored.map(|stored| (stored.position, stored.stored_ms));
                equal("place", (queue.id, offset, stored), (queue.id, offset, expected))?;
            }
        }
        queues.sort_by_key(|&(id, _)| id);
        equal("queues", core.queues().collect::<Vec<_>>(), queues)?;
        equal("subscriptions", core.subscriptions().count(), self.subs.len())?;
        for sub in &self.subs {
            self.agrees_on(core, sub)?;
        }
        let leases = self.leases();
        equal(
            "next deadline",
            core.next_deadline(),
            leases.first().map(|lease| lease.0),
        )?;
        let mut holders: Vec<(u64, Option<u64>)> = Vec::new();
        for (_, _, view) in self.held() {
            let written = view.written.then_some(view.at_ms);
            match holders.last_mut().filter(|(client, _)| *client == view.client) {
                Some((_, earliest)) => *earliest = earliest.or(written),
                None => holders.push((view.client, written)),
            }
        }
        for (from, limit) in [(0, 99), (0, 2), (103, 1)] {
            let some = holders.iter().filter(|(client, _)| *client >= from).take(limit);
            equal("holders", core.holders(from, limit), some.copied().collect())?;
        }
        self.agrees_on_entries(core, kv)
    }

    fn agrees_on(&self, core: &Core, sub: &Sub) -> Result<(), String> {
        let (group, queue) = (GroupId(sub.group), QueueId(sub.queue));
        let view = core
            .subscription(group, queue)
            .ok_or("a subscription is missing")?;
        let new = sub.count(|state| *state == State::New);
        let due = sub.due(self.now);
        let waiting = sub.count(|state| matches!(state, State::Waiting(_)));
        // The conservation law: the model's states, one for each message, against the core's counts.
        equal("ready", view.ready, new + due.len() as u64)?;
        equal("waiting", view.waiting, waiting - due.len() as u64)?;
        equal(
            "leased",
            view.leased,
            sub.count(|state| matches!(state, State::Leased(_))),
        )?;
        equal("acked", view.acked, sub.count(|state| *state == State::Acked))?;
        equal(
            "dead lettered",
            view.dead_lettered,
            sub.count(|state| *state == State::Dead),
        )?;
        equal(
            "trimmed",
            view.trimmed,
            sub.count(|state| *state == State::Trimmed),
        )?;
        equal("cursor", view.cursor, sub.cursor() as u64)?;
        equal("attempts", view.max_attempts, sub.rules.max_attempts)?;
        equal("backoff", view.backoff, sub.rules.backoff.clone())?;
        equal(
            "dead-letter queue",
            view.dead_letter_queue,
            QueueId(sub.rules.dead_letter_queue),
        )?;
        for (at, state) in sub.states.iter().enumerate() {
            let offset = (sub.start + at) as u64;
            equal(
                "in flight",
                core.in_flight(group, queue, offset),
                state.view().copied(),
            )?;
        }
        let visible = sub
            .in_flight()
            .into_iter()
            .filter(|view| !view.leased)
            .map(|view| view.at_ms)
            .min();
        equal("next visible", core.next_visible(group, queue), visible)?;
        for (max, most) in [(0, 9), (2, 3), (9, 1), (9, 99)] {
            let mut redeliver: Vec<u64> = due.iter().take(max).map(|view| view.offset).collect();
            redeliver.sort_unstable();
            let room = (max - redeliver.len()).min(most - sub.in_flight().len().min(most)) as u64;
            let chosen = Selection {
                redeliver,
                first_new: sub.cursor() as u64,
                new_count: room.min(new) as u32,
            };
            equal("selection", core.selectable(group, queue, 0, max, most), chosen)?;
        }
        Ok(())
    }

    fn agrees_on_entries(&self, core: &Core, kv: &dyn KeyValue) -> Result<(), String> {
        let kept = self.kept();
        let oldest = kept.iter().map(|(_, _, message)| message.position.index).min();
        equal(
            "oldest live entry",
            core.oldest_live_index(kv).map_err(|fault| fault.to_string())?,
            oldest,
        )?;
        let newest = kept
            .iter()
            .map(|(_, _, message)| message.position.index)
            .max()
            .unwrap_or(0);
        for through in [0, newest / 2, newest, u64::MAX] {
            let first = |id| self.queue(id).map_or(0, |queue| queue.first as u64);
            let mut expected: Vec<(QueueId, u64, Position)> = kept
                .iter()
                .filter(|(queue, offset, message)| message.moved || *offset < first(*queue))
                .filter(|(_, _, message)| message.position.index <= through)
                .map(|(queue, offset, message)| (QueueId(*queue), *offset, message.position))
                .collect();
            expected.sort_unstable();
            let mut found = core
                .stragglers(kv, through, 99)
                .map_err(|fault| fault.to_string())?;
            found.sort_unstable();
            equal("stragglers", &found, &expected)?;
            for limit in 0..3 {
                let some = core
                    .stragglers(kv, through, limit)
                    .map_err(|fault| fault.to_string())?;
                equal("how many stragglers", some.len(), expected.len().min(limit))?;
                equal("straggler", some.iter().all(|one| expected.contains(one)), true)?;
            }
        }
        Ok(())
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, core: T, model: T) -> Result<(), String> {
    if core == model {
        return Ok(());
    }
    Err(format!("{what}: the core says {core:?}, the model {model:?}"))
}
