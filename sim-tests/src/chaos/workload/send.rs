//! SendMessage: each message until it is acknowledged, at one node after the other; the same message id every time.

use std::{ops::Range, sync::atomic::Ordering};

use bytes::Bytes;
use tokio::time::sleep;

use super::{Context, TOPICS, pause};
use crate::{chaos::random::Random, history::Event};

/// Between two messages of one producer, milliseconds.
const PAUSE_MS: Range<u64> = 5..75;
/// Sizes of bodies, bytes: usually, and when disks are to be filled.
const BODY: Range<u64> = 20..2_000;
const LARGE_BODY: Range<u64> = 16_000..64_000;
/// So often a message goes to a node that a route names, and otherwise to the producer's own.
const ROUTED: f64 = 0.25;

/// The body that belongs to a message id.
pub(super) fn body_of(id: &str, size: usize) -> Bytes {
    Bytes::from(id.as_bytes().repeat(size / id.len() + 1))
}

pub(super) async fn produce(context: Context, producer: u32, mut random: Random) {
    let home = producer % context.addresses.len() as u32 + 1;
    for number in 0_u32.. {
        if context.stopped() || context.switches.sent.load(Ordering::SeqCst) {
            return;
        }
        let large = random.within(LARGE_BODY);
        let heavy = context.switches.heavy.load(Ordering::SeqCst) && context.switches.pace.takes(large);
        let topic = random.pick(&TOPICS);
        let message_id = format!("{topic}/{producer}-{number:06}");
        let size = if heavy { large } else { random.within(BODY) };
        let node = if random.chance(ROUTED) {
            routed(&context, topic, home, &mut random).await
        } else {
            home
        };
        send(
            &context,
            topic,
            &message_id,
            node,
            body_of(&message_id, size as usize),
        )
        .await;
        if !heavy {
            sleep(random.millis(PAUSE_MS)).await;
        }
    }
}

/// A node that leads a queue of the topic, as some node sees it.
async fn routed(context: &Context, topic: &str, home: u32, random: &mut Random) -> u32 {
    let asked = random.within(1..context.addresses.len() as u64 + 1) as u32;
    match context.client.route(asked, topic).await {
        Ok(leaders) if !leaders.is_empty() => {
            context.book.count("route known");
            let leader = random.pick(&leaders);
            let at = context.addresses.iter().position(|address| *address == leader);
            at.map_or(home, |at| at as u32 + 1)
        }
        _ => {
            context.book.count("route unknown");
            home
        }
    }
}

async fn send(context: &Context, topic: &str, id: &str, mut node: u32, body: Bytes) {
    while !context.stopped() {
        let (topic, id) = (topic.to_owned(), id.to_owned());
        context.book.record(&Event::Sending {
            topic: topic.clone(),
            id: id.clone(),
        });
        match context.client.send(node, &topic, &id, body.clone()).await {
            Ok(offset) => {
                context.book.count("send stored");
                return context.book.record(&Event::Stored { topic, id, offset });
            }
            Err(failure) => context.book.failed("send", node, &failure),
        }
        node = context.next(node);
        pause().await;
    }
}
