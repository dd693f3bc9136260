//! ForwardMessageToDeadLetterQueue, until the answer is certain.

use flotilla_proto::rocketmq::Code;

use super::{Context, pause};
use crate::{
    chaos::client::{Failure, Received},
    history::Event,
};

pub(super) async fn bury(context: &Context, mut node: u32, group: &str, message: &Received) {
    let (receipt, asked, mut unsure) = (message.receipt(group), context.book.now(), false);
    context.ending(group, message);
    context.book.record(&Event::Burying(receipt.clone()));
    while !context.stopped() {
        match context.client.bury(node, group, message).await {
            Ok(()) => {
                context.book.count("bury done");
                return context.book.record(&Event::Buried { receipt, asked });
            }
            // It is a dead letter already, or the lease is over and it comes again.
            Err(Failure::Status(Code::InvalidReceiptHandle, _)) => {
                context.book.count("bury too late");
                if !unsure {
                    context.book.record(&Event::EndRefused(receipt));
                }
                return;
            }
            Err(failure) => {
                unsure |= !matches!(failure, Failure::Status(Code::TooManyRequests, _));
                context.book.failed("bury", node, &failure);
                node = context.next(node);
                pause().await;
            }
        }
    }
}
