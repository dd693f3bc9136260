//! ChangeInvisibleDuration: of the lease as it came, and of what came of it, with the handle that counts, and with the one
//! that counts no more.

use std::{ops::Range, sync::atomic::Ordering, time::Duration};

use flotilla_proto::rocketmq::Code;
use tokio::time::{Instant, sleep};

use super::{Context, acknowledge, bury};
use crate::{
    chaos::{
        client::{Failure, Received},
        random::Random,
    },
    history::Event,
};

/// Most ends that somebody gives one lease.
const MOST_CHANGES: u32 = 3;
/// For how long, milliseconds: shorter or longer than the lease was. Now and then it is "again, at once".
const INVISIBLE_MS: Range<u64> = 1..20_000;
const AT_ONCE: f64 = 0.1;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Gives the lease another end, and maybe another one, and does something with the message or leaves it.
pub(super) async fn hide(context: Context, node: u32, group: &str, message: Received, mut random: Random) {
    let mut message = message;
    while let Some((handle, invisible)) = once(&context, node, group, &message, &mut random).await {
        let renewed = message.with(handle);
        let drawn = random.within(0..6);
        // Some do with it what they do at once, some shortly before it is over.
        let share = random.share() * 0.9;
        if invisible.is_zero() || drawn == 0 {
            return;
        }
        wait(&context, invisible.mul_f64(share)).await;
        match drawn {
            1 => {
                context.book.count("old handle");
                return acknowledge::acknowledge(&context, node, group, &[&message], &mut random).await;
            }
            2 => {
                context.book.count("new handle buries");
                return bury::bury(&context, node, group, &renewed).await;
            }
            3 | 4 if renewed.changes < MOST_CHANGES && !is_calm(&context) => {
                context.book.count("new handle hides");
                message = renewed;
            }
            _ => {
                context.book.count("new handle acknowledges");
                return acknowledge::acknowledge(&context, node, group, &[&renewed], &mut random).await;
            }
        }
    }
}

/// The new handle and for how long it counts, if the service said so.
async fn once(
    context: &Context,
    node: u32,
    group: &str,
    message: &Received,
    random: &mut Random,
) -> Option<(String, Duration)> {
    let invisible = match random.chance(AT_ONCE) {
        true => Duration::ZERO,
        false => random.millis(INVISIBLE_MS),
    };
    let (receipt, asked) = (message.receipt(group), context.book.now());
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
            Some((handle, invisible))
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
            None
        }
    }
}

/// Waits so long, or until nobody is to wait any more.
async fn wait(context: &Context, long: Duration) {
    let end = Instant::now() + long;
    while Instant::now() < end && !is_calm(context) {
        sleep(LOOK_EVERY.min(end - Instant::now())).await;
    }
}

fn is_calm(context: &Context) -> bool {
    context.switches.calm.load(Ordering::SeqCst)
}
