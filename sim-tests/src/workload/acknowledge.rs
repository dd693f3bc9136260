//! AckMessage, until the answer is certain, at one node after the other; true if it was accepted.

use flotilla_proto::rocketmq::Code;
use tracing::debug;

use super::{Context, now, pause};
use crate::{
    client::{Failure, Received},
    history::Event,
};

pub(super) async fn acknowledge(context: &Context, mut node: u32, group: &str, message: &Received) -> bool {
    let (group, place, id) = (
        group.to_owned(),
        message.place.clone(),
        message.message_id.clone(),
    );
    let (attempt, asked) = (message.attempt, now());
    context.ending(&group, message);
    let mut unsure = false;
    while !context.stopped() {
        let answer = context.client.ack(node, &group, message).await;
        debug!(at = ?now(), id, group, node, ?answer, "acknowledged");
        match answer {
            Ok(()) => {
                context.coverage.count("ack done");
                context.record(&Event::Acked {
                    group,
                    place,
                    id,
                    attempt,
                    asked,
                });
                return true;
            }
            Err(Failure::Status(Code::InvalidReceiptHandle, _)) => {
                context.coverage.count("ack refused");
                // Refused at once, the lease is over, and the message comes again.
                context.record(&match unsure {
                    true => Event::AckUnsure { group, place, id },
                    false => Event::AckRefused {
                        group,
                        place,
                        id,
                        attempt,
                    },
                });
                return false;
            }
            Err(failure) => {
                context.coverage.count("ack unknown");
                unsure |= !matches!(failure, Failure::Status(Code::TooManyRequests, _));
                node = context.next(node);
                pause().await;
            }
        }
    }
    false
}
