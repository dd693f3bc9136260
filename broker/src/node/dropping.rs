//! What the leader of a data shard does with what the catalogue has marked as deleted, or has forgotten since: it drops
//! it, on a task of its own, in steps, with rests between them. However much a topic holds, the shard's ticks, renewals
//! and sends wait for one step at most, and for a bounded share of the shard's time.
//!
//! Ids are never used twice, and a catalogue that is behind has not given an id out yet that it does not know. So what
//! this node's catalogue says is deleted or forgotten is so for good, and dropping it is right whenever something of it
//! turns up: from a leader that was behind, from a snapshot, from a log that a replica catches up with.

use std::sync::Arc;

use flotilla_proto::{
    peer::{ForwardRequest, ForwardResponse, Held},
    record::{self, Command, command, configure},
};
use prost::Message;
use queue_core::{Core, GroupId, Reply};
use tokio::time::{Instant, sleep};

use super::{Node, shard::DataShard};
use crate::{
    limits::{DROP_AT_ONCE, DROP_EVERY, DROP_LIMIT, DROP_REST, DROP_REST_AT_MOST, SWEEP_AT_ONCE},
    meta::{MetaState, limits::MAX_FORGET},
};

/// Runs until the node stops.
pub(super) async fn run(node: Node, shard: Arc<DataShard>) {
    let mut stop = node.inner.stop.subscribe();
    let sweeping = async {
        let mut sweep = Sweep::default();
        loop {
            sleep(DROP_EVERY).await;
            if shard.leads() {
                drop_all(&shard, || {
                    shard.machine.read(|core| sweep.step(core, &node.meta()))
                })
                .await;
            }
        }
    };
    tokio::select! {
        biased;
        _ = stop.wait_for(Option::is_some) => {}
        () = sweeping => {}
    }
}

/// Drops what `next` finds, step by step, until it has looked at everything once.
async fn drop_all(shard: &DataShard, mut next: impl FnMut() -> Found) {
    while shard.leads() {
        let step = match next() {
            Found::End => return,
            // Others use the core between two pages.
            Found::Nothing => {
                tokio::task::yield_now().await;
                continue;
            }
            Found::Step(step) => step,
        };
        let began = Instant::now();
        let waiting: Vec<_> = step
            .into_iter()
            .map(|what| {
                let configure = command::Command::Configure(record::Configure { what: Some(what) });
                shard.proposer.enqueue(Command {
                    command: Some(configure),
                })
            })
            .collect();
        for answer in waiting {
            // The rest is found at the next look.
            let Ok(answer) = answer else { return };
            let Ok(Ok(Reply::Configured { .. })) = answer.await else {
                return;
            };
        }
        sleep((began.elapsed() * DROP_REST).min(DROP_REST_AT_MOST)).await;
    }
}

enum Found {
    /// Commands that remove at most [`DROP_LIMIT`] rows together.
    Step(Vec<configure::What>),
    /// On this page.
    Nothing,
    /// The look is over.
    End,
}

/// How far one look after another has come. All of what the catalogue marks as deleted is looked for in each; of what it has
/// forgotten there is hardly ever anything, and one page of what the shard holds is compared with it.
#[derive(Debug, Default)]
struct Sweep {
    over: bool,
    deleted_topic: u32,
    deleted_group: u32,
    topic: u32,
    group: u32,
}

impl Sweep {
    fn step(&mut self, core: &Core, meta: &MetaState) -> Found {
        if std::mem::take(&mut self.over) {
            return Found::End;
        }
        let deleted = meta.deleted_topics_from(self.deleted_topic).take(SWEEP_AT_ONCE);
        let deleted_topics: Vec<u32> = deleted.map(|topic| topic.id).collect();
        let deleted = meta.deleted_groups_from(self.deleted_group).take(SWEEP_AT_ONCE);
        let deleted_groups: Vec<u32> = deleted.map(|group| group.id).collect();
        let topics = core.topics_from(self.topic, SWEEP_AT_ONCE);
        let groups = core.groups_from(GroupId(self.group), SWEEP_AT_ONCE);
        let mut step = Step {
            deletions: meta.deletions(),
            ..Step::default()
        };
        let forgotten = topics
            .iter()
            .filter(|&&topic| meta.topic_is_gone(topic) && meta.topic_by_id(topic).is_none());
        for &topic in deleted_topics.iter().chain(forgotten) {
            step.queues(core, topic);
        }
        let forgotten = groups
            .iter()
            .map(|group| group.0)
            .filter(|&group| meta.group_is_gone(group));
        for group in deleted_groups.iter().copied().chain(forgotten) {
            plant!(DropLeavesGroups => continue);
            step.group(core, group);
        }
        if !step.commands.is_empty() {
            return Found::Step(step.commands);
        }
        self.deleted_topic = after(deleted_topics.last().copied());
        self.deleted_group = after(deleted_groups.last().copied());
        self.over = deleted_topics.len() < SWEEP_AT_ONCE && deleted_groups.len() < SWEEP_AT_ONCE;
        if self.over {
            (self.deleted_topic, self.deleted_group) = (0, 0);
            self.topic = after(topics.last().copied());
            self.group = after(groups.last().map(|group| group.0));
        }
        Found::Nothing
    }
}

/// Where the page after one with this last element begins; the first again after the last.
fn after(last: Option<u32>) -> u32 {
    last.map_or(0, |last| last.saturating_add(1))
}

#[derive(Default)]
struct Step {
    /// Of the catalogue that was looked into.
    deletions: u64,
    commands: Vec<configure::What>,
    rows: u64,
}

impl Step {
    fn is_full(&self) -> bool {
        self.rows >= u64::from(DROP_LIMIT) || self.commands.len() >= DROP_AT_ONCE
    }

    /// What is left of the step's rows, for one more command.
    fn limit(&mut self, rows: u64) -> u32 {
        let left = u64::from(DROP_LIMIT) - self.rows;
        // One more than there are, so that the command sees the end.
        let limit = (rows + 1).min(left);
        self.rows += limit;
        limit as u32
    }

    fn queues(&mut self, core: &Core, topic: u32) {
        if self.is_full() {
            return;
        }
        for queue in core.queues_of(topic).into_keys() {
            if self.is_full() {
                return;
            }
            let limit = self.limit(core.rows_of(queue));
            let queue = queue.0;
            let drop = record::DropQueue {
                queue,
                limit,
                deletions: self.deletions,
            };
            self.commands.push(configure::What::DropQueue(drop));
        }
    }

    fn group(&mut self, core: &Core, group: u32) {
        if self.is_full() {
            return;
        }
        let queues = core.queues_of_group(GroupId(group)).take(DROP_LIMIT as usize);
        let mut rows = 0;
        for queue in queues {
            rows += 1 + core.count_held(GroupId(group), queue);
        }
        if rows > 0 {
            let limit = self.limit(rows);
            let drop = record::DropGroup {
                group,
                limit,
                deletions: self.deletions,
            };
            self.commands.push(configure::What::DropGroup(drop));
        }
    }
}

/// The name under which the meta leader asks what a data shard still holds.
pub(super) const RPC: &str = "flotilla.Held";

/// Of what is asked for, what this shard still holds anything of, or may come to hold because the catalogue here does not
/// know yet that it is deleted. Nothing if the shard is led elsewhere.
pub(super) fn held(node: &Node, shard: u32, asked: &Held) -> Option<Held> {
    let shard = node.shard(shard).filter(|shard| shard.leads())?;
    let meta = node.meta();
    let held = shard.machine.read(|core| {
        let topic = |&topic: &u32| !meta.topic_is_gone(topic) || !core.queues_of(topic).is_empty();
        let on_any = |group| core.queues_of_group(GroupId(group)).next().is_some();
        let group = |&group: &u32| !meta.group_is_gone(group) || on_any(group);
        let full = |&topic: &u32| core.queues_of(topic).into_values().any(|full| full);
        Held {
            topics: asked.topics.iter().copied().filter(topic).collect(),
            groups: asked.groups.iter().copied().filter(group).collect(),
            dead_letters: asked.dead_letters.iter().copied().filter(full).collect(),
        }
    });
    Some(held)
}

/// The meta leader asks for no more at once. More would hold up the shard.
fn is_bounded(asked: &Held) -> bool {
    let lists = [&asked.topics, &asked.groups, &asked.dead_letters];
    lists.into_iter().all(|list| list.len() <= MAX_FORGET)
}

/// Answers the meta leader on another node.
pub(super) fn forwarded(node: &Node, request: &ForwardRequest) -> ForwardResponse {
    let held = match Held::decode(&request.request[..]) {
        Ok(asked) if is_bounded(&asked) => held(node, request.shard, &asked),
        _ => return ForwardResponse::default(),
    };
    ForwardResponse {
        not_leader: held.is_none(),
        responses: held.iter().map(|held| held.encode_to_vec().into()).collect(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_of_more_than_can_be_forgotten_at_once_is_not_answered() {
        let (most, more) = (vec![1; MAX_FORGET], vec![1; MAX_FORGET + 1]);
        let held = |topics: &Vec<u32>, groups: &Vec<u32>, dead_letters: &Vec<u32>| Held {
            topics: topics.clone(),
            groups: groups.clone(),
            dead_letters: dead_letters.clone(),
        };
        assert!(is_bounded(&held(&most, &most, &most)));
        assert!(!is_bounded(&held(&more, &most, &most)));
        assert!(!is_bounded(&held(&most, &more, &most)));
        assert!(!is_bounded(&held(&most, &most, &more)));
    }
}
