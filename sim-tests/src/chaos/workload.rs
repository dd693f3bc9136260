//! What clients do: producers that send until they know that a message is stored, consumers with habits, and an undertaker
//! who looks at the dead letters. They time out and retry as SDKs do; what they do not know stays unknown.
//!
//! The same habits and the same records as those of the simulator's clients, but over gRPC, and several things at a time.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinHandle, time::sleep};

use super::{
    book::Book,
    client::{Client, Received},
    random::Random,
    sdk::{Role, Sdk},
};
use crate::history::{DEAD_LETTERS, Event};

mod acknowledge;
pub(super) mod archive;
mod bury;
mod hide;
mod pace;
mod receive;
mod send;

/// The consumer group that reads dead letters.
pub(super) const UNDERTAKER: &str = "undertaker";
pub(super) const TOPICS: [&str; 2] = ["topic-0", "topic-1"];
pub(super) const GROUPS: [&str; 2] = ["group-0", "group-1"];
/// Some at home at every node, so that a node that stands still holds up its own only.
const PRODUCERS: u32 = 15;
/// Of each consumer group, for each topic.
const CONSUMERS: u32 = 2;
/// Those of an SDK: the consumer shares its consumer group with others.
const SDK: [Role; 2] = [Role::Producer("sdk"), Role::Consumer(GROUPS[0])];
/// After a failure the next try waits so long.
const PAUSE: Duration = Duration::from_millis(50);

/// What tells clients how to behave. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Switches {
    /// Large messages, and no pauses.
    pub(super) heavy: Arc<AtomicBool>,
    /// How many of those.
    pace: pace::Pace,
    /// Producers begin no new message.
    pub(super) sent: Arc<AtomicBool>,
    /// Consumers acknowledge everything at once.
    pub(super) calm: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
}

impl Switches {
    /// Everybody is to end.
    pub(super) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }
}

/// The clients of a run.
pub(super) struct Clients {
    pub(super) switches: Switches,
    producing: Arc<AtomicU32>,
    tasks: Vec<JoinHandle<()>>,
}

/// What every client has.
#[derive(Clone)]
struct Context {
    client: Arc<Client>,
    addresses: Arc<Vec<String>>,
    book: Book,
    switches: Switches,
}

impl Context {
    /// From now on the lease of this delivery may have another end than its deadline.
    fn ending(&self, group: &str, message: &Received) {
        self.book.record(&Event::Ending(message.receipt(group)));
    }

    fn stopped(&self) -> bool {
        self.switches.stopped()
    }

    /// The node after this one.
    fn next(&self, node: u32) -> u32 {
        node % self.addresses.len() as u32 + 1
    }
}

impl Clients {
    /// Starts them all; the addresses are those of nodes 1, 2 and so on.
    pub(super) fn start(addresses: &[String], book: &Book, random: &mut Random) -> Clients {
        let mut clients = Clients {
            switches: Switches::default(),
            producing: Arc::new(AtomicU32::new(PRODUCERS)),
            tasks: Vec::new(),
        };
        let shared = Arc::new(addresses.to_vec());
        let context = |id: &str, switches: &Switches| Context {
            client: Arc::new(Client::new(id, addresses)),
            addresses: shared.clone(),
            book: book.clone(),
            switches: switches.clone(),
        };
        for number in 1..=PRODUCERS {
            let context = context(&format!("producer-{number}"), &clients.switches);
            let (random, producing) = (random.fork(), clients.producing.clone());
            clients.tasks.push(tokio::spawn(async move {
                send::produce(context, number, random).await;
                producing.fetch_sub(1, Ordering::SeqCst);
            }));
        }
        let mut consumers: Vec<(String, &str)> = Vec::new();
        for group in GROUPS {
            let several = TOPICS
                .iter()
                .flat_map(|topic| (0..CONSUMERS).map(move |_| *topic));
            consumers.extend(several.map(|topic| (topic.to_owned(), group)));
            consumers.push((format!("{DEAD_LETTERS}{group}"), UNDERTAKER));
        }
        for (number, (topic, group)) in consumers.into_iter().enumerate() {
            let id = format!("{group}-of-{}-{number}", topic.replace('%', ""));
            let context = context(&id, &clients.switches);
            for node in 1..=addresses.len() as u32 {
                let (context, topic, random) = (context.clone(), topic.clone(), random.fork());
                clients.tasks.push(tokio::spawn(receive::consume(
                    context, node, topic, group, random,
                )));
            }
        }
        clients
    }

    /// Starts clients of an SDK beside them.
    pub(super) fn start_sdk(&self, sdk: &Sdk<'_>, book: &Book, random: &mut Random) -> io::Result<()> {
        for role in SDK {
            sdk.start(role, book, &self.switches, &self.producing, random.fork())?;
        }
        Ok(())
    }

    /// Producers that have not sent everything.
    pub(super) fn producers_left(&self) -> u32 {
        self.producing.load(Ordering::SeqCst)
    }

    /// Ends them, wherever they are.
    pub(super) fn stop(self) {
        self.switches.stopped.store(true, Ordering::SeqCst);
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn pause() {
    sleep(PAUSE).await;
}
