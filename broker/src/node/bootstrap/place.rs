//! Which place in its cluster an empty directory finds.
//!
//! It asks the other nodes of its start list until one of these holds: all of them are new as well and form a cluster with it, the
//! cluster knows exactly this directory, or the catalogue gives it a new incarnation. Else it waits, and says for what.

use std::collections::BTreeMap;

use flotilla_proto::{
    peer::StatusResponse,
    record::{self, meta_command},
};

use super::{ASK_EVERY, ask_all};
use crate::{
    meta::MetaReply,
    node::{
        Node,
        identity::{Identity, cluster_of},
    },
};

/// Decides which incarnation this empty directory is; nothing if the node stops meanwhile.
pub(super) async fn find_place(node: &Node) -> Option<Identity> {
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
            Place::Replaced {
                cluster,
                via,
                nodes,
                replaces,
            } => match register(node, via, replaces).await {
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
        /// The directory that has its place so far.
        replaces: u64,
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
    if let Err(reason) = all_of_one_cluster(answers) {
        return Place::Wait(reason);
    }
    // A formed cluster knows best, and in it whoever has heard of the newest directory here: another's catalogue may stand still.
    let formed = answers.iter().rev().filter(|(_, answer)| answer.cluster != 0);
    if let Some((&via, answer)) = formed.max_by_key(|(_, answer)| incarnation(answer, me.id)) {
        return place_in_cluster(me, via, answer);
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
    match founders(me, start_list, answers) {
        Ok(members) => Place::Form(members),
        Err(reason) => Place::Wait(reason),
    }
}

/// Of which incarnation of a node the answer knows; none if of none.
fn incarnation(answer: &StatusResponse, node: u32) -> Option<u32> {
    let known = answer.nodes.iter().find(|known| known.id == node)?;
    Some(known.incarnation)
}

/// Nobody chooses between two clusters.
fn all_of_one_cluster(answers: &BTreeMap<u32, StatusResponse>) -> Result<(), String> {
    let clusters: BTreeMap<u64, u32> = answers
        .iter()
        .filter_map(|(&peer, answer)| Some((answer.from.as_ref()?.cluster, peer)))
        .filter(|&(cluster, _)| cluster != 0)
        .collect();
    if clusters.len() <= 1 {
        return Ok(());
    }
    let named = clusters
        .iter()
        .map(|(cluster, node)| format!("node {node} to {cluster:016x}"));
    Err(format!(
        "the other nodes belong to different clusters ({}): one of their data directories is at the wrong place",
        named.collect::<Vec<_>>().join(", ")
    ))
}

/// Where a cluster has been formed already, as node `via` told.
fn place_in_cluster(me: &record::Node, via: u32, answer: &StatusResponse) -> Place {
    let cluster = answer.cluster;
    let mut nodes: BTreeMap<_, _> = answer.nodes.iter().map(|node| (node.id, node.clone())).collect();
    match nodes.get(&me.id) {
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
        Some(known) => {
            let replaces = known.directory;
            nodes.insert(me.id, me.clone());
            Place::Replaced {
                cluster,
                via,
                nodes,
                replaces,
            }
        }
    }
}

/// Those who form a new cluster together, or what has to come about first.
fn founders(
    me: &record::Node,
    start_list: Vec<u32>,
    answers: &BTreeMap<u32, StatusResponse>,
) -> Result<BTreeMap<u32, record::Node>, String> {
    let mut members = BTreeMap::from([(me.id, me.clone())]);
    for peer in start_list.into_iter().filter(|&peer| peer != me.id) {
        let described = answers.get(&peer).and_then(|answer| answer.me.clone());
        let described =
            described.ok_or_else(|| format!("node {peer} of initial_cluster does not answer yet"))?;
        let founder = record::Node {
            incarnation: 1,
            ..described
        };
        members.insert(peer, founder);
    }
    if let Some((one, other)) = same_directory(&members) {
        return Err(format!(
            "nodes {one} and {other} have the same data directory: one is a copy of the other; start one of them with an empty one"
        ));
    }
    // Those who formed already wrote down whom they saw: all lists must be the same directories.
    let formed = answers.values().filter(|answer| !answer.fresh);
    let is_other = |seen: &&record::Node| {
        let member = members.get(&seen.id);
        member.is_none_or(|member| member.directory != seen.directory)
    };
    match formed.flat_map(|answer| &answer.nodes).find(is_other) {
        Some(seen) => Err(format!(
            "node {} had another data directory when the cluster began to form; waiting for the others",
            seen.id
        )),
        None => Ok(members),
    }
}

/// Two nodes with one and the same directory.
fn same_directory(members: &BTreeMap<u32, record::Node>) -> Option<(u32, u32)> {
    let mut seen = BTreeMap::new();
    members
        .values()
        .find_map(|node| Some((seen.insert(node.directory, node.id)?, node.id)))
}

/// The incarnation that the meta shard gives this directory, or why it does not.
async fn register(node: &Node, via: u32, replaces: u64) -> Result<u32, String> {
    let registration = record::RegisterNode {
        node: Some(node.describe()),
        replaces,
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

#[cfg(test)]
mod tests;
