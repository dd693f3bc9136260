//! AckMessage, until the answer is certain, at one node after the other.

use flotilla_proto::rocketmq::Code;

use super::{Context, pause};
use crate::{
    chaos::client::{Failure, Received},
    history::Event,
};

pub(super) async fn acknowledge(context: &Context, mut node: u32, group: &str, message: &Received) {
    let (receipt, asked) = (message.receipt(group), context.book.now());
    context.ending(group, message);
    let mut unsure = false;
    while !context.stopped() {
        match context.client.ack(node, group, message).await {
            Ok(()) => {
                context.book.count("ack done");
                return context.book.record(&Event::Acked { receipt, asked });
            }
            Err(Failure::Status(Code::InvalidReceiptHandle, _)) => {
                context.book.count("ack too late");
                // Refused at once, the lease is over, and the message comes again.
                return context.book.record(&match unsure {
                    true => Event::AckUnsure(receipt),
                    false => Event::EndRefused(receipt),
                });
            }
            Err(failure) => {
                context.book.failed("ack", node, &failure);
                unsure |= !matches!(failure, Failure::Status(Code::TooManyRequests, _));
                node = context.next(node);
                pause().await;
            }
        }
    }
}
