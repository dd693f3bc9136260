//! What the leader of the meta shard does with what is deleted: it asks every data shard whether anything is left of it,
//! and forgets it when nothing is.
//!
//! Nothing depends on the answers being right for ever: whatever turns up of something forgotten is dropped by its shard's
//! leader (`dropping.rs`). They only keep what is not dropped yet counted against the limits, so that rubbish is bounded.

use flotilla_proto::{
    peer::Held,
    record::{DropDeadLetters, Forget, meta_command},
};
use prost::Message;
use tokio::time::sleep;

use super::{META_SHARD, Node, dropping};
use crate::{
    limits::{FORGET_EVERY, LEADER_WAIT},
    meta::{DEAD_LETTER_PREFIX, MetaState, limits::MAX_FORGET},
};

/// Runs until the node stops.
pub(super) async fn run(node: Node) {
    let mut stop = node.inner.stop.subscribe();
    let forgetting = async {
        let mut look = Look::default();
        loop {
            sleep(FORGET_EVERY).await;
            // One round after the other, as long as each finds as much as it may.
            while node.leads(META_SHARD) && round(&node, &mut look).await {}
        }
    };
    tokio::select! {
        biased;
        _ = stop.wait_for(Option::is_some) => {}
        () = forgetting => {}
    }
}

/// True if there may be more to do at once.
async fn round(node: &Node, look: &mut Look) -> bool {
    let meta = node.meta();
    let mut clear = look.next(&meta);
    for shard in 1..=meta.data_shards() {
        if clear == Held::default() {
            return false;
        }
        // Nobody knows: asked again in the next round.
        let Some(held) = ask(node, shard, &clear).await else {
            return false;
        };
        clear.topics.retain(|topic| !held.topics.contains(topic));
        clear.groups.retain(|group| !held.groups.contains(group));
        clear
            .dead_letters
            .retain(|topic| !held.dead_letters.contains(topic));
    }
    let Held {
        topics,
        groups,
        dead_letters,
    } = clear;
    let full = topics.len() == MAX_FORGET || groups.len() == MAX_FORGET;
    if !topics.is_empty() || !groups.is_empty() {
        let forget = meta_command::Command::Forget(Forget { topics, groups });
        if let Err(error) = node.propose_meta(forget).await {
            tracing::debug!(%error, "what was deleted is forgotten later");
            return false;
        }
    }
    if !dead_letters.is_empty() {
        let drop = meta_command::Command::DropDeadLetters(DropDeadLetters { topics: dead_letters });
        if let Err(error) = node.propose_meta(drop).await {
            tracing::debug!(%error, "empty dead-letter topics are deleted later");
            return false;
        }
    }
    full
}

/// Of `asked`, what the shard still holds; nothing if nobody who leads it answers.
async fn ask(node: &Node, shard: u32, asked: &Held) -> Option<Held> {
    let leader = node.leader(shard)?;
    if leader == node.id() {
        return dropping::held(node, shard, asked);
    }
    let request = asked.encode_to_vec().into();
    let answer = node.forward(leader, dropping::RPC, shard, None, request, LEADER_WAIT);
    Held::decode(answer.await.ok()?.pop()?).ok()
}

/// How far one round after another has come: what cannot be forgotten yet does not keep the rest from it.
#[derive(Debug, Default)]
struct Look {
    topic: u32,
    group: u32,
    /// A dead-letter topic's name.
    dead_letters: String,
}

impl Look {
    /// What to ask about next, bounded.
    fn next(&mut self, meta: &MetaState) -> Held {
        let topics: Vec<u32> = meta
            .deleted_topics_from(self.topic)
            .map(|topic| topic.id)
            .take(MAX_FORGET)
            .collect();
        let groups: Vec<u32> = meta
            .deleted_groups_from(self.group)
            .map(|group| group.id)
            .take(MAX_FORGET)
            .collect();
        self.topic = after(&topics);
        self.group = after(&groups);
        Held {
            topics,
            groups,
            dead_letters: self.orphans(meta),
        }
    }

    /// Dead-letter topics without a consumer group among the next so many.
    fn orphans(&mut self, meta: &MetaState) -> Vec<u32> {
        let from = DEAD_LETTER_PREFIX.max(&self.dead_letters);
        let page: Vec<_> = meta
            .topics_from(from)
            .take(MAX_FORGET)
            .map_while(|topic| Some((topic, topic.name.strip_prefix(DEAD_LETTER_PREFIX)?)))
            .collect();
        let next = page.last().filter(|_| page.len() == MAX_FORGET);
        let next = next.map_or(String::new(), |(topic, _)| format!("{}\0", topic.name));
        let orphans = page.iter().filter(|(_, owner)| meta.group(owner).is_none());
        let orphans = orphans.map(|(topic, _)| topic.id).collect();
        self.dead_letters = next;
        orphans
    }
}

/// Where the look after this page begins: behind it, or anew.
fn after(page: &[u32]) -> u32 {
    let full = page.len() == MAX_FORGET;
    page.last()
        .filter(|_| full)
        .map_or(0, |last| last.saturating_add(1))
}
