//! ReceiveMessage: long polls at one node, and then whatever this consumer is in the habit of.

use std::time::Duration;

use broker::limits::MIN_INVISIBLE;
use flotilla_proto::rocketmq::FilterType;
use madsim::rand::{Rng, seq::SliceRandom, thread_rng};
use tokio::time::sleep;
use tracing::debug;

use super::{
    Context, UNDERTAKER, acknowledge,
    attempts::{self, Attempts},
    bury, forge, hide, now, push, rest,
};
use crate::{
    client::{Ask, Received},
    history::{Delivery, Event},
    letter::Letter,
    plan::Wanted,
};

/// After a receive that failed, the next one waits so long.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Longest a receive waits.
const POLL: Duration = Duration::from_secs(2);
/// Share of receives that ask for something else than most.
const UNUSUAL: f64 = 0.3;
/// Share of receives of push consumers before which they ask what to read.
const ASKS_WHAT: f64 = 0.05;
/// Share of messages that are shown with a handle that nobody gave.
const INVENTED: f64 = 0.02;

/// What the next receive asks for.
fn ask(context: &Context, group: &str) -> Ask {
    let (habits, mut rng) = (context.plan.habits, thread_rng());
    let most = match rng.gen_bool(UNUSUAL) {
        true => rng.gen_range(1..=habits.batch),
        false => habits.batch,
    };
    let poll = match rng.gen_bool(UNUSUAL) {
        true => POLL.mul_f64(rng.gen_range(0.0..1.0)),
        false => POLL,
    };
    let chosen = MIN_INVISIBLE + (habits.lease - MIN_INVISIBLE).mul_f64(rng.gen_range(0.0..1.0));
    // The service counts milliseconds.
    let chosen = Duration::from_millis(chosen.as_millis() as u64);
    Ask {
        most,
        poll,
        invisible: (!context.is_push(group)).then_some(chosen),
        queue: rng.gen_range(-1..context.plan.queues as i32),
        attempt: None,
        filter: {
            let everything = *[None, Some(""), Some("*"), Some("*")]
                .choose(&mut rng)
                .expect("there are some");
            let wanted = context.plan.wanted_by(group).map(Wanted::expression);
            wanted.or(everything.map(|text| (FilterType::Tag, text.to_owned())))
        },
    }
}

pub(super) async fn consume(context: Context, node: u32, topic: String, group: String) {
    let mut attempts = Attempts::new(&context, node);
    while !context.stopped() {
        if context.rest.is_on() {
            sleep(RETRY_AFTER).await;
            continue;
        }
        if context.is_push(&group) && thread_rng().gen_bool(ASKS_WHAT) {
            ask_what_to_read(&context, node, &topic, &group).await;
        }
        let ask = Ask {
            attempt: attempts.name(),
            ..ask(&context, &group)
        };
        let asked = attempts.asks();
        let answer = context.client.receive(node, (&topic, &group), &ask).await;
        let messages = match answer {
            Ok(messages) => messages,
            Err(failure) => {
                context.failed("receive", node, &failure);
                sleep(RETRY_AFTER).await;
                continue;
            }
        };
        attempts.answered();
        let came = attempts::lose(&context, node, (&topic, &group), &ask, (asked, messages)).await;
        let Some(messages) = came else {
            continue;
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
                invisible: ask.invisible.unwrap_or(push::LEASE),
                renewed: ask.invisible.is_none(),
                intact: message.letter.is_of(&Letter::of(id, context.plan.body)),
            }));
        }
        let mut done = Vec::new();
        if !messages.is_empty() {
            rest::maybe(&context, &group).await;
        }
        work(&context, &group, messages.len()).await;
        for message in &messages {
            if deal_with(&context, node, &group, message, (asked, &ask)).await {
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

/// As push consumers do, which this one does not go by: it reads everywhere.
async fn ask_what_to_read(context: &Context, node: u32, topic: &str, group: &str) {
    match context.client.assignment(node, topic, group).await {
        Ok(()) => context.coverage.count("assignment"),
        Err(failure) => context.failed("assignment", node, &failure),
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
async fn deal_with(
    context: &Context,
    node: u32,
    group: &str,
    message: &Received,
    (asked, ask): (Duration, &Ask),
) -> bool {
    // Who rests has no time for habits.
    if group == UNDERTAKER || context.rest.is_any() {
        return true;
    }
    let lease = ask.invisible.unwrap_or(push::LEASE);
    if thread_rng().gen_bool(INVENTED) {
        forge::try_one(context, node, group, message, asked + lease).await;
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
            sleep(lease + Duration::from_millis(thread_rng().gen_range(0..2_000))).await;
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
