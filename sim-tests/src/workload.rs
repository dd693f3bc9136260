//! What clients do: producers that send until they know that a message is stored, consumers with habits, and an
//! undertaker who looks at the dead letters. They time out and retry as SDKs do; what they do not know stays unknown.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use madsim::{runtime::Handle, time::TimeHandle};
use tokio::time::sleep;

use crate::{
    client::{Client, Received},
    coverage::Coverage,
    history::{DEAD_LETTERS, Event, History},
    peers::Disorder,
    plan::Plan,
    trace::Trace,
};

mod acknowledge;
mod bury;
mod hide;
pub mod operator;
mod push;
mod receive;
mod send;
mod spare;

/// The consumer group that reads dead letters.
const UNDERTAKER: &str = "undertaker";
/// After a failure the next try waits so long.
const PAUSE: Duration = Duration::from_millis(50);

/// The clients of a run, each on a machine of its own.
pub struct Clients {
    producing: Arc<AtomicU32>,
    stopped: Arc<AtomicBool>,
}

/// What every client has.
#[derive(Clone)]
struct Context {
    client: Arc<Client>,
    plan: Plan,
    history: History,
    coverage: Coverage,
    stopped: Arc<AtomicBool>,
}

impl Context {
    fn record(&self, event: &Event) {
        self.history.record(now(), event);
    }

    /// From now on the lease of this delivery may have another end than its deadline.
    fn ending(&self, group: &str, message: &Received) {
        self.record(&Event::Ending(message.receipt(group)));
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Whether the consumers of this group are push consumers.
    fn is_push(&self, group: &str) -> bool {
        self.plan.push && group == self.plan.group(0)
    }

    /// The node after this one.
    fn next(&self, node: u32) -> u32 {
        node % self.plan.nodes + 1
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
        history: &History,
        coverage: &Coverage,
        disorder: &Disorder,
        trace: &Trace,
    ) -> Clients {
        let producing = Arc::new(AtomicU32::new(plan.producers));
        let stopped = Arc::new(AtomicBool::new(false));
        let mut id = 0;
        let mut machine = || {
            id += 1;
            let machine = Handle::current()
                .create_node()
                .name(format!("client-{id}"))
                .ip(Ipv4Addr::new(10, 0, 1, u8::try_from(id).expect("a small world")).into())
                .build();
            (machine, id)
        };
        let context = |id| {
            let (plan, history, coverage) = (plan.clone(), history.clone(), coverage.clone());
            let (stopped, disorder, trace) = (stopped.clone(), disorder.clone(), trace.clone());
            // Connections belong to the machine, so they are made there.
            move || Context {
                client: Arc::new(Client::new(id, plan.nodes, disorder, trace)),
                plan,
                history,
                coverage,
                stopped,
            }
        };
        for _ in 0..plan.producers {
            let (machine, id) = machine();
            let (context, producing) = (context(id), producing.clone());
            machine.spawn(async move {
                send::produce(context(), id).await;
                producing.fetch_sub(1, Ordering::SeqCst);
            });
        }
        let mut consumers: Vec<(String, String)> = Vec::new();
        for group in (0..plan.groups).map(|number| plan.group(number)) {
            let several = (0..plan.topics).flat_map(|topic| (0..plan.consumers).map(move |_| topic));
            consumers.extend(several.map(|topic| (plan.topic(topic), group.clone())));
            consumers.push((format!("{DEAD_LETTERS}{group}"), UNDERTAKER.to_owned()));
        }
        for (topic, group) in consumers {
            let (machine, id) = machine();
            let context = context(id);
            machine.spawn(async move {
                let context = context();
                for node in 1..=context.plan.nodes {
                    tokio::spawn(receive::consume(
                        context.clone(),
                        node,
                        topic.clone(),
                        group.clone(),
                    ));
                }
                if context.is_push(&group) && context.plan.good_byes {
                    tokio::spawn(push::leave_now_and_then(context, topic, group));
                }
            });
        }
        Clients { producing, stopped }
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

async fn pause() {
    sleep(PAUSE).await;
}
