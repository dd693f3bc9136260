//! Networks that fall apart, in both directions or in one, and networks that are bad.

use std::time::Duration;

use broker::node::META_SHARD;
use madsim::{
    net::NetSim,
    rand::{Rng, seq::SliceRandom, thread_rng},
    task::NodeId,
};

use super::{Scene, deposed, last};
use crate::{host::Host, plan::Plan};

/// Long enough for an election, and often for more than one.
const CUT_MS: std::ops::Range<u64> = 500..15_000;

/// Long enough for the operator to delete something and for its leaders to drop it.
const BEHIND_MS: std::ops::Range<u64> = 2_000..7_000;

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

/// One node hears no longer what another one says.
pub(super) fn cut_link(from: &Host, to: &Host) -> CutOff {
    let links = vec![(from.machine(), to.machine())];
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
    if scene.hosts.len() >= 3 && thread_rng().gen_bool(0.25) {
        return deposed::ask_a_deposed_leader(scene).await;
    }
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
    // Where names come and go, what a node has not heard of matters.
    if scene.plan.operator && thread_rng().gen_bool(0.5) {
        return lead_behind(scene).await;
    }
    let all = machines(scene);
    let pair: Vec<NodeId> = all.choose_multiple(&mut thread_rng(), 2).copied().collect();
    cut_for_a_while(&[(pair[0], pair[1])]).await
}

/// A node does not hear the catalogue's leader, and all else; while it is behind, it is given shards that others lead, who
/// have carried out what it has not heard of.
async fn lead_behind(scene: &Scene) -> bool {
    let Some(meta) = scene.leader(META_SHARD) else {
        return false;
    };
    let mut others: Vec<&Host> = scene.hosts.iter().filter(|host| host.id != meta.id).collect();
    others.shuffle(&mut thread_rng());
    let Some((behind, rest)) = others.split_first() else {
        return false;
    };
    let link = [(meta.machine(), behind.machine())];
    cut(&link);
    last(BEHIND_MS).await;
    let (to, leading) = (behind.node(), rest.iter().filter_map(|host| host.node()));
    for shard in leading
        .flat_map(|node| node.shards())
        .filter(|shard| shard.leads())
    {
        let replica = to.as_ref().and_then(|to| to.shard(shard.id));
        if let Some(replica) = replica.map(|there| there.replica.id()) {
            // It may have lost the shard, or stop.
            let _ = shard.replica.transfer_leader(replica).await;
        }
    }
    last(BEHIND_MS).await;
    mend(&link);
    true
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
