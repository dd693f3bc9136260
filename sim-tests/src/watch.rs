//! Oracles that look into the nodes, all the time: what each node has, and what all of them have in common.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use broker::{
    limits::Bounds,
    node::{Node, kv::Reading, shard::DataShard},
};
use madsim::time::TimeHandle;
use queue_core::GroupId;
use tokio::time::sleep;

use crate::{
    commands::Counted,
    coverage::Coverage,
    history::{Event, History},
    host::Host,
    oracle::{
        cluster::Watch, flushed::Flushed, payloads::Payloads, retention::look::Looks, turns::Turns,
        waits::Waits,
    },
    plan::Plan,
};

/// How often they look.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Every so many looks they check one core.
const CHECK_EVERY: u64 = 10;

/// What those who watch and those who wait tell each other.
#[derive(Default)]
pub struct Signs {
    /// The faults are over, and the cluster is whole.
    pub calm: AtomicBool,
    /// Everything is gone that is past retention.
    pub settled: AtomicBool,
}

/// Runs until it is aborted.
pub async fn run(
    hosts: Arc<Vec<Host>>,
    plan: Plan,
    (history, coverage): (History, Coverage),
    mut looks: Looks,
    signs: Arc<Signs>,
) {
    let (mut watch, mut counted) = (Watch::default(), Counted::default());
    let mut flushed = Flushed::default();
    let (mut payloads, mut waits) = (
        Payloads::default(),
        Waits::new(
            plan.backoff.clone(),
            plan.push && plan.good_byes,
            plan.limits.bounds.in_flight_per_queue,
        ),
    );
    let mut led = BTreeMap::new();
    let groups = (0..plan.groups).map(|number| plan.group(number));
    let groups: Vec<_> = groups
        .map(|group| (group.clone(), plan.wanted_by(&group)))
        .collect();
    // Where few may be in flight a queue waits for those who hold them, where few commands may wait a turn may be spent on a
    // refusal, and what is forgotten moves a queue, too. Each consumer reads at every node.
    let (bounds, usual) = (plan.limits.bounds, Bounds::default());
    let has_room = bounds.in_flight_per_queue >= usual.in_flight_per_queue
        && bounds.queued_commands >= usual.queued_commands;
    let batch = plan.habits.batch.unsigned_abs();
    let turns = || Turns::new(plan.consumers * plan.nodes, batch);
    let mut turns = (has_room && !plan.limits.forget()).then(turns);
    for look in 0_u64.. {
        let nodes: Vec<Node> = hosts.iter().filter_map(Host::node).collect();
        let mut wrong = Vec::new();
        watch.look(&nodes, &mut wrong);
        flushed.look(&hosts, &mut wrong);
        waits.look(&nodes, |node, group| is_of(&plan, node, group), &mut wrong);
        if let Some(turns) = &mut turns {
            turns.look(&nodes, &groups, &mut wrong);
        }
        payloads.look(&nodes, &mut wrong);
        if see_leaders(&nodes, &mut led) {
            history.record(TimeHandle::current().elapsed(), &Event::Led);
        }
        counted.look(&nodes, &coverage, &mut wrong);
        let now = TimeHandle::current().elapsed();
        wrong.extend(counted.copies.judge(now, plan.segment_bytes, must_stay(&nodes)));
        if signs.calm.load(Ordering::SeqCst) {
            looks.calm(now);
        }
        for event in looks.look(now, &nodes, &coverage, &mut wrong) {
            history.record(now, &event);
        }
        signs.settled.store(looks.settled(), Ordering::SeqCst);
        if look.is_multiple_of(CHECK_EVERY) {
            // One after the other: it reads every row.
            let shards: Vec<_> = nodes.iter().flat_map(|node| node.shards()).collect();
            let turn = (look / CHECK_EVERY) as usize % shards.len().max(1);
            wrong.extend(shards.get(turn).and_then(|shard| check(shard).err()));
        }
        wrong.into_iter().for_each(|what| history.broken(what));
        sleep(LOOK_EVERY).await;
    }
}

/// A consumer group of the plan, which has the plan's rules.
fn is_of(plan: &Plan, node: &Node, group: GroupId) -> bool {
    let meta = node.meta();
    (0..plan.groups).any(|number| meta.group(&plan.group(number)).is_some_and(|it| it.id == group.0))
}

/// Whether a data shard has another leader than it had.
fn see_leaders(nodes: &[Node], led: &mut BTreeMap<u32, u32>) -> bool {
    let shards = nodes
        .iter()
        .flat_map(|node| node.shards().into_iter().map(|shard| (node.id(), shard)));
    let leaders = shards.filter(|(_, shard)| shard.leads());
    let changed = leaders.map(|(node, shard)| led.insert(shard.id, node) != Some(node));
    changed.fold(false, |any, changed| any || changed)
}

/// Bytes that only copies move, of the node that has most of them.
fn must_stay(nodes: &[Node]) -> u64 {
    let of_shard = |shard: &Arc<DataShard>| shard.machine.read(|core| core.displaced_bytes());
    let of_node = |node: &Node| node.shards().iter().map(of_shard).sum();
    nodes.iter().map(of_node).max().unwrap_or(0)
}

/// The core's own invariants.
///
/// # Errors
/// Says which does not hold.
pub fn check(shard: &DataShard) -> Result<(), String> {
    let checked = shard
        .replica
        .read_state(|state| shard.machine.read(|core| core.check(&Reading(state))));
    checked.map_err(|what| format!("P4: shard {}: {what}", shard.id))
}
