//! ChangeInvisibleDuration, once: what comes of it is seen later.
//!
//! Whatever time a push consumer asks for, it has failed, and the message waits as long as that takes: so it asks for none.

use std::time::Duration;

use flotilla_proto::rocketmq::Code;
use madsim::rand::{Rng, thread_rng};
use tracing::debug;

use super::{Context, now, pause};
use crate::{
    client::{Failure, Received},
    history::Event,
};

pub(super) async fn hide(context: &Context, mut node: u32, group: &str, message: &Received) {
    // "Again, at once" is an attempt that failed.
    let longest = if thread_rng().gen_bool(0.1) { 1 } else { 20_000 };
    let invisible = match context.is_push(group) {
        true => Duration::ZERO,
        false => Duration::from_millis(thread_rng().gen_range(0..longest)),
    };
    let asked = now();
    let (group_name, place) = (group.to_owned(), message.place.clone());
    context.ending(group, message);
    // It can be carried out, and the message come again, before the answer is here.
    context.record(&Event::HideUnsure {
        group: group_name.clone(),
        place: place.clone(),
        asked,
        invisible,
    });
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
        node = context.next(node);
        pause().await;
    };
    match answer {
        Ok(_) => {
            context.coverage.count("hide done");
            context.record(&Event::Hidden {
                group: group_name,
                place,
                asked,
                invisible,
            });
        }
        Err(Failure::Status(..)) => context.coverage.count("hide refused"),
        Err(Failure::Peer(_)) => context.coverage.count("hide unknown"),
    }
}
