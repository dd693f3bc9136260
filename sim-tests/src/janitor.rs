//! An administrator who wants his disks back: again and again has the leaders forget what every consumer group has been
//! given. So segments are recycled, what must stay is copied forward, and replicas that come back late need snapshots,
//! all within a short run. Nothing that a client waits for is lost by it: what is in flight stays.

use std::{sync::Arc, time::Duration};

use broker::node::{Node, shard::DataShard};
use flotilla_proto::record::{Command, Trim, command};
use madsim::rand::{Rng, thread_rng};
use queue_core::{GroupId, QueueId};
use tokio::time::sleep;

use crate::{coverage::Coverage, history::DEAD_LETTERS, host::Host, plan::Plan};

/// Mean pause between two rounds.
const EVERY_MS: std::ops::Range<u64> = 1_000..8_000;
/// Messages forgotten by one command at most.
const LIMIT: u32 = 256;
/// Share of worlds that have one.
const SHARE: f64 = 0.6;

/// Runs until it is aborted, in some worlds; the others keep everything.
pub async fn run(hosts: Arc<Vec<Host>>, plan: Plan, coverage: Coverage) {
    if !thread_rng().gen_bool(SHARE) {
        return;
    }
    loop {
        sleep(Duration::from_millis(thread_rng().gen_range(EVERY_MS))).await;
        for node in hosts.iter().filter_map(Host::node) {
            for shard in node.shards().into_iter().filter(|shard| shard.leads()) {
                for (queue, first) in delivered(&node, &shard, &plan) {
                    trim(&shard, queue, first);
                    coverage.count("janitor trims");
                }
            }
        }
    }
}

/// Queues of a shard, and up to where each was delivered to all consumer groups, if that is more than what is forgotten.
fn delivered(node: &Node, shard: &DataShard, plan: &Plan) -> Vec<(QueueId, u64)> {
    let meta = node.meta();
    let groups: Vec<GroupId> = (0..plan.groups)
        .filter_map(|number| Some(GroupId(meta.group(&plan.group(number))?.id)))
        .collect();
    let is_for_all = |queue: QueueId| {
        let topic = meta.topic_by_id(queue.topic());
        topic.is_some_and(|topic| !topic.name.starts_with(DEAD_LETTERS))
            && groups.len() == plan.groups as usize
    };
    shard.machine.read(|core| {
        let of_all = core.queues().filter(|(queue, _)| is_for_all(*queue));
        let reached = of_all.filter_map(|(queue, ends)| {
            let cursors = groups
                .iter()
                .map(|group| core.subscription(*group, queue).map_or(0, |known| known.cursor));
            Some((queue, cursors.min()?)).filter(|(_, first)| *first > ends.first)
        });
        reached.collect()
    })
}

/// Nobody waits for the outcome.
fn trim(shard: &DataShard, queue: QueueId, first: u64) {
    let trim = Trim {
        queue: queue.0,
        first,
        limit: LIMIT,
    };
    let command = Some(command::Command::Trim(trim));
    let _ = shard.proposer.enqueue(Command { command });
}
