//! P5, in some worlds: messages that are to be delivered at a date. None comes before it, each comes once and in time, unless
//! it was recalled, and then it never comes; while leaders change, answers get lost, and sends and recalls are repeated.
//!
//! Topic and consumer group are its own, and all that happens there is known here (`ledger.rs`). No other oracle hears of it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use broker::{
    limits::MIN_INVISIBLE,
    views::{AdminErrorKind, RetimeSpec},
};
use flotilla_proto::rocketmq::Code;
use futures::future::join_all;
use madsim::{
    rand::{Rng, seq::SliceRandom, thread_rng},
    time::TimeHandle,
};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::{Context, founded, now, pause};
use crate::{
    client::{Ask, Failure, Told},
    history::DELAYED,
    host::Host,
    letter::Letter,
    plan::Fault,
};
use ledger::{Ledger, Recall};

mod ledger;

const GROUP: &str = "patient";
/// Messages that are sent while there are faults, and once they are over.
const MESSAGES: u32 = 50;
const CALM_MESSAGES: u32 = 10;
/// Between two of them, milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 0..1_200;
/// Share of messages that are recalled, and of those that are sent again although the answer came.
const RECALLED: f64 = 0.35;
const AGAIN: f64 = 0.3;
/// Of those that an operator gives another date, and how far ahead that is at most, milliseconds.
const RETIMED: f64 = 0.15;
const RETIMED_TO_MS: u64 = 6_000;
/// A request of an operator that has no answer by then has none.
const LONGEST: Duration = Duration::from_secs(25);
/// Longest a receive waits.
const POLL: Duration = Duration::from_secs(1);
const CONSUMERS: u32 = 2;
/// How often clocks and what is late are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What must not come is waited for so long after it was due.
const LINGER: Duration = Duration::from_secs(3);

/// Whether it is over. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Delayed {
    done: Arc<AtomicBool>,
    calm: Arc<Mutex<Option<Duration>>>,
}

impl Delayed {
    /// One that is done, unless it is in this world.
    pub(super) fn new(is_in_world: bool) -> Delayed {
        let delayed = Delayed::default();
        delayed.done.store(!is_in_world, Ordering::SeqCst);
        delayed
    }

    /// It was done, or it is not in this world.
    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }

    /// The cluster is whole, and the faults are over.
    pub(super) fn calm(&self, at: Duration) {
        *self.calm.lock().expect("no panic while held") = Some(at);
    }

    fn calm_since(&self) -> Option<Duration> {
        *self.calm.lock().expect("no panic while held")
    }

    /// Does it.
    pub(super) async fn run(self, context: Context, hosts: Arc<Vec<Host>>) {
        let disorder = context.plan.faults.contains_key(&Fault::Disorder);
        let sender = Sender {
            ledger: Arc::new(Mutex::new(Ledger::new(disorder))),
            context,
            hosts,
            delayed: self.clone(),
        };
        sender.prepare().await;
        tokio::spawn(sender.clone().watch());
        for _ in 0..CONSUMERS {
            tokio::spawn(sender.clone().consume());
        }
        let mut pending = Vec::new();
        for number in 0..MESSAGES + CALM_MESSAGES {
            while number >= MESSAGES && self.calm_since().is_none() {
                pause().await;
            }
            pending.push(tokio::spawn(sender.clone().life(number)));
            sleep(Duration::from_millis(thread_rng().gen_range(PAUSE_MS))).await;
        }
        join_all(pending).await;
        loop {
            let rests = sender.tell(|ledger| ledger.rests_at());
            if rests.is_some_and(|at| now() > at + LINGER) || sender.context.history.is_broken() {
                break;
            }
            pause().await;
        }
        self.done.store(true, Ordering::SeqCst);
    }
}

#[derive(Clone)]
struct Sender {
    context: Context,
    hosts: Arc<Vec<Host>>,
    delayed: Delayed,
    ledger: Arc<Mutex<Ledger>>,
}

impl Sender {
    fn tell<R>(&self, what: impl FnOnce(&mut Ledger) -> R) -> R {
        let mut ledger = self.ledger.lock().expect("no panic while held");
        let told = what(&mut ledger);
        for wrong in ledger.wrong.drain(..) {
            self.context.history.broken(wrong);
        }
        told
    }

    /// Topic and consumer group.
    async fn prepare(&self) {
        let topic = founded::topic(DELAYED, self.context.plan.queues, "DELAY");
        founded::make(&self.hosts, topic, Some(founded::group(GROUP))).await;
    }

    fn any_node(&self) -> u32 {
        thread_rng().gen_range(1..=self.context.plan.nodes)
    }

    /// By how much the clocks of the nodes are ahead, the last and the first.
    fn look_at_clocks(&self) {
        let ahead = || self.hosts.iter().map(|host| host.wall_clock().ahead_ms());
        let (least, most) = (ahead().min().unwrap_or(0), ahead().max().unwrap_or(0));
        self.tell(|ledger| ledger.clocks(now(), least, most));
    }

    /// Looks at clocks, and at what should have come.
    async fn watch(self) {
        while !self.delayed.is_done() {
            self.look_at_clocks();
            let calm = self.delayed.calm_since();
            let forgotten = self.context.history.delayed_and_forgotten();
            self.tell(|ledger| {
                ledger.forgotten(&forgotten);
                ledger.late(now(), calm);
            });
            sleep(LOOK_EVERY).await;
        }
    }

    /// One message from its sending to its recall.
    async fn life(self, number: u32) {
        let id = format!("{DELAYED}/1-{number:04}");
        let delay_ms: i64 = {
            let mut rng = thread_rng();
            match rng.gen_range(0..10) {
                0 => -1_000,
                1..=3 => rng.gen_range(0..300),
                4..=6 => rng.gen_range(300..3_000),
                _ => rng.gen_range(3_000..20_000),
            }
        };
        let delivery_ms = wall_ms().saturating_add_signed(delay_ms);
        self.look_at_clocks();
        let begun = now();
        self.tell(|ledger| ledger.sending(&id, begun, delay_ms));
        let Some(told) = self.send(&id, delivery_ms, None).await else {
            return;
        };
        self.tell(|ledger| ledger.stored(&id, now(), &told));
        let (recalls, again) = {
            let mut rng = thread_rng();
            (rng.gen_bool(RECALLED), rng.gen_bool(AGAIN))
        };
        let most = u64::try_from(delay_ms).unwrap_or(0) + 500;
        sleep(Duration::from_millis(thread_rng().gen_range(0..most))).await;
        if again {
            let came = self.tell(|ledger| ledger.place_of(&id));
            let until = begun + ledger::WINDOW;
            if let Some(told) = self.send(&id, delivery_ms, Some(until)).await {
                self.context.coverage.count("delayed message sent again");
                self.tell(|ledger| ledger.stored_again(&id, &told, came));
            }
        }
        if thread_rng().gen_bool(RETIMED) && !told.handle.is_empty() {
            self.retime(&id, &told.handle).await;
        }
        if recalls && !told.handle.is_empty() {
            self.recall(&id, &told.handle).await;
        }
    }

    /// Until it is stored, or for so long: a try may take some seconds more.
    async fn send(&self, id: &str, delivery_ms: u64, until: Option<Duration>) -> Option<Told> {
        let letter = Letter::of(id, self.context.plan.body);
        while until.is_none_or(|until| now() < until) {
            let node = self.any_node();
            let sent = self
                .context
                .client
                .send_later(node, DELAYED, (id, &letter), delivery_ms);
            let sent = sent.await;
            debug!(at = ?now(), id, node, delivery_ms, ?sent, "sent what is to be delivered at a date");
            self.look_at_clocks();
            match sent {
                Ok(told) => return Some(told),
                Err(failure) => self.context.failed("send", node, &failure),
            }
            pause().await;
        }
        None
    }

    /// Gives it another date, until it is known whether it still waited for one.
    async fn retime(&self, id: &str, handle: &str) {
        let ahead = Duration::from_millis(thread_rng().gen_range(0..RETIMED_TO_MS));
        let due = now() + ahead;
        let spec = RetimeSpec {
            recall_handle: handle.to_owned(),
            delivery_ms: wall_ms() + ahead.as_millis() as u64,
        };
        self.look_at_clocks();
        self.tell(|ledger| ledger.retiming(id, due));
        let mut unsure = false;
        let became = loop {
            let host = self.hosts.choose(&mut thread_rng()).expect("a world has nodes");
            if let Some(service) = host.service() {
                let asked = timeout(LONGEST, service.retime_delayed(DELAYED, spec.clone())).await;
                debug!(at = ?now(), id, node = host.id, ?asked, "given another date");
                match asked {
                    Ok(Ok(_)) => break Some(due),
                    // Perhaps by another try, and it came by that.
                    Ok(Err(error))
                        if error.kind == AdminErrorKind::NotFound && error.message.contains("wait") =>
                    {
                        break None;
                    }
                    _ => unsure = true,
                }
            }
            pause().await;
        };
        self.look_at_clocks();
        self.context.coverage.count(match (became, unsure) {
            (Some(_), _) => "delayed message has another date",
            (None, false) => "delayed message given another date too late",
            (None, true) => "another date unknown for good",
        });
        self.tell(|ledger| ledger.retimed(id, became));
    }

    /// Until it is known what became of it, as far as it can be.
    async fn recall(&self, id: &str, handle: &str) {
        let mut unsure = false;
        self.tell(|ledger| ledger.recalling(id));
        let became = loop {
            let node = self.any_node();
            let recalled = self.context.client.recall(node, DELAYED, handle).await;
            debug!(at = ?now(), id, node, ?recalled, "recalled");
            match recalled {
                Ok(of) if of == id => break Recall::Done,
                Ok(of) => self
                    .context
                    .history
                    .broken(format!("P5: the recall of {id} is answered with {of}")),
                Err(Failure::Status(Code::MessageNotFound, _)) if unsure => break Recall::Unsure,
                Err(Failure::Status(Code::MessageNotFound, _)) => break Recall::TooLate,
                Err(failure) => {
                    unsure |= !self.context.says_not_done(&failure);
                    self.context.failed("recall", node, &failure);
                }
            }
            if self.context.history.is_broken() {
                break Recall::Unsure;
            }
            pause().await;
        };
        self.context.coverage.count(match became {
            Recall::Done => "recalled",
            Recall::TooLate => "recalled too late",
            Recall::Unsure => "recall unknown for good",
        });
        self.tell(|ledger| ledger.recalled(id, now(), became));
    }

    async fn consume(self) {
        while !self.delayed.is_done() {
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
            match self.context.client.receive(node, (DELAYED, GROUP), &ask).await {
                Ok(messages) => {
                    for message in &messages {
                        let id = &message.message_id;
                        let letter = Letter::of(id, self.context.plan.body);
                        let place = (message.place.queue, message.place.offset);
                        let is_whole = message.letter.is_of(&letter);
                        self.context.coverage.count("delayed message came");
                        self.tell(|ledger| ledger.came(id, (asked, now()), place, is_whole));
                        let acked = self.context.client.ack(node, GROUP, &[message]).await;
                        if acked.is_ok_and(|answers| answers.iter().all(Result::is_ok)) {
                            self.tell(|ledger| ledger.acked(id, now()));
                        }
                    }
                }
                Err(failure) => {
                    self.context.failed("receive", node, &failure);
                    pause().await;
                }
            }
        }
    }
}

fn wall_ms() -> u64 {
    let wall = TimeHandle::current().now_time().duration_since(UNIX_EPOCH);
    wall.expect("simulated time starts after 1970").as_millis() as u64
}
