//! ReceiveMessage: long polls at one node, and then whatever this consumer is in the habit of.

use std::{ops::Range, sync::atomic::Ordering, time::Duration};

use futures::future::join_all;
use tokio::time::sleep;

use super::{Context, UNDERTAKER, acknowledge, bury, hide, pause, send};
use crate::{
    chaos::{
        client::{PATIENCE, Received},
        random::Random,
    },
    history::{DEAD_LETTERS, Delivery, Event},
};

/// The shortest lease the service gives.
const INVISIBLE: Duration = Duration::from_secs(10);
/// Longest a receive waits.
const POLL: Duration = Duration::from_secs(2);
/// Who is late acknowledges so long after the lease is over, milliseconds.
const LATE_MS: Range<u64> = 0..2_000;
/// Habits, as shares of all deliveries; the rest is acknowledged at once.
const FORGET: f64 = 0.02;
const HIDE: f64 = 0.03;
const BURY: f64 = 0.01;
const LATE: f64 = 0.01;
/// So often what is to be acknowledged is acknowledged in one request.
const TOGETHER: f64 = 0.5;

// What comes is written down before its lease can be over: otherwise the next delivery could be in the history first.
const _: () = assert!(POLL.as_millis() + PATIENCE.as_millis() < INVISIBLE.as_millis());

pub(super) async fn consume(
    context: Context,
    node: u32,
    topic: String,
    group: &'static str,
    mut random: Random,
) {
    while !context.stopped() {
        let asked = context.book.now();
        let messages = match context
            .client
            .receive(node, (&topic, group), POLL, INVISIBLE)
            .await
        {
            Ok(messages) => messages,
            Err(failure) => {
                let dead = topic.starts_with(DEAD_LETTERS);
                let request = if dead {
                    "receive of dead letters"
                } else {
                    "receive"
                };
                context.book.failed(request, node, &failure);
                pause().await;
                continue;
            }
        };
        let what = if messages.is_empty() {
            "receive nothing"
        } else {
            "receive some"
        };
        context.book.count(what);
        // All of them before anything is done with any: that may take longer than a lease lasts.
        messages
            .iter()
            .for_each(|message| came(&context, group, asked, message));
        let dealt = messages
            .iter()
            .map(|message| deal_with(&context, node, group, message, random.fork()));
        let dealt = join_all(dealt.collect::<Vec<_>>()).await;
        let is_done = messages.iter().zip(dealt).filter(|(_, is_done)| *is_done);
        let done: Vec<&Received> = is_done.map(|(message, _)| message).collect();
        // Each by itself, or what there is together.
        let at_once = if random.chance(TOGETHER) { done.len() } else { 1 };
        let acknowledged = done.chunks(at_once.max(1)).map(|some| {
            let (context, mut random) = (&context, random.fork());
            async move { acknowledge::acknowledge(context, node, group, some, &mut random).await }
        });
        join_all(acknowledged.collect::<Vec<_>>()).await;
    }
}

fn came(context: &Context, group: &str, asked: Duration, message: &Received) {
    let id = &message.id;
    if message.attempt > 1 {
        context.book.count("receive again");
    }
    context.book.record(&Event::Delivered(Delivery {
        client: context.client.id().to_owned(),
        group: group.to_owned(),
        place: message.place.clone(),
        id: id.clone(),
        attempt: message.attempt,
        asked,
        invisible: INVISIBLE,
        renewed: false,
        intact: message.body == send::body_of(id, message.body.len().saturating_sub(1)),
    }));
}

/// What its consumer does with a message; true if it is to be acknowledged now.
async fn deal_with(
    context: &Context,
    node: u32,
    group: &'static str,
    message: &Received,
    mut random: Random,
) -> bool {
    if group == UNDERTAKER || context.switches.calm.load(Ordering::SeqCst) {
        return true;
    }
    let drawn = random.share();
    let mut below = 0.0;
    let mut within = |share: f64| {
        below += share;
        drawn < below
    };
    let (own, message) = (context.clone(), message.clone());
    // What takes long ends with the run: the book is closed then.
    if within(FORGET) {
        context.book.count("consumer forgets");
    } else if within(HIDE) {
        tokio::spawn(hide::hide(own, node, group, message, random));
    } else if within(BURY) {
        bury::bury(context, node, group, &message).await;
    } else if within(LATE) {
        tokio::spawn(async move {
            sleep(INVISIBLE + random.millis(LATE_MS)).await;
            own.book.count("consumer is late");
            if random.chance(0.5) {
                acknowledge::acknowledge(&own, node, group, &[&message], &mut random).await;
            } else {
                hide::hide(own, node, group, message, random).await;
            }
        });
    } else {
        return true;
    }
    false
}
