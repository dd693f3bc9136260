//! ChangeInvisibleDuration, once; some go on with the handle that came of it.

use std::ops::Range;

use flotilla_proto::rocketmq::Code;
use tokio::time::sleep;

use super::{Context, acknowledge};
use crate::{
    chaos::{
        client::{Failure, Received},
        random::Random,
    },
    history::Event,
};

/// Share of those that acknowledge with the new handle, in the middle of the time they were given.
const GOES_ON: f64 = 0.5;

/// For how long, milliseconds: shorter or longer than the lease was.
const INVISIBLE_MS: Range<u64> = 1..20_000;

pub(super) async fn hide(context: &Context, node: u32, group: &str, message: &Received, random: &mut Random) {
    let invisible = random.millis(INVISIBLE_MS);
    let asked = context.book.now();
    let receipt = message.receipt(group);
    context.ending(group, message);
    // Before the request: the message may come to somebody else before the answer comes here.
    context.book.record(&Event::HideUnsure {
        receipt: receipt.clone(),
        asked,
        invisible,
    });
    match context.client.hide(node, group, message, invisible).await {
        Ok(handle) => {
            context.book.count("hide done");
            context.book.record(&Event::Hidden {
                receipt,
                asked,
                invisible,
            });
            if random.share() < GOES_ON {
                sleep(invisible / 2).await;
                context.book.count("hide goes on");
                acknowledge::acknowledge(context, node, group, &message.with(handle)).await;
            }
        }
        Err(failure) => {
            context.book.failed("hide", node, &failure);
            if let Failure::Status(Code::InvalidReceiptHandle, _) = failure {
                context.book.record(&Event::HideRefused {
                    receipt,
                    asked,
                    invisible,
                });
            }
        }
    }
}
