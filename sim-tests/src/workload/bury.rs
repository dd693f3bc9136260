//! ForwardMessageToDeadLetterQueue, until the answer is certain.

use flotilla_proto::rocketmq::Code;
use tracing::debug;

use super::{Context, now};
use crate::{
    client::{Failure, Received},
    history::Event,
};

pub(super) async fn bury(context: &Context, mut node: u32, group: &str, message: &Received) {
    let (receipt, asked, mut unsure) = (message.receipt(group), now(), false);
    context.ending(group, message);
    context.record(&Event::Burying(receipt.clone()));
    while !context.stopped() {
        let answer = context.client.bury(node, group, message).await;
        debug!(at = ?now(), id = message.message_id, group, node, ?answer, "buried");
        match answer {
            Ok(()) => {
                context.coverage.count("bury done");
                return context.record(&Event::Buried { receipt, asked });
            }
            // It is a dead letter already, or the lease is over and it comes again.
            Err(Failure::Status(Code::InvalidReceiptHandle, _)) => {
                context.coverage.count("bury refused");
                if !unsure {
                    context.record(&Event::EndRefused(receipt));
                }
                return;
            }
            Err(failure) => {
                context.failed("bury", node, &failure);
                unsure |= !context.says_not_done(&failure);
                node = context.next(node);
                context.pause().await;
            }
        }
    }
}
