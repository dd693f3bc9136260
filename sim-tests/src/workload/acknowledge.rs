//! AckMessage, until every answer is certain, at one node after the other.

use std::sync::{MutexGuard, PoisonError};

use flotilla_proto::rocketmq::Code;
use madsim::rand::{Rng, thread_rng};
use tracing::debug;

use super::{Context, forge::Forgery, now};
use crate::{
    client::{Failure, Received},
    history::{Event, Receipt},
};

/// Share of requests with a handle among the others that no node ever gave.
const INVENTED: f64 = 0.05;

/// What it asks for, and whether an earlier try may have been carried out.
struct Pending<'a> {
    message: &'a Received,
    receipt: Receipt,
    unsure: bool,
}

/// One message; true if it was accepted.
pub(super) async fn acknowledge(context: &Context, node: u32, group: &str, message: &Received) -> bool {
    acknowledge_all(context, node, group, &[message]).await == 1
}

/// A message whose lease the client has asked to be ended otherwise, too.
pub(super) async fn also(context: &Context, node: u32, group: &str, message: &Received) {
    until_certain(context, node, group, &[message], true).await;
}

/// Messages of one topic together; how many were accepted.
pub(super) async fn acknowledge_all(
    context: &Context,
    node: u32,
    group: &str,
    messages: &[&Received],
) -> usize {
    until_certain(context, node, group, messages, false).await
}

/// `unsure` where somebody else may have ended the leases.
async fn until_certain(
    context: &Context,
    mut node: u32,
    group: &str,
    messages: &[&Received],
    unsure: bool,
) -> usize {
    let asked = now();
    let mut pending: Vec<Pending<'_>> = Vec::new();
    for &message in messages {
        context.ending(group, message);
        acking(context).push(message.receipt(group));
        pending.push(Pending {
            message,
            receipt: message.receipt(group),
            unsure,
        });
    }
    let mut accepted = 0;
    while !pending.is_empty() && !context.stopped() {
        let answers = ask(context, node, group, &pending).await;
        debug!(at = ?now(), ids = ?messages.iter().map(|it| &it.message_id).collect::<Vec<_>>(), group, node, ?answers, "acknowledged");
        let mut left = Vec::new();
        for (it, answer) in pending.into_iter().zip(answers) {
            acking(context).retain(|receipt| *receipt != it.receipt);
            match answer {
                Ok(()) => {
                    context.coverage.count("ack done");
                    accepted += 1;
                    let receipt = it.receipt;
                    context.record(&Event::Acked { receipt, asked });
                }
                Err(Failure::Status(Code::InvalidReceiptHandle, _)) => {
                    context.coverage.count("ack refused");
                    // Refused at once, the lease is over, and the message comes again.
                    context.record(&match it.unsure {
                        true => Event::AckUnsure(it.receipt),
                        false => Event::EndRefused(it.receipt),
                    });
                }
                Err(failure) => {
                    context.failed("ack", node, &failure);
                    let unsure = it.unsure || !context.says_not_done(&failure);
                    acking(context).push(it.receipt.clone());
                    left.push(Pending { unsure, ..it });
                }
            }
        }
        pending = left;
        if !pending.is_empty() {
            node = context.next(node);
            context.pause().await;
        }
    }
    accepted
}

fn acking(context: &Context) -> MutexGuard<'_, Vec<Receipt>> {
    context.acking.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request; what came of each. Sometimes with a handle that nobody gave before all others: were it taken for the first one's,
/// that would be refused.
async fn ask(context: &Context, node: u32, group: &str, pending: &[Pending<'_>]) -> Vec<Result<(), Failure>> {
    let mut messages: Vec<&Received> = pending.iter().map(|it| it.message).collect();
    let invented = thread_rng().gen_bool(INVENTED).then(Forgery::any);
    let invented = invented.and_then(|how| how.of(pending[0].message));
    if let Some(invented) = &invented {
        messages.insert(0, invented);
    }
    if messages.len() > 1 {
        context.coverage.count("ack several");
    }
    match context.client.ack(node, group, &messages).await {
        Ok(mut answers) => {
            // Once the message is over, whoever repeats a request that began elsewhere cannot tell it from one that was done. Then the
            // right handle would be answered so, too, and not be refused; where there was no room for it nobody knows.
            if let Some(invented) = invented
                && answers.remove(0).is_ok()
                && matches!(answers[0], Err(Failure::Status(Code::InvalidReceiptHandle, _)))
            {
                context.history.broken(format!(
                    "P3: {group} acknowledged {invented:?}, which nobody gave it"
                ));
            }
            answers
        }
        Err(failure) => pending.iter().map(|_| Err(failure.clone())).collect(),
    }
}
