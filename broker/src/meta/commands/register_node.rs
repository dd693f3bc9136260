//! `RegisterNode`: a member starts, perhaps with other addresses, perhaps with a new data directory.
//!
//! A new directory means that everything the node had promised is gone: it gets a new incarnation,
//! hence new replica ids, and no vote of the old ones counts again.

use flotilla_proto::record::RegisterNode;
use queue_core::KeyValue;

use super::{Done, check_node, invalid, refuse};
use crate::meta::{MetaRefusal, MetaReply, MetaState};

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
    let Some(known) = state.nodes().get(&node.id) else {
        return refuse(MetaRefusal::UnknownNode);
    };
    // A node that was only named at the bootstrap shows its directory now for the first time.
    let same = known.directory == node.directory || known.directory == 0;
    let incarnation = if same {
        known.incarnation
    } else {
        known.incarnation + 1
    };
    node.incarnation = incarnation;
    if *known != node {
        state.put_node(kv, node)?;
    }
    Ok(Ok(MetaReply::Registered { incarnation }))
}
