//! Pulls, in some worlds: a reader that keeps its own place reads a topic while messages come, on and again from any place,
//! at any node, while faults come and go; and a consumer group's offset is read and put elsewhere. Each queue comes in order,
//! without a gap, the same every time, and offsets never go back by themselves.
//!
//! Topic and consumer group are its own, and it does one thing after the other, so it knows what to expect. No other oracle hears of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use flotilla_proto::rocketmq::{Code, QueryOffsetPolicy};
use futures::future::join_all;
use madsim::rand::{Rng, seq::SliceRandom, thread_rng};
use tokio::time::sleep;
use tracing::debug;

use super::{Context, founded, now, pause};
use crate::{
    client::{Failure, Pulled, Received},
    host::Host,
    letter::Letter,
    plan::Fault,
};

const TOPIC: &str = "pulled";
const GROUP: &str = "pullers";
/// Messages, of which none comes later.
const MESSAGES: u32 = 100;
/// Between two requests, milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 0..300;
/// An offset that no queue has.
const BEYOND: i64 = MESSAGES as i64 + 5;
/// A send that took longer may be stored twice: the dedup window is over.
const WINDOW: Duration = Duration::from_secs(100);
/// A change that was asked for so long ago is carried out by now, or never.
const LATE: Duration = Duration::from_secs(20);

/// Whether it is over. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Pulls(Arc<AtomicBool>);

impl Pulls {
    /// One that is done, unless it is in this world.
    pub(super) fn new(is_in_world: bool) -> Pulls {
        Pulls(Arc::new(AtomicBool::new(!is_in_world)))
    }

    /// It was done, or it is not in this world.
    pub(super) fn is_done(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Does it.
    pub(super) async fn run(self, context: Context, hosts: Arc<Vec<Host>>) {
        let queues = context.plan.queues;
        let mut puller = Puller {
            context,
            known: BTreeMap::new(),
            next: vec![0; queues as usize],
            places: (0..queues).map(|_| GroupPlace::default()).collect(),
            told: BTreeMap::new(),
            slow: BTreeSet::new(),
        };
        puller.prepare(&hosts).await;
        let mut sent = 0;
        while (sent < MESSAGES || !puller.has_all()) && !puller.context.history.is_broken() {
            match thread_rng().gen_range(0..12) {
                0..3 if sent < MESSAGES => {
                    puller.send(sent).await;
                    sent += 1;
                }
                0..6 => puller.pull_next().await,
                6 => puller.pull_again().await,
                7 => puller.query().await,
                8 => puller.get().await,
                _ => puller.update().await,
            }
            sleep(Duration::from_millis(thread_rng().gen_range(PAUSE_MS))).await;
        }
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Where the consumer group may be in a queue.
#[derive(Default)]
struct GroupPlace {
    /// Where it is, as far as is known.
    at: Option<i64>,
    /// Where it was to be put, and when, by what is not known to be done.
    unsure: Vec<(i64, Duration)>,
}

impl GroupPlace {
    /// Whether that can be where it is, if it was asked for then. From then on it is.
    fn can_be(&mut self, found: Option<i64>, asked: Duration) -> bool {
        let can = found == self.at || self.unsure.iter().any(|&(offset, _)| Some(offset) == found);
        if can {
            self.at = found;
            self.unsure.retain(|&(_, since)| asked < since + LATE);
        }
        can
    }
}

struct Puller {
    context: Context,
    /// What stands where, and since when by the server's word.
    known: BTreeMap<(u32, i64), (String, u64)>,
    /// Of each queue: everything before it has come.
    next: Vec<i64>,
    /// Of each queue.
    places: Vec<GroupPlace>,
    /// Offsets that were told to the sender.
    told: BTreeMap<String, i64>,
    /// What took long to be sent.
    slow: BTreeSet<String>,
}

impl Puller {
    async fn prepare(&self, hosts: &[Host]) {
        let topic = founded::topic(TOPIC, self.context.plan.queues, "NORMAL");
        founded::make(hosts, topic, None).await;
    }

    fn any_node(&self) -> u32 {
        thread_rng().gen_range(1..=self.context.plan.nodes)
    }

    fn any_queue(&self) -> u32 {
        thread_rng().gen_range(0..self.context.plan.queues)
    }

    fn broken(&self, what: String) {
        self.context.history.broken(what);
    }

    /// Everything has come.
    fn has_all(&self) -> bool {
        let ids: BTreeSet<&String> = self.known.values().map(|(id, _)| id).collect();
        ids.len() == MESSAGES as usize
    }

    async fn send(&mut self, number: u32) {
        let (id, begun) = (format!("{TOPIC}/1-{number:04}"), now());
        let letters = [(id.clone(), Letter::of(&id, self.context.plan.body))];
        let offset = loop {
            let node = self.any_node();
            let answer = self.context.client.send(node, TOPIC, None, &letters).await;
            match answer.and_then(|mut all| all.remove(0)) {
                Ok(offset) => break offset,
                Err(failure) => self.context.failed("send", node, &failure),
            }
            pause().await;
        };
        self.told.insert(id.clone(), offset);
        if now() > begun + WINDOW {
            self.slow.insert(id);
        }
    }

    async fn pull_next(&mut self) {
        let queue = self.any_queue();
        let from = self.next[queue as usize];
        if let Some(pulled) = self.pull(queue, from).await {
            self.next[queue as usize] = pulled.next.max(from);
        }
    }

    /// From a place that was read before, or from one that is not there.
    async fn pull_again(&mut self) {
        let queue = self.any_queue();
        let from = match thread_rng().gen_bool(0.2) {
            true => BEYOND,
            false => thread_rng().gen_range(0..=self.next[queue as usize]),
        };
        self.pull(queue, from).await;
    }

    async fn pull(&mut self, queue: u32, from: i64) -> Option<Pulled> {
        let node = self.any_node();
        let most = thread_rng().gen_range(1..=8);
        let poll = Duration::from_millis(thread_rng().gen_range(0..1_000));
        let pull = self
            .context
            .client
            .pull(node, (TOPIC, GROUP), (queue, from), (most, poll));
        match pull.await {
            Ok(pulled) => {
                debug!(at = ?now(), node, queue, from, next = pulled.next, "pulled");
                self.context.coverage.count("pull done");
                self.judge(queue, from, most, &pulled);
                Some(pulled)
            }
            Err(Failure::Status(Code::IllegalOffset, _)) if from == BEYOND => None,
            Err(failure) => {
                self.context.failed("pull", node, &failure);
                None
            }
        }
    }

    fn judge(&mut self, queue: u32, from: i64, most: i32, pulled: &Pulled) {
        let count = pulled.messages.len() as i64;
        if from == BEYOND || count > i64::from(most) || pulled.next != from + count {
            let next = pulled.next;
            self.broken(format!(
                "P8 pull: {count} messages of {queue} from {from} on, at most {most}, and to go on at {next}"
            ));
        }
        for (message, expected) in pulled.messages.iter().zip(from..) {
            self.judge_message(queue, expected, message);
        }
    }

    fn judge_message(&mut self, queue: u32, offset: i64, message: &Received) {
        let id = &message.message_id;
        let place = (message.place.queue, message.place.offset);
        if place != (queue as i32, offset) {
            self.broken(format!(
                "P8 pull: {id} came from {place:?} instead of {queue}/{offset}"
            ));
        }
        if !message.letter.is_of(&Letter::of(id, self.context.plan.body)) {
            self.broken(format!("P1 corrupt: {id} is not what was sent"));
        }
        if !message.handle.is_empty() || message.attempt != 0 {
            self.broken(format!("P3 pull: {id} came as if it was leased"));
        }
        if self.told.get(id).is_some_and(|&told| told != offset) && !self.slow.contains(id) {
            let told = self.told[id];
            self.broken(format!(
                "P8 pull: {id} was stored at {told} and stands at {offset}"
            ));
        }
        let found = (id.clone(), message.stored_ms);
        let before = self.known.insert((queue, offset), found.clone());
        if before.as_ref().is_some_and(|before| *before != found) {
            self.broken(format!(
                "P8 pull: at {queue}/{offset} stood {before:?}, and now {found:?}"
            ));
        }
        let is_elsewhere =
            |(place, (other, _)): (&(u32, i64), &(String, u64))| other == id && *place != (queue, offset);
        if !self.slow.contains(id) && self.told.contains_key(id) && self.known.iter().any(is_elsewhere) {
            self.broken(format!("P7 pull: {id} stands at {queue}/{offset} and elsewhere"));
        }
    }

    async fn query(&mut self) {
        let (node, queue) = (self.any_node(), self.any_queue());
        let next = self.next[queue as usize];
        let of_queue = self.known.range((queue, 0)..(queue, next));
        let dates: Vec<(i64, u64)> = of_queue.map(|(&(_, offset), &(_, ms))| (offset, ms)).collect();
        let (policy, at_ms) = match (thread_rng().gen_range(0..3), dates.choose(&mut thread_rng())) {
            (0, _) => (QueryOffsetPolicy::Beginning, None),
            (1, Some(&(_, ms))) => (QueryOffsetPolicy::Timestamp, Some(ms)),
            _ => (QueryOffsetPolicy::End, None),
        };
        let asked = self
            .context
            .client
            .query_offset(node, (TOPIC, queue), policy, at_ms);
        let found = match asked.await {
            Ok(found) => found,
            Err(failure) => return self.context.failed("query offset", node, &failure),
        };
        self.context.coverage.count("query offset done");
        let first = dates.iter().find(|&&(_, ms)| Some(ms) >= at_ms);
        let is_right = match policy {
            QueryOffsetPolicy::Beginning => found == 0,
            // What has come was there.
            QueryOffsetPolicy::End => found >= next,
            QueryOffsetPolicy::Timestamp => first.is_some_and(|&(offset, _)| offset == found),
        };
        if !is_right {
            self.broken(format!(
                "P8 offset: {policy:?} of {queue} at {at_ms:?} is {found} at node {node}; what came is {dates:?}"
            ));
        }
    }

    async fn get(&mut self) {
        let (node, queue) = (self.any_node(), self.any_queue());
        self.get_from(&[node], queue).await;
    }

    /// Asks these nodes at the same time.
    async fn get_from(&mut self, nodes: &[u32], queue: u32) {
        let asked = now();
        let context = &self.context;
        let answers = join_all(nodes.iter().map(|&node| async move {
            (node, context.client.get_offset(node, (TOPIC, GROUP), queue).await)
        }));
        for (node, answer) in answers.await {
            match answer {
                Ok(found) => self.judge_place(queue, found, asked),
                Err(failure) => self.context.failed("get offset", node, &failure),
            }
        }
    }

    fn judge_place(&mut self, queue: u32, found: Option<i64>, asked: Duration) {
        self.context.coverage.count("get offset done");
        let place = &mut self.places[queue as usize];
        let before = place.at;
        if !place.can_be(found, asked) {
            let unsure = place.unsure.clone();
            self.broken(format!(
                "P8 offset: {GROUP} is at {found:?} of {queue}, and was put to {before:?}, or perhaps to {unsure:?}"
            ));
        }
    }

    async fn update(&mut self) {
        let (node, queue, asked) = (self.any_node(), self.any_queue(), now());
        let offset = match thread_rng().gen_bool(0.2) {
            true => BEYOND,
            false => thread_rng().gen_range(0..=self.next[queue as usize]),
        };
        // An empty queue has no place to keep.
        if offset == 0 && self.next[queue as usize] == 0 {
            return;
        }
        let update = self
            .context
            .client
            .update_offset(node, (TOPIC, GROUP), (queue, offset));
        let answer = update.await;
        debug!(at = ?now(), node, queue, offset, ?answer, "put to an offset");
        let place = &mut self.places[queue as usize];
        match answer {
            Ok(()) if offset == BEYOND => {
                self.broken(format!("P8 offset: {GROUP} was put to {offset} of {queue}"));
            }
            Err(Failure::Status(Code::IllegalOffset, _)) if offset == BEYOND => {
                self.context.coverage.count("update offset refused");
            }
            Ok(()) => {
                self.context.coverage.count("update offset done");
                place.at = Some(offset);
                place.unsure.retain(|&(_, since)| asked < since + LATE);
                // Where requests come twice the second may come any time.
                if self.context.plan.faults.contains_key(&Fault::Disorder) {
                    place.unsure.push((offset, Duration::MAX / 2));
                }
                // Whoever still believes to lead is among them.
                let nodes: Vec<u32> = (1..=self.context.plan.nodes).collect();
                self.get_from(&nodes, queue).await;
            }
            Err(failure) => {
                let is_late = self.context.plan.faults.contains_key(&Fault::Disorder);
                let since = if is_late { Duration::MAX / 2 } else { asked };
                place.unsure.push((offset, since));
                // Before it is put there it begins, at the first message.
                if place.at.is_none() {
                    place.unsure.push((0, since));
                }
                self.context.failed("update offset", node, &failure);
            }
        }
    }
}
