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
    META_SHARD, Node, StopReason, dropping, identity::Identity, keeper, machine::QueueMachine, membership,
    renewals, replica_of, retention, shard::DataShard,
};
use crate::{
    meta::{MetaReply, MetaState},
    node::peers_transport::RaftOverPeers,
    peer::Body,
};

const ASK_EVERY: Duration = Duration::from_millis(200);
const ASK_FOR: Duration = Duration::from_millis(1_000);
/// Data shards per node of a new cluster. Measured: see docs/performance.md.
const SHARDS_PER_NODE: u32 = 1;

/// Brings the node up and follows the catalogue until the node stops.
pub(super) async fn run(node: Node) {
    if let Err(why) = bring_up(&node).await {
        tracing::error!(?why, "the node cannot take part");
        node.stop(why);
    }
}

/// Damaged data condemns the directory; anything else needs a person.
fn unusable(error: StoreError) -> StopReason {
    match error {
        StoreError::Corrupt(what) => StopReason::Condemned(what),
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
    follow_catalogue(node, &identity).await
}

/// Decides which incarnation this empty directory is; nothing if the node stops meanwhile.
async fn find_place(node: &Node) -> Option<Identity> {
    let mut last_reason = String::new();
    loop {
        if node.stopping() {
            return None;
        }
        match decide(node, &ask_all(node).await) {
            Place::Form(nodes) => {
                return Some(Identity {
                    node: node.id(),
                    incarnation: 1,
                    nodes,
                });
            }
            Place::Known { incarnation, nodes } => {
                return Some(Identity {
                    node: node.id(),
                    incarnation,
                    nodes,
                });
            }
            Place::Replaced { via, nodes } => {
                if let Some(incarnation) = register(node, via).await {
                    tracing::warn!(
                        incarnation,
                        "this data directory is new: its replicas are rebuilt from the peers"
                    );
                    return Some(Identity {
                        node: node.id(),
                        incarnation,
                        nodes,
                    });
                }
            }
            Place::Wait(reason) => {
                if reason != last_reason {
                    tracing::info!(%reason, "waiting for the cluster");
                    last_reason = reason;
                }
            }
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn ask_all(node: &Node) -> BTreeMap<u32, StatusResponse> {
    let peers = node
        .inner
        .options
        .initial_cluster
        .keys()
        .copied()
        .filter(|&peer| peer != node.id());
    let asked = peers.map(|peer| async move {
        let question = StatusRequest {
            me: Some(node.describe()),
            fresh: true,
        };
        match node
            .inner
            .transport
            .call(peer, Body::Status(question), ASK_FOR)
            .await
        {
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
        incarnation: u32,
        nodes: BTreeMap<u32, record::Node>,
    },
    Replaced {
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
    )
}

/// The decision itself, from what the peers answered.
fn decide_place(me: &record::Node, start_list: Vec<u32>, answers: &BTreeMap<u32, StatusResponse>) -> Place {
    // A formed cluster knows best.
    if let Some((&via, answer)) = answers.iter().find(|(_, answer)| answer.cluster != 0) {
        let nodes: BTreeMap<_, _> = answer.nodes.iter().map(|node| (node.id, node.clone())).collect();
        return match nodes.get(&me.id) {
            None => Place::Wait(format!(
                "the cluster does not know node {}; joining comes later",
                me.id
            )),
            // Planted: a node is known by its number.
            #[cfg(madsim)]
            Some(known) if plant::is(plant::Bug::WipedReplicaVotes) => Place::Known {
                incarnation: known.incarnation,
                nodes,
            },
            Some(known) if known.directory == me.directory => Place::Known {
                incarnation: known.incarnation,
                nodes,
            },
            Some(_) => {
                let mut nodes = nodes;
                nodes.insert(me.id, me.clone());
                Place::Replaced { via, nodes }
            }
        };
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

async fn register(node: &Node, via: u32) -> Option<u32> {
    let registration = record::RegisterNode {
        node: Some(node.describe()),
    };
    let command = record::MetaCommand {
        command: Some(meta_command::Command::RegisterNode(registration)),
    };
    match node.propose_meta_via(via, &command).await? {
        MetaReply::Registered { incarnation } => Some(incarnation),
        refused => {
            tracing::warn!(?refused, "the meta shard does not register this node");
            None
        }
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
            transport: Arc::new(RaftOverPeers::new(Arc::clone(&node.inner.transport))),
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
    loop {
        let meta = changes.borrow_and_update().clone();
        if meta.cluster().is_none() {
            found_cluster(node, identity).await;
        } else {
            open_shards(node, identity, &meta).await?;
            learn_addresses(node, &meta);
            register_addresses(node, &meta).await;
        }
        tokio::select! {
            biased;
            _ = stop.wait_for(Option::is_some) => return Ok(()),
            changed = changes.changed() => if changed.is_err() { return Ok(()) },
            () = tokio::time::sleep(ASK_EVERY) => {}
        }
    }
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
        cluster: node.clock().random_u64().max(1),
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
                transport: Arc::new(RaftOverPeers::new(Arc::clone(&node.inner.transport))),
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
        let shard = Arc::new(DataShard::new(id, replica, machine, Arc::clone(node.clock())));
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

async fn register_addresses(node: &Node, meta: &MetaState) {
    let me = node.describe();
    let Some(known) = meta.nodes().get(&me.id) else {
        return;
    };
    let same = known.peer_addr == me.peer_addr
        && known.client_addr == me.client_addr
        && known.http_addr == me.http_addr;
    if same || known.directory != me.directory {
        return;
    }
    let registration = record::RegisterNode { node: Some(me) };
    if let Err(error) = node
        .propose_meta(meta_command::Command::RegisterNode(registration))
        .await
    {
        tracing::info!(%error, "registering this node's addresses is tried again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u32, directory: u64) -> record::Node {
        record::Node {
            id,
            directory,
            incarnation: 1,
            ..Default::default()
        }
    }

    fn answer(me: record::Node, fresh: bool, cluster: u64, nodes: &[record::Node]) -> (u32, StatusResponse) {
        let id = me.id;
        (
            id,
            StatusResponse {
                me: Some(me),
                fresh,
                cluster,
                nodes: nodes.to_vec(),
                ..Default::default()
            },
        )
    }

    #[test]
    fn three_empty_directories_form_a_cluster() {
        let answers = BTreeMap::from([
            answer(member(2, 22), true, 0, &[]),
            answer(member(3, 33), true, 0, &[]),
        ]);
        let Place::Form(members) = decide_place(&member(1, 11), vec![1, 2, 3], &answers) else {
            panic!()
        };
        assert_eq!(members.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn nobody_forms_while_a_node_is_silent() {
        let answers = BTreeMap::from([answer(member(2, 22), true, 0, &[])]);
        assert!(matches!(
            decide_place(&member(1, 11), vec![1, 2, 3], &answers),
            Place::Wait(_)
        ));
    }

    #[test]
    fn a_lost_directory_is_replaced_and_never_forms() {
        let nodes = [member(1, 11), member(2, 22), member(3, 33)];
        let answers = BTreeMap::from([answer(member(2, 22), false, 7, &nodes)]);
        let place = decide_place(&member(1, 99), vec![1, 2, 3], &answers);
        assert!(matches!(place, Place::Replaced { via: 2, .. }), "{place:?}");
    }

    #[test]
    fn a_directory_that_formed_with_another_one_makes_the_new_one_wait() {
        let seen = [member(1, 11), member(2, 22), member(3, 33)];
        let answers = BTreeMap::from([
            answer(member(2, 22), false, 0, &seen),
            answer(member(3, 33), false, 0, &seen),
        ]);
        let place = decide_place(&member(1, 99), vec![1, 2, 3], &answers);
        assert!(matches!(place, Place::Wait(_)), "{place:?}");
    }

    #[test]
    fn a_late_node_with_the_expected_directory_is_known() {
        let nodes = [member(1, 11), member(2, 22), member(3, 33)];
        let answers = BTreeMap::from([answer(member(2, 22), false, 7, &nodes)]);
        let place = decide_place(&member(1, 11), vec![1, 2, 3], &answers);
        assert!(matches!(place, Place::Known { incarnation: 1, .. }), "{place:?}");
    }
}
