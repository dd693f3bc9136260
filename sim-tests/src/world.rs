//! The first world: three nodes, clients that send and receive, and a nemesis that kills leaders.
//!
//! First safety under faults, then the faults stop and liveness is demanded: everything acknowledged is
//! received, and all replicas of a shard are equal.

use std::{
    net::Ipv4Addr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use broker::node::{Node, kv::Reading};
use bytes::Bytes;
use flotilla_proto::rocketmq::Code;
use madsim::{
    Config,
    rand::{Rng, thread_rng},
    runtime::{Handle, Runtime},
    time::TimeHandle,
};
use raft_store::{Replica, StateRead};
use tokio::time::sleep;
use tracing::debug;

use crate::{
    client::{Client, Failure, Received},
    host::Host,
    ledger::{Ledger, Tally},
    log,
    trace::{Digest, Trace, fnv_of},
};

const NODES: u32 = 3;
const PRODUCERS: u32 = 2;
const CONSUMERS: u32 = 2;
/// What each producer sends.
const MESSAGES: u32 = 150;
/// Leaders killed in a run.
const KILLS: u32 = 2;
/// The shortest lease the service gives.
const INVISIBLE: Duration = Duration::from_secs(10);
/// Longest a receive waits.
const POLL: Duration = Duration::from_secs(2);
/// From the end of all faults to everything drained and equal: two leases and a few elections.
const PATIENCE: Duration = Duration::from_secs(60);
/// A run that takes longer than this has lost its way.
const TIME_LIMIT: Duration = Duration::from_secs(600);

/// How a run ended.
#[derive(Debug)]
pub struct Report {
    /// The trace; equal for equal seeds.
    pub digest: Digest,
    /// Counts.
    pub tally: Tally,
    /// Simulated time.
    pub simulated: Duration,
    /// Broken promises, and lines logged as ERROR. Empty is good.
    pub violations: Vec<String>,
}

/// Runs the world of a seed. Call it in a fresh thread: what hash maps iterate by is drawn per thread.
///
/// # Errors
/// The trace file cannot be made.
pub fn run(seed: u64, trace: Option<&Path>) -> std::io::Result<Report> {
    let trace = Trace::new(trace)?;
    let mut runtime = Runtime::with_seed_and_config(seed, Config::default());
    runtime.set_time_limit(TIME_LIMIT);
    let ledger = Ledger::default();
    let simulated = runtime.block_on(story(trace.clone(), ledger.clone()));
    let mut violations = ledger.verdict();
    violations.extend(log::errors().into_iter().map(|line| format!("ERROR: {line}")));
    Ok(Report {
        digest: trace.digest(),
        tally: ledger.tally(),
        simulated,
        violations,
    })
}

fn now() -> Duration {
    TimeHandle::current().elapsed()
}

async fn story(trace: Trace, ledger: Ledger) -> Duration {
    let hosts: Vec<Host> = (1..=NODES)
        .map(|id| Host::start(id, NODES, trace.clone()))
        .collect();
    wait_ready(&hosts).await;
    trace.event("ready", &[], &[]);

    let clients = Clients::start(&trace, &ledger);
    nemesis(&hosts).await;

    trace.event("faults end", &[], &[]);
    let end = now() + PATIENCE;
    let drained = |clients: &Clients| clients.producers_left() == 0 && ledger.drained();
    while !drained(&clients) && now() < end {
        sleep(Duration::from_millis(100)).await;
    }
    if !drained(&clients) {
        let left = clients.producers_left();
        ledger.broken(format!(
            "P11: not drained {PATIENCE:?} after the last fault; {left} producers still send"
        ));
    }
    clients.stop();
    compare_replicas(&hosts, &ledger).await;
    now()
}

async fn wait_ready(hosts: &[Host]) {
    let ready = || {
        hosts
            .iter()
            .all(|host| host.node().is_some_and(|node| node.ready().is_ok()))
    };
    while !ready() {
        sleep(Duration::from_millis(50)).await;
    }
}

/// Kills the leader of some data shard, again and again, and lets it come back.
async fn nemesis(hosts: &[Host]) {
    for _ in 0..KILLS {
        sleep(Duration::from_millis(thread_rng().gen_range(1_000..4_000))).await;
        let shard = thread_rng().gen_range(1..=NODES);
        let leader = hosts
            .iter()
            .find(|host| host.node().is_some_and(|node| node.leads(shard)));
        let Some(victim) = leader else { continue };
        debug!(at = ?now(), node = victim.id, shard, "crash");
        victim.crash();
        sleep(Duration::from_millis(thread_rng().gen_range(500..6_000))).await;
        debug!(at = ?now(), node = victim.id, "restart");
        victim.restart();
        wait_ready(hosts).await;
    }
}

/// The clients of a run, on machines of their own.
struct Clients {
    producing: Arc<AtomicU32>,
    stopped: Arc<AtomicBool>,
}

impl Clients {
    fn start(trace: &Trace, ledger: &Ledger) -> Clients {
        let producing = Arc::new(AtomicU32::new(PRODUCERS));
        let stopped = Arc::new(AtomicBool::new(false));
        for id in 1..=PRODUCERS + CONSUMERS {
            let machine = Handle::current()
                .create_node()
                .name(format!("client-{id}"))
                .ip(Ipv4Addr::new(10, 0, 1, id as u8).into())
                .build();
            let (trace, ledger) = (trace.clone(), ledger.clone());
            if id <= PRODUCERS {
                let producing = producing.clone();
                machine.spawn(async move {
                    produce(&Client::new(id, NODES, trace), id, &ledger).await;
                    producing.fetch_sub(1, Ordering::SeqCst);
                });
            } else {
                let stopped = stopped.clone();
                machine.spawn(async move {
                    let client = Arc::new(Client::new(id, NODES, trace));
                    for node in 1..=NODES {
                        tokio::spawn(consume(client.clone(), node, ledger.clone(), stopped.clone()));
                    }
                });
            }
        }
        Clients { producing, stopped }
    }

    fn producers_left(&self) -> u32 {
        self.producing.load(Ordering::SeqCst)
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }
}

/// Sends every message until it is acknowledged, to a node the route names.
async fn produce(client: &Client, id: u32, ledger: &Ledger) {
    let mut route = Vec::new();
    let mut turn = id;
    for number in 0..MESSAGES {
        let message_id = format!("{id}-{number:04}");
        let size = thread_rng().gen_range(1..4_000);
        let body = Bytes::from(
            message_id
                .clone()
                .into_bytes()
                .repeat(size / message_id.len() + 1),
        );
        loop {
            turn += 1;
            if route.is_empty() {
                match client.route(1 + turn % NODES).await {
                    Ok(nodes) => route = nodes,
                    Err(_) => {
                        sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                }
            }
            let Some(node) = route.get(turn as usize % route.len().max(1)).copied() else {
                continue;
            };
            ledger.sending(&message_id);
            let answer = client.send(node, &message_id, body.clone()).await;
            debug!(at = ?now(), id = message_id, node, ?answer, "sent");
            match answer {
                Ok(offset) => {
                    ledger.stored(&message_id, offset);
                    break;
                }
                Err(_) => {
                    route.clear();
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
        sleep(Duration::from_millis(thread_rng().gen_range(1..40))).await;
    }
}

/// Receives from one node and acknowledges most of what comes; the rest comes again after its lease.
async fn consume(client: Arc<Client>, node: u32, ledger: Ledger, stopped: Arc<AtomicBool>) {
    while !stopped.load(Ordering::SeqCst) {
        let asked = now();
        let Ok(messages) = client.receive(node, POLL, INVISIBLE).await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        for message in messages {
            let place = (message.queue, message.offset);
            debug!(at = ?now(), id = message.message_id, ?place, attempt = message.attempt, node, "received");
            ledger.delivered(
                (&message.message_id, place, message.attempt),
                asked,
                now(),
                INVISIBLE,
            );
            if !message.body.starts_with(message.message_id.as_bytes()) {
                ledger.broken(format!("P8: the body of {} is another's", message.message_id));
            }
            let forgotten = message.attempt == 1 && thread_rng().gen_bool(0.05);
            if forgotten {
                continue;
            }
            acknowledge(&client, node, &message, &ledger).await;
        }
    }
}

/// Acknowledges until the answer is certain. A stale handle after an uncertain try says nothing.
async fn acknowledge(client: &Client, mut node: u32, message: &Received, ledger: &Ledger) {
    let mut unsure = false;
    loop {
        let answer = client.ack(node, message).await;
        debug!(at = ?now(), id = message.message_id, node, ?answer, "acknowledged");
        match answer {
            Ok(()) => return ledger.acked(&message.message_id, (message.queue, message.offset), now()),
            Err(Failure::Status(Code::InvalidReceiptHandle, _)) => {
                if unsure {
                    ledger.maybe_acked(&message.message_id);
                }
                return; // Otherwise the lease is over, and the message comes again.
            }
            Err(_) => {
                unsure = true;
                node = node % NODES + 1;
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Waits until all replicas of a shard stand at the same entry, and compares their states (P10).
async fn compare_replicas(hosts: &[Host], ledger: &Ledger) {
    let nodes: Vec<Node> = hosts.iter().filter_map(Host::node).collect();
    if nodes.len() < hosts.len() {
        ledger.broken("P11: a node is not running at the end".into());
        return;
    }
    let end = now() + PATIENCE;
    for shard in 1..=NODES {
        loop {
            let replicas: Vec<Replica> = nodes
                .iter()
                .filter_map(|node| Some(node.shard(shard)?.replica.clone()))
                .collect();
            let applied: Vec<_> = replicas.iter().map(|replica| replica.status().applied).collect();
            let level = replicas.len() == nodes.len() && applied.windows(2).all(|pair| pair[0] == pair[1]);
            if level {
                let states: Vec<u64> = replicas
                    .iter()
                    .map(|replica| replica.read_state(state_hash))
                    .collect();
                let level = replicas
                    .iter()
                    .map(|replica| replica.status().applied)
                    .collect::<Vec<_>>()
                    == applied;
                if level && states.windows(2).any(|pair| pair[0] != pair[1]) {
                    ledger.broken(format!(
                        "P10: shard {shard} differs between its replicas at {:?}",
                        applied[0]
                    ));
                }
                if level {
                    break;
                }
            }
            if now() > end {
                ledger.broken(format!(
                    "P11: the replicas of shard {shard} are not level: {applied:?}"
                ));
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        for node in &nodes {
            if let Some(shard) = node.shard(shard) {
                let checked = shard
                    .replica
                    .read_state(|state| shard.machine.read(|core| core.check(&Reading(state))));
                if let Err(what) = checked {
                    ledger.broken(format!("P4: shard {} on node {}: {what}", shard.id, node.id()));
                }
            }
        }
    }
}

fn state_hash(state: &dyn StateRead) -> u64 {
    let mut all = Vec::new();
    let mut from = Vec::new();
    loop {
        let pairs = state.scan(&from, &[], 1_000).expect("the state can be read");
        let Some((last, _)) = pairs.last() else {
            return fnv_of(&all);
        };
        from = last.to_vec();
        from.push(0);
        for (key, value) in &pairs {
            all.extend((key.len() as u64).to_le_bytes());
            all.extend_from_slice(key);
            all.extend((value.len() as u64).to_le_bytes());
            all.extend_from_slice(value);
        }
    }
}
