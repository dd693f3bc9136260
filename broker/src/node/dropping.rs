//! What the leader of a data shard does with what the catalogue has marked as deleted: it forgets it, on a task of its
//! own, so that no lease and no tick waits for it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use flotilla_proto::record::{self, Command, command, configure};
use queue_core::{GroupId, QueueId, Reply};

use super::{Node, shard::DataShard};
use crate::limits::DROP_LIMIT;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Runs until the node stops.
pub(super) async fn run(node: Node, shard: Arc<DataShard>) {
    let mut stop = node.inner.stop.subscribe();
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(Option::is_some) => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if shard.leads() {
            drop_deleted(&node, &shard).await;
        }
    }
}

/// Forgets queues and consumer groups that the catalogue has marked as deleted. What the catalogue
/// here does not know (yet) is left alone: this node may be behind.
async fn drop_deleted(node: &Node, shard: &DataShard) {
    let meta = node.meta();
    let (queues, groups) = shard.machine.read(|core| {
        // A queue that never had a message may have subscriptions all the same.
        let queues: BTreeSet<QueueId> = core
            .queues()
            .map(|(queue, _)| queue)
            .chain(core.subscriptions().map(|(_, queue, _)| queue))
            .filter(|queue| meta.topic_by_id(queue.topic()).is_some_and(|topic| topic.deleted))
            .collect();
        let groups: Vec<GroupId> = core
            .subscriptions()
            .map(|(group, _, _)| group)
            .filter(|group| meta.group_by_id(group.0).is_some_and(|group| group.deleted))
            .collect();
        (queues, groups)
    });
    for queue in queues {
        let what = configure::What::DropQueue(record::DropQueue {
            queue: queue.0,
            limit: DROP_LIMIT,
        });
        configure_until_done(shard, what).await;
    }
    for group in groups {
        let what = configure::What::DropGroup(record::DropGroup {
            group: group.0,
            limit: DROP_LIMIT,
        });
        configure_until_done(shard, what).await;
    }
}

async fn configure_until_done(shard: &DataShard, what: configure::What) {
    loop {
        let configure = command::Command::Configure(record::Configure {
            what: Some(what.clone()),
        });
        match shard
            .proposer
            .submit(Command {
                command: Some(configure),
            })
            .await
        {
            Ok(Reply::Configured { more: true }) => {}
            _ => return,
        }
    }
}
