//! Transactions, in some worlds: each has one outcome, whoever says which, how often and where; nothing half is seen, nothing that was
//! committed is lost, and what nobody ends is asked about as often as it should be, and then listed until an operator ends it.
//!
//! Topic and consumer group are its own, and all that happens there is known here (`ledger.rs`). No other oracle hears of it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use broker::{
    limits::MIN_INVISIBLE,
    views::{AdminErrorKind, Resolution, ResolveSpec, TransactionQuery},
};
use flotilla_proto::rocketmq::Code;
use futures::future::join_all;
use madsim::rand::{Rng, seq::SliceRandom, thread_rng};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::{Context, founded, now, pause};
use crate::{
    client::{Ask, Asked, Failure},
    history::TRANSACTIONS,
    host::Host,
    letter::Letter,
    plan::Fault,
};
use ledger::{Answer, Ledger};

mod ledger;

const GROUP: &str = "witnesses";
/// Transactions that begin while there are faults, and once they are over.
const MANY: u32 = 50;
const CALM: u32 = 10;
/// Between two of them, milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 0..1_000;
/// Share of half messages that are sent again although the answer came, of ends that are repeated, and of those that are followed by
/// the other end.
const AGAIN: f64 = 0.3;
const REPEATED: f64 = 0.3;
const CONTRARY: f64 = 0.3;
/// Share of half messages that say themselves when they are asked about first.
const OWN_TIME: f64 = 0.3;
/// A request of an operator that has no answer by then has none.
const LONGEST: Duration = Duration::from_secs(25);
/// Longest a receive waits, and how long a producer waits to be asked.
const POLL: Duration = Duration::from_secs(1);
const LISTENS: Duration = Duration::from_secs(4);
const CONSUMERS: u32 = 2;
/// How often what is late is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What must not come is waited for so long at the end.
const LINGER: Duration = Duration::from_secs(3);

/// Whether it is over. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Transactions {
    done: Arc<AtomicBool>,
    calm: Arc<Mutex<Option<Duration>>>,
}

impl Transactions {
    /// One that is done, unless it is in this world.
    pub(super) fn new(is_in_world: bool) -> Transactions {
        let transactions = Transactions::default();
        transactions.done.store(!is_in_world, Ordering::SeqCst);
        transactions
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
        let ledger = Ledger::new(context.plan.transaction_rules, disorder);
        let producer = Producer {
            ledger: Arc::new(Mutex::new(ledger)),
            context,
            hosts,
            transactions: self.clone(),
        };
        producer.prepare().await;
        tokio::spawn(producer.clone().watch());
        for _ in 0..CONSUMERS {
            tokio::spawn(producer.clone().consume());
        }
        for node in 1..=producer.context.plan.nodes {
            tokio::spawn(producer.clone().listen(node));
        }
        let mut pending = Vec::new();
        for number in 0..MANY + CALM {
            while number >= MANY && self.calm_since().is_none() {
                pause().await;
            }
            pending.push(tokio::spawn(producer.clone().life(number)));
            sleep(Duration::from_millis(thread_rng().gen_range(PAUSE_MS))).await;
        }
        join_all(pending).await;
        producer.finish().await;
        self.done.store(true, Ordering::SeqCst);
    }
}

#[derive(Clone)]
struct Producer {
    context: Context,
    hosts: Arc<Vec<Host>>,
    transactions: Transactions,
    ledger: Arc<Mutex<Ledger>>,
}

impl Producer {
    fn tell<R>(&self, what: impl FnOnce(&mut Ledger) -> R) -> R {
        let mut ledger = self.ledger.lock().expect("no panic while held");
        let told = what(&mut ledger);
        for wrong in ledger.wrong.drain(..) {
            self.context.history.broken(wrong);
        }
        told
    }

    fn is_broken(&self) -> bool {
        self.context.history.is_broken()
    }

    fn any_node(&self) -> u32 {
        thread_rng().gen_range(1..=self.context.plan.nodes)
    }

    /// Topic and consumer group.
    async fn prepare(&self) {
        let topic = founded::topic(TRANSACTIONS, self.context.plan.queues, "TRANSACTION");
        founded::make(&self.hosts, topic, Some(founded::group(GROUP))).await;
    }

    /// Looks at what should have happened.
    async fn watch(self) {
        while !self.transactions.is_done() {
            let calm = self.transactions.calm_since();
            let forgotten = self.context.history.delayed_and_forgotten();
            self.tell(|ledger| {
                ledger.forgotten(&forgotten);
                ledger.late(now(), calm);
            });
            sleep(LOOK_EVERY).await;
        }
    }

    /// One transaction, as far as its producer has to do with it.
    async fn life(self, number: u32) {
        let id = format!("{TRANSACTIONS}/1-{number:04}");
        // What its producer does, and what it says when it is asked.
        let (ends, answer) = match thread_rng().gen_range(0..10) {
            0..=2 => (Some(true), Answer::Commit),
            3..=4 => (Some(false), Answer::Rollback),
            // It dies in between; another one knows.
            5..=6 => (None, Answer::Commit),
            7 => (None, Answer::Rollback),
            // Nobody knows.
            _ => (None, Answer::Unknown),
        };
        let own = thread_rng().gen_bool(OWN_TIME);
        let first_check = own.then(|| Duration::from_millis(thread_rng().gen_range(200..6_000)));
        self.tell(|ledger| ledger.sending(&id, now(), first_check, answer));
        let Some(transaction) = self.send(&id, first_check, None).await else {
            return;
        };
        self.tell(|ledger| ledger.stored(&id, now(), &transaction));
        if thread_rng().gen_bool(AGAIN) {
            let until = self.tell(|ledger| ledger.known_until(&id));
            if let Some(again) = self.send(&id, first_check, Some(until)).await {
                self.context.coverage.count("half message sent again");
                self.tell(|ledger| ledger.stored_again(&id, &again));
            }
        }
        let Some(commits) = ends else { return };
        sleep(Duration::from_millis(thread_rng().gen_range(0..3_000))).await;
        self.end(&id, &transaction, commits).await;
        let (repeated, contrary) = {
            let mut rng = thread_rng();
            (rng.gen_bool(REPEATED), rng.gen_bool(CONTRARY))
        };
        if repeated {
            self.end(&id, &transaction, commits).await;
        }
        if contrary {
            self.end(&id, &transaction, !commits).await;
        }
    }

    /// Until it is stored, or for so long: a try may take some seconds more.
    async fn send(&self, id: &str, first_check: Option<Duration>, until: Option<Duration>) -> Option<String> {
        let letter = Letter::of(id, self.context.plan.body);
        while until.is_none_or(|until| now() < until) && !self.is_broken() {
            let node = self.any_node();
            let client = &self.context.client;
            let sent = client
                .send_half(node, TRANSACTIONS, (id, &letter), first_check)
                .await;
            debug!(at = ?now(), id, node, ?sent, "sent a half message");
            match sent {
                Ok(transaction) => return Some(transaction),
                Err(failure) => self.context.failed("send", node, &failure),
            }
            pause().await;
        }
        None
    }

    /// Until it is known how it ended.
    async fn end(&self, id: &str, transaction: &str, commits: bool) {
        self.tell(|ledger| ledger.ending(id, commits));
        while !self.is_broken() {
            let node = self.any_node();
            let ended = self
                .context
                .client
                .end(node, TRANSACTIONS, transaction, Some(commits))
                .await;
            debug!(at = ?now(), id, node, commits, ?ended, "ended a transaction");
            match ended {
                Ok(()) => {
                    self.context.coverage.count(match commits {
                        true => "transaction committed",
                        false => "transaction rolled back",
                    });
                    return self.tell(|ledger| ledger.ended(id, now(), commits));
                }
                Err(Failure::Status(Code::InvalidTransactionId, why)) => {
                    self.context.coverage.count("transaction ended otherwise before");
                    return self.tell(|ledger| ledger.refused(id, now(), commits, &why));
                }
                Err(failure) => self.context.failed("end", node, &failure),
            }
            pause().await;
        }
    }

    /// A producer with a stream to a node: it is asked there, and answers.
    async fn listen(self, node: u32) {
        while !self.transactions.is_done() {
            match self.context.client.questions(node, TRANSACTIONS, LISTENS).await {
                Ok(asked) => {
                    for asked in asked {
                        tokio::spawn(self.clone().answer(node, asked));
                    }
                }
                Err(failure) => {
                    self.context.failed("telemetry", node, &failure);
                    pause().await;
                }
            }
        }
    }

    async fn answer(self, node: u32, asked: Asked) {
        let id = &asked.message_id;
        debug!(at = ?now(), id, node, "asked about a transaction");
        self.context.coverage.count("transaction asked about");
        let is_whole = asked.letter.is_of(&Letter::of(id, self.context.plan.body));
        let answer = self.tell(|ledger| ledger.asked(id, now(), &asked.transaction_id, is_whole));
        match answer {
            Some(Answer::Commit) => self.end(id, &asked.transaction_id, true).await,
            Some(Answer::Rollback) => self.end(id, &asked.transaction_id, false).await,
            Some(Answer::Unknown) => {
                let client = &self.context.client;
                let told = client.end(node, TRANSACTIONS, &asked.transaction_id, None).await;
                if let Err(failure) = told {
                    self.context.failed("end", node, &failure);
                }
            }
            None => {}
        }
    }

    async fn consume(self) {
        while !self.transactions.is_done() {
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
            match self
                .context
                .client
                .receive(node, (TRANSACTIONS, GROUP), &ask)
                .await
            {
                Ok(messages) => {
                    for message in &messages {
                        let id = &message.message_id;
                        let letter = Letter::of(id, self.context.plan.body);
                        let place = (message.place.queue, message.place.offset);
                        let is_whole = message.letter.is_of(&letter);
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

    /// What nobody ended is listed as given up in the end, and nothing else. An operator ends it.
    async fn finish(&self) {
        let given_up = loop {
            let listed = self.list().await;
            let rests = self.tell(|ledger| ledger.listed(now(), self.transactions.calm_since(), &listed));
            if rests || self.is_broken() {
                break listed;
            }
            sleep(Duration::from_millis(500)).await;
        };
        for (id, transaction, _) in given_up {
            let resolution = match thread_rng().gen_bool(0.5) {
                true => Resolution::Commit,
                false => Resolution::Rollback,
            };
            self.resolve(&id, transaction, resolution).await;
        }
        while !self.tell(|ledger| ledger.rests()) && !self.is_broken() {
            pause().await;
        }
        sleep(LINGER).await;
        let left = self.list().await;
        if !left.is_empty() {
            self.context
                .history
                .broken(format!("transactions are ended, and still listed: {left:?}"));
        }
    }

    /// Message, transaction, and whether it is given up: all that nobody has ended.
    async fn list(&self) -> BTreeSet<(String, String, bool)> {
        'again: while !self.is_broken() {
            let (mut found, mut from) = (BTreeSet::new(), None);
            loop {
                let query = TransactionQuery {
                    from,
                    limit: Some(7),
                    ..TransactionQuery::default()
                };
                let host = self.hosts.choose(&mut thread_rng()).expect("a world has nodes");
                let Some(service) = host.service() else {
                    pause().await;
                    continue 'again;
                };
                let Ok(Ok(page)) = timeout(LONGEST, service.list_transactions(TRANSACTIONS, query)).await
                else {
                    pause().await;
                    continue 'again;
                };
                let open = page.transactions.into_iter();
                found.extend(open.map(|it| (it.message_id, it.transaction_id, it.given_up)));
                from = page.next;
                if from.is_none() {
                    return found;
                }
            }
        }
        BTreeSet::new()
    }

    /// By hand, until it is known how it ended.
    async fn resolve(&self, id: &str, transaction_id: String, resolution: Resolution) {
        let commits = resolution == Resolution::Commit;
        self.tell(|ledger| ledger.ending(id, commits));
        let spec = ResolveSpec {
            transaction_id,
            resolution,
        };
        while !self.is_broken() {
            let host = self.hosts.choose(&mut thread_rng()).expect("a world has nodes");
            if let Some(service) = host.service() {
                let asked = timeout(LONGEST, service.resolve_transaction(TRANSACTIONS, spec.clone())).await;
                debug!(at = ?now(), id, node = host.id, ?asked, "ended a transaction by hand");
                match asked {
                    Ok(Ok(_)) => {
                        self.context.coverage.count("transaction ended by hand");
                        return self.tell(|ledger| ledger.ended(id, now(), commits));
                    }
                    Ok(Err(error))
                        if error.kind == AdminErrorKind::Invalid && error.message.contains("before") =>
                    {
                        return self.tell(|ledger| ledger.refused(id, now(), commits, &error.message));
                    }
                    _ => {}
                }
            }
            pause().await;
        }
    }
}
