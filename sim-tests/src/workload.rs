//! What clients do: producers that send until they know that a message is stored, consumers with habits, and an
//! undertaker who looks at the dead letters. They time out and retry as SDKs do; what they do not know stays unknown.

use std::{
    net::Ipv4Addr,
    ops::Deref,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use flotilla_proto::rocketmq::Code;
use futures::future::join_all;
use madsim::{runtime::Handle, time::TimeHandle};
use tokio::time::sleep;

use crate::{
    answers::Judge,
    client::{Client, Failure, Received, Who},
    coverage::Coverage,
    harm::Harms,
    history::{DEAD_LETTERS, Event, History, Receipt},
    host::Host,
    peers::Disorder,
    plan::{Fault, Plan},
    trace::Trace,
};

mod acknowledge;
mod attempts;
mod bury;
mod death;
mod delayed;
mod dying;
mod forge;
mod founded;
mod hide;
pub mod operator;
mod pauses;
mod pulls;
mod push;
mod receive;
mod replay;
mod rest;
mod send;
mod spare;
mod transactions;
mod urgent;
mod window;

use delayed::Delayed;
use dying::DyingOnes;
use pauses::Pauses;
use pulls::Pulls;
use replay::Replay;
use rest::Rest;
use transactions::Transactions;
use urgent::Urgent;
use window::Window;

/// The consumer group that reads dead letters.
pub const UNDERTAKER: &str = "undertaker";
/// After a failure the next try waits so long.
const PAUSE: Duration = Duration::from_millis(50);
/// The same where there is no other node to try.
const PAUSE_OF_ONE_NODE: Duration = Duration::from_millis(500);

/// The clients of a run, each on a machine of its own.
pub struct Clients {
    calm: Arc<AtomicBool>,
    producing: Arc<AtomicU32>,
    stopped: Arc<AtomicBool>,
    window: Window,
    replay: Replay,
    pulls: Pulls,
    pauses: Pauses,
    delayed: Delayed,
    dying: DyingOnes,
    transactions: Transactions,
    urgent: Urgent,
}

/// What lasts of a client when its process dies.
#[derive(Clone)]
struct Program {
    who: Who,
    plan: Plan,
    history: History,
    coverage: Coverage,
    harms: Harms,
    disorder: Disorder,
    trace: Trace,
    stopped: Arc<AtomicBool>,
    /// The cluster is whole, and the faults are over.
    calm: Arc<AtomicBool>,
    /// Acknowledgements whose answers are waited for.
    acking: Acking,
    /// When it is busy for long.
    rest: Rest,
}

/// What every client has while it runs.
#[derive(Clone)]
struct Context {
    client: Arc<Client>,
    program: Program,
}

impl Deref for Context {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

/// What a client has asked for and has no certain answer to. It lasts when the client dies: somebody has to remember.
type Acking = Arc<Mutex<Vec<Receipt>>>;

impl Program {
    /// A life of it. Connections belong to the machine, so this is called there.
    fn run(&self) -> Context {
        let (disorder, trace) = (self.disorder.clone(), self.trace.clone());
        let judge = Judge::new(&self.history, &self.plan);
        let client = Client::new(self.who.clone(), self.plan.nodes, judge, disorder, trace);
        Context {
            client: Arc::new(client),
            program: self.clone(),
        }
    }

    fn record(&self, event: &Event) {
        self.history.record(now(), event);
    }

    /// From now on the lease of this delivery may have another end than its deadline.
    fn ending(&self, group: &str, message: &Received) {
        self.record(&Event::Ending(message.receipt(group)));
    }

    /// A request that nothing is wrong with has no good answer of a node: counted, and judged where it must not be. A node may
    /// say that something is broken if it is, there or where it has passed the request on to. That it cannot now, or has
    /// too much to do, is no more than a reason to ask again. Anything else is a bug.
    fn failed(&self, what: &str, node: u32, failure: &Failure) {
        let Failure::Status(code, message) = failure else {
            return self.coverage.count(&format!("{what} unknown"));
        };
        self.coverage.count(&format!("{what} {}", code.as_str_name()));
        let is_good = match code {
            Code::HaNotAvailable
            | Code::ProxyTimeout
            | Code::TooManyRequests
            | Code::MasterPersistenceTimeout => true,
            Code::InternalServerError => self.harms.excuse_answer(node, now()),
            _ => false,
        };
        if !is_good {
            let what = format!("{what} at node {node}: {code:?}: {message}");
            self.history.broken(what);
        }
    }

    /// What is wrong with a request is why it has no good answer, or what makes others fail.
    fn refused(&self, what: &str, node: u32, failure: &Failure) {
        match failure {
            Failure::Status(Code::InvalidReceiptHandle, _) => self.coverage.count(&format!("{what} refused")),
            _ => self.failed(what, node, failure),
        }
    }

    /// There was no room for it, in the queue of a leader or on a disk, so nothing was done. Where requests come twice the second
    /// may find room that the first did not.
    fn says_not_done(&self, failure: &Failure) -> bool {
        let Failure::Status(code, _) = failure else {
            return false;
        };
        let no_room = matches!(code, Code::TooManyRequests | Code::MasterPersistenceTimeout);
        no_room && !self.plan.faults.contains_key(&Fault::Disorder)
    }

    /// Whether the cluster is whole, and the faults are over.
    fn is_calm(&self) -> bool {
        self.calm.load(Ordering::SeqCst)
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Whether the consumers of this group are push consumers.
    fn is_push(&self, group: &str) -> bool {
        self.plan.push && group == self.plan.group(0)
    }

    /// The node after this one, if this client knows any other.
    fn next(&self, node: u32) -> u32 {
        self.home().unwrap_or(node % self.plan.nodes + 1)
    }

    /// Waits for the next try.
    async fn pause(&self) {
        match self.home() {
            Some(_) => sleep(PAUSE_OF_ONE_NODE).await,
            None => pause().await,
        }
    }

    /// The one node that it knows, if it knows one only.
    fn home(&self) -> Option<u32> {
        let knows_one = self.plan.some_know_one_node() && self.who.number() % 2 == 1;
        knows_one.then(|| 1 + self.who.number() / 2 % self.plan.nodes)
    }
}

fn now() -> Duration {
    TimeHandle::current().elapsed()
}

impl Clients {
    /// Starts them all.
    #[must_use]
    pub fn start(
        plan: &Plan,
        hosts: &Arc<Vec<Host>>,
        (history, coverage, harms): (&History, &Coverage, &Harms),
        disorder: &Disorder,
        trace: &Trace,
    ) -> Clients {
        let producing = Arc::new(AtomicU32::new(plan.producers));
        let stopped = Arc::new(AtomicBool::new(false));
        let calm = Arc::new(AtomicBool::new(false));
        let mut id = 0;
        let handle = Handle::current();
        let mut machine = || {
            id += 1;
            let machine = handle
                .create_node()
                .name(format!("client-{id}"))
                .ip(Ipv4Addr::new(10, 0, 1, u8::try_from(id).expect("a small world")).into());
            (machine, id)
        };
        let program = |id, rests| Program {
            who: Who::new(id),
            plan: plan.clone(),
            history: history.clone(),
            coverage: coverage.clone(),
            harms: harms.clone(),
            disorder: disorder.clone(),
            trace: trace.clone(),
            stopped: stopped.clone(),
            calm: calm.clone(),
            acking: Acking::default(),
            rest: Rest::new(rests),
        };
        for _ in 0..plan.producers {
            let (machine, id) = machine();
            let (program, producing) = (program(id, false), producing.clone());
            machine.build().spawn(async move {
                send::produce(program.run(), id).await;
                producing.fetch_sub(1, Ordering::SeqCst);
            });
        }
        let window = Window::drawn(plan);
        if !window.is_done() {
            let (machine, id) = machine();
            let (program, window, hosts) = (program(id, false), window.clone(), hosts.clone());
            machine
                .build()
                .spawn(async move { window.run(program.run(), hosts).await });
        }
        let replay = Replay::new(plan.replays);
        if plan.replays {
            let (machine, id) = machine();
            let (program, replay, hosts) = (program(id, false), replay.clone(), hosts.clone());
            machine
                .build()
                .spawn(async move { replay.run(program.run(), hosts).await });
        }
        let pulls = Pulls::new(plan.pulls);
        if plan.pulls {
            let (machine, id) = machine();
            let (program, pulls, hosts) = (program(id, false), pulls.clone(), hosts.clone());
            machine
                .build()
                .spawn(async move { pulls.run(program.run(), hosts).await });
        }
        let pauses = Pauses::new(plan.pauses);
        if plan.pauses {
            let (machine, id) = machine();
            let (program, pauses, hosts) = (program(id, false), pauses.clone(), hosts.clone());
            machine
                .build()
                .spawn(async move { pauses.run(program.run(), hosts).await });
        }
        let delayed = Delayed::new(plan.delays);
        if plan.delays {
            let (machine, id) = machine();
            let (program, delayed, hosts) = (program(id, false), delayed.clone(), hosts.clone());
            machine
                .build()
                .spawn(async move { delayed.run(program.run(), hosts).await });
        }
        let dying = DyingOnes::new(plan.dying.is_some());
        if plan.dying.is_some() {
            let (machine, id) = machine();
            let (program, dying, hosts) = (program(id, false), dying.clone(), hosts.clone());
            machine
                .build()
                .spawn(async move { dying.run(program.run(), hosts).await });
        }
        let transactions = Transactions::new(plan.transactions);
        if plan.transactions {
            let (machine, id) = machine();
            let (program, transactions, hosts) = (program(id, false), transactions.clone(), hosts.clone());
            machine
                .build()
                .spawn(async move { transactions.run(program.run(), hosts).await });
        }
        let urgent = Urgent::new(plan.priorities);
        if plan.priorities {
            let (machine, id) = machine();
            let (program, urgent, hosts) = (program(id, false), urgent.clone(), hosts.clone());
            machine
                .build()
                .spawn(async move { urgent.run(program.run(), hosts).await });
        }
        for (topic, group, rests) in consumers(plan) {
            let (machine, id) = machine();
            let mortal = plan.deaths && group != UNDERTAKER && !rests;
            let program = program(id, rests);
            let life = (program.clone(), topic.clone(), group.clone());
            let machine = machine
                .init(move || {
                    let (program, topic, group) = life.clone();
                    async move { consumer(program.run(), topic, group).await }
                })
                .build();
            if mortal {
                tokio::spawn(death::now_and_then(program, machine, topic, group));
            }
        }
        Clients {
            calm,
            producing,
            stopped,
            window,
            replay,
            pulls,
            pauses,
            delayed,
            dying,
            transactions,
            urgent,
        }
    }

    /// The cluster is whole, and the faults are over.
    pub fn calm(&self) {
        self.window.calm();
        self.calm.store(true, Ordering::SeqCst);
        self.delayed.calm(now());
        self.dying.calm();
        self.transactions.calm(now());
        self.urgent.calm();
    }

    /// Whether all producers have sent everything, and the dedup window, replay, pulls and pauses were tried, if they are in this world.
    #[must_use]
    pub fn have_sent(&self) -> bool {
        self.producers_left() == 0
            && self.window.is_done()
            && self.replay.is_done()
            && self.pulls.is_done()
            && self.pauses.is_done()
            && self.delayed.is_done()
            && self.dying.is_done()
            && self.transactions.is_done()
            && self.urgent.is_done()
    }

    /// Producers that have not sent everything.
    #[must_use]
    pub fn producers_left(&self) -> u32 {
        self.producing.load(Ordering::SeqCst)
    }

    /// Ends them.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }
}

/// Topic and consumer group of each consumer, and whether it rests now and then: the second push consumer of a topic may.
fn consumers(plan: &Plan) -> Vec<(String, String, bool)> {
    let mut consumers = Vec::new();
    for (number, group) in (0..plan.groups).map(|number| (number, plan.group(number))) {
        for topic in 0..plan.topics {
            let rests = |place| plan.push && plan.habits.rest && number == 0 && place == 1;
            let several = (0..plan.consumers).map(|place| (plan.topic(topic), group.clone(), rests(place)));
            consumers.extend(several);
        }
        consumers.push((format!("{DEAD_LETTERS}{group}"), UNDERTAKER.to_owned(), false));
    }
    consumers
}

/// A life of a consumer: it reads at every node, or as often at the one it knows. (A machine whose first task ends is down.)
async fn consumer(context: Context, topic: String, group: String) {
    if group != UNDERTAKER {
        sleep(context.plan.consumers_from.saturating_sub(now())).await;
    }
    let reads = (1..=context.plan.nodes).map(|node| {
        tokio::spawn(receive::consume(
            context.clone(),
            context.home().unwrap_or(node),
            topic.clone(),
            group.clone(),
        ))
    });
    let reads: Vec<_> = reads.collect();
    if context.is_push(&group) && context.plan.good_byes && !context.rest.is_any() {
        tokio::spawn(push::leave_now_and_then(context, topic, group));
    }
    join_all(reads).await;
}

async fn pause() {
    sleep(PAUSE).await;
}
