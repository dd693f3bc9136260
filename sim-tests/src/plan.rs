//! The drawn world: everything a seed decides before the run begins, and what is printed of it.
//!
//! Swarm testing: a world has some kinds of faults and of operations and not others, because a fault that is always
//! there hides what would happen without it.

use std::{collections::BTreeMap, fmt, ops::Range, time::Duration};

use broker::{
    limits::{Bounds, RENEW_AT_MOST},
    views::BackoffView,
};
use madsim::{
    rand::{Rng, seq::SliceRandom, thread_rng},
    runtime::Handle,
};

use crate::{letter, machine::Slowness, oracle::late::LONGEST_BACKOFF, readers::Readers};

mod delays;
mod dying;
mod fault;
mod habits;
mod leaning;
mod limits;
mod offers;
mod ordered;
mod priorities;
mod simpler;
mod transactions;
mod wanted;

pub use dying::Dying;
pub use fault::Fault;
pub use habits::Habits;
pub use limits::Limits;
pub use wanted::Wanted;

/// A segment of this size holds the largest entry, twice, bytes.
const HOLDS_AN_ENTRY: u64 = 1 << 19;

/// Share of worlds in which a majority is always up.
const ONE_AT_A_TIME: f64 = 0.3;

/// A world, drawn.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Nodes of the cluster.
    pub nodes: u32,
    /// Data shards.
    pub shards: u32,
    /// Queues of each topic.
    pub queues: u32,
    /// Topics.
    pub topics: u32,
    /// Consumer groups; each receives every message.
    pub groups: u32,
    /// Most deliveries of a message to each consumer group before it is a dead letter.
    pub max_attempts: u32,
    /// Producers.
    pub producers: u32,
    /// What each of them sends.
    pub messages: u32,
    /// Its pause between two sends, milliseconds.
    pub pause_ms: Range<u64>,
    /// Largest body, bytes.
    pub body: usize,
    /// What consumers do.
    pub habits: Habits,
    /// Of a packet, milliseconds.
    pub latency_ms: Range<u64>,
    /// Share of packets that are lost and repeated.
    pub loss: f64,
    /// Most that a node's wall clock is ahead or behind at the start, milliseconds.
    pub skew_ms: i64,
    /// Of a disk, microseconds.
    pub sync_us: u64,
    /// Of everything else that blocks.
    pub slowness: Slowness,
    /// Size of log segments, bytes.
    pub segment_bytes: u64,
    /// The state is flushed when the log has grown by so many bytes.
    pub flush_bytes: u64,
    /// Faults of this world and how often each comes, relative to the others.
    pub faults: BTreeMap<Fault, u32>,
    /// Faults at the same time, at most.
    pub at_once: u32,
    /// Mean pause between two faults of one nemesis, milliseconds.
    pub fault_every_ms: u64,
    /// How long there are faults.
    pub faults_for: Duration,
    /// Whether the first consumer group has push consumers: the server renews their leases while they live.
    pub push: bool,
    /// Whether push consumers say good-bye now and then. What they lose comes again without it, too.
    pub good_byes: bool,
    /// Clients of each consumer group that read the same topic.
    pub consumers: u32,
    /// Whether producers send several messages in one request, and consumers acknowledge so.
    pub batches: bool,
    /// Whether producers leave several messages at one try, at times, of which they do not know what became.
    pub quits: bool,
    /// Whether consumers die now and then, and come back as others.
    pub deaths: bool,
    /// Consumers come then at the earliest: the later, the more waits for them.
    pub consumers_from: Duration,
    /// How long a consumer works on what came together at most, milliseconds: then messages queue up.
    pub work_ms: u64,
    /// How long the server renews a lease of a push consumer at most.
    pub renew_at_most: Duration,
    /// Waits between attempts, of all consumer groups.
    pub backoff: BackoffView,
    /// What nodes keep, and how much they take on.
    pub limits: Limits,
    /// Whether an operator makes, deletes and makes again topics and consumer groups.
    pub operator: bool,
    /// What one consumer group wants, by its number, if not everything.
    pub wanted: Option<(u32, Wanted)>,
    /// Whether a consumer group is put elsewhere again and again.
    pub replays: bool,
    /// Whether messages have message groups, and consumer groups want their order.
    pub ordered: bool,
    /// Whether somebody reads by offset.
    pub pulls: bool,
    /// Whether a consumer group is paused and resumed.
    pub pauses: bool,
    /// Whether messages are sent that are to be delivered at a date, and some of them recalled.
    pub delays: bool,
    /// Whether messages die and are given back, and how.
    pub dying: Option<Dying>,
    /// Whether there are transactions.
    pub transactions: bool,
    /// When producers are asked about them.
    pub transaction_rules: broker::node::Transactions,
    /// Whether messages are sent that have priorities.
    pub priorities: bool,
    /// What is wanted of those, if not all.
    pub urgent: Option<Wanted>,
    /// Whether the dedup window is tried for certain, and with many ids.
    pub window: bool,
}

impl Plan {
    /// Draws a world. Uses the simulation's randomness, so it belongs to the run.
    #[must_use]
    pub fn draw() -> Plan {
        let mut rng = thread_rng();
        let nodes = *[1, 3, 3, 3, 3, 3, 5, 5, 4, 7]
            .choose(&mut rng)
            .expect("there are some");
        let mut faults: BTreeMap<Fault, u32> = BTreeMap::new();
        let one_at_a_time = rng.gen_bool(ONE_AT_A_TIME);
        // Where there are all kinds, few come twice.
        let share_of_faults = *[0.1, 0.2, 0.4].choose(&mut rng).expect("there are some");
        for fault in Fault::ALL {
            let fits = !one_at_a_time || Fault::OF_ONE_NODE.contains(&fault);
            if nodes >= fault.nodes_needed() && fits && rng.gen_bool(share_of_faults) {
                let more = if fault.often_fails() { 10 } else { 0 };
                faults.insert(fault, more + rng.gen_range(1..=10));
            }
        }
        let slowest = rng.gen_range(2..=20);
        let mut segment_bytes = 1 << rng.gen_range(16..=20);
        let sends_snapshots = [Fault::SecondLoss, Fault::SenderDies, Fault::OldLeader];
        let snapshots = sends_snapshots.iter().any(|fault| faults.contains_key(fault));
        let mut limits = Limits::draw(&mut rng, &mut segment_bytes, snapshots);
        let moves = faults.contains_key(&Fault::MovedLeader);
        if moves {
            limits.crowd(&mut rng);
        }
        let fills_up = [Fault::FullDisk, Fault::FullSender];
        if fills_up.iter().any(|fault| faults.contains_key(fault)) {
            // A segment holds any entry, as the configuration demands: else a spare would have to grow.
            segment_bytes = segment_bytes.max(HOLDS_AN_ENTRY);
            limits.keep();
        }
        let push = rng.gen_bool(0.3);
        let habits = Habits::draw(&mut rng, push);
        if push {
            // Who holds few messages for minutes would hold up all others for hours.
            limits.bounds.in_flight_per_queue = Bounds::default().in_flight_per_queue;
        }
        let good_byes = rng.gen_bool(0.5);
        let mut plan = Plan {
            nodes,
            shards: rng.gen_range(1..=4),
            queues: rng.gen_range(1..=6),
            topics: rng.gen_range(1..=2),
            groups: rng.gen_range(1..=3),
            max_attempts: rng.gen_range(1..=16),
            producers: rng.gen_range(1..=3),
            // Long pauses, so that producers still send when faults come.
            messages: rng.gen_range(20..=200),
            pause_ms: 1..rng.gen_range(5..=400),
            body: rng.gen_range(20..=8_000),
            habits,
            latency_ms: 1..slowest,
            loss: habits::share(&mut rng, 0.02),
            skew_ms: *[0, 0, 50, 2_000, 3_600_000]
                .choose(&mut rng)
                .expect("there are some"),
            sync_us: rng.gen_range(100..=3_000),
            slowness: Slowness::draw(
                !one_at_a_time
                    && faults.keys().any(|fault| fault.cuts_power())
                    && faults.keys().all(|fault| fault.leaves_disks_alone()),
            ),
            segment_bytes,
            flush_bytes: 1 << rng.gen_range(14..=18),
            faults,
            at_once: if one_at_a_time { 1 } else { rng.gen_range(1..=2) },
            fault_every_ms: rng.gen_range(200..=3_000),
            faults_for: Duration::from_secs(rng.gen_range(10..=60)),
            push,
            good_byes,
            // Several say good-bye together.
            consumers: if rng.gen_bool(if push && good_byes { 0.8 } else { 0.3 }) {
                2
            } else {
                1
            },
            batches: rng.gen_bool(if moves { 0.8 } else { 0.5 }),
            quits: false,
            deaths: rng.gen_bool(0.3),
            consumers_from: Duration::from_secs(if rng.gen_bool(0.25) {
                rng.gen_range(10..30)
            } else {
                0
            }),
            work_ms: if rng.gen_bool(0.3) {
                rng.gen_range(100..500)
            } else {
                0
            },
            renew_at_most: match rng.gen_bool(0.5) {
                true => Duration::from_secs(rng.gen_range(60..180)),
                false => RENEW_AT_MOST,
            },
            backoff: draw_backoff(&mut rng),
            limits,
            // What he looks for must not be forgotten meanwhile.
            operator: !limits.forget() && rng.gen_bool(0.5),
            wanted: None,
            replays: false,
            ordered: false,
            pulls: false,
            pauses: false,
            delays: false,
            dying: None,
            transactions: false,
            transaction_rules: broker::node::Transactions::default(),
            priorities: false,
            urgent: None,
            window: false,
        };
        habits.prepare(&mut plan);
        if let Some(leaning) = leaning::Leaning::of(Handle::current().seed()) {
            leaning.lean(&mut plan);
        }
        Wanted::choose(Handle::current().seed(), &mut plan);
        ordered::choose(Handle::current().seed(), &mut plan);
        delays::choose(Handle::current().seed(), &mut plan);
        dying::choose(Handle::current().seed(), &mut plan);
        transactions::choose(Handle::current().seed(), &mut plan);
        priorities::choose(Handle::current().seed(), &mut plan);
        plan
    }

    /// The world that the simulator's speed is measured in: three nodes, no faults, 200 operations of clients a second (a
    /// send, a delivery and an acknowledgement are three) for two minutes.
    #[must_use]
    pub fn calm() -> Plan {
        Plan {
            nodes: 3,
            shards: 3,
            queues: 6,
            topics: 1,
            groups: 1,
            max_attempts: 16,
            producers: 4,
            messages: 2_000,
            pause_ms: 1..66,
            body: 1_024,
            habits: Habits::NONE,
            latency_ms: 1..3,
            loss: 0.0,
            skew_ms: 0,
            sync_us: 1_000,
            slowness: Slowness::NONE,
            segment_bytes: 1 << 20,
            flush_bytes: 1 << 18,
            faults: BTreeMap::new(),
            at_once: 1,
            fault_every_ms: 1_000,
            faults_for: Duration::from_secs(1),
            push: false,
            good_byes: false,
            consumers: 1,
            batches: false,
            quits: false,
            deaths: false,
            consumers_from: Duration::ZERO,
            work_ms: 0,
            renew_at_most: RENEW_AT_MOST,
            backoff: BackoffView::Customized { next_ms: vec![1_000] },
            limits: Limits::large(),
            operator: false,
            wanted: None,
            replays: false,
            ordered: false,
            pulls: false,
            pauses: false,
            delays: false,
            dying: None,
            transactions: false,
            transaction_rules: broker::node::Transactions::default(),
            priorities: false,
            urgent: None,
            window: false,
        }
    }

    /// Whether some clients know one node only. While that is down they get nowhere.
    #[must_use]
    pub fn some_know_one_node(&self) -> bool {
        self.habits.one_node && !self.majority_is_up()
    }

    /// Whether a majority of the nodes is up and hears each other at any time.
    #[must_use]
    pub fn majority_is_up(&self) -> bool {
        let is_of_one = |fault: &Fault| Fault::OF_ONE_NODE.contains(fault);
        self.nodes >= 3
            && self.at_once == 1
            && self.slowness.outages == 0
            && self.faults.keys().all(is_of_one)
    }

    /// The topics' names.
    #[must_use]
    pub fn topic(&self, number: u32) -> String {
        format!("topic-{number}")
    }

    /// What a consumer group wants, if not everything.
    #[must_use]
    pub fn wanted_by(&self, group: &str) -> Option<Wanted> {
        let choosy = self.wanted.filter(|&(number, _)| group == self.group(number));
        choosy.map(|(_, wanted)| wanted)
    }

    /// Who is to get what.
    #[must_use]
    pub fn readers(&self) -> Readers {
        let readers: Readers = (0..self.groups).map(|number| self.group(number)).collect();
        let fifo = readers.groups().iter().filter(|group| self.is_fifo(group));
        let readers = readers.clone().with_order(fifo.cloned().collect());
        match self.wanted {
            Some((number, wanted)) => readers.with_choosy(self.group(number), move |id| {
                wanted.takes(letter::tag_of(id).as_deref())
            }),
            None => readers,
        }
    }

    /// The consumer groups' names.
    #[must_use]
    pub fn group(&self, number: u32) -> String {
        format!("group-{number}")
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<String> = self
            .faults
            .iter()
            .map(|(fault, weight)| format!("{fault:?}*{weight}"))
            .collect();
        write!(
            out,
            "ordered {} nodes {} shards {} topics {}x{} groups {} attempts {} producers {}x{} every {:?} ms body {} {:?} latency {:?} ms \
             loss {:.3} skew {} ms sync {} us {:?} segments {} flush {} faults [{}] x{} every {} ms for {:?} push {} for {:?} good-byes {} consumers {} batches {} quits {} \
             deaths {} from {:?} work {} ms backoff {:?} {} operator {} wanted {:?} replays {} pulls {} pauses {}",
            self.ordered,
            self.nodes,
            self.shards,
            self.topics,
            self.queues,
            self.groups,
            self.max_attempts,
            self.producers,
            self.messages,
            self.pause_ms,
            self.body,
            self.habits,
            self.latency_ms,
            self.loss,
            self.skew_ms,
            self.sync_us,
            self.slowness,
            self.segment_bytes,
            self.flush_bytes,
            faults.join(" "),
            self.at_once,
            self.fault_every_ms,
            self.faults_for,
            self.push,
            self.renew_at_most,
            self.good_byes,
            self.consumers,
            self.batches,
            self.quits,
            self.deaths,
            self.consumers_from,
            self.work_ms,
            self.backoff,
            self.limits,
            self.operator,
            self.wanted,
            self.replays,
            self.pulls,
            self.pauses
        )
    }
}

/// A list, or waits that grow.
fn draw_backoff(rng: &mut madsim::rand::GlobalRng) -> BackoffView {
    let longest = LONGEST_BACKOFF.as_millis() as u64;
    if rng.gen_bool(0.5) {
        let steps = rng.gen_range(1..=4);
        let next_ms = (0..steps).map(|_| rng.gen_range(1..=longest)).collect();
        return BackoffView::Customized { next_ms };
    }
    BackoffView::Exponential {
        initial_ms: rng.gen_range(100..=longest / 2),
        max_ms: longest,
        multiplier_percent: rng.gen_range(100..=300),
    }
}
