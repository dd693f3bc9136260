//! ReceiveMessage: long polls at one node, and then whatever this consumer is in the habit of.

use std::time::Duration;

use madsim::rand::{Rng, thread_rng};
use tokio::time::sleep;
use tracing::debug;

use super::{Context, UNDERTAKER, acknowledge, bury, hide, now, push};
use crate::{
    client::Received,
    history::{Delivery, Event},
    letter::Letter,
};

/// The shortest lease the service gives.
const INVISIBLE: Duration = Duration::from_secs(10);
/// After a receive that failed, the next one waits so long.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Longest a receive waits.
const POLL: Duration = Duration::from_secs(2);

pub(super) async fn consume(context: Context, node: u32, topic: String, group: String) {
    let chosen = (!context.is_push(&group)).then_some(INVISIBLE);
    while !context.stopped() {
        let asked = now();
        let messages = match context.client.receive(node, (&topic, &group), POLL, chosen).await {
            Ok(messages) => messages,
            Err(failure) => {
                context.failed("receive", node, &failure);
                sleep(RETRY_AFTER).await;
                continue;
            }
        };
        context.coverage.count(if messages.is_empty() {
            "receive nothing"
        } else {
            "receive some"
        });
        // They all came now, however long it takes to deal with each.
        for message in &messages {
            let id = &message.message_id;
            debug!(at = ?now(), id, group, place = ?message.place, attempt = message.attempt, node, "received");
            if message.attempt > 1 {
                context.coverage.count("receive again");
            }
            context.record(&Event::Delivered(Delivery {
                client: context.who.program(),
                group: group.clone(),
                place: message.place.clone(),
                id: id.clone(),
                attempt: message.attempt,
                asked,
                invisible: chosen.unwrap_or(push::LEASE),
                renewed: chosen.is_none(),
                intact: message.letter == Letter::of(id, context.plan.body),
            }));
        }
        let mut done = Vec::new();
        work(&context, &group, messages.len()).await;
        for message in &messages {
            if deal_with(&context, node, &group, message, asked).await {
                done.push(message);
            }
        }
        // Each by itself, or what there is together.
        let at_once = if context.plan.batches { done.len() } else { 1 };
        for some in done.chunks(at_once.max(1)) {
            acknowledge::acknowledge_all(&context, node, &group, some).await;
        }
    }
}

/// A consumer is busy with what came, in some worlds.
async fn work(context: &Context, group: &str, came: usize) {
    if came > 0 && group != UNDERTAKER && context.plan.work_ms > 0 {
        let busy = thread_rng().gen_range(0..=context.plan.work_ms);
        sleep(Duration::from_millis(busy)).await;
    }
}

/// What its consumer does with a message; true if it is to be acknowledged now.
async fn deal_with(context: &Context, node: u32, group: &str, message: &Received, asked: Duration) -> bool {
    if group == UNDERTAKER {
        return true;
    }
    let habits = context.plan.habits;
    let is_push = context.is_push(group);
    let drawn = thread_rng().gen_range(0.0..1.0);
    let mut below = 0.0;
    let mut within = |share: f64| {
        below += share;
        drawn < below
    };
    // Nobody may forget what it got and what is renewed for hours.
    if is_push && within(habits.forget + habits.late + push::HELD) {
        let (context, group, message) = (context.clone(), group.to_owned(), message.clone());
        tokio::spawn(push::hold(context, node, group, message, asked));
    } else if !is_push && within(habits.forget) {
        context.coverage.count("consumer forgets");
    } else if within(habits.hide) {
        let (context, group, message) = (context.clone(), group.to_owned(), message.clone());
        tokio::spawn(async move { hide::hide(&context, node, &group, &message).await });
    } else if within(habits.bury) {
        bury::bury(context, node, group, message).await;
    } else if !is_push && within(habits.late) {
        let (context, group, message) = (context.clone(), group.to_owned(), message.clone());
        tokio::spawn(async move {
            sleep(INVISIBLE + Duration::from_millis(thread_rng().gen_range(0..2_000))).await;
            context.coverage.count("consumer is late");
            if thread_rng().gen_bool(0.5) {
                acknowledge::acknowledge(&context, node, &group, &message).await;
            } else {
                hide::hide(&context, node, &group, &message).await;
            }
        });
    } else {
        return true;
    }
    false
}
