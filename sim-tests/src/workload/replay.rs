//! Replay, in some worlds: one consumer group of its own is put elsewhere again and again, by offset and by date, to the
//! beginning and to the end, at any node, while faults come and go. Each time everything from there on comes, nothing from before
//! it, and where it was put is exact to the message.
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

use broker::{
    limits::MIN_INVISIBLE,
    views::{SeekReport, SeekSpec, SeekTo},
};
use madsim::rand::{Rng, seq::SliceRandom, thread_rng};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::{Context, founded, now, pause};
use crate::{
    client::{Ask, Received},
    host::Host,
    letter::Letter,
};

/// Its topic and its consumer group.
const TOPIC: &str = "replayed";
const GROUP: &str = "replayers";
/// Messages, of which none comes later.
const MESSAGES: u32 = 24;
/// How often it is put elsewhere.
const ROUNDS: u32 = 6;
/// Between two of them, milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 0..3_000;
/// Share of messages that are acknowledged. The others are leased still when it is put elsewhere, or come again.
const ACKNOWLEDGED: f64 = 0.7;
/// A request of an operator that has no answer by then has none.
const LONGEST: Duration = Duration::from_secs(25);
/// Longest a receive waits.
const POLL: Duration = Duration::from_secs(1);

/// Where messages stand, by queue and offset: when each was stored, by the server's word.
type Known = BTreeMap<(u32, u64), u64>;

/// Whether it is over. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Replay(Arc<AtomicBool>);

impl Replay {
    /// One that is done, unless it is in this world.
    pub(super) fn new(is_in_world: bool) -> Replay {
        Replay(Arc::new(AtomicBool::new(!is_in_world)))
    }

    /// It was done, or it is not in this world.
    pub(super) fn is_done(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Does it.
    pub(super) async fn run(self, context: Context, hosts: Arc<Vec<Host>>) {
        let replayer = Replayer { context, hosts };
        replayer.prepare().await;
        let ends = replayer.after_all(SeekTo::Last, true).await;
        let mut known = Known::new();
        let mut floor: Vec<u64> = vec![0; ends.len()];
        for round in 0..=ROUNDS {
            replayer.read(&mut known, &floor, &ends).await;
            if round == ROUNDS || replayer.context.history.is_broken() {
                break;
            }
            sleep(Duration::from_millis(thread_rng().gen_range(PAUSE_MS))).await;
            let to = draw(&known);
            let at = replayer.after_all(to, false).await;
            let expected = expected(to, &known, &ends);
            debug!(at = ?now(), ?to, ?at, "put elsewhere");
            replayer.context.coverage.count("seek done");
            if at != expected {
                let told =
                    format!("P8 seek: {to:?} of {ends:?} messages is {at:?}, and must be {expected:?}");
                replayer.context.history.broken(told);
            }
            floor = expected;
        }
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Replayer {
    context: Context,
    hosts: Arc<Vec<Host>>,
}

impl Replayer {
    /// Topic, consumer group and messages.
    async fn prepare(&self) {
        let topic = founded::topic(TOPIC, self.context.plan.queues, "NORMAL");
        founded::make(&self.hosts, topic, Some(founded::group(GROUP))).await;
        for number in 0..MESSAGES {
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
        }
    }

    fn any_node(&self) -> u32 {
        thread_rng().gen_range(1..=self.context.plan.nodes)
    }

    /// Puts the consumer group elsewhere, or asks where that is, again and again until every queue has an answer.
    async fn after_all(&self, to: SeekTo, dry_run: bool) -> Vec<u64> {
        let spec = SeekSpec {
            topic: TOPIC.into(),
            queue: None,
            to,
            dry_run,
            // The same for all tries: what was done is not done again.
            id: Some(thread_rng().gen_range(1..u64::MAX)),
        };
        loop {
            let host = self.hosts.choose(&mut thread_rng()).expect("a world has nodes");
            if let Some(service) = host.service() {
                let asked = timeout(LONGEST, service.seek_group(GROUP, spec.clone())).await;
                if let Ok(Ok(report)) = &asked
                    && let Some(after) = all_after(report)
                {
                    return after;
                }
                self.context.coverage.count("seek unknown");
                debug!(at = ?now(), node = host.id, ?asked, "not all of it is known to be done");
            }
            pause().await;
        }
    }

    /// Reads until everything from the floor on has come.
    async fn read(&self, known: &mut Known, floor: &[u64], ends: &[u64]) {
        let all = (0..).zip(floor.iter().zip(ends));
        // Since it was put there.
        let mut acked = BTreeSet::new();
        let mut missing: BTreeSet<(u32, u64)> = all
            .flat_map(|(queue, (&from, &to))| (from..to).map(move |offset| (queue, offset)))
            .collect();
        while !missing.is_empty() && !self.context.history.is_broken() {
            let node = self.any_node();
            let ask = Ask {
                attempt: None,
                most: 8,
                poll: POLL,
                invisible: Some(MIN_INVISIBLE),
                queue: -1,
                filter: None,
            };
            let asked = now();
            match self.context.client.receive(node, (TOPIC, GROUP), &ask).await {
                Ok(messages) => {
                    for message in &messages {
                        self.judge(message, known, floor);
                        let place = place(message);
                        if acked.contains(&place) {
                            let told = format!(
                                "P4: {place:?} of {TOPIC} came, asked for at {asked:?}, and was acknowledged"
                            );
                            self.context.history.broken(told);
                        }
                        missing.remove(&place);
                    }
                    for message in &messages {
                        if thread_rng().gen_bool(ACKNOWLEDGED)
                            && let Ok(answers) = self.context.client.ack(node, GROUP, &[message]).await
                            && answers.iter().all(Result::is_ok)
                        {
                            acked.insert(place(message));
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

    fn judge(&self, message: &Received, known: &mut Known, floor: &[u64]) {
        let (queue, offset) = place(message);
        let id = &message.message_id;
        let from = floor.get(queue as usize).copied();
        let broken = |what: String| self.context.history.broken(what);
        if from.is_none_or(|from| offset < from) {
            broken(format!(
                "P8 seek: {id} came from {queue}/{offset}, which is before {from:?}"
            ));
        }
        if !message.letter.is_of(&Letter::of(id, self.context.plan.body)) {
            broken(format!("P1 corrupt: {id} is not what was sent"));
        }
        let before = known.insert((queue, offset), message.stored_ms);
        if before.is_some_and(|before| before != message.stored_ms) {
            broken(format!(
                "P8 seek: {id} was stored at {before:?}, and now at {}",
                message.stored_ms
            ));
        }
    }
}

fn place(message: &Received) -> (u32, u64) {
    (message.place.queue as u32, message.place.offset as u64)
}

/// Where every queue is, if that is known.
fn all_after(report: &SeekReport) -> Option<Vec<u64>> {
    report.queues.iter().map(|queue| queue.after).collect()
}

fn draw(known: &Known) -> SeekTo {
    let mut rng = thread_rng();
    let dates: Vec<u64> = known.values().copied().collect();
    match (rng.gen_range(0..5), dates.choose(&mut rng)) {
        (0, _) => SeekTo::First,
        (1, _) => SeekTo::Offset(rng.gen_range(0..8)),
        (2, _) | (_, None) => SeekTo::Last,
        // The very date, or one between two.
        (_, Some(date)) => SeekTo::AtMs(date + rng.gen_range(0..2)),
    }
}

/// Where a consumer group must be put, by what came so far: where it was put last is the only thing that may be unread.
fn expected(to: SeekTo, known: &Known, ends: &[u64]) -> Vec<u64> {
    let queues = (0..).zip(ends.iter().copied());
    queues
        .map(|(queue, end)| match to {
            SeekTo::First => 0,
            SeekTo::Last => end,
            SeekTo::Offset(offset) => offset.min(end),
            SeekTo::AtMs(at_ms) => {
                let offsets = known.range((queue, 0)..(queue, end));
                let first = offsets.into_iter().find(|(_, stored_ms)| **stored_ms >= at_ms);
                first.map_or(end, |(&(_, offset), _)| offset)
            }
        })
        .collect()
}
