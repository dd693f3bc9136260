//! Receipt handles that nobody gave, and what becomes of a message that is shown with one: nothing, whoever asks for it.

use std::time::Duration;

use broker::service::handle::Handle;
use madsim::rand::{Rng, seq::SliceRandom, thread_rng};
use queue_core::QueueId;
use tracing::debug;

use super::{Context, now};
use crate::client::Received;

/// Longest that a message would be hidden by a handle that is none, milliseconds.
const HIDDEN_MS: std::ops::Range<u64> = 0..20_000;
/// What is far from every offset and nonce that there is.
const FAR: u64 = 1 << 40;

/// How a handle is made that nobody gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forgery {
    /// It is longer, or shorter, than any.
    Length,
    /// One of its characters is another one.
    Character,
    /// It is of another lease of the same message.
    Nonce,
    /// It is of another offset. (A near one may have been given: what comes together has one nonce.)
    Offset,
    /// It is of a queue that is not there. (What stands at the same offset of another one may be over, and then a request that is
    /// repeated inside the cluster counts as done.)
    Queue,
    /// It is of another shard, which may be there or not.
    Shard,
    /// It is of another consumer group.
    Group,
}

impl Forgery {
    const ALL: [Forgery; 7] = [
        Forgery::Length,
        Forgery::Character,
        Forgery::Nonce,
        Forgery::Offset,
        Forgery::Queue,
        Forgery::Shard,
        Forgery::Group,
    ];

    /// Any of them.
    pub(super) fn any() -> Forgery {
        *Forgery::ALL.choose(&mut thread_rng()).expect("there are some")
    }

    /// The message with a handle that nobody gave; nothing if its own is none.
    pub(super) fn of(self, message: &Received) -> Option<Received> {
        let drawn: u64 = thread_rng().r#gen();
        let handle = self.handle(&message.handle, drawn)?;
        Some(Received {
            handle,
            ..message.clone()
        })
    }

    fn handle(self, text: &str, drawn: u64) -> Option<String> {
        let true_one = Handle::decode(text)?;
        let mut handle = true_one;
        match self {
            Forgery::Length if drawn.is_multiple_of(2) => return Some(format!("{text}x")),
            Forgery::Length => return text.get(..text.len() - 1).map(str::to_owned),
            Forgery::Character => return Some(with_another_character(text, drawn)),
            Forgery::Nonce => handle.nonce ^= 1 << (drawn % 64),
            Forgery::Offset => handle.offset ^= FAR << (drawn % 20),
            Forgery::Queue => {
                let (topic, number) = (handle.queue.topic(), handle.queue.number());
                handle.queue = QueueId::new(topic, number ^ (1 << (8 + drawn % 8)));
            }
            Forgery::Shard => handle.shard ^= 1 << (drawn % 3),
            Forgery::Group => handle.group ^= 1 << (drawn % 3),
        }
        Some(handle.encode())
    }
}

/// The first ones say the version, the last ones a nonce: what is between would name other messages.
fn with_another_character(text: &str, drawn: u64) -> String {
    let at = match drawn % 10 {
        0 => 0,
        near_end => text.len() - near_end as usize,
    };
    let mut bytes = text.as_bytes().to_vec();
    bytes[at] = if bytes[at] == b'Q' { b'!' } else { b'Q' };
    String::from_utf8(bytes).expect("plain characters")
}

/// Asks, with a handle that nobody gave, that the message is hidden or made a dead letter; or with the true one, for another
/// consumer group. Whoever shows none is refused, whatever the reason.
pub(super) async fn try_one(
    context: &Context,
    node: u32,
    group: &str,
    message: &Received,
    leased_until: Duration,
) {
    let others = (0..context.plan.groups).map(|number| context.plan.group(number));
    let others: Vec<String> = others.filter(|other| other != group).collect();
    let strange = others
        .choose(&mut thread_rng())
        .filter(|_| thread_rng().gen_bool(0.3));
    let (forgery, shown) = match strange {
        Some(_) => (Forgery::Group, Some(message.clone())),
        None => {
            let forgery = Forgery::any();
            (forgery, forgery.of(message))
        }
    };
    let Some(shown) = shown else {
        let text = format!("answer of node {node}: {message:?} has no handle");
        return context.history.broken(text);
    };
    let asks_as = strange.map_or(group, String::as_str);
    let (what, answer) = match thread_rng().gen_range(0..3) {
        0 => {
            let acked = context.client.ack(node, asks_as, &[&shown]).await;
            ("ack", acked.and_then(|mut all| all.remove(0)))
        }
        1 => ("bury", context.client.bury(node, asks_as, &shown).await),
        _ => {
            let hidden = Duration::from_millis(thread_rng().gen_range(HIDDEN_MS));
            let answer = context.client.hide(node, asks_as, &shown, hidden).await;
            ("hide", answer.map(|_| ()))
        }
    };
    debug!(at = ?now(), id = message.message_id, asks_as, node, ?forgery, what, ?answer, "showed a handle that nobody gave");
    context.coverage.count("handle invented");
    // Once the message may be over, whoever repeats a request that began elsewhere cannot tell it from one that was done.
    let may_be_over = forgery != Forgery::Group && now() >= leased_until;
    match answer {
        Ok(()) if !may_be_over => context.history.broken(format!(
            "P3: {asks_as} may {what} {} of {group} with {shown:?} ({forgery:?}), which nobody gave it",
            message.message_id
        )),
        Ok(()) => {}
        Err(failure) => context.refused("invented", node, &failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_forgery_is_the_handle_or_that_of_a_neighbour() {
        let handle = Handle {
            shard: 1,
            queue: QueueId::new(7, 1),
            group: 2,
            offset: 5,
            nonce: 0x1234_5678_9abc_def0,
        };
        let text = handle.encode();
        for forgery in Forgery::ALL {
            for drawn in 0..200 {
                let forged = forgery.handle(&text, drawn).expect("it is a handle");
                assert_ne!(forged, text, "{forgery:?} {drawn}");
                let Some(forged) = Handle::decode(&forged) else {
                    continue;
                };
                let is_another = forged.nonce != handle.nonce
                    || forged.offset.abs_diff(handle.offset) > 1 << 32
                    || (forged.shard, forged.queue, forged.group)
                        != (handle.shard, handle.queue, handle.group);
                assert!(is_another, "{forgery:?} {drawn}: {forged:?}");
            }
        }
        assert_eq!(Forgery::Nonce.handle("none", 0), None);
    }
}
