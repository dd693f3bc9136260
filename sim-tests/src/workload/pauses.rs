//! Pauses, in some worlds: a consumer group of its own is paused and resumed again and again, at any node, while messages come
//! and faults come and go. What is asked for after a pause was answered gets nothing until somebody asks to resume; then
//! everything comes.
//!
//! Topic and consumer group are its own. No other oracle hears of it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use broker::limits::MIN_INVISIBLE;
use madsim::rand::{Rng, seq::SliceRandom, thread_rng};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::{Context, founded, now, pause};
use crate::{client::Ask, host::Host, letter::Letter};

const TOPIC: &str = "paused";
const GROUP: &str = "pausers";
/// How often it is paused.
const ROUNDS: u32 = 5;
/// Messages of a round before the pause, and as many while it lasts.
const MESSAGES: u32 = 3;
/// Who receives, at the same time.
const READERS: u32 = 3;
/// How long a pause lasts, and what is between two, milliseconds.
const LASTS_MS: std::ops::Range<u64> = 0..4_000;
/// Share of messages that are acknowledged at once.
const ACKNOWLEDGED: f64 = 0.7;
/// A request of an operator that has no answer by then has none.
const LONGEST: Duration = Duration::from_secs(25);
/// Longest a receive waits.
const POLL: Duration = Duration::from_secs(1);

/// Whether it is over. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Pauses(Arc<AtomicBool>);

/// What is known of the consumer group.
#[derive(Default)]
struct Known {
    /// A pause was answered then, and nobody has asked to resume.
    since: Option<Duration>,
    /// Stored, and nobody has asked to acknowledge it.
    missing: BTreeSet<String>,
    /// Somebody has, perhaps before it was known to be stored.
    acknowledged: BTreeSet<String>,
}

#[derive(Clone)]
struct Pauser {
    context: Context,
    hosts: Arc<Vec<Host>>,
    known: Arc<Mutex<Known>>,
    over: Pauses,
}

impl Pauses {
    /// One that is done, unless it is in this world.
    pub(super) fn new(is_in_world: bool) -> Pauses {
        Pauses(Arc::new(AtomicBool::new(!is_in_world)))
    }

    /// It was done, or it is not in this world.
    pub(super) fn is_done(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Does it.
    pub(super) async fn run(self, context: Context, hosts: Arc<Vec<Host>>) {
        let pauser = Pauser {
            context,
            hosts,
            known: Arc::default(),
            over: self.clone(),
        };
        pauser.prepare().await;
        for _ in 0..READERS {
            tokio::spawn(pauser.clone().read());
        }
        let mut number = 0;
        for _ in 0..ROUNDS {
            number = pauser.send(number).await;
            pauser.rest().await;
            pauser.set(true).await;
            pauser.known().since = Some(now());
            pauser.context.coverage.count("group paused");
            number = pauser.send(number).await;
            pauser.rest().await;
            pauser.known().since = None;
            pauser.set(false).await;
        }
        while !pauser.known().missing.is_empty() && !pauser.context.history.is_broken() {
            pause().await;
        }
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Pauser {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn rest(&self) {
        let lasts = thread_rng().gen_range(LASTS_MS);
        sleep(Duration::from_millis(lasts)).await;
    }

    async fn prepare(&self) {
        let topic = founded::topic(TOPIC, self.context.plan.queues, "NORMAL");
        founded::make(&self.hosts, topic, Some(founded::group(GROUP))).await;
    }

    fn any_node(&self) -> u32 {
        thread_rng().gen_range(1..=self.context.plan.nodes)
    }

    /// Pauses or resumes, again and again until it is known to be done.
    async fn set(&self, paused: bool) {
        loop {
            let host = self.hosts.choose(&mut thread_rng()).expect("a world has nodes");
            if let Some(service) = host.service() {
                let asked = timeout(LONGEST, service.pause_group(GROUP, paused)).await;
                debug!(at = ?now(), node = host.id, paused, ?asked, "asked to pause or to resume");
                if let Ok(Ok(group)) = &asked {
                    if group.paused != paused {
                        let what = format!("a change of the pause to {paused} was answered with {group:?}");
                        self.context.history.broken(what);
                    }
                    return;
                }
                self.context.coverage.count("pause unknown");
            }
            pause().await;
        }
    }

    async fn send(&self, from: u32) -> u32 {
        for number in from..from + MESSAGES {
            let id = format!("{TOPIC}/1-{number:04}");
            let letters = [(id.clone(), Letter::of(&id, self.context.plan.body))];
            loop {
                let node = self.any_node();
                let answer = self.context.client.send(node, TOPIC, None, &letters).await;
                match answer.and_then(|mut all| all.remove(0)) {
                    Ok(_) => break,
                    Err(failure) => self.context.failed("send", node, &failure),
                }
                pause().await;
            }
            let mut known = self.known();
            if !known.acknowledged.contains(&id) {
                known.missing.insert(id);
            }
        }
        from + MESSAGES
    }

    async fn read(self) {
        while !self.over.is_done() && !self.context.history.is_broken() {
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
            let messages = match self.context.client.receive(node, (TOPIC, GROUP), &ask).await {
                Ok(messages) => messages,
                Err(failure) => {
                    self.context.failed("receive", node, &failure);
                    pause().await;
                    continue;
                }
            };
            let since = self.known().since;
            if let (Some(since), Some(first)) = (since.filter(|&since| asked > since), messages.first()) {
                let (id, at) = (&first.message_id, now());
                self.context.history.broken(format!(
                    "P3 pause: {id} came at {at:?} from node {node}, asked for at {asked:?}, and {GROUP} is paused since {since:?}"
                ));
            }
            for message in &messages {
                if !thread_rng().gen_bool(ACKNOWLEDGED) {
                    continue;
                }
                let answers = self.context.client.ack(node, GROUP, &[message]).await;
                let mut known = self.known();
                if known.since.is_some() && answers.is_ok_and(|answers| answers.iter().all(Result::is_ok)) {
                    self.context.coverage.count("acknowledged while paused");
                }
                // Without a good answer it may be done all the same, and never come again.
                known.missing.remove(&message.message_id);
                known.acknowledged.insert(message.message_id.clone());
            }
        }
    }
}
