//! ForwardMessageToDeadLetterQueue, until the answer is certain.

use std::time::Duration;

use flotilla_proto::rocketmq::Code;
use futures::future::join;
use madsim::rand::{Rng, thread_rng};
use tokio::time::sleep;
use tracing::debug;

use super::{Context, acknowledge, now};
use crate::{
    client::{Failure, Received},
    history::Event,
};

/// Most that a client waits before it acknowledges what it has asked to bury, milliseconds.
const SOON: u64 = 300;

/// As this client does it.
pub(super) async fn bury(context: &Context, node: u32, group: &str, message: &Received) {
    if !context.plan.habits.twice {
        return until_certain(context, node, group, message, false).await;
    }
    context.coverage.count("buries and acknowledges");
    let other = context.next(node);
    let acknowledged = async {
        sleep(Duration::from_millis(thread_rng().gen_range(0..SOON))).await;
        acknowledge::also(context, other, group, message).await;
    };
    join(until_certain(context, node, group, message, true), acknowledged).await;
}

/// `unsure` where somebody else may have ended the lease.
async fn until_certain(context: &Context, mut node: u32, group: &str, message: &Received, mut unsure: bool) {
    let (receipt, asked) = (message.receipt(group), now());
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
