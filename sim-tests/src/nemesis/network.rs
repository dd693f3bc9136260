//! Networks that fall apart, in both directions or in one, and networks that are bad.

use std::time::Duration;

use madsim::{
    net::NetSim,
    rand::{Rng, seq::SliceRandom, thread_rng},
    task::NodeId,
};

use super::{Scene, last};
use crate::{host::Host, plan::Plan};

/// Long enough for an election, and often for more than one.
const CUT_MS: std::ops::Range<u64> = 500..15_000;

fn cut(links: &[(NodeId, NodeId)]) {
    for &(from, to) in links {
        NetSim::current().clog_link(from, to);
    }
}

fn mend(links: &[(NodeId, NodeId)]) {
    for &(from, to) in links {
        NetSim::current().unclog_link(from, to);
    }
}

async fn cut_for_a_while(links: &[(NodeId, NodeId)]) -> bool {
    cut(links);
    last(CUT_MS).await;
    mend(links);
    true
}

/// A node that no other node hears, or can reach.
pub(super) struct CutOff(Vec<(NodeId, NodeId)>);

impl CutOff {
    /// It is one of them again.
    pub(super) fn mend(self) {
        mend(&self.0);
    }
}

/// Cuts a node off from all others.
pub(super) fn cut_off(scene: &Scene, host: &Host) -> CutOff {
    let links = between(&[host.machine()], &all_but(scene, host.machine()));
    cut(&links);
    CutOff(links)
}

fn all_but(scene: &Scene, machine: NodeId) -> Vec<NodeId> {
    machines(scene)
        .into_iter()
        .filter(|other| *other != machine)
        .collect()
}

/// Nodes only: clients still reach everybody, as in many a real partition.
fn between(some: &[NodeId], others: &[NodeId]) -> Vec<(NodeId, NodeId)> {
    let pairs = some.iter().flat_map(|a| others.iter().map(|b| (*a, *b)));
    pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect()
}

fn machines(scene: &Scene) -> Vec<NodeId> {
    scene.hosts.iter().map(Host::machine).collect()
}

pub(super) async fn isolate(scene: &Scene) -> bool {
    let machine = scene.anybody().machine();
    // From clients too, sometimes.
    if thread_rng().gen_bool(0.5) {
        NetSim::current().clog_node(machine);
        last(CUT_MS).await;
        NetSim::current().unclog_node(machine);
        return true;
    }
    cut_for_a_while(&between(&[machine], &all_but(scene, machine))).await
}

pub(super) async fn split(scene: &Scene) -> bool {
    let mut all = machines(scene);
    all.shuffle(&mut thread_rng());
    let at = thread_rng().gen_range(1..all.len());
    let (some, others) = all.split_at(at);
    cut_for_a_while(&between(some, others)).await
}

pub(super) async fn one_way(scene: &Scene) -> bool {
    let all = machines(scene);
    let pair: Vec<NodeId> = all.choose_multiple(&mut thread_rng(), 2).copied().collect();
    cut_for_a_while(&[(pair[0], pair[1])]).await
}

pub(super) async fn loss(scene: &Scene) -> bool {
    let rate = thread_rng().gen_range(0.01..0.3);
    set_loss(rate);
    last(CUT_MS).await;
    set_loss(scene.plan.loss);
    true
}

pub(super) async fn disorder(scene: &Scene) -> bool {
    scene.disorder.set(thread_rng().gen_range(0.001..0.1));
    last(CUT_MS).await;
    scene.disorder.set(0.0);
    true
}

pub(super) async fn latency(scene: &Scene) -> bool {
    let most = thread_rng().gen_range(20..400);
    set_latency(1..most);
    last(CUT_MS).await;
    set_latency(scene.plan.latency_ms.clone());
    true
}

fn set_loss(rate: f64) {
    NetSim::current().update_config(|config| config.packet_loss_rate = rate);
}

fn set_latency(ms: std::ops::Range<u64>) {
    let range = Duration::from_millis(ms.start)..Duration::from_millis(ms.end);
    NetSim::current().update_config(|config| config.send_latency = range);
}

/// The network as the plan has it when there is no fault.
pub(crate) fn usual(plan: &Plan) {
    set_loss(plan.loss);
    set_latency(plan.latency_ms.clone());
}

/// From now on packets come as a good network brings them.
pub(super) fn heal() {
    set_loss(0.0);
    set_latency(1..5);
}
