//! Clients of names that an operator gives anew and again: a producer for each topic, a consumer of each consumer group, and
//! undertakers. They make do with whatever bears the name at the moment, and tell of it by the numbers in receipt handles.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use broker::service::handle::Handle;
use madsim::{
    rand::{Rng, seq::SliceRandom, thread_rng},
    runtime,
};
use tokio::time::sleep;
use tracing::debug;

use super::{now, pause};
use crate::{
    answers::Judge,
    client::{Ask, Client, Failure, Received, Who},
    coverage::Coverage,
    history::{
        DEAD_LETTERS, Event, History,
        names::{Arrival, GROUPS, Named, TOPICS, UNDERTAKERS},
    },
    host::Host,
    letter::Letter,
    oracle::names::LEASE,
    peers::Disorder,
    trace::Trace,
};

/// Machines and clients are numbered from here on.
const FIRST: u32 = 200;
/// What receives ask for.
const ASK: Ask = Ask {
    attempt: None,
    most: 8,
    poll: Duration::from_secs(1),
    invisible: Some(LEASE),
    queue: -1,
    filter: None,
};
/// Between two messages, milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 100..1_500;
/// Tries of a message, before the producer gives it up.
const TRIES: u32 = 20;
/// Shares of messages that are forgotten, and that are made dead letters.
const FORGOTTEN: f64 = 0.1;
const BURIED: f64 = 0.1;

/// Which names clients leave alone for now.
#[derive(Clone, Default)]
pub(super) struct Desk {
    book: Arc<Mutex<Book>>,
    sent: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
}

#[derive(Default)]
struct Book {
    quiet: BTreeSet<String>,
    /// Requests under way that name it.
    busy: BTreeMap<String, u32>,
    /// How often a topic was deleted, as far as the operator knows.
    rounds: BTreeMap<String, u32>,
}

impl Desk {
    /// Nobody names it, once this returns, until [`Self::release`].
    pub(super) async fn hush(&self, name: &str) {
        self.book().quiet.insert(name.to_owned());
        while self.book().busy.get(name).is_some_and(|busy| *busy > 0) {
            pause().await;
        }
    }

    pub(super) fn release(&self, name: &str) {
        self.book().quiet.remove(name);
    }

    /// Messages that are sent from now on are of another round.
    pub(super) fn next_round(&self, topic: &str) {
        *self.book().rounds.entry(topic.to_owned()).or_default() += 1;
    }

    fn round(&self, topic: &str) -> u32 {
        self.book().rounds.get(topic).copied().unwrap_or(0)
    }

    /// Ends the producers, once this returns.
    pub(super) async fn no_more(&self) {
        self.sent.store(true, Ordering::SeqCst);
        for topic in TOPICS {
            self.hush(topic).await;
            self.release(topic);
        }
    }

    /// Ends all clients.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Waits until all of these may be named.
    async fn enter(&self, names: &[&str]) {
        while !self.try_enter(names) {
            pause().await;
        }
    }

    fn try_enter(&self, names: &[&str]) -> bool {
        let mut book = self.book();
        let free = names.iter().all(|name| !book.quiet.contains(*name));
        for name in names.iter().filter(|_| free) {
            *book.busy.entry((*name).to_owned()).or_default() += 1;
        }
        free
    }

    fn leave(&self, names: &[&str]) {
        let mut book = self.book();
        for name in names {
            *book.busy.get_mut(*name).expect("it was entered") -= 1;
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What all of them have.
#[derive(Clone)]
pub(super) struct World {
    pub(super) hosts: Arc<Vec<Host>>,
    pub(super) history: History,
    pub(super) coverage: Coverage,
    pub(super) desk: Desk,
    /// Of the answers that clients get.
    pub(super) judge: Judge,
}

impl World {
    pub(super) fn record(&self, event: Named) {
        self.history.record(now(), &Event::Named(event));
    }

    fn any_node(&self) -> u32 {
        self.hosts
            .choose(&mut thread_rng())
            .expect("a world has nodes")
            .id
    }

    /// The numbers of a topic and a consumer group, as a node knows them now.
    fn numbers(&self, node: u32, topic: &str, group: &str) -> Option<(u32, u32)> {
        let host = self.hosts.iter().find(|host| host.id == node)?;
        let meta = host.node()?.meta();
        Some((meta.topic(topic)?.id, meta.group(group)?.id))
    }
}

/// Largest body, bytes.
const BODY: usize = 200;

/// Starts them all.
pub(super) fn start(world: &World, disorder: &Disorder, trace: &Trace) {
    let nodes = u32::try_from(world.hosts.len()).expect("a small world");
    let mut id = FIRST;
    let mut machine = || {
        id += 1;
        let machine = runtime::Handle::current()
            .create_node()
            .name(format!("client-{id}"))
            .ip(Ipv4Addr::new(10, 0, 1, u8::try_from(id).expect("a small world")).into())
            .build();
        let (judge, disorder, trace) = (world.judge.clone(), disorder.clone(), trace.clone());
        (machine, move || {
            Client::new(Who::new(id), nodes, judge, disorder, trace)
        })
    };
    for topic in TOPICS {
        let (machine, client) = machine();
        let world = world.clone();
        machine.spawn(async move { produce(&world, &client(), topic).await });
    }
    for group in GROUPS {
        let (machine, client) = machine();
        let world = world.clone();
        machine.spawn(async move { consume(&world, &client(), group, &TOPICS.map(str::to_owned)).await });
    }
    for undertaker in UNDERTAKERS {
        let (machine, client) = machine();
        let world = world.clone();
        let topics = GROUPS.map(|group| format!("{DEAD_LETTERS}{group}"));
        machine.spawn(async move { consume(&world, &client(), undertaker, &topics).await });
    }
}

async fn produce(world: &World, client: &Client, topic: &str) {
    for number in 0.. {
        sleep(Duration::from_millis(thread_rng().gen_range(PAUSE_MS))).await;
        if world.desk.stopped() {
            return;
        }
        let id = format!("{topic}/{}-{number:04}", world.desk.round(topic));
        for _ in 0..TRIES {
            world.desk.enter(&[topic]).await;
            if world.desk.sent.load(Ordering::SeqCst) {
                return world.desk.leave(&[topic]);
            }
            let (topic, id) = (topic.to_owned(), id.clone());
            world.record(Named::Sending {
                topic: topic.clone(),
                id: id.clone(),
            });
            let node = world.any_node();
            let letter = [(id.clone(), Letter::of(&id, BODY))];
            let answer = client.send(node, &topic, None, &letter).await;
            let answer = answer.and_then(|mut all| all.remove(0));
            world.desk.leave(&[&topic]);
            debug!(at = ?now(), id, node, ?answer, "sent to a name");
            world.coverage.count(&said("name send", &answer));
            if answer.is_ok() {
                world.record(Named::Stored { topic, id });
                break;
            }
            pause().await;
        }
    }
}

async fn consume(world: &World, client: &Client, group: &str, topics: &[String]) {
    while !world.desk.stopped() {
        for topic in topics {
            let node = world.any_node();
            world.desk.enter(&[topic, group]).await;
            let (asked, before) = (now(), world.numbers(node, topic, group));
            let answer = client.receive(node, (topic, group), &ASK).await;
            let after = world.numbers(node, topic, group);
            world.coverage.count(&said("name receive", &answer));
            if let (Ok(messages), Some((topic, group))) = (&answer, before.filter(|_| before == after)) {
                debug!(at = ?now(), node, topic, group, came = messages.len(), "a name was polled");
                world.record(Named::Polled { topic, group });
            }
            let messages = answer.unwrap_or_default();
            let came: Vec<_> = messages
                .iter()
                .filter_map(|message| Some((message, arrival(world, group, message, asked)?)))
                .collect();
            for (_, it) in &came {
                debug!(at = ?now(), node, ?it, "came by a name");
                world.record(Named::Came(it.clone()));
            }
            for (message, it) in came {
                deal_with(world, client, node, message, it).await;
            }
            world.desk.leave(&[topic, group]);
        }
        pause().await;
    }
}

/// What came, by the numbers in its receipt handle.
fn arrival(world: &World, group: &str, message: &Received, asked: Duration) -> Option<Arrival> {
    let Some(handle) = Handle::decode(&message.handle) else {
        world.history.broken(format!("names: {message:?} has no handle"));
        return None;
    };
    Some(Arrival {
        topic: message.place.topic.clone(),
        group: group.to_owned(),
        topic_number: handle.queue.topic(),
        group_number: handle.group,
        place: (message.place.queue, message.place.offset),
        id: message.message_id.clone(),
        attempt: message.attempt,
        asked,
        intact: message.letter.is_of(&Letter::of(&message.message_id, BODY)),
    })
}

async fn deal_with(world: &World, client: &Client, node: u32, message: &Received, it: Arrival) {
    let drawn = thread_rng().gen_range(0.0..1.0);
    // What is buried when nothing is sent any more might come after the operator has looked whether everything has.
    let buries = !it.topic.starts_with(DEAD_LETTERS) && !world.desk.sent.load(Ordering::SeqCst);
    if drawn < FORGOTTEN {
        return world.coverage.count("name forgets");
    }
    let group = it.group.clone();
    if buries && drawn < FORGOTTEN + BURIED {
        world.record(Named::Burying(it.clone()));
        let answer = client.bury(node, &group, message).await;
        debug!(at = ?now(), node, ?it, ?answer, "buried by a name");
        world.coverage.count(&said("name bury", &answer));
        if answer.is_ok() {
            world.record(Named::Buried(it));
        }
        return;
    }
    let answer = client.ack(node, &group, &[message]).await;
    let answer = answer.and_then(|mut all| all.pop().expect("one for each"));
    world.coverage.count(&said("name ack", &answer));
    if answer.is_ok() {
        world.record(Named::Acked(it));
    }
}

/// The counter of an answer.
fn said<T>(what: &str, answer: &Result<T, Failure>) -> String {
    match answer {
        Ok(_) => format!("{what} done"),
        Err(Failure::Status(code, _)) => format!("{what} {}", code.as_str_name()),
        Err(Failure::Peer(_)) => format!("{what} unknown"),
    }
}
