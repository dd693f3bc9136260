//! P6, in some worlds: messages with priorities. The larger number comes first in the whole topic, retries keep their level, and with
//! ageing nothing waits for long behind what came later; while leaders change and answers get lost, and when all is calm.
//!
//! Topics and consumer group are its own, and all that happens there is known here (`ledger.rs`). No other oracle hears of it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use broker::{limits::MIN_INVISIBLE, views::TopicSpec};
use madsim::rand::{Rng, seq::SliceRandom, thread_rng};
use tokio::time::sleep;
use tracing::debug;

use super::{Context, founded, now, pause};
use crate::{
    client::{Ask, Received},
    history::{AGEING, URGENT},
    host::Host,
    letter::{Letter, tag_of},
};
use ledger::Ledger;

mod ledger;

const GROUP: &str = "hurried";
/// Messages that are sent while there are faults, in bursts.
const MESSAGES: u32 = 60;
/// Rounds of each topic once the faults are over, and messages of each.
const ROUNDS: u32 = 4;
const ROUND: u32 = 8;
/// Longest a receive waits.
const POLL: Duration = Duration::from_secs(1);
const CONSUMERS: u32 = 2;
/// What a node asks another one for is answered by then, or it goes on without.
const LOOK: Duration = Duration::from_millis(1_900);
/// So much of waiting weighs as one lane, in the topic with ageing.
const AGES: Duration = Duration::from_millis(200);
/// Of what came, share that is put back for a while.
const PUT_BACK: f64 = 0.3;
/// What is left has come by then, once the faults are over.
const WITHIN: Duration = Duration::from_secs(90);

/// Whether it is over. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Urgent {
    done: Arc<AtomicBool>,
    calm: Arc<AtomicBool>,
}

impl Urgent {
    /// One that is done, unless it is in this world.
    pub(super) fn new(is_in_world: bool) -> Urgent {
        let urgent = Urgent::default();
        urgent.done.store(!is_in_world, Ordering::SeqCst);
        urgent
    }

    /// It was done, or it is not in this world.
    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }

    /// The cluster is whole, and the faults are over.
    pub(super) fn calm(&self) {
        self.calm.store(true, Ordering::SeqCst);
    }

    fn is_calm(&self) -> bool {
        self.calm.load(Ordering::SeqCst)
    }

    /// Does it.
    pub(super) async fn run(self, context: Context, hosts: Arc<Vec<Host>>) {
        for (name, ageing) in [(URGENT, None), (AGEING, Some(AGES))] {
            let topic = TopicSpec {
                queues: None,
                ageing_ms: ageing.map(|it| it.as_millis() as u64),
                ..founded::topic(name, 1, "PRIORITY")
            };
            founded::make(&hosts, topic, Some(founded::group(GROUP))).await;
        }
        let desk = |topic, ageing| Desk {
            context: context.clone(),
            urgent: self.clone(),
            hosts: hosts.clone(),
            topic,
            ledger: Arc::new(Mutex::new(Ledger::new(ageing))),
        };
        let strict = desk(URGENT, None);
        for _ in 0..CONSUMERS {
            tokio::spawn(strict.clone().consume());
        }
        for number in 0..MESSAGES {
            strict.send(number, priority()).await;
            let burst = thread_rng().gen_bool(0.8);
            let most = if burst { 20 } else { 2_000 };
            sleep(Duration::from_millis(thread_rng().gen_range(0..most))).await;
        }
        while !self.is_calm() {
            pause().await;
        }
        // Those who read all the time have gone by then.
        sleep(POLL + POLL).await;
        for desk in [strict, desk(AGEING, Some(AGES))] {
            desk.tell(|ledger| ledger.begins_anew(now()));
            for round in 0..ROUNDS {
                desk.round(1_000 + round * ROUND).await;
            }
            desk.finish().await;
        }
        self.done.store(true, Ordering::SeqCst);
    }
}

/// One topic.
#[derive(Clone)]
struct Desk {
    context: Context,
    urgent: Urgent,
    hosts: Arc<Vec<Host>>,
    topic: &'static str,
    ledger: Arc<Mutex<Ledger>>,
}

impl Desk {
    fn tell<R>(&self, what: impl FnOnce(&mut Ledger) -> R) -> R {
        let mut ledger = self.ledger.lock().expect("no panic while held");
        let told = what(&mut ledger);
        for wrong in ledger.wrong.drain(..) {
            self.context.history.broken(wrong);
        }
        told
    }

    fn any_node(&self) -> u32 {
        thread_rng().gen_range(1..=self.context.plan.nodes)
    }

    /// Some messages, and some more after a while; then all that there is comes.
    async fn round(&self, first: u32) {
        for number in first..first + ROUND {
            if number == first + ROUND / 2 && thread_rng().gen_bool(0.7) {
                sleep(thread_rng().gen_range(Duration::ZERO..AGES * 30)).await;
            }
            // What is less urgent tends to be there first: the others are to overtake it.
            let priority = match number < first + ROUND / 2 && thread_rng().gen_bool(0.7) {
                true => thread_rng().gen_range(-1..3),
                false => priority(),
            };
            self.send(number, priority).await;
        }
        while !self.tell(|ledger| ledger.left().is_empty()) && !self.context.history.is_broken() {
            self.receive().await;
            if thread_rng().gen_bool(0.2) {
                sleep(Duration::from_secs(3)).await;
            }
        }
    }

    /// Until it is stored.
    async fn send(&self, number: u32, priority: i32) {
        let id = format!("{}/1-{number:04}^{priority}", self.topic);
        let letter = Letter::of(&id, self.context.plan.body);
        let wanted = self.context.plan.urgent;
        let wanted = wanted.is_none_or(|wanted| wanted.takes(tag_of(&id).as_deref()));
        self.tell(|ledger| ledger.sending(&id, now(), lane(priority), wanted));
        loop {
            let node = self.any_node();
            let sent = self
                .context
                .client
                .send_urgent(node, self.topic, (&id, &letter), priority)
                .await;
            debug!(at = ?now(), id, node, ?sent, "sent what has a priority");
            match sent {
                Ok(_) => break,
                Err(failure) => self.context.failed("send", node, &failure),
            }
            pause().await;
        }
        self.tell(|ledger| ledger.stored(&id, now()));
    }

    async fn consume(self) {
        while !self.urgent.is_calm() {
            self.receive().await;
            let most = if thread_rng().gen_bool(0.3) { 3_000 } else { 100 };
            sleep(Duration::from_millis(thread_rng().gen_range(0..most))).await;
        }
    }

    /// Since when a node leads the topic's shard, if it does.
    fn stands(&self, node: u32) -> Option<u64> {
        let host = self.hosts.iter().find(|host| host.id == node)?;
        let node = host.node()?;
        let home = *node.meta().topic(self.topic)?.queue_shards.first()?;
        let shard = node.shard(home)?;
        shard.leads().then(|| shard.leadership().moved_ms())
    }

    /// Mostly the one that leads.
    fn asked_node(&self) -> u32 {
        let nodes = 1..=self.context.plan.nodes;
        let leader = nodes.clone().find(|&node| self.stands(node).is_some());
        leader
            .filter(|_| thread_rng().gen_bool(0.7))
            .unwrap_or_else(|| self.any_node())
    }

    /// One receive, and what becomes of what came.
    async fn receive(&self) {
        let node = self.asked_node();
        let ask = Ask {
            attempt: None,
            most: thread_rng().gen_range(1..4),
            poll: POLL,
            invisible: Some(MIN_INVISIBLE),
            queue: 0,
            filter: self.context.plan.urgent.map(|wanted| wanted.expression()),
        };
        let (begun, stands) = (now(), self.stands(node));
        let number = self.tell(|ledger| ledger.asks(begun));
        let answer = self.context.client.receive(node, (self.topic, GROUP), &ask).await;
        let messages = match answer {
            Ok(messages) => messages,
            Err(failure) => {
                self.tell(|ledger| ledger.failed(number, now()));
                self.context.failed("receive", node, &failure);
                return pause().await;
            }
        };
        // A node that asked another one, whose answer was lost, says nothing of what that has leased.
        let is_calm = self.urgent.is_calm() && now() < begun + LOOK;
        let stood = stands.is_some() && stands == self.stands(node);
        if !is_calm && !stood {
            self.tell(|ledger| ledger.took_anything(number, now()));
        }
        let came = messages
            .iter()
            .map(|message| message.message_id.clone())
            .collect();
        debug!(at = ?now(), ?came, node, "received what has a priority");
        self.tell(|ledger| ledger.answered(number, now(), came));
        for message in &messages {
            let letter = Letter::of(&message.message_id, self.context.plan.body);
            if !message.letter.is_of(&letter) {
                let what = format!("P6: {} came, and is not what was sent", message.message_id);
                self.context.history.broken(what);
            }
            self.context.coverage.count("message with a priority came");
            if message.attempt > 1 {
                self.context.coverage.count("message with a priority came again");
            }
            self.deal_with(node, message).await;
        }
    }

    /// It is put back for a while, or acknowledged.
    async fn deal_with(&self, node: u32, message: &Received) {
        let id = &message.message_id;
        if message.attempt < 3 && thread_rng().gen_bool(PUT_BACK) {
            let invisible = Duration::from_millis(thread_rng().gen_range(1..1_500));
            let hidden = self.context.client.hide(node, GROUP, message, invisible).await;
            let until = now() + invisible;
            let is_certain = hidden.is_ok() && self.urgent.is_calm();
            self.tell(|ledger| ledger.waits_until(id, is_certain.then_some(until)));
            return;
        }
        self.tell(|ledger| ledger.acking(id));
        let acked = self.context.client.ack(node, GROUP, &[message]).await;
        if !acked.is_ok_and(|answers| answers.iter().all(Result::is_ok)) {
            self.context
                .coverage
                .count("message with a priority perhaps acknowledged");
        }
    }

    /// All that was stored comes.
    async fn finish(&self) {
        let until = now() + WITHIN;
        while now() < until && !self.context.history.is_broken() {
            if self.tell(|ledger| ledger.left().is_empty()) {
                return;
            }
            self.receive().await;
        }
        if self.context.history.is_broken() {
            return;
        }
        let left = self.tell(|ledger| ledger.left().iter().map(ToString::to_string).collect::<Vec<_>>());
        let what = format!("P6: within {WITHIN:?} of peace {left:?} did not come");
        self.context.history.broken(what);
    }
}

/// Any, those that people write most often.
fn priority() -> i32 {
    let mut rng = thread_rng();
    match rng.gen_range(0..10) {
        0..=6 => rng.gen_range(0..10),
        7 => rng.gen_range(10..2_000),
        8 => *[i32::MIN, -70_000, -1, 99_999, 100_000, i32::MAX]
            .choose(&mut rng)
            .expect("there are some"),
        _ => rng.r#gen(),
    }
}

/// By the document (docs/limits.md), not by the code that is tested: below 0, then 0 to 9, then one for each further digit, up to six.
fn lane(priority: i32) -> u32 {
    match priority {
        i32::MIN..0 => 0,
        0..10 => 1 + priority as u32,
        _ => 9 + priority.to_string().len().min(6) as u32,
    }
}
