//! Signs of life that other nodes heard: before a client that holds leases here counts as gone, they are asked.
//!
//! A client beats where its route says. That may be one node for as long as it lives, while messages come to it from all.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_proto::peer::{ForwardResponse, Overdue, Sign, Signs};
use futures::future::join_all;
use prost::Message;
use tokio::time::Duration;

use super::Node;
use crate::limits::HOLDERS_AT_ONCE;

/// The name under which nodes ask each other.
pub(super) const RPC: &str = "flotilla.Signs";

/// A node that has not answered for so long has heard nothing.
const PATIENCE: Duration = Duration::from_millis(500);

/// Takes over what other nodes last heard of these clients, at most [`HOLDERS_AT_ONCE`].
pub(super) async fn ask(node: &Node, clients: Vec<u64>) {
    if clients.is_empty() {
        return;
    }
    let request = Bytes::from(Overdue { clients }.encode_to_vec());
    let meta = node.meta();
    let others = meta.nodes().keys().filter(|&&other| other != node.id());
    let answers = others.map(|&other| node.forward(other, RPC, 0, None, request.clone(), PATIENCE));
    let answers = join_all(answers).await.into_iter().flatten().flatten();
    let signs = answers.filter_map(|answer| Some(Signs::decode(answer).ok()?.signs));
    // The latest counts.
    let mut latest: BTreeMap<u64, Sign> = BTreeMap::new();
    for sign in signs.flatten() {
        let known = latest.entry(sign.client).or_insert(sign);
        if sign.ago_ms < known.ago_ms {
            *known = sign;
        }
    }
    let now = node.clock().steady_ms();
    for sign in latest.into_values() {
        let at_ms = now.saturating_sub(sign.ago_ms);
        node.inner.clients.told(sign.client, at_ms, sign.departed);
    }
}

/// Answers another node.
pub(super) fn answer(node: &Node, request: Bytes) -> ForwardResponse {
    let asked = Overdue::decode(request).unwrap_or_default().clients;
    let now = node.clock().steady_ms();
    let signs = asked.into_iter().take(HOLDERS_AT_ONCE).filter_map(|client| {
        let (at_ms, departed) = node.inner.clients.last_sign(client)?;
        Some(Sign {
            client,
            ago_ms: now.saturating_sub(at_ms),
            departed,
        })
    });
    let signs = Signs {
        signs: signs.collect(),
    };
    ForwardResponse {
        responses: vec![signs.encode_to_vec().into()],
        ..Default::default()
    }
}
