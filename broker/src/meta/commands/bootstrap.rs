//! `Bootstrap`: a cluster is born, with its identity, its nodes and the number of its data shards.

use std::collections::BTreeSet;

use flotilla_proto::record::Bootstrap;
use queue_core::KeyValue;

use super::{Done, check_node, invalid, refuse};
use crate::meta::{MetaRefusal, MetaReply, MetaState, limits};

pub(in crate::meta) fn apply(state: &mut MetaState, kv: &mut dyn KeyValue, command: &Bootstrap) -> Done {
    if state.cluster().is_some() {
        return refuse(MetaRefusal::AlreadyBootstrapped);
    }
    if let Err(refusal) = check(command) {
        return refuse(refusal);
    }
    state.begin(kv, command)?;
    for node in &command.nodes {
        let mut node = node.clone();
        node.incarnation = 1;
        state.put_node(kv, node)?;
    }
    Ok(Ok(MetaReply::Bootstrapped))
}

fn check(command: &Bootstrap) -> Result<(), MetaRefusal> {
    if command.cluster == 0 {
        return Err(invalid("a cluster's identity is not 0"));
    }
    if command.data_shards == 0 || command.data_shards > limits::MAX_DATA_SHARDS {
        return Err(invalid(format!(
            "a cluster has 1 to {} data shards",
            limits::MAX_DATA_SHARDS
        )));
    }
    if command.nodes.is_empty() || command.nodes.len() > limits::MAX_INITIAL_NODES {
        return Err(invalid(format!(
            "a cluster starts with 1 to {} nodes",
            limits::MAX_INITIAL_NODES
        )));
    }
    let mut ids = BTreeSet::new();
    for node in &command.nodes {
        check_node(node)?;
        if !ids.insert(node.id) {
            return Err(invalid(format!("node {} is named twice", node.id)));
        }
    }
    Ok(())
}
