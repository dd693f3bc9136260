//! ChangeInvisibleDuration. Some go on with the handle that came of it, and some with the one that counts no more.
//!
//! Whatever time a push consumer asks for, it has failed: the message waits for so long, and no handle counts.

use std::time::Duration;

use flotilla_proto::rocketmq::Code;
use madsim::rand::{Rng, thread_rng};
use tokio::time::sleep;
use tracing::debug;

use super::{Context, acknowledge, bury, now};
use crate::{
    client::{Failure, Received},
    history::Event,
};

/// Most ends that somebody gives one lease.
const MOST_CHANGES: u32 = 3;

/// Gives the lease another end, and maybe another one, and does something with the message or leaves it.
pub(super) async fn hide(context: &Context, node: u32, group: &str, message: &Received) {
    let mut message = message.clone();
    while let Some((handle, invisible)) = once(context, node, group, &message).await {
        let renewed = message.with(handle);
        let drawn = thread_rng().gen_range(0..6);
        // Some do with it what they do at once, some shortly before it is over.
        let share = thread_rng().gen_range(0.0..0.9);
        if invisible.is_zero() || drawn == 0 || context.is_push(group) {
            return;
        }
        sleep(invisible.mul_f64(share)).await;
        match drawn {
            1 => {
                context.coverage.count("old handle");
                acknowledge::acknowledge(context, node, group, &message).await;
                return;
            }
            2 => {
                context.coverage.count("new handle buries");
                return bury::bury(context, node, group, &renewed).await;
            }
            3 | 4 if renewed.changes < MOST_CHANGES => {
                context.coverage.count("new handle hides");
                message = renewed;
            }
            _ => {
                context.coverage.count("new handle acknowledges");
                acknowledge::acknowledge(context, node, group, &renewed).await;
                return;
            }
        }
    }
}

/// The new handle and for how long it counts, if the service said so.
async fn once(
    context: &Context,
    mut node: u32,
    group: &str,
    message: &Received,
) -> Option<(String, Duration)> {
    // "Again, at once" is an attempt that failed.
    let longest = if thread_rng().gen_bool(0.1) { 1 } else { 20_000 };
    let invisible = Duration::from_millis(thread_rng().gen_range(0..longest));
    let (receipt, asked) = (message.receipt(group), now());
    context.ending(group, message);
    // It can be carried out, and the message come again, before the answer is here.
    context.record(&Event::HideUnsure {
        receipt: receipt.clone(),
        asked,
        invisible,
    });
    let mut unsure = false;
    let answer = loop {
        let answer = context.client.hide(node, group, message, invisible).await;
        debug!(at = ?now(), id = message.message_id, group, node, ?invisible, ?answer, "hidden");
        let said = matches!(
            answer,
            Ok(_) | Err(Failure::Status(Code::InvalidReceiptHandle, _))
        );
        // Push consumers repeat it until they are told: their lease would be renewed for as long as they live.
        if said || !context.is_push(group) || context.stopped() {
            break answer;
        }
        unsure = true;
        node = context.next(node);
        context.pause().await;
    };
    match answer {
        Ok(handle) => {
            context.coverage.count("hide done");
            context.record(&Event::Hidden {
                receipt,
                asked,
                invisible,
            });
            return Some((handle, invisible));
        }
        Err(Failure::Status(Code::InvalidReceiptHandle, _)) => {
            context.coverage.count("hide refused");
            if !unsure {
                context.record(&Event::HideRefused {
                    receipt,
                    asked,
                    invisible,
                });
            }
        }
        Err(failure) => context.failed("hide", node, &failure),
    }
    None
}
