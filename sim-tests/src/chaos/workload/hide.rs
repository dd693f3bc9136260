//! ChangeInvisibleDuration, once: what comes of it is seen later.

use std::ops::Range;

use super::Context;
use crate::{
    chaos::{client::Received, random::Random},
    history::Event,
};

/// For how long, milliseconds: shorter or longer than the lease was.
const INVISIBLE_MS: Range<u64> = 1..20_000;

pub(super) async fn hide(context: &Context, node: u32, group: &str, message: &Received, random: &mut Random) {
    let invisible = random.millis(INVISIBLE_MS);
    let asked = context.book.now();
    let (owner, place) = (group.to_owned(), message.place.clone());
    context.ending(group, message);
    // Before the request: the message may come to somebody else before the answer comes here.
    context.book.record(&Event::HideUnsure {
        group: owner.clone(),
        place: place.clone(),
        asked,
        invisible,
    });
    match context.client.hide(node, group, message, invisible).await {
        Ok(()) => {
            context.book.count("hide done");
            context.book.record(&Event::Hidden {
                group: owner,
                place,
                asked,
                invisible,
            });
        }
        // Even a refusal may come after another node has done it.
        Err(failure) => context.book.failed("hide", node, &failure),
    }
}
