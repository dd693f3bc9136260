//! AckMessage, of one message or of several together, until every answer is certain, at one node after the other.

use flotilla_proto::rocketmq::Code;

use super::{Context, pause};
use crate::{
    chaos::{
        client::{Failure, Received},
        random::Random,
    },
    history::{Event, Receipt},
};

/// Share of requests with a handle among the others that no node ever gave.
const INVENTED: f64 = 0.05;

/// What is asked for, and whether an earlier try may have been carried out.
struct Pending<'a> {
    message: &'a Received,
    receipt: Receipt,
    unsure: bool,
}

/// Messages of one topic.
pub(super) async fn acknowledge(
    context: &Context,
    mut node: u32,
    group: &str,
    messages: &[&Received],
    random: &mut Random,
) {
    let asked = context.book.now();
    let mut pending: Vec<Pending<'_>> = Vec::new();
    for &message in messages {
        context.ending(group, message);
        pending.push(Pending {
            message,
            receipt: message.receipt(group),
            unsure: false,
        });
    }
    while !pending.is_empty() && !context.stopped() {
        let answers = ask(context, node, group, &pending, random).await;
        let mut left = Vec::new();
        for (it, answer) in pending.into_iter().zip(answers) {
            match answer {
                Ok(()) => {
                    context.book.count("ack done");
                    let receipt = it.receipt;
                    context.book.record(&Event::Acked { receipt, asked });
                }
                Err(Failure::Status(Code::InvalidReceiptHandle, _)) => {
                    context.book.count("ack too late");
                    // Refused at once, the lease is over, and the message comes again.
                    context.book.record(&match it.unsure {
                        true => Event::AckUnsure(it.receipt),
                        false => Event::EndRefused(it.receipt),
                    });
                }
                Err(failure) => {
                    context.book.failed("ack", node, &failure);
                    let unsure = it.unsure || !matches!(failure, Failure::Status(Code::TooManyRequests, _));
                    left.push(Pending { unsure, ..it });
                }
            }
        }
        pending = left;
        if !pending.is_empty() {
            node = context.next(node);
            pause().await;
        }
    }
}

/// One request; what came of each.
async fn ask(
    context: &Context,
    node: u32,
    group: &str,
    pending: &[Pending<'_>],
    random: &mut Random,
) -> Vec<Result<(), Failure>> {
    let mut messages: Vec<&Received> = pending.iter().map(|it| it.message).collect();
    let invented = pending[0].message.invented();
    let is_mixed = random.chance(INVENTED);
    if is_mixed {
        messages.push(&invented);
    }
    if messages.len() > 1 {
        context.book.count("ack several");
    }
    match context.client.ack(node, group, &messages).await {
        Ok(mut answers) => {
            if is_mixed && matches!(answers.pop(), Some(Ok(()))) {
                context.book.broken(format!(
                    "P3: {group} acknowledged {invented:?}, which nobody gave it"
                ));
            }
            answers
        }
        Err(failure) => pending.iter().map(|_| Err(failure.clone())).collect(),
    }
}
