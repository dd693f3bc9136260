//! How a node finds its place: forms a cluster, goes on after a restart, or comes
//! back with an empty data directory.
//!
//! The rule that everything here serves: no replica ever votes with amnesia. A
//! directory takes part under incarnation 1 only if every node of the start list saw
//! exactly this directory before anything was agreed; any other directory of the same
//! node gets a new incarnation from the meta shard, and so new Raft ids.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flotilla_proto::{
    peer::{StatusRequest, StatusResponse},
    record::{self, meta_command},
};
use raft_store::{Replica, ReplicaOptions, StoreError};

use super::{
    META_SHARD, Node, StopReason, dropping, forgetting,
    identity::{Identity, cluster_of},
    keeper,
    machine::QueueMachine,
    membership, renewals, replica_of, retention,
    shard::DataShard,
};
use crate::{
    meta::{MetaReply, MetaState},
    node::peers_transport::RaftOverPeers,
    peer::{Body, PeerTransport},
};

const ASK_EVERY: Duration = Duration::from_millis(200);
const ASK_FOR: Duration = Duration::from_millis(1_000);
/// The catalogue hears of this node's log again when it has grown by so many batches, and no sooner than after this time: an idle
/// cluster writes nothing.
const REGISTER_BATCHES: u64 = 256;
const REGISTER_EVERY_MS: u64 = 60_000;
/// How long a registration waits for the one before; twice as long each time while the catalogue's entry stays as it was.
const REGISTER_PAUSE_MS: std::ops::RangeInclusive<u64> = 1_000..=60_000;
/// Data shards per node of a new cluster. Measured: see docs/performance.md.
const SHARDS_PER_NODE: u32 = 1;

/// Brings the node up and follows the catalogue until the node stops.
pub(super) async fn run(node: Node) {
    if let Err(why) = bring_up(&node).await {
        if node.stopping() {
            return; // What is half up falls down; why it stops was said.
        }
        tracing::error!(?why, "the node cannot take part");
        node.stop(why);
    }
}

/// Damaged data condemns the directory; anything else needs a person.
fn unusable(error: StoreError) -> StopReason {
    match error {
        StoreError::Corrupt(what) => StopReason::Condemned(what),
        StoreError::Newer(what) => StopReason::Newer(what),
        other => StopReason::Fatal(other.to_string()),
    }
}

fn fatal(error: impl ToString) -> StopReason {
    StopReason::Fatal(error.to_string())
}

async fn bring_up(node: &Node) -> Result<(), StopReason> {
    let known = node.inner.identity.lock().expect("no panic while held").clone();
    let identity = match known {
        Some(identity) => identity,
        None => {
            let Some(identity) = find_place(node).await else {
                return Ok(());
            };
            identity.store(&node.inner.disk).map_err(fatal)?;
            *node.inner.identity.lock().expect("no panic while held") = Some(identity.clone());
            identity
        }
    };
    let meta = open_meta(node, &identity).await?;
    tokio::spawn(membership::first_leader(node.clone(), META_SHARD, meta.clone()));
    if identity.incarnation == 1 {
        let members = identity.nodes.keys().map(|&id| (replica_of(id, 1), id)).collect();
        meta.initialize(members).await.map_err(fatal)?;
    }
    tokio::spawn(membership::run(node.clone()));
    tokio::spawn(retention::run(node.clone()));
    tokio::spawn(forgetting::run(node.clone()));
    follow_catalogue(node, &identity).await
}

/// Decides which incarnation this empty directory is; nothing if the node stops meanwhile.
async fn find_place(node: &Node) -> Option<Identity> {
    loop {
        if node.stopping() {
            return None;
        }
        match decide(node, &ask_all(node).await) {
            Place::Form(nodes) => {
                return Some(Identity {
                    node: node.id(),
                    cluster: cluster_of(&nodes),
                    incarnation: 1,
                    nodes,
                });
            }
            Place::Known {
                cluster,
                incarnation,
                nodes,
            } => {
                return Some(Identity {
                    node: node.id(),
                    cluster,
                    incarnation,
                    nodes,
                });
            }
            Place::Replaced { cluster, via, nodes } => match register(node, via).await {
                Ok(incarnation) => {
                    tracing::warn!(
                        incarnation,
                        "this data directory is new: its replicas are rebuilt from the peers"
                    );
                    return Some(Identity {
                        node: node.id(),
                        cluster,
                        incarnation,
                        nodes,
                    });
                }
                Err(reason) => wait_for(node, reason),
            },
            Place::Wait(reason) => wait_for(node, reason),
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Says once what is waited for.
fn wait_for(node: &Node, reason: String) {
    let mut waits_for = node.inner.waits_for.lock().expect("no panic while held");
    if waits_for.as_ref() != Some(&reason) {
        tracing::info!(%reason, "waiting for the cluster");
        *waits_for = Some(reason);
    }
}

pub(super) async fn ask_all(node: &Node) -> BTreeMap<u32, StatusResponse> {
    let peers = node
        .inner
        .options
        .initial_cluster
        .keys()
        .copied()
        .filter(|&peer| peer != node.id());
    let question = StatusRequest {
        me: Some(node.describe()),
        fresh: true,
        from: Some(node.hello()),
    };
    let mut answers = ask(&*node.inner.transport, peers, &question, ASK_FOR).await;
    answers.retain(|&peer, answer| {
        let refuses = answer.from.as_ref().filter(|from| from.refused.is_some());
        if let Some(from) = refuses.filter(|from| from.node == peer) {
            node.told(from);
        }
        refuses.is_none()
    });
    answers
}

/// Asks each of these nodes once; what those answered that did so in time.
pub(crate) async fn ask(
    transport: &dyn PeerTransport,
    peers: impl Iterator<Item = u32>,
    question: &StatusRequest,
    within: Duration,
) -> BTreeMap<u32, StatusResponse> {
    let asked = peers.map(|peer| async move {
        match transport.call(peer, Body::Status(question.clone()), within).await {
            Ok(Body::StatusAnswer(answer)) => Some((peer, answer)),
            _ => None,
        }
    });
    futures::future::join_all(asked)
        .await
        .into_iter()
        .flatten()
        .collect()
}

#[derive(Debug, PartialEq)]
enum Place {
    Form(BTreeMap<u32, record::Node>),
    Known {
        cluster: u64,
        incarnation: u32,
        nodes: BTreeMap<u32, record::Node>,
    },
    Replaced {
        cluster: u64,
        via: u32,
        nodes: BTreeMap<u32, record::Node>,
    },
    Wait(String),
}

fn decide(node: &Node, answers: &BTreeMap<u32, StatusResponse>) -> Place {
    let mut me = node.describe();
    me.incarnation = 1;
    decide_place(
        &me,
        node.inner.options.initial_cluster.keys().copied().collect(),
        answers,
        node.inner.had_data,
    )
}

/// The decision itself, from what the peers answered.
fn decide_place(
    me: &record::Node,
    start_list: Vec<u32>,
    answers: &BTreeMap<u32, StatusResponse>,
    had_data: bool,
) -> Place {
    let clusters: BTreeMap<u64, u32> = answers
        .iter()
        .filter_map(|(&peer, answer)| Some((answer.from.as_ref()?.cluster, peer)))
        .filter(|&(cluster, _)| cluster != 0)
        .collect();
    if clusters.len() > 1 {
        let named = clusters
            .iter()
            .map(|(cluster, node)| format!("node {node} to {cluster:016x}"));
        return Place::Wait(format!(
            "the other nodes belong to different clusters ({}): one of their data directories is at the wrong place",
            named.collect::<Vec<_>>().join(", ")
        ));
    }
    // A formed cluster knows best.
    if let Some((&via, answer)) = answers.iter().find(|(_, answer)| answer.cluster != 0) {
        let cluster = answer.cluster;
        let nodes: BTreeMap<_, _> = answer.nodes.iter().map(|node| (node.id, node.clone())).collect();
        return match nodes.get(&me.id) {
            None => Place::Wait(format!(
                "the cluster does not know node {}; joining comes later",
                me.id
            )),
            Some(known) if plant!(WipedReplicaVotes => true, else known.directory == me.directory) => {
                Place::Known {
                    cluster,
                    incarnation: known.incarnation,
                    nodes,
                }
            }
            Some(_) => {
                let mut nodes = nodes;
                nodes.insert(me.id, me.clone());
                Place::Replaced { cluster, via, nodes }
            }
        };
    }
    // Where there was a cluster once, a new one would be an empty one.
    let lost = answers.iter().find(|(_, answer)| answer.had_data);
    if let Some(node) = had_data.then_some(me.id).or(lost.map(|(&peer, _)| peer)) {
        return Place::Wait(format!(
            "node {node} had data that was set aside as damaged, so no new cluster is formed: start the nodes that still have \
             data, or put a directory back that was set aside; to begin without any of it, move away what was set aside and \
             delete the file HAD_DATA"
        ));
    }
    let mut members = BTreeMap::from([(me.id, me.clone())]);
    for peer in start_list.into_iter().filter(|&peer| peer != me.id) {
        let Some(described) = answers.get(&peer).and_then(|answer| answer.me.clone()) else {
            return Place::Wait(format!("node {peer} of initial_cluster does not answer yet"));
        };
        members.insert(
            peer,
            record::Node {
                incarnation: 1,
                ..described
            },
        );
    }
    if let Some((one, other)) = same_directory(&members) {
        return Place::Wait(format!(
            "nodes {one} and {other} have the same data directory: one is a copy of the other; start one of them with an empty one"
        ));
    }
    // Those who formed already wrote down whom they saw: all lists must be the same directories.
    for answer in answers.values().filter(|answer| !answer.fresh) {
        for seen in &answer.nodes {
            if members
                .get(&seen.id)
                .is_none_or(|member| member.directory != seen.directory)
            {
                return Place::Wait(format!(
                    "node {} had another data directory when the cluster began to form; waiting for the others",
                    seen.id
                ));
            }
        }
    }
    Place::Form(members)
}

/// Two nodes with one and the same directory.
fn same_directory(members: &BTreeMap<u32, record::Node>) -> Option<(u32, u32)> {
    let mut seen = BTreeMap::new();
    members
        .values()
        .find_map(|node| Some((seen.insert(node.directory, node.id)?, node.id)))
}

/// The incarnation that the meta shard gives this directory, or why it does not.
async fn register(node: &Node, via: u32) -> Result<u32, String> {
    let registration = record::RegisterNode {
        node: Some(node.describe()),
    };
    let command = record::MetaCommand {
        command: Some(meta_command::Command::RegisterNode(registration)),
    };
    match node.propose_meta_via(via, &command).await {
        Some(MetaReply::Registered { incarnation }) => Ok(incarnation),
        Some(MetaReply::Refused(refusal)) => Err(format!(
            "the cluster does not take this data directory: {refusal}"
        )),
        _ => Err("the cluster's catalogue cannot be changed; do a majority of the nodes run?".into()),
    }
}

async fn open_meta(node: &Node, identity: &Identity) -> Result<Replica, StopReason> {
    let replica = node
        .inner
        .store
        .open_replica(ReplicaOptions {
            shard: META_SHARD,
            replica: identity.replica(),
            machine: Arc::clone(&node.inner.meta_machine) as _,
            transport: Arc::new(RaftOverPeers::new(node)),
            raft: node.inner.options.raft.clone(),
        })
        .await
        .map_err(unusable)?;
    assert!(
        node.inner.meta_replica.set(replica.clone()).is_ok(),
        "the meta shard is opened once"
    );
    Ok(replica)
}

/// Opens shards, learns addresses and keeps the registration right, as the catalogue changes.
async fn follow_catalogue(node: &Node, identity: &Identity) -> Result<(), StopReason> {
    let mut changes = node.inner.meta_machine.subscribe();
    let mut stop = node.inner.stop.subscribe();
    let mut pace = Pace::default();
    loop {
        let meta = changes.borrow_and_update().clone();
        if let Some(cluster) = meta.cluster().filter(|&cluster| cluster != identity.cluster) {
            return Err(StopReason::Refused(format!(
                "the state in this data directory is of cluster {cluster:016x}, its file NODE of cluster {:016x}: parts of \
                 different directories were put together",
                identity.cluster
            )));
        }
        let is_empty = meta.cluster().is_none();
        if is_empty {
            found_cluster(node, identity).await;
        } else {
            open_shards(node, identity, &meta).await?;
            learn_addresses(node, &meta);
            register_self(node, &meta, &mut pace).await;
        }
        tokio::select! {
            biased;
            _ = stop.wait_for(Option::is_some) => return Ok(()),
            changed = changes.changed() => if changed.is_err() { return Ok(()) },
            // Others fill this replica, unless its directory was put back to before it was filled: they say so when asked.
            () = ask_whether_refused(node), if is_empty => {}
            () = tokio::time::sleep(ASK_EVERY), if !is_empty => {}
        }
    }
}

/// Asks the others once, after a while. One that refuses this node's directory stops it.
async fn ask_whether_refused(node: &Node) {
    tokio::time::sleep(ASK_EVERY).await;
    plant!(OldEmptyDirectoryWaits => (), else _ = ask_all(node).await);
}

/// The first leader of the meta shard writes down what the cluster is.
async fn found_cluster(node: &Node, identity: &Identity) {
    if !node.leads(META_SHARD) {
        return;
    }
    let nodes: Vec<_> = identity.nodes.values().cloned().collect();
    let count = node
        .inner
        .options
        .data_shards
        .unwrap_or(SHARDS_PER_NODE * nodes.len() as u32);
    let bootstrap = record::Bootstrap {
        cluster: identity.cluster,
        nodes,
        data_shards: count,
    };
    match node
        .propose_meta(meta_command::Command::Bootstrap(bootstrap))
        .await
    {
        Ok(reply) => tracing::info!(?reply, data_shards = count, "cluster formed"),
        Err(error) => tracing::info!(%error, "forming the cluster is tried again"),
    }
}

async fn open_shards(node: &Node, identity: &Identity, meta: &MetaState) -> Result<(), StopReason> {
    for id in 1..=meta.data_shards() {
        if node.shard(id).is_some() {
            continue;
        }
        let machine = Arc::new(QueueMachine::new(
            identity.replica(),
            Arc::clone(&node.inner.hub),
            Arc::clone(node.clock()),
        ));
        let replica = node
            .inner
            .store
            .open_replica(ReplicaOptions {
                shard: id,
                replica: identity.replica(),
                machine: Arc::clone(&machine) as _,
                transport: Arc::new(RaftOverPeers::new(node)),
                raft: node.inner.options.raft.clone(),
            })
            .await
            .map_err(unusable)?;
        if identity.incarnation == 1 {
            let members = meta
                .initial_nodes()
                .iter()
                .map(|&node| (replica_of(node, 1), node))
                .collect();
            replica.initialize(members).await.map_err(fatal)?;
        }
        let shard = Arc::new(DataShard::new(
            id,
            replica,
            machine,
            Arc::clone(node.clock()),
            node.options().bounds,
        ));
        node.inner
            .shards
            .write()
            .expect("no panic while held")
            .insert(id, Arc::clone(&shard));
        tokio::spawn(membership::first_leader(node.clone(), id, shard.replica.clone()));
        tokio::spawn(dropping::run(node.clone(), Arc::clone(&shard)));
        tokio::spawn(keeper::run(node.clone(), Arc::clone(&shard)));
        tokio::spawn(renewals::run(node.clone(), shard));
    }
    Ok(())
}

fn learn_addresses(node: &Node, meta: &MetaState) {
    let others = meta.nodes().values().filter(|other| other.id != node.id());
    node.inner
        .transport
        .set_peers(others.map(|other| (other.id, other.peer_addr.clone())).collect());
}

/// Whether the catalogue's entry shows this node as it is. How far its log was may be a lie, as everything in there.
fn shows(known: &record::Node, me: &record::Node, lately: bool) -> bool {
    let same = known.peer_addr == me.peer_addr
        && known.client_addr == me.client_addr
        && known.http_addr == me.http_addr
        && known.session == me.session;
    // Told once more after its first batch: a copy from before this life must show less than is registered.
    let told_enough =
        known.synced > me.opened && (lately || me.synced < known.synced.saturating_add(REGISTER_BATCHES));
    same && told_enough
}

/// How often this node registers itself: each time costs every node a write.
#[derive(Default)]
struct Pace {
    tried_ms: u64,
    pause_ms: u64,
    /// The catalogue's entry at the last try.
    seen: Option<record::Node>,
}

impl Pace {
    /// Whether it is time for another try; if so, it counts as made.
    fn may_try(&mut self, entry: &record::Node, now_ms: u64) -> bool {
        let changed = self.seen.as_ref() != Some(entry);
        let pause_ms = if changed {
            *REGISTER_PAUSE_MS.start()
        } else {
            self.pause_ms
        };
        if self.seen.is_some() && now_ms - self.tried_ms < pause_ms {
            return false;
        }
        *self = Pace {
            tried_ms: now_ms,
            pause_ms: if changed { pause_ms } else { pause_ms * 2 }.min(*REGISTER_PAUSE_MS.end()),
            seen: Some(entry.clone()),
        };
        true
    }
}

/// Keeps the catalogue's entry of this node right: where it is, and how far its log was in this life, so that an older state
/// of this directory is known for one also after a restart of all nodes.
async fn register_self(node: &Node, meta: &MetaState, pace: &mut Pace) {
    let now = node.clock().steady_ms();
    let me = node.describe();
    let Some(known) = meta.nodes().get(&me.id) else {
        return;
    };
    let lately = now - pace.tried_ms < REGISTER_EVERY_MS;
    if shows(known, &me, lately) || known.directory != me.directory {
        return;
    }
    if !pace.may_try(known, now) {
        return;
    }
    let registration = record::RegisterNode { node: Some(me) };
    match node
        .propose_meta(meta_command::Command::RegisterNode(registration))
        .await
    {
        Ok(MetaReply::Refused(refusal)) => {
            tracing::warn!(%refusal, "the catalogue does not take this node's registration")
        }
        Ok(_) => {}
        Err(error) => tracing::info!(%error, "registering this node is tried again"),
    }
}

#[cfg(test)]
mod tests;
