//! The meta shard's commands, one file each. A refusal changes nothing.

use flotilla_proto::record::{Backoff, Node, backoff::Strategy};
use queue_core::Fault;

use super::{MetaRefusal, MetaReply, limits};
use crate::limits::{MAX_BACKOFF_MS, MAX_BACKOFF_PERCENT};

pub(super) mod bootstrap;
pub(super) mod create_consumer_group;
pub(super) mod create_topic;
pub(super) mod delete_consumer_group;
pub(super) mod delete_topic;
pub(super) mod forget;
pub(super) mod pause_consumer_group;
pub(super) mod register_node;
pub(super) mod set_parking;

/// A reply or a refusal; the outer error is a key-value state that failed.
type Done = Result<Result<MetaReply, MetaRefusal>, Fault>;

fn refuse(refusal: MetaRefusal) -> Done {
    Ok(Err(refusal))
}

fn invalid(reason: impl Into<String>) -> MetaRefusal {
    MetaRefusal::Invalid(reason.into())
}

fn check_node(node: &Node) -> Result<(), MetaRefusal> {
    if node.id == 0 {
        return Err(invalid("a node's id starts at 1"));
    }
    for address in [&node.peer_addr, &node.client_addr, &node.http_addr] {
        if address.len() > limits::MAX_ADDRESS_BYTES {
            return Err(invalid(format!("an address of node {} is too long", node.id)));
        }
    }
    Ok(())
}

/// Names are checked in full where they come in; here only what would harm the state.
fn check_name(name: &str) -> Result<(), MetaRefusal> {
    if name.is_empty() || name.len() > limits::MAX_NAME_BYTES {
        return Err(invalid(format!(
            "a name has 1 to {} bytes",
            limits::MAX_NAME_BYTES
        )));
    }
    Ok(())
}

fn check_backoff(backoff: Option<&Backoff>) -> Result<(), MetaRefusal> {
    let longest = match backoff.and_then(|backoff| backoff.strategy.as_ref()) {
        Some(Strategy::Customized(steps)) if steps.next_ms.len() > limits::MAX_BACKOFF_STEPS => {
            return Err(invalid(format!(
                "a backoff has at most {} steps",
                limits::MAX_BACKOFF_STEPS
            )));
        }
        Some(Strategy::Customized(steps)) => steps.next_ms.iter().copied().max().unwrap_or(0),
        Some(Strategy::Exponential(rule)) if rule.multiplier_percent > MAX_BACKOFF_PERCENT => {
            return Err(invalid(format!(
                "a backoff grows by at most {MAX_BACKOFF_PERCENT} percent"
            )));
        }
        Some(Strategy::Exponential(rule)) => rule.max_ms.max(rule.initial_ms),
        None => 0,
    };
    if longest > MAX_BACKOFF_MS {
        return Err(invalid(format!("a backoff waits at most {MAX_BACKOFF_MS} ms")));
    }
    Ok(())
}
