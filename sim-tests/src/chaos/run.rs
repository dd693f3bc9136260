//! A run: a cluster, clients and faults, and the verdict.
//!
//! First safety under faults; then all faults stop and liveness is demanded: everything acknowledged is received, and every
//! replica has caught up (P11). The oracles watch all the time.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::future::try_join_all;
use tokio::{
    task::block_in_place,
    time::{Instant, sleep, timeout},
};

use super::{
    book::Book,
    cleanup::Cleanup,
    cluster, disks,
    faults::{self, Fault, Scene},
    gaps::Happened,
    network,
    node::{Common, Node, RETENTION_MIB},
    options::Options,
    random::Random,
    report::{self, Verdict},
    sdk::Sdk,
    workload::{
        Clients, GROUPS, TOPICS, UNDERTAKER,
        archive::{self, ARCHIVE},
    },
};
use crate::history::{History, Rules};

const NODES: u32 = 3;
const QUEUES: u32 = 6;
/// Few, so that some messages become dead letters.
const MAX_ATTEMPTS: u32 = 6;
pub(super) const RULES: Rules = Rules {
    max_attempts: MAX_ATTEMPTS,
    renew_at_most: Duration::from_secs(3 * 3_600),
    // Gaps are judged fault by fault: see `gaps`.
    majority_is_up: false,
    room_in_flight: true,
    loses_answers: false,
};
/// The undertaker tries as long as it takes.
const UNDERTAKER_ATTEMPTS: u32 = 1_000;
const BACKOFF_MS: u64 = 500;
/// A cluster forms within this, and topics and consumer groups are made.
const FORMED: Duration = Duration::from_secs(60);
/// Before the first fault so many sends are acknowledged, within this.
const FLOWING: usize = 200;
const FLOWS: Duration = Duration::from_secs(30);
/// After the last fault producers go on for so long: the end of the last window in which gaps are looked for.
const AFTER: Duration = Duration::from_secs(4);
/// From then to everything drained: some leases and retries, one after the other, and a few elections.
const DRAINED: Duration = Duration::from_secs(120);
/// From then until every replica has caught up.
const WHOLE: Duration = Duration::from_secs(60);
/// A fault that began in time may end so late: orderly ends of processes.
const OVERTIME: Duration = Duration::from_secs(90);
/// What a log may take, MiB: what it is to keep, and an eighth of that while a round of retention is under way.
const LOG_MIB: u64 = RETENTION_MIB + RETENTION_MIB / 8;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A node that ends by itself is started again, so that the rest of the run means something, but not forever.
const RESTARTS: u32 = 10;
/// What may be logged as ERROR when a disk is full.
const DISK_IS_FULL: &str = "the disk is full to the last segment";
/// What may be logged as ERROR when bits have flipped on a disk: a person must look at that disk.
const DAMAGE: [&str; 2] = ["corrupt", "stored data is damaged"];

/// Runs it all; the verdict, or why there could be no run.
pub(super) async fn run(options: &Options, cleanup: &Cleanup) -> Result<Verdict, String> {
    let seed = options.seed.unwrap_or_else(Random::any_seed);
    let mut random = Random::new(seed);
    println!("chaos: seed {seed}, faults for {} s", options.seconds);
    let text = |error: io::Error| error.to_string();
    fs::create_dir_all(&options.out).map_err(text)?;
    let history = History::new(GROUPS.map(String::from).into(), RULES);
    let book = Book::new(history, &options.out.join("history.log")).map_err(text)?;
    let scene = prepare(options, cleanup, &book, &mut random)
        .await
        .map_err(text)?;
    let limit =
        FORMED * 5 + FLOWS + Duration::from_secs(options.seconds) + OVERTIME + AFTER + DRAINED + WHOLE * 2;
    let told = timeout(limit, story(options, cleanup, scene, random)).await;
    let told = told.unwrap_or_else(|_| Err(format!("it did not end within {limit:?}")));
    // Also of a run that was cut short everything is told that is known.
    let (faults, mut violations) = told.unwrap_or_else(|why| (Vec::new(), vec![format!("run: {why}")]));
    violations.extend(book.history.verdict());
    let verdict = report::print(&book, &faults, &violations);
    violations.iter().for_each(|what| book.keep(what));
    book.close();
    println!(
        "logs of the nodes and the history are in {}",
        options.out.display()
    );
    Ok(verdict)
}

/// Network, disks and nodes, of which none runs yet.
async fn prepare(
    options: &Options,
    cleanup: &Cleanup,
    book: &Book,
    random: &mut Random,
) -> io::Result<Scene> {
    let program = fs::canonicalize(&options.flotilla)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", options.flotilla.display())))?;
    let (network, why) = network::make(options.network, NODES, random, cleanup).await?;
    if let Some(why) = why {
        book.note(&format!("no network namespaces: {why}"));
    }
    book.note(&format!(
        "network: {}; latency: {}",
        network.describe(),
        network.slowness()
    ));
    let found: Vec<String> = (1..=NODES)
        .map(|node| network.place(node).clients_found)
        .collect();
    let doors = Arc::new(network::Doors::make(network.clients(), &found, random).await?);
    let data = std::env::temp_dir().join(format!("flotilla-chaos-{}", std::process::id()));
    cleanup.will_make_directory(data.clone())?;
    fs::create_dir_all(&data)?;
    let common = Common {
        program,
        network: network.clone(),
        doors: doors.clone(),
        cleanup: cleanup.clone(),
        nodes: NODES,
    };
    let node = |id: u32| -> io::Result<Node> {
        let log = options.out.join(format!("node-{id}.log"));
        fs::write(&log, "")?;
        Ok(Node::new(
            id,
            data.join(format!("node-{id}")),
            log,
            common.clone(),
        ))
    };
    let nodes = (1..=NODES).map(node).collect::<io::Result<Vec<_>>>()?;
    Ok(Scene {
        nodes: Arc::new(nodes),
        network,
        doors,
        book: book.clone(),
        heavy: Arc::default(),
        end: Duration::ZERO,
    })
}

/// The faults that are possible here. Disks are mounted for it.
fn possible(options: &Options, cleanup: &Cleanup, scene: &Scene) -> Vec<Fault> {
    let mut wanted = options.faults.clone();
    if wanted.is_empty() {
        wanted = Fault::ALL.to_vec();
    }
    if wanted.iter().any(|fault| fault.needs_mounts()) {
        let mounted = scene.nodes.iter().try_for_each(|node| {
            let image: PathBuf = node.directory.with_extension("img");
            disks::mount(&image, &node.directory, cleanup)
        });
        if let Err(error) = mounted {
            scene.book.note(&format!(
                "full, small and tight disks: skipped, they need root to mount small file systems: {error}"
            ));
            wanted.retain(|fault| !fault.needs_mounts());
        }
    }
    wanted
}

/// Everything that happens; the faults, and what is wrong besides the history.
async fn story(
    options: &Options,
    cleanup: &Cleanup,
    mut scene: Scene,
    mut random: Random,
) -> Result<(Vec<Happened>, Vec<String>), String> {
    let book = scene.book.clone();
    let possible = block_in_place(|| possible(options, cleanup, &scene));
    let nodes = scene.nodes.clone();
    if possible.contains(&Fault::ForeignDirectory) {
        found_another(&nodes).await?;
    }
    found(&nodes).await?;
    book.note("the cluster is formed");
    let watch = tokio::spawn(watch(nodes.clone(), book.clone()));
    let addresses: Vec<String> = nodes.iter().map(Node::clients).collect();
    if possible.contains(&Fault::SmallDisks) {
        cluster::make_topic(&nodes, ARCHIVE, QUEUES, FORMED).await?;
        archive::fill(&addresses, &book).await;
    }
    let clients = Clients::start(&addresses, &book, &mut random);
    start_sdk(options, cleanup, &clients, (&addresses, &book), &mut random)?;
    if !soon(FLOWS, || book.history.tally().stored >= FLOWING).await {
        return Err(format!(
            "clients could send nothing within {FLOWS:?} before the first fault"
        ));
    }
    scene.heavy = clients.switches.heavy.clone();
    scene.end = book.now() + Duration::from_secs(options.seconds);
    let faults = faults::run(&scene, &possible, &mut random).await;
    book.note("faults end");
    live(&nodes, &clients, &book).await;
    watch.abort();
    clients.stop();
    let happened = |what: Fault| faults.iter().any(|fault| fault.name == what.name());
    let mut expected: Vec<&str> = Vec::new();
    if [Fault::FullDisk, Fault::SmallDisks, Fault::TightDisks]
        .into_iter()
        .any(happened)
    {
        expected.push(DISK_IS_FULL);
    }
    if happened(Fault::FlippedBits) {
        expected.extend(DAMAGE);
    }
    let mut violations = logged(&nodes, &expected);
    let tally = book.history.tally();
    if faults.is_empty() || tally.acked == 0 {
        violations.push(format!(
            "run: {} faults, {} acknowledgements",
            faults.len(),
            tally.acked
        ));
    }
    Ok((faults, violations))
}

/// Starts clients of an SDK, if there is one here.
fn start_sdk(
    options: &Options,
    cleanup: &Cleanup,
    clients: &Clients,
    (addresses, book): (&[String], &Book),
    random: &mut Random,
) -> Result<(), String> {
    let sdk = Sdk {
        python: &options.sdk,
        topics: &TOPICS,
        addresses,
        out: &options.out,
        cleanup,
    };
    if let Some(why) = sdk.missing() {
        book.note(&format!("no clients of an SDK: {why}"));
        return Ok(());
    }
    clients
        .start_sdk(&sdk, book, random)
        .map_err(|error| format!("clients of an SDK cannot be started: {error}"))
}

/// Starts the nodes, waits for the cluster, and makes the topics and consumer groups.
async fn found(nodes: &[Node]) -> Result<(), String> {
    nodes
        .iter()
        .try_for_each(Node::start)
        .map_err(|error| error.to_string())?;
    if let Err(ailments) = cluster::whole(nodes, FORMED).await {
        return Err(format!(
            "the cluster was not formed within {FORMED:?}: {ailments:?}"
        ));
    }
    for topic in TOPICS {
        cluster::make_topic(nodes, topic, QUEUES, FORMED).await?;
    }
    for group in GROUPS {
        cluster::make_group(nodes, group, MAX_ATTEMPTS, BACKOFF_MS, FORMED).await?;
    }
    cluster::make_group(nodes, UNDERTAKER, UNDERTAKER_ATTEMPTS, BACKOFF_MS, FORMED).await
}

/// Lets another cluster live and end at the same addresses: its directories are what nodes are given by mistake.
async fn found_another(nodes: &[Node]) -> Result<(), String> {
    let started = nodes
        .iter()
        .try_for_each(|node| node.start_wrongly(&node.foreign()));
    started.map_err(|error| error.to_string())?;
    cluster::whole(nodes, FORMED)
        .await
        .map_err(|ailments| format!("another cluster was not formed within {FORMED:?}: {ailments:?}"))?;
    for topic in TOPICS {
        cluster::make_topic(nodes, topic, QUEUES, FORMED).await?;
    }
    let ended = try_join_all(nodes.iter().map(Node::kill)).await;
    ended.map(|_| ()).map_err(|error| error.to_string())
}

/// Nodes must not end by themselves, unless somebody gave them a directory that is not theirs.
async fn watch(nodes: Arc<Vec<Node>>, book: Book) {
    let mut restarts = 0;
    loop {
        for node in nodes.iter() {
            let Ok(Some(status)) = node.ended() else { continue };
            if node.may_end() {
                book.note(&format!(
                    "node {} does not run with this directory: {status}",
                    node.id
                ));
                continue;
            }
            book.broken(format!("nodes: node {} ended by itself: {status}", node.id));
            restarts += 1;
            if restarts > RESTARTS {
                continue;
            }
            if let Err(error) = node.start() {
                book.broken(format!("run: node {} cannot be started: {error}", node.id));
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

/// P11: elect, agree, serve, drain.
async fn live(nodes: &[Node], clients: &Clients, book: &Book) {
    sleep(AFTER).await;
    clients.switches.sent.store(true, Ordering::SeqCst);
    clients.switches.calm.store(true, Ordering::SeqCst);
    let began = Instant::now();
    if !soon(DRAINED, || {
        clients.producers_left() == 0 && book.history.drained()
    })
    .await
    {
        let left = clients.producers_left();
        return book.broken(format!(
            "P11: not drained {DRAINED:?} after the last fault; {left} producers still send, left are {:?}",
            book.history.left()
        ));
    }
    // What the history does not know of, such as copies of sends that were repeated, is to be consumed as well.
    if let Err(why) = nothing_left(nodes, DRAINED.saturating_sub(began.elapsed())).await {
        return book.broken(format!(
            "P11: not drained {DRAINED:?} after the last fault: {why}"
        ));
    }
    book.note(&format!(
        "drained {:.1} s after the last send",
        began.elapsed().as_secs_f64()
    ));
    let began = Instant::now();
    match cluster::whole(nodes, WHOLE).await {
        Ok(()) => book.note(&format!("whole {:.1} s later", began.elapsed().as_secs_f64())),
        Err(ailments) => book.broken(format!(
            "P11: the cluster is not whole after {WHOLE:?}: {ailments:?}"
        )),
    }
    logs_keep_to_their_size(nodes, book).await;
}

/// Retention gives back what is too much.
async fn logs_keep_to_their_size(nodes: &[Node], book: &Book) {
    let sizes = || nodes.iter().map(Node::log_mib).collect::<io::Result<Vec<u64>>>();
    let fit = || sizes().is_ok_and(|sizes| sizes.iter().all(|size| *size <= LOG_MIB));
    let fit = soon(WHOLE, fit).await;
    let words = match sizes() {
        Ok(sizes) => format!("the nodes' logs take {sizes:?} MiB of {RETENTION_MIB}"),
        Err(error) => format!("the nodes' logs cannot be looked at: {error}"),
    };
    if fit {
        book.note(&words);
    } else {
        book.broken(format!("nodes: {words}"));
    }
}

/// Waits until the nodes, too, say that every consumer group is done with everything.
async fn nothing_left(nodes: &[Node], patience: Duration) -> Result<(), String> {
    let end = Instant::now() + patience;
    loop {
        let mut left = Vec::new();
        for group in GROUPS.into_iter().chain([UNDERTAKER]) {
            match cluster::left_over(nodes, group).await {
                Ok(0) => {}
                Ok(some) => left.push(format!("{some} messages for {group}")),
                Err(why) => left.push(why),
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(left.join(", "));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Panics, and ERRORs that were not to be expected: an ERROR means that a person must look.
fn logged(nodes: &[Node], expected: &[&str]) -> Vec<String> {
    let bad = |line: &&str| {
        let error = line.split_whitespace().take(3).any(|word| word == "ERROR");
        let expected = expected.iter().any(|words| line.contains(words));
        line.contains("panicked at") || error && !expected
    };
    let look = |node: &Node| match fs::read_to_string(&node.log) {
        Ok(text) => text
            .lines()
            .filter(bad)
            .map(|line| format!("nodes: node {} logged: {line}", node.id))
            .collect(),
        Err(error) => vec![format!("run: {}: {error}", node.log.display())],
    };
    nodes.iter().flat_map(look).collect()
}

/// Whether the condition comes true in time.
async fn soon(patience: Duration, condition: impl Fn() -> bool) -> bool {
    let end = Instant::now() + patience;
    while !condition() {
        if Instant::now() >= end {
            return false;
        }
        sleep(LOOK_EVERY).await;
    }
    true
}
