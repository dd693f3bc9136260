//! P9, in some worlds: messages that die again and again, and an operator who gives them back, while faults come and go. Each comes
//! back to the consumer group that it died in, once for each dead letter, with all its attempts, and to no other; and what is told of
//! it is what its consumers did. In some of these worlds messages have message groups that stop at what cannot be consumed:
//! nothing of such a message group comes until the operator has decided, and always something after.
//!
//! Topic and consumer groups are its own, and all that happens there is known here (`ledger.rs`). No other oracle hears of it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use broker::{
    limits::MIN_INVISIBLE,
    service::Service,
    views::{
        AdminError, AdminErrorKind, BackoffView, GroupSpec, Lag, LetterView, LettersQuery, OnPoison,
        ParkedQuery, ParkedView, RedriveOutcome, RedriveSpec, UnparkSpec,
    },
};
use madsim::rand::{Rng, seq::SliceRandom, thread_rng};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::{Context, founded, now, pause};
use crate::{
    client::{Ask, Received},
    host::Host,
    letter::Letter,
    plan::Dying,
};
use ledger::{Done, Ledger, MAX_ATTEMPTS};

mod ledger;

const TOPIC: &str = "mortal";
const GROUP: &str = "mortals";
/// Reads the same, and has nothing die.
const WITNESS: &str = "witnesses";
/// Messages that are sent while there are faults, and once they are over.
const MESSAGES: u32 = 20;
const CALM_MESSAGES: u32 = 4;
/// Their message groups, where they have any.
const MESSAGE_GROUPS: u32 = 4;
/// Between two of them, and between two looks of the operator, milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 0..1_500;
const LOOK_MS: std::ops::Range<u64> = 100..2_500;
/// Letters or parked messages that the operator asks for at once: few, so that there are several steps.
const PAGE: u32 = 3;
/// Share of parked messages that are released, and of decisions that are asked for once more later on.
const RELEASED: f64 = 0.5;
const LATE: f64 = 0.7;
/// Who sends a message again for longer than this may have it stored again: its id is known for two minutes.
const WINDOW: Duration = Duration::from_secs(100);
/// A request of an operator that has no answer by then has none.
const LONGEST: Duration = Duration::from_secs(25);
/// Longest a receive waits.
const POLL: Duration = Duration::from_secs(1);
const CONSUMERS: u32 = 2;

/// Whether it is over. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct DyingOnes {
    done: Arc<AtomicBool>,
    calm: Arc<AtomicBool>,
}

impl DyingOnes {
    /// One that is done, unless it is in this world.
    pub(super) fn new(is_in_world: bool) -> DyingOnes {
        let dying = DyingOnes::default();
        dying.done.store(!is_in_world, Ordering::SeqCst);
        dying
    }

    /// It was done, or it is not in this world.
    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }

    /// The cluster is whole, and the faults are over.
    pub(super) fn calm(&self) {
        self.calm.store(true, Ordering::SeqCst);
    }

    /// Does it.
    pub(super) async fn run(self, context: Context, hosts: Arc<Vec<Host>>) {
        let parks = context.plan.dying == Some(Dying::Parked);
        let world = World {
            ledger: Arc::new(Mutex::new(Ledger::default())),
            context,
            hosts,
            dying: self.clone(),
            parks,
        };
        world.prepare().await;
        for _ in 0..CONSUMERS {
            tokio::spawn(world.clone().consume(GROUP));
        }
        tokio::spawn(world.clone().consume(WITNESS));
        let sending = tokio::spawn(world.clone().send());
        loop {
            sleep(Duration::from_millis(thread_rng().gen_range(LOOK_MS))).await;
            let rests = world.operate().await;
            let sent = sending.is_finished();
            if sent && rests && world.is_drained().await || world.context.history.is_broken() {
                break;
            }
        }
        world.tell(Ledger::end);
        self.done.store(true, Ordering::SeqCst);
    }
}

#[derive(Clone)]
struct World {
    context: Context,
    hosts: Arc<Vec<Host>>,
    dying: DyingOnes,
    parks: bool,
    ledger: Arc<Mutex<Ledger>>,
}

impl World {
    fn tell<R>(&self, what: impl FnOnce(&mut Ledger) -> R) -> R {
        let mut ledger = self.ledger.lock().expect("no panic while held");
        let told = what(&mut ledger);
        for wrong in ledger.wrong.drain(..) {
            self.context.history.broken(format!("P9: {wrong}"));
        }
        told
    }

    /// Topic and consumer groups.
    async fn prepare(&self) {
        let kind = if self.parks { "FIFO" } else { "NORMAL" };
        let topic = founded::topic(TOPIC, self.context.plan.queues, kind);
        let mortals = GroupSpec {
            name: GROUP.into(),
            max_attempts: Some(MAX_ATTEMPTS),
            backoff: Some(BackoffView::Customized { next_ms: vec![300] }),
            fifo: self.parks,
            on_poison: if self.parks {
                OnPoison::Park
            } else {
                OnPoison::DeadLetter
            },
            ..GroupSpec::default()
        };
        founded::make(&self.hosts, topic.clone(), Some(mortals)).await;
        founded::make(&self.hosts, topic, Some(founded::group(WITNESS))).await;
    }

    fn any_node(&self) -> u32 {
        thread_rng().gen_range(1..=self.context.plan.nodes)
    }

    fn goes_on(&self) -> bool {
        !self.dying.is_done() && !self.context.history.is_broken()
    }

    async fn send(self) {
        for number in 0..MESSAGES + CALM_MESSAGES {
            while number >= MESSAGES && !self.dying.calm.load(Ordering::SeqCst) {
                pause().await;
            }
            let message_group = match self.parks {
                true => format!("@{}", thread_rng().gen_range(0..MESSAGE_GROUPS)),
                false => String::new(),
            };
            let id = format!("{TOPIC}/1-{number:04}{message_group}");
            let deaths = *[0, 0, 1, 1, 2].choose(&mut thread_rng()).expect("some");
            self.tell(|ledger| ledger.sending(&id, deaths));
            let letters = [(id.clone(), Letter::of(&id, self.context.plan.body))];
            let begun = now();
            loop {
                if now() > begun + WINDOW {
                    self.tell(|ledger| ledger.may_be_twice(&id));
                }
                let node = self.any_node();
                let answer = self.context.client.send(node, TOPIC, None, &letters).await;
                match answer.and_then(|mut all| all.remove(0)) {
                    Ok(_) => break,
                    Err(failure) => self.context.failed("send", node, &failure),
                }
                pause().await;
            }
            sleep(Duration::from_millis(thread_rng().gen_range(PAUSE_MS))).await;
        }
    }

    async fn consume(self, group: &'static str) {
        while self.goes_on() {
            let node = self.any_node();
            let ask = Ask {
                attempt: None,
                most: 4,
                poll: POLL,
                invisible: Some(MIN_INVISIBLE),
                queue: -1,
                filter: None,
            };
            let asked = now();
            match self.context.client.receive(node, (TOPIC, group), &ask).await {
                Ok(messages) => {
                    for message in &messages {
                        self.came(group, node, asked, message).await;
                    }
                }
                Err(failure) => {
                    self.context.failed("receive", node, &failure);
                    pause().await;
                }
            }
        }
    }

    /// Has a message that came die a little, or acknowledges it.
    async fn came(&self, group: &str, node: u32, asked: Duration, message: &Received) {
        let id = message.message_id.as_str();
        let letter = Letter::of(id, self.context.plan.body);
        let place = (message.place.queue, message.place.offset);
        let is_whole = message.letter.is_of(&letter);
        debug!(at = ?now(), group, id, node, attempt = message.attempt, ?place, "a mortal came");
        let came = (asked, now());
        if group == WITNESS {
            self.tell(|ledger| ledger.witnessed(id, came));
            let acked = self.context.client.ack(node, group, &[message]).await;
            if acked.is_ok_and(|answers| answers.iter().all(Result::is_ok)) {
                self.tell(|ledger| ledger.witness_acked(id, now()));
            }
            return;
        }
        let dies = self.tell(|ledger| ledger.came(id, message.attempt, came, place, is_whole));
        let what = match thread_rng().gen_range(0..10) {
            _ if !dies => Done::Acked,
            0..5 => Done::Refused,
            5..8 => Done::Buried,
            _ => return self.context.coverage.count("mortal is left alone"),
        };
        let asked_as = self.tell(|ledger| ledger.asking(id, message.attempt, what));
        let is_done = match what {
            Done::Acked => {
                let acked = self.context.client.ack(node, group, &[message]).await;
                acked.is_ok_and(|answers| answers.iter().all(Result::is_ok))
            }
            Done::Refused => {
                let hidden = self.context.client.hide(node, group, message, Duration::ZERO);
                hidden.await.is_ok()
            }
            Done::Buried => self.context.client.bury(node, group, message).await.is_ok(),
        };
        debug!(at = ?now(), id, node, ?what, is_done, "asked for a mortal");
        if is_done {
            self.tell(|ledger| ledger.answered(id, asked_as, now()));
        }
    }
}

/// What the operator does.
impl World {
    /// One look, and what follows from it. True if everything is done that was sent so far.
    async fn operate(&self) -> bool {
        let calm = self.dying.calm.load(Ordering::SeqCst);
        let Some(letters) = self.letters().await else {
            return false;
        };
        let open = letters
            .iter()
            .filter(|letter| letter.redriven_ms.is_none())
            .count();
        let mut parked = Vec::new();
        if self.parks {
            let Some(found) = self.parked().await else {
                return false;
            };
            parked = found;
        }
        for view in &parked {
            self.decide(view).await;
        }
        if open > 0 || thread_rng().gen_bool(0.2) {
            self.redrive().await;
        }
        calm && open == 0 && parked.is_empty() && self.tell(|ledger| ledger.is_done())
    }

    fn service(&self) -> Option<Arc<Service>> {
        let host = self.hosts.choose(&mut thread_rng()).expect("a world has nodes");
        host.service()
    }

    /// An operator asks any node, and waits for so long.
    async fn ask<T, F: Future<Output = Result<T, AdminError>>>(
        &self,
        what: impl FnOnce(Arc<Service>) -> F,
    ) -> Option<Result<T, AdminError>> {
        let service = self.service()?;
        timeout(LONGEST, what(service)).await.ok()
    }

    /// All dead letters, if every shard answers.
    async fn letters(&self) -> Option<Vec<LetterView>> {
        let (mut all, mut from, asked) = (Vec::new(), None, now());
        loop {
            let query = LettersQuery {
                from: from.clone(),
                limit: Some(PAGE),
                ..LettersQuery::default()
            };
            let listed = self.ask(|service| async move { service.list_letters(GROUP, query).await });
            let page = listed.await?.ok()?;
            all.extend(page.letters);
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        for letter in &all {
            self.tell(|ledger| ledger.listed(letter, asked));
        }
        Some(all)
    }

    async fn parked(&self) -> Option<Vec<ParkedView>> {
        let (mut all, mut from): (Vec<ParkedView>, _) = (Vec::new(), None);
        loop {
            let query = ParkedQuery {
                from: from.clone(),
                limit: Some(PAGE),
            };
            let listed = self.ask(|service| async move { service.list_parked(GROUP, query).await });
            let page = listed.await?.ok()?;
            for view in &page.messages {
                self.tell(|ledger| ledger.parked(view, now()));
            }
            all.extend(page.messages);
            from = page.next;
            if from.is_none() {
                return Some(all);
            }
        }
    }

    /// Decides on a parked message, until it is known or somebody must have done it.
    async fn decide(&self, view: &ParkedView) {
        // The message group stands still for some time.
        sleep(Duration::from_millis(thread_rng().gen_range(0..1_500))).await;
        let skip = !thread_rng().gen_bool(RELEASED);
        let late = self.tell(|ledger| ledger.late_handle(view));
        if let Some(late) = late.filter(|_| thread_rng().gen_bool(LATE)) {
            self.decide_late(late).await;
        }
        self.tell(|ledger| ledger.deciding(view, skip));
        let decided = self.unpark(view.handle.clone(), skip).await;
        debug!(at = ?now(), ?view, skip, ?decided, "decided on what is parked");
        let is_done = matches!(decided, Some(Ok(_)));
        let is_certain =
            is_done || matches!(&decided, Some(Err(error)) if error.kind == AdminErrorKind::NotFound);
        self.context.coverage.count(match (is_done, skip) {
            (true, true) => "parked message skipped",
            (true, false) => "parked message released",
            (false, _) => "decision unknown",
        });
        self.tell(|ledger| ledger.decided(view, is_done, is_certain));
    }

    /// What was decided on before is decided on again, by somebody who does not know.
    async fn decide_late(&self, handle: String) {
        let decided = self.unpark(handle.clone(), true).await;
        debug!(at = ?now(), handle, ?decided, "decided late");
        self.context.coverage.count("late decision");
        if let Some(Ok(_)) = decided {
            self.context.history.broken(format!(
                "P9: a decision on a stop that was over, {handle}, was carried out"
            ));
        }
    }

    async fn unpark(&self, handle: String, skip: bool) -> Option<Result<(), AdminError>> {
        let spec = UnparkSpec { handle };
        let asked = self.ask(|service| async move { service.unpark(GROUP, spec, skip).await });
        asked.await.map(|done| done.map(|_| ()))
    }

    /// Gives everything back, step by step; each is asked for again until it is answered.
    async fn redrive(&self) {
        let id = thread_rng().gen_range(1..u64::MAX);
        let mut from = None;
        loop {
            let spec = RedriveSpec {
                which: LettersQuery {
                    from: from.clone(),
                    limit: Some(PAGE),
                    ..LettersQuery::default()
                },
                dry_run: false,
                id: Some(id),
            };
            let asked = self.ask(|service| async move { service.redrive_letters(GROUP, spec).await });
            let step = match asked.await {
                Some(Ok(step)) => step,
                unknown => {
                    debug!(at = ?now(), id, ?unknown, "a redrive has no good answer");
                    self.context.coverage.count("redrive asked again");
                    if !self.goes_on() {
                        return;
                    }
                    pause().await;
                    continue;
                }
            };
            for redriven in &step.letters {
                debug!(at = ?now(), id, letter = ?redriven.letter.message_id, outcome = ?redriven.outcome, "redriven");
                if redriven.outcome == RedriveOutcome::Redriven {
                    self.context.coverage.count("dead letter given back");
                }
                self.tell(|ledger| ledger.redriven(&redriven.letter, redriven.outcome, id));
            }
            from = step.next;
            if from.is_none() {
                return;
            }
        }
    }

    /// Nothing of the consumer groups is open, as far as any node knows.
    async fn is_drained(&self) -> bool {
        for group in [GROUP, WITNESS] {
            let asked = self.ask(|service| async move { service.describe_group(group).await });
            match asked.await {
                Some(Ok(detail)) if detail.total == Lag::default() => {}
                _ => return false,
            }
        }
        true
    }
}
