//! The core again, as simple as can be: lists, and one state for each message of each
//! consumer group. No index, no cache, no keys. Whatever it does slowly, it does plainly.

mod agrees;
mod halves;
mod in_order;
mod letters;
mod time;
mod timers;
mod upkeep;

use std::collections::BTreeMap;

use agrees::equal;
use flotilla_proto::record::{
    Ack, Append, Backoff, Command, Configure, CopyForward, Deliver, Depart, Expiry, LeaseRef, Release, Renew,
    Seek, StartAt, Subscribe, Tick, Trim, Written, backoff::Strategy, command::Command as Kind,
    configure::What, release::Action,
};
use queue_core::{
    AckResult, Context, Core, GroupId, InFlightView, KeyValue, Lease, Position, QueueId, QueueView, Refusal,
    ReleaseResult, Reply, Selection, What as Became,
    limits::{DEDUP_WINDOW_MS, DEFAULT_BACKOFF_MS, REPEATED_WITHIN_MS},
};

/// One shard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) now: u64,
    /// The wall clock of the last command's leader.
    wall: u64,
    /// Known of by the newest catalogue that something was dropped for.
    deletions: u64,
    pub(crate) queues: Vec<Queue>,
    pub(crate) subs: Vec<Sub>,
    sent: Vec<Sent>,
    timers: Vec<timers::Timer>,
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
    pub(crate) time_ms: u64,
    pub(crate) stored_ms: u64,
    /// Hash of its message group; 0: it has none.
    group: u64,
    /// Not in the order of its queue: a dead letter, or copied forward.
    moved: bool,
    /// It is a dead letter.
    dead: Option<letters::Dead>,
}

/// A consumer group on a queue, with one state for each message from `start` on.
#[derive(Debug, Clone)]
pub(crate) struct Sub {
    pub(crate) group: u32,
    pub(crate) queue: u64,
    pub(crate) rules: Subscribe,
    start: usize,
    /// Seeks that were done, and where one that is not done goes to.
    pub(crate) epoch: u64,
    last_seek: u64,
    seeks_to: Option<u64>,
    states: Vec<State>,
    /// Messages from before `start` that were given back.
    extra: BTreeMap<u64, State>,
    /// How often a message was given back, and what those were that had come to an end since `start`.
    redriven: u64,
    revived: Vec<State>,
    /// What became of what is in flight.
    notes: BTreeMap<u64, Vec<queue_core::Note>>,
    /// When something of a message group ceased to be in flight last.
    left: BTreeMap<u64, u64>,
}

/// What a message is for a consumer group: exactly one of these.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum State {
    New,
    Leased(InFlightView),
    Waiting(InFlightView),
    /// Passed over until what is before it in its message group is over.
    Blocked,
    Acked,
    Dead,
    Trimmed,
    Filtered,
    Sought,
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
        let all = self.extra.values().chain(&self.states);
        all.filter_map(State::view).copied().collect()
    }

    fn state(&mut self, offset: u64) -> Option<&mut State> {
        match (offset as usize).checked_sub(self.start) {
            Some(at) => self.states.get_mut(at),
            None => self.extra.get_mut(&offset),
        }
    }

    fn count(&self, like: impl Fn(&State) -> bool) -> u64 {
        let all = self.extra.values().chain(&self.states).chain(&self.revived);
        all.filter(|state| like(state)).count() as u64
    }

    fn wait(&self, attempt: u32) -> u64 {
        wait(self.rules.backoff.as_ref(), attempt)
    }

    /// What waits and can be had then: in order, the first of each message group, unless one of it is leased.
    fn due(&self, now: u64) -> Vec<InFlightView> {
        let mut due: Vec<InFlightView> = self
            .in_flight()
            .into_iter()
            .filter(|view| !view.leased && !view.parked && view.at_ms <= now && self.is_first(view))
            .collect();
        due.sort_by_key(|view| (view.at_ms, view.offset));
        due
    }

    /// Leases what was chosen.
    fn lease(
        &mut self,
        messages: &[Message],
        deliver: &Deliver,
        wanted: Vec<(u64, u32)>,
        (at_ms, now): (u64, u64),
    ) -> Vec<Lease> {
        let mut leases = Vec::new();
        for (offset, attempt) in wanted {
            let message = &messages[offset as usize];
            let noted = self.notes.get(&offset).map_or(0, |notes| notes.len() as u32);
            *self.state(offset).unwrap() = State::Leased(InFlightView {
                offset,
                nonce: deliver.nonce,
                attempt,
                leased: true,
                at_ms,
                auto_renew: deliver.auto_renew,
                written: false,
                client: deliver.client,
                first_leased_ms: now,
                message_group: if self.rules.fifo { message.group } else { 0 },
                request: deliver.request,
                departed: false,
                parked: false,
                noted,
            });
            leases.push(Lease {
                offset,
                attempt,
                nonce: deliver.nonce,
                position: message.position,
                stored_ms: message.stored_ms,
                message_group: if self.rules.fifo { message.group } else { 0 },
            });
        }
        leases
    }

    /// What a request has already, for its client once more.
    fn again(&mut self, messages: &[Message], deliver: &Deliver, at_ms: u64, now: u64) -> Vec<Lease> {
        let mut leases = Vec::new();
        for &offset in &deliver.again {
            let view = self.state(offset).and_then(|state| state.view().copied());
            let had = |view: &InFlightView| view.request == deliver.request && view.client == deliver.client;
            let Some(view) = view.filter(|view| had(view) && repeats(view, now)) else {
                continue;
            };
            let before = |other: &&InFlightView| {
                let is_earlier = other.message_group == view.message_group && other.offset < offset;
                view.message_group != 0 && is_earlier
            };
            let is_had =
                |other: &InFlightView| leases.iter().any(|lease: &Lease| lease.offset == other.offset);
            let is_in_the_way = |other: &InFlightView| other.nonce != 0 && !is_had(other);
            if self.in_flight().iter().filter(before).any(is_in_the_way) {
                continue;
            }
            let message = &messages[offset as usize];
            leases.push(Lease {
                offset,
                attempt: view.attempt,
                nonce: view.nonce,
                position: message.position,
                stored_ms: message.stored_ms,
                message_group: view.message_group,
            });
            *self.state(offset).unwrap() = State::Leased(InFlightView {
                at_ms,
                auto_renew: deliver.auto_renew,
                written: false,
                departed: false,
                ..view
            });
        }
        leases
    }
}

/// A lease that a request gets once more if it is repeated.
fn repeats(view: &InFlightView, now: u64) -> bool {
    view.leased && view.request != 0 && now - view.first_leased_ms < REPEATED_WITHIN_MS
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
        kept.extend(self.waiting());
        kept
    }

    fn push(&mut self, id: u64, position: Position, group: u64, moved: bool) -> u64 {
        let before = self.queue(id).and_then(|queue| queue.messages.last());
        let message = Message {
            position,
            time_ms: self.now,
            stored_ms: before.map_or(self.wall, |before| before.stored_ms.max(self.wall)),
            group,
            moved,
            dead: None,
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
        self.wall = context.wall_ms;
        let late = self.now - context.time_ms;
        match &command.command {
            None => Reply::Refused(Refusal::Malformed),
            Some(Kind::Append(append)) => self.append(late, context.position, append),
            Some(Kind::Deliver(deliver)) => self.deliver(late, deliver),
            Some(Kind::Ack(ack)) => self.ack(ack),
            Some(Kind::Release(release)) => self.release(late, release),
            Some(Kind::Tick(tick)) => self.tick(tick),
            Some(Kind::Seek(seek)) => self.seek(seek),
            Some(Kind::Trim(trim)) => self.trim(trim),
            Some(Kind::CopyForward(copy)) => self.copy_forward(context.position, copy),
            Some(Kind::Written(written)) => self.written(late, written),
            Some(Kind::Renew(renew)) => self.renew(late, renew),
            Some(Kind::Depart(depart)) => self.depart(late, depart),
            Some(Kind::Fire(fire)) => self.fire(fire),
            Some(Kind::Recall(recall)) => self.recall(recall),
            Some(Kind::Retime(retime)) => self.retime(late, context.position, retime),
            Some(Kind::Redrive(redrive)) => self.redrive(redrive),
            Some(Kind::Unpark(unpark)) => self.unpark(unpark),
            Some(Kind::Commit(commit)) => self.end(commit, true),
            Some(Kind::Rollback(rollback)) => self.end(rollback, false),
            Some(Kind::CheckBack(check)) => self.check_back(late, check),
            Some(Kind::GiveUp(give_up)) => self.give_up_halves(give_up),
            Some(Kind::Configure(configure)) => self.configure(configure),
        }
    }

    fn append(&mut self, late: u64, position: Position, append: &Append) -> Reply {
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
        let (queue, offset) = match append.due_ms {
            0 if !append.half => {
                let offset = self.push(append.queue, position, append.message_group, false);
                (append.queue, offset)
            }
            due_ms => self.wait_for(append, position, due_ms.saturating_add(late)),
        };
        self.sent.push(Sent {
            topic,
            id: id.clone(),
            at: self.now,
            queue,
            offset,
        });
        Reply::Appended {
            queue: QueueId(queue),
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
        if sub.seeks_to.is_some() || sub.rules.paused {
            return Reply::Delivered { leases: Vec::new() };
        }
        let at_ms = deliver.deadline_ms.saturating_add(late).max(now);
        if !deliver.again.is_empty() {
            let leases = sub.again(&messages, deliver, at_ms, now);
            return Reply::Delivered { leases };
        }
        if sub.rules.fifo {
            let wanted = sub.choose_in_order(&messages, deliver, now);
            let leases = sub.lease(&messages, deliver, wanted, (at_ms, now));
            return Reply::Delivered { leases };
        }
        let mut wanted: Vec<(u64, u32)> = Vec::new();
        for &offset in &deliver.redeliver {
            if let Some(due) = sub.due(now).iter().find(|view| view.offset == offset)
                && wanted.iter().all(|&(before, _)| before < offset)
            {
                wanted.push((offset, due.attempt + 1));
            }
        }
        let cursor = sub.cursor() as u64;
        if cursor == deliver.first_new && deliver.new.iter().all(|run| !run.blocked) {
            let fates = deliver
                .new
                .iter()
                .flat_map(|run| vec![run.filtered; run.count as usize]);
            for (offset, filtered) in (cursor..messages.len() as u64).zip(fates) {
                if filtered {
                    *sub.state(offset).unwrap() = State::Filtered;
                } else {
                    wanted.push((offset, 1));
                }
            }
        }
        let leases = sub.lease(&messages, deliver, wanted, (at_ms, now));
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
        let now = self.now;
        let sub = self.sub_mut(group, queue).unwrap();
        let over = state.view().is_none();
        let before = std::mem::replace(sub.state(offset).unwrap(), state);
        if let Some(view) = before.view().filter(|_| over) {
            sub.left.insert(view.message_group, now);
            sub.notes.remove(&offset);
        }
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
        let what = match action {
            Action::DeadLetter => Became::GivenUp,
            _ => Became::Refused,
        };
        if give_up && let Some(result) = self.give_up(group, queue, lease.offset, what) {
            return Reply::Released(result);
        }
        let view = match action {
            Action::Retry if !give_up => self.note(group, queue, lease.offset, what),
            _ => *self
                .sub_mut(group, queue)
                .unwrap()
                .state(lease.offset)
                .unwrap()
                .view()
                .unwrap(),
        };
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
                departed: false,
                ..view
            },
        };
        self.set(group, queue, lease.offset, State::of(changed));
        Reply::Released(ReleaseResult::Done)
    }
}
