//! `RegisterNode`: a member starts, perhaps with other addresses, perhaps with a new data directory.
//!
//! A new directory means that everything the node had promised is gone: it gets a new incarnation,
//! hence new replica ids, and no vote of the old ones counts again. A directory that begins with less than it had in the
//! life before has lost promises, too: it is not registered, and so what it had stays known.

use flotilla_proto::record::RegisterNode;
use queue_core::KeyValue;

use super::{Done, check_node, invalid, refuse};
use crate::meta::{MetaRefusal, MetaReply, MetaState, limits};

pub(in crate::meta) fn apply(state: &mut MetaState, kv: &mut dyn KeyValue, command: &RegisterNode) -> Done {
    let Some(mut node) = command.node.clone() else {
        return refuse(invalid("no node is named"));
    };
    if let Err(refusal) = check_node(&node) {
        return refuse(refusal);
    }
    if node.directory == 0 {
        return refuse(invalid("a data directory's identity is not 0"));
    }
    if node.synced < node.opened {
        return refuse(invalid(format!(
            "node {} has {} batches in its log, which was opened with {}",
            node.id, node.synced, node.opened
        )));
    }
    let Some(known) = state.nodes().get(&node.id) else {
        return refuse(MetaRefusal::UnknownNode);
    };
    // A node that was only named at the bootstrap shows its directory now for the first time.
    let same = known.directory == node.directory || known.directory == 0;
    if !same && node.incarnation != 0 {
        return refuse(invalid(format!(
            "the data directory {:016x} of node {} was replaced: the cluster goes on with {:016x}, incarnation {}",
            node.directory, node.id, known.directory, known.incarnation
        )));
    }
    // One that was asked for by a process that is gone may come late: the directory that asked since is in use.
    let is_late = !same && ![0, known.directory].contains(&command.replaces);
    if plant!(LateDirectoryTakesThePlace => false, else is_late) {
        return refuse(invalid(format!(
            "node {} has another new data directory meanwhile: {:016x}, incarnation {}",
            node.id, known.directory, known.incarnation
        )));
    }
    let incarnation = if same {
        known.incarnation
    } else {
        plant!(IncarnationReused => known.incarnation, else known.incarnation.saturating_add(1))
    };
    if incarnation > limits::MAX_INCARNATION {
        return refuse(invalid(format!("node {} had too many data directories", node.id)));
    }
    if same && known.session != node.session && node.opened < known.synced {
        return refuse(invalid(format!(
            "the data directory {:016x} of node {} was put back to an older state: it had {} batches in its log, and was \
             opened with {}",
            node.directory, node.id, known.synced, node.opened
        )));
    }
    node.incarnation = incarnation;
    if *known != node {
        state.put_node(kv, node)?;
    }
    Ok(Ok(MetaReply::Registered { incarnation }))
}
