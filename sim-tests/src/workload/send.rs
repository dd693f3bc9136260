//! SendMessage: each message until it is acknowledged, mostly to a node that the route names; the same message id every
//! time.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::rocketmq::Code;
use madsim::rand::{Rng, thread_rng};
use tokio::time::sleep;
use tracing::debug;

use super::{Context, now, pause};
use crate::{client::Failure, history::Event};

/// Share of sends that go to any node, whatever it leads.
const ANY_NODE: f64 = 0.2;

/// Share of sends before which a message is sent that no topic takes.
const WRONG: f64 = 0.02;

/// The body that belongs to a message id.
pub(super) fn body_of(id: &str, size: usize) -> Bytes {
    Bytes::from(id.as_bytes().repeat(size / id.len() + 1))
}

pub(super) async fn produce(context: Context, id: u32) {
    for number in 0..context.plan.messages {
        let topic = context.plan.topic(thread_rng().gen_range(0..context.plan.topics));
        let message_id = format!("{topic}/{id}-{number:04}");
        let body = body_of(&message_id, thread_rng().gen_range(0..context.plan.body));
        if thread_rng().gen_bool(WRONG) {
            send_wrong(&context, &topic, &format!("{message_id}-wrong"), body.clone()).await;
        }
        send(&context, &topic, &message_id, body).await;
        let pause = thread_rng().gen_range(context.plan.pause_ms.clone());
        sleep(Duration::from_millis(pause)).await;
    }
}

/// A FIFO message for a topic of normal ones, once.
async fn send_wrong(context: &Context, topic: &str, message_id: &str, body: Bytes) {
    let node = thread_rng().gen_range(1..=context.plan.nodes);
    let (topic, id) = (topic.to_owned(), message_id.to_owned());
    context.record(&Event::Sending {
        topic: topic.clone(),
        id: id.clone(),
    });
    let sent = context.client.send_in(Some("group"), node, &topic, &id, body);
    let answer = sent.await;
    debug!(at = ?now(), id, node, ?answer, "sent what must be refused");
    match answer {
        Err(Failure::Status(Code::MessagePropertyConflictWithType, _)) => {
            context.coverage.count("send refused");
            context.record(&Event::Refused { id });
        }
        // The node had no time to look at it.
        Err(_) => context.coverage.count("send unknown"),
        // That it comes is what the oracles make of it.
        Ok(_) => context.record(&Event::Refused { id }),
    }
}

async fn send(context: &Context, topic: &str, message_id: &str, body: Bytes) {
    let mut route = Vec::new();
    let mut turn = thread_rng().gen_range(0..context.plan.nodes);
    loop {
        turn += 1;
        if route.is_empty() {
            let asked = context.client.route(1 + turn % context.plan.nodes, topic).await;
            match asked {
                Ok(nodes) if !nodes.is_empty() => route = nodes,
                _ => {
                    pause().await;
                    continue;
                }
            }
        }
        // An old route, or a client that knows one node only: then the request has one hop more.
        let node = match thread_rng().gen_bool(ANY_NODE) {
            true => 1 + turn % context.plan.nodes,
            false => route[turn as usize % route.len()],
        };
        let (topic, id) = (topic.to_owned(), message_id.to_owned());
        context.record(&Event::Sending {
            topic: topic.clone(),
            id: id.clone(),
        });
        let answer = context.client.send(node, &topic, &id, body.clone()).await;
        debug!(at = ?now(), id, node, ?answer, "sent");
        match answer {
            Ok(offset) => {
                context.coverage.count("send stored");
                return context.record(&Event::Stored { topic, id, offset });
            }
            Err(Failure::Status(code, _)) => context.coverage.count(&format!("send {}", code.as_str_name())),
            Err(Failure::Peer(_)) => context.coverage.count("send unknown"),
        }
        route.clear();
        pause().await;
    }
}
