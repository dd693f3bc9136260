//! A world: a cluster, clients and a nemesis, as the seed drew them, and the verdict.
//!
//! First safety under faults; then all faults stop and liveness is demanded: everything acknowledged is received, every
//! node takes part again, and all replicas of a shard are equal (P11). Oracles watch all the time.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use broker::{
    node::{Node, kv::Reading},
    views::{BackoffView, GroupSpec, StartAt, TopicSpec},
};
use madsim::{
    Config,
    rand::{Rng, thread_rng},
    runtime::Runtime,
    time::TimeHandle,
};
use tokio::time::sleep;

use crate::{
    atlas::{self, Atlas},
    commands::Counted,
    coverage::Coverage,
    history::{Event, History, Tally},
    host::Host,
    janitor, log,
    nemesis::{self, Scene},
    oracle::{cluster::Watch, late::LONGEST_BACKOFF},
    peers::Disorder,
    plan::{Fault, Plan},
    trace::{Digest, Trace},
    workload::{Clients, operator::Operator},
};

/// From the end of all faults to everything drained: some leases and retries, one after the other, and a few elections.
const PATIENCE: Duration = Duration::from_secs(240);
/// The same where push consumers are: somebody may hold a message for long, more than once.
const PATIENCE_WITH_PUSH: Duration = Duration::from_secs(420);
/// From then until every replica is where its leader is.
const LEVEL: Duration = Duration::from_secs(60);
/// A cluster forms within this.
const FORMED: Duration = Duration::from_secs(60);
/// How often the oracles look into the nodes, and every how many looks they compare states.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const STATES_EVERY: u64 = 10;
/// What a node says as an ERROR when its disk is full: no surprise in a world with such disks.
const FULL: &str = "the disk is full";
/// A run that takes longer than this has lost its way.
const TIME_LIMIT: Duration = Duration::from_secs(1_800);

/// How a run ended.
#[derive(Debug)]
pub struct Report {
    /// What was drawn.
    pub plan: String,
    /// The trace; equal for equal seeds.
    pub digest: Digest,
    /// Counts.
    pub tally: Tally,
    /// What happened how often.
    pub coverage: BTreeMap<String, u64>,
    /// Simulated time.
    pub simulated: Duration,
    /// Broken promises, and lines logged as ERROR. Empty is good.
    pub violations: Vec<String>,
    /// What happened to the messages they are about.
    pub timeline: Vec<String>,
    /// Changes that would make the world simpler.
    pub simpler: Vec<String>,
}

/// Why there is no run.
#[derive(Debug)]
pub enum CannotRun {
    /// The trace file cannot be made.
    Trace(std::io::Error),
    /// The world cannot be changed like that.
    Change(String),
}

/// Runs the world of a seed, made simpler by some changes. Call it in a fresh thread: what hash maps iterate by is drawn per
/// thread.
///
/// # Errors
/// See [`CannotRun`].
pub fn run(seed: u64, changes: &[String], trace: Option<&Path>) -> Result<Report, CannotRun> {
    let trace = Trace::new(trace).map_err(CannotRun::Trace)?;
    let mut runtime = Runtime::with_seed_and_config(seed, Config::default());
    runtime.set_time_limit(TIME_LIMIT);
    let story = runtime.block_on(story(changes, trace.clone()));
    let story = story.map_err(CannotRun::Change)?;
    let mut violations = story.history.verdict();
    if !story.may_log_errors {
        let errors = log::errors().into_iter();
        let expected =
            |line: &String| story.plan.faults.contains_key(&Fault::FullDisk) && line.contains(FULL);
        violations.extend(
            errors
                .filter(|line| !expected(line))
                .map(|line| format!("ERROR: {line}")),
        );
    }
    Ok(Report {
        plan: story.plan.to_string(),
        digest: trace.digest(),
        tally: story.history.tally(),
        coverage: story.coverage.all(),
        simulated: story.simulated,
        violations,
        timeline: story.history.timeline(),
        simpler: story.plan.simpler(),
    })
}

struct Story {
    plan: Plan,
    history: History,
    coverage: Coverage,
    simulated: Duration,
    may_log_errors: bool,
}

fn now() -> Duration {
    TimeHandle::current().elapsed()
}

async fn story(changes: &[String], trace: Trace) -> Result<Story, String> {
    let mut plan = Plan::draw();
    for change in changes {
        plan.change(change)?;
    }
    let plan = plan;
    let groups = (0..plan.groups).map(|number| plan.group(number)).collect();
    let history = History::new(groups, plan.max_attempts);
    let coverage = Coverage::default();
    nemesis::usual_network(&plan);
    let disorder = Disorder::default();
    let hosts: Vec<Host> = (1..=plan.nodes)
        .map(|id| Host::start(id, &plan, &history, &disorder, &trace))
        .collect();
    let hosts = Arc::new(hosts);
    found(&hosts, &plan, &history).await;
    trace.event("founded", &[], &[]);

    let watch = tokio::spawn(watch(hosts.clone(), history.clone(), coverage.clone()));
    let rebuild = tokio::spawn(rebuild(hosts.clone(), coverage.clone()));
    let clients = Clients::start(&plan, &history, &coverage, &disorder, &trace);
    let operator = Operator::start(plan.operator, &hosts, (&history, &coverage), &disorder, &trace);
    let scene = Scene {
        hosts: hosts.clone(),
        plan: plan.clone(),
        disorder,
        atlas: Atlas::default(),
        coverage: coverage.clone(),
    };
    let janitor = tokio::spawn(janitor::run(hosts.clone(), plan.clone(), coverage.clone()));
    let rest = async {
        nemesis::run(scene).await;
        trace.event("faults end", &[], &[]);
        futures::join!(
            calm_down(&hosts, &history, &operator),
            live(&hosts, &plan, (&clients, &operator), &history)
        );
    };
    tokio::select! {
        biased;
        () = broken(&history) => {}
        () = rest => {}
    }
    clients.stop();
    operator.stop();
    janitor.abort();
    watch.abort();
    rebuild.abort();
    let may_log_errors = coverage
        .all()
        .keys()
        .any(|what| ["fault disk error", "fault bit flip", "fault lying disk"].contains(&what.as_str()));
    Ok(Story {
        plan,
        history,
        coverage,
        simulated: now(),
        may_log_errors,
    })
}

/// Returns once a promise is broken: what would come after tells nothing more.
async fn broken(history: &History) {
    while !history.is_broken() {
        sleep(LOOK_EVERY).await;
    }
}

/// Waits for the cluster, and makes the topics and consumer groups.
async fn found(hosts: &[Host], plan: &Plan, history: &History) {
    let formed = await_true(FORMED, || {
        hosts
            .iter()
            .all(|host| host.node().is_some_and(|node| node.ready().is_ok()))
    });
    if !formed.await {
        return history.broken(format!("P11: the cluster was not formed within {FORMED:?}"));
    }
    let service = hosts[0].service().expect("it is ready");
    for topic in (0..plan.topics).map(|number| plan.topic(number)) {
        let spec = TopicSpec {
            name: topic,
            queues: Some(plan.queues),
            message_type: "NORMAL".into(),
        };
        while service.create_topic(spec.clone()).await.is_err()
            && service.describe_topic(&spec.name).await.is_err()
        {
            sleep(LOOK_EVERY).await;
        }
    }
    for group in (0..plan.groups).map(|number| plan.group(number)) {
        let spec = GroupSpec {
            name: group,
            max_attempts: Some(plan.max_attempts),
            backoff: Some(BackoffView::Customized {
                next_ms: vec![thread_rng().gen_range(1..LONGEST_BACKOFF.as_millis() as u64)],
            }),
            fifo: false,
            start_at: StartAt::First,
        };
        while service.create_group(spec.clone()).await.is_err()
            && service.describe_group(&spec.name).await.is_err()
        {
            sleep(LOOK_EVERY).await;
        }
    }
}

/// Oracles that look into the nodes, all the time.
async fn watch(hosts: Arc<Vec<Host>>, history: History, coverage: Coverage) {
    let (mut watch, mut counted) = (Watch::default(), Counted::default());
    for look in 0_u64.. {
        let nodes: Vec<Node> = hosts.iter().filter_map(Host::node).collect();
        let mut wrong = Vec::new();
        watch.look(&nodes, look.is_multiple_of(STATES_EVERY), &mut wrong);
        counted.look(&nodes, &coverage);
        wrong.into_iter().for_each(|what| history.broken(what));
        sleep(LOOK_EVERY).await;
    }
}

/// What `flotilla serve` does when the stored data is damaged: sets it aside and starts again with nothing.
async fn rebuild(hosts: Arc<Vec<Host>>, coverage: Coverage) {
    loop {
        for host in hosts.iter().filter(|host| host.condemned()) {
            coverage.count("node condemned");
            host.kill();
            host.wipe();
            host.restart();
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Tells the oracles when every node takes part again: from now on there are no excuses.
async fn calm_down(hosts: &[Host], history: &History, operator: &Operator) {
    if await_true(PATIENCE, || atlas::whole(hosts)).await {
        history.record(now(), &Event::Calm);
        operator.calm();
    }
}

/// P11: elect, agree, serve, drain.
async fn live(hosts: &[Host], plan: &Plan, (clients, operator): (&Clients, &Operator), history: &History) {
    let patience = if plan.push { PATIENCE_WITH_PUSH } else { PATIENCE };
    let done = || clients.producers_left() == 0 && history.drained() && operator.is_done();
    if !await_true(patience, done).await {
        let left = clients.producers_left();
        return history.broken(format!(
            "P11: not drained {patience:?} after the last fault; {left} producers still send, left are {:?}, operator done: {}",
            history.left(),
            operator.is_done()
        ));
    }
    if !await_true(LEVEL, || atlas::whole(hosts) && level(hosts)).await {
        return history.broken("P11: the cluster is not whole again, or its replicas are not level".into());
    }
    let nodes: Vec<Node> = hosts.iter().filter_map(Host::node).collect();
    let mut wrong = Vec::new();
    Watch::default().look(&nodes, true, &mut wrong);
    for node in &nodes {
        for shard in node.shards() {
            let replica = &shard.replica;
            let checked = replica.read_state(|state| shard.machine.read(|core| core.check(&Reading(state))));
            if let Err(what) = checked {
                wrong.push(format!("P4: shard {} on node {}: {what}", shard.id, node.id()));
            }
        }
    }
    wrong.into_iter().for_each(|what| history.broken(what));
}

/// All replicas of each shard have applied the same.
fn level(hosts: &[Host]) -> bool {
    let mut applied = BTreeMap::new();
    let nodes = hosts.iter().filter_map(Host::node);
    nodes
        .flat_map(|node| crate::oracle::cluster::replicas(&node))
        .all(|replica| {
            let status = replica.status();
            *applied.entry(status.shard).or_insert(status.applied) == status.applied
        })
}

async fn await_true(patience: Duration, condition: impl Fn() -> bool) -> bool {
    let end = now() + patience;
    while !condition() {
        if now() > end {
            return false;
        }
        sleep(LOOK_EVERY).await;
    }
    true
}
