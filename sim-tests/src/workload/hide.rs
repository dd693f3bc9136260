//! ChangeInvisibleDuration, once: what comes of it is seen later.

use std::time::Duration;

use madsim::rand::{Rng, thread_rng};
use tracing::debug;

use super::{Context, now};
use crate::{
    client::{Failure, Received},
    history::Event,
};

pub(super) async fn hide(context: &Context, node: u32, group: &str, message: &Received) {
    let invisible = Duration::from_millis(thread_rng().gen_range(1..20_000));
    let asked = now();
    context.ending(group, message);
    let answer = context.client.hide(node, group, message, invisible).await;
    debug!(at = ?now(), id = message.message_id, group, node, ?invisible, ?answer, "hidden");
    let (group, place) = (group.to_owned(), message.place.clone());
    match answer {
        Ok(_) => {
            context.coverage.count("hide done");
            context.record(&Event::Hidden {
                group,
                place,
                asked,
                invisible,
            });
        }
        Err(Failure::Status(..)) => {
            context.coverage.count("hide refused");
            // Another node may have done it before this answer.
            context.record(&Event::HideUnsure {
                group,
                place,
                asked,
                invisible,
            });
        }
        Err(Failure::Peer(_)) => {
            context.coverage.count("hide unknown");
            context.record(&Event::HideUnsure {
                group,
                place,
                asked,
                invisible,
            });
        }
    }
}
