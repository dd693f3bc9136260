//! A world: a cluster, clients and a nemesis, as the seed drew them, and the verdict.
//!
//! First safety under faults; then all faults stop and liveness is demanded: everything acknowledged is received, every
//! node takes part again, and all replicas of a shard are equal (P11). Oracles watch all the time.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use broker::{
    limits,
    node::Node,
    views::{GroupSpec, StartAt, TopicSpec},
};
use madsim::{
    Config,
    rand::{Rng, thread_rng},
    runtime::Runtime,
    task::NodeId,
    time::TimeHandle,
};
use raft_store::blocking::Work;
use tokio::time::sleep;

use crate::{
    atlas::{self, Atlas},
    coverage::Coverage,
    ending,
    harm::Harms,
    history::{Event, History, Rules, Tally},
    host::Host,
    log::{self, Line},
    nemesis::{self, Scene},
    oracle::{
        cluster::Watch,
        payloads,
        retention::{ledger, look::Looks},
    },
    peers::Disorder,
    plan::Plan,
    trace::{Digest, Trace},
    watch::{self, Signs},
    workload::{Clients, UNDERTAKER, operator::Operator},
};

/// From the end of all faults to everything drained: some leases and retries, one after the other, and a few elections.
const PATIENCE: Duration = Duration::from_secs(240);
/// The same where push consumers are: of those who get a message one after the other, one may hold it until its lease is over, and
/// others die with it, whom the server takes for alive for minutes.
const PATIENCE_WITH_PUSH: Duration = Duration::from_secs(720);
/// From then until every replica is where its leader is.
const LEVEL: Duration = Duration::from_secs(60);
/// From then until nothing is left that is past retention, and all logs are within their bounds.
const SETTLED: Duration = Duration::from_secs(180);
/// A cluster forms within this.
const FORMED: Duration = Duration::from_secs(60);
/// How often is looked whether something has come about.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a machine is without power that failed in the middle of work, milliseconds.
const OUTAGE_MS: std::ops::Range<u64> = 50..3_000;
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
    let errors = log::errors();
    violations.extend(errors.iter().filter_map(|line| story.judge(line)));
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

/// The plan of a seed, without running its world.
#[must_use]
pub fn plan(seed: u64) -> Plan {
    let runtime = Runtime::with_seed_and_config(seed, Config::default());
    runtime.block_on(async { Plan::draw() })
}

struct Story {
    plan: Plan,
    history: History,
    coverage: Coverage,
    simulated: Duration,
    machines: BTreeMap<NodeId, u32>,
    harms: Harms,
}

impl Story {
    /// What is wrong with a line that was logged as ERROR; nothing if its machine gave the node a reason, which counts.
    fn judge(&self, line: &Line) -> Option<String> {
        let text = &line.text;
        let Some((machine, at)) = line.place else {
            return Some(format!("ERROR: {text}"));
        };
        let Some(&node) = self.machines.get(&machine) else {
            return Some(format!("ERROR: {machine} at {at:?}: {text}"));
        };
        let Some(excuse) = self.harms.excuse_line(node, at, text) else {
            return Some(format!("ERROR: node {node} at {at:?}: {text}"));
        };
        self.coverage.count(excuse.name());
        None
    }
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
    let rules = Rules {
        max_attempts: plan.max_attempts,
        renew_at_most: plan.renew_at_most,
        majority_is_up: plan.majority_is_up(),
        room_in_flight: plan.limits.bounds.in_flight_per_queue >= limits::MAX_IN_FLIGHT_PER_QUEUE,
        loses_answers: plan.loss > 0.0,
    };
    let history = History::new(plan.readers(), rules);
    let (coverage, harms) = (Coverage::default(), Harms::default());
    nemesis::usual_network(&plan);
    let disorder = Disorder::default();
    let hosts: Vec<Host> = (1..=plan.nodes)
        .map(|id| Host::start(id, &plan, (&history, &coverage, &harms), &disorder, &trace))
        .collect();
    let hosts = Arc::new(hosts);
    found(&hosts, &plan, &history).await;
    trace.event("founded", &[], &[]);

    let signs = Arc::<Signs>::default();
    let watch = watch::run(
        hosts.clone(),
        plan.clone(),
        (history.clone(), coverage.clone()),
        Looks::new(kept(&plan)),
        signs.clone(),
    );
    let watch = tokio::spawn(watch);
    let rebuild = tokio::spawn(rebuild(hosts.clone(), coverage.clone(), !plan.majority_is_up()));
    let electrician = tokio::spawn(electrician(hosts.clone()));
    power_may_fail(&hosts, true);
    let clients = Clients::start(&plan, &hosts, (&history, &coverage, &harms), &disorder, &trace);
    let operator = Operator::start(&plan, &hosts, (&history, &coverage), &disorder, &trace);
    let scene = Scene {
        hosts: hosts.clone(),
        plan: plan.clone(),
        disorder,
        atlas: Atlas::default(),
        coverage: coverage.clone(),
        history: history.clone(),
    };
    let rest = async {
        nemesis::run(scene).await;
        power_may_fail(&hosts, false);
        trace.event("faults end", &[], &[]);
        futures::join!(
            calm_down(&hosts, &history, &signs, (&clients, &operator)),
            live(&hosts, &plan, (&clients, &operator), &history, &signs)
        );
    };
    tokio::select! {
        biased;
        () = broken(&history) => {}
        () = rest => {}
    }
    clients.stop();
    operator.stop();
    watch.abort();
    rebuild.abort();
    electrician.abort();
    Ok(Story {
        plan,
        history,
        coverage,
        simulated: now(),
        machines: hosts.iter().map(|host| (host.machine(), host.id)).collect(),
        harms,
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
            message_type: if plan.ordered { "FIFO" } else { "NORMAL" }.into(),
            ageing_ms: None,
        };
        while service.create_topic(spec.clone()).await.is_err()
            && service.describe_topic(&spec.name).await.is_err()
        {
            sleep(LOOK_EVERY).await;
        }
    }
    for group in (0..plan.groups).map(|number| plan.group(number)) {
        let spec = GroupSpec {
            fifo: plan.is_fifo(&group),
            name: group,
            max_attempts: Some(plan.max_attempts),
            backoff: Some(plan.backoff.clone()),
            start_at: StartAt::First,
            ..GroupSpec::default()
        };
        while service.create_group(spec.clone()).await.is_err()
            && service.describe_group(&spec.name).await.is_err()
        {
            sleep(LOOK_EVERY).await;
        }
    }
}

/// What nodes are told to keep.
fn kept(plan: &Plan) -> ledger::Rules {
    ledger::Rules {
        age: plan.limits.retention,
        bytes: plan.limits.retention_bytes,
        segment_bytes: plan.segment_bytes,
        groups: (0..plan.groups).map(|number| plan.group(number)).collect(),
        undertaker: UNDERTAKER.to_owned(),
    }
}

/// What `flotilla serve` does when the stored data is damaged: sets it aside and starts again with nothing. Sometimes the power fails
/// while the node is filled again.
async fn rebuild(hosts: Arc<Vec<Host>>, coverage: Coverage, power_may_fail: bool) {
    loop {
        for host in hosts.iter().filter(|host| host.condemned()) {
            coverage.count("node condemned");
            host.kill();
            host.set_aside();
            host.restart();
            if power_may_fail && thread_rng().gen_bool(0.5) {
                host.doom(Some((Work::Install, nemesis::install_piece())));
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

/// From now on the power may fail in the middle of work, or no longer.
fn power_may_fail(hosts: &[Host], may: bool) {
    hosts.iter().for_each(|host| host.power_may_fail(may));
}

/// Starts machines again whose power has failed, one after the other, unless somebody else has done so meanwhile.
async fn electrician(hosts: Arc<Vec<Host>>) {
    loop {
        for host in hosts.iter().filter(|host| host.lost_power()) {
            sleep(Duration::from_millis(thread_rng().gen_range(OUTAGE_MS))).await;
            if host.lost_power() {
                host.restart();
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Tells the oracles when every node takes part again: from now on there are no excuses.
async fn calm_down(
    hosts: &[Host],
    history: &History,
    signs: &Signs,
    (clients, operator): (&Clients, &Operator),
) {
    if await_true(PATIENCE, || atlas::whole(hosts)).await {
        history.record(now(), &Event::Calm);
        signs.calm.store(true, Ordering::SeqCst);
        clients.calm();
        operator.calm();
    }
}

/// P11: elect, agree, serve, drain.
async fn live(
    hosts: &[Host],
    plan: &Plan,
    (clients, operator): (&Clients, &Operator),
    history: &History,
    signs: &Signs,
) {
    let patience = if plan.push { PATIENCE_WITH_PUSH } else { PATIENCE };
    let done = || clients.have_sent() && history.drained() && operator.is_done();
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
    // Whoever watches says what stays too long.
    let settled = || signs.settled.load(Ordering::SeqCst);
    let patience = ledger::FITS_WITHIN + ledger::GONE_WITHIN + plan.limits.retention;
    if plan.limits.forget() && !await_true(patience.min(SETTLED), settled).await {
        history.broken("retention: it has not come to rest".into());
    }
    let mut wrong = ending::judge(hosts, plan, history).await;
    let nodes: Vec<Node> = hosts.iter().filter_map(Host::node).collect();
    Watch::default().look_at_every_row(&nodes, &mut wrong);
    wrong.extend(payloads::compare_live(&nodes));
    for node in &nodes {
        for shard in node.shards() {
            wrong.extend(watch::check(&shard).err());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "these threads are what holds the simulator"
    )]
    fn the_plan_of_a_seed_is_that_of_its_world() {
        let planned = std::thread::spawn(|| plan(7).to_string()).join();
        let ran = std::thread::spawn(|| run(7, &[], None)).join();
        let ran = ran.expect("no panic").expect("it runs");
        assert_eq!(planned.expect("no panic"), ran.plan);
    }
}
