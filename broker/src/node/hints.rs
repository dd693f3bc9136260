//! Hints between nodes: the leader of a queue with a message for which no receive waits here tells a node that asked.
//!
//! One call to each other node is on its way at most, with everything that it is to be told. A node where nobody waits
//! (any more) says so, and then the next one that asked is told.

use std::collections::BTreeSet;

use bytes::Bytes;
use flotilla_proto::peer::{ForwardResponse, Hint, Hints};
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use prost::Message;
use tokio::time::Duration;

use super::{Node, hub::Pair};
use crate::limits::MAX_HINTS_PER_CALL;

/// The name under which hints travel between nodes.
pub(super) const RPC: &str = "flotilla.Hints";

/// A node that has not answered for so long is passed over.
const PATIENCE: Duration = Duration::from_millis(500);

/// Tells other nodes what they asked to be told, until the node stops.
pub(super) async fn run(node: Node) {
    let mut stop = node.inner.stop.subscribe();
    let mut calls = FuturesUnordered::new();
    let mut busy = BTreeSet::new();
    loop {
        for (to, pairs) in node.inner.hub.take_due(&busy, MAX_HINTS_PER_CALL) {
            busy.insert(to);
            let node = &node;
            calls.push(async move { (to, tell(node, to, pairs).await) }.boxed());
        }
        tokio::select! {
            biased;
            _ = stop.wait_for(Option::is_some) => return,
            Some((to, declined)) = calls.next(), if !calls.is_empty() => {
                busy.remove(&to);
                for pair in declined {
                    node.inner.hub.ring_group(pair);
                }
            }
            () = node.inner.hub.due() => {}
        }
    }
}

/// Gives hints to another node; returns those that it has no use for.
async fn tell(node: &Node, to: u32, pairs: Vec<Pair>) -> Vec<Pair> {
    let request = Bytes::from(encode(pairs.iter().copied()));
    let answer = node.forward(to, RPC, 0, None, request, PATIENCE).await;
    let answer = answer.ok().and_then(|responses| responses.into_iter().next());
    answer.and_then(decode).unwrap_or(pairs)
}

/// Takes hints of another node; the answer has those that nobody here waits for.
pub(super) fn take(node: &Node, from: u32, request: Bytes) -> ForwardResponse {
    let hub = &node.inner.hub;
    let mut declined = Vec::new();
    let pairs = decode(request).unwrap_or_default().into_iter();
    for pair in pairs.take(MAX_HINTS_PER_CALL) {
        node.inner.polls.told(pair, from);
        if hub.is_waited_for(pair) {
            hub.ring_group(pair);
        } else {
            declined.push(pair);
        }
    }
    ForwardResponse {
        responses: vec![encode(declined).into()],
        ..Default::default()
    }
}

fn encode(pairs: impl IntoIterator<Item = Pair>) -> Vec<u8> {
    let hints = pairs
        .into_iter()
        .map(|(topic, group)| Hint { topic, group })
        .collect();
    Hints { hints }.encode_to_vec()
}

fn decode(bytes: Bytes) -> Option<Vec<Pair>> {
    let hints = Hints::decode(bytes).ok()?.hints;
    Some(hints.into_iter().map(|hint| (hint.topic, hint.group)).collect())
}
