//! What the leader of a data shard does by itself: lets time pass, renews leases of
//! living push consumers, and drops what was deleted.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use flotilla_proto::record::{self, Command, command, configure};
use queue_core::{GroupId, QueueId, Reply};

use super::{Node, shard::DataShard};
use crate::limits::{
    AUTO_RENEW_LEASE_MS, DROP_LIMIT, RENEW_AT_MOST_MS, RENEW_BEFORE_MS, RENEW_EVERY_MS, TICK_LIMIT,
};

/// Longest sleep between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After a refused command the next try waits so long.
const PAUSE: Duration = Duration::from_millis(100);
/// Renewals proposed at once.
const RENEW_AT_ONCE: usize = 4096;

/// Runs until the node stops.
pub(super) async fn run(node: Node, shard: Arc<DataShard>) {
    let mut stop = node.inner.stop.subscribe();
    let mut status = shard.replica.subscribe();
    let mut renewed_ms = 0;
    loop {
        if shard
            .leadership()
            .see(&status.current(), node.clock().steady_ms())
        {
            // Waiters look again: queues came here, or went elsewhere.
            node.inner.hub.ring_all();
            // Planted: what the leader before has leased is nobody's.
            #[cfg(madsim)]
            if plant::is(plant::Bug::LeasesReleasedAtFailover) && shard.leads() {
                release_all(&shard);
            }
        }
        let leads = shard.leads();
        let mut wait = LOOK_EVERY;
        if leads {
            let now = node.clock().steady_ms();
            if now >= renewed_ms + RENEW_EVERY_MS {
                renewed_ms = now;
                renew(&node, &shard).await;
                drop_deleted(&node, &shard).await;
            }
            wait = wait.min(tick(&shard).await);
        }
        tokio::select! {
            biased;
            _ = stop.wait_for(Option::is_some) => return,
            () = shard.machine.timer.notified(), if leads => {}
            changed = status.changed() => if !changed { return },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Expires what is due; tells how long nothing will be.
async fn tick(shard: &DataShard) -> Duration {
    loop {
        let Some(deadline) = shard.machine.read(|core| core.next_deadline()) else {
            return LOOK_EVERY;
        };
        let now = shard.now_ms();
        if deadline > now {
            return Duration::from_millis(deadline - now);
        }
        let tick = command::Command::Tick(record::Tick { limit: TICK_LIMIT });
        match shard.proposer.submit(Command { command: Some(tick) }).await {
            Ok(Reply::Ticked {
                expired: 0,
                dead_lettered: 0,
                ..
            })
            | Err(_) => return PAUSE,
            Ok(_) => {}
        }
    }
}

/// Prolongs leases of push consumers that gave a sign of life lately.
async fn renew(node: &Node, shard: &DataShard) {
    let (now, steady) = (shard.now_ms(), node.clock().steady_ms());
    let due = shard
        .machine
        .read(|core| core.renewable(now + RENEW_BEFORE_MS, RENEW_AT_ONCE));
    for (group, queue, lease) in due {
        let too_old = now.saturating_sub(lease.first_leased_ms) > RENEW_AT_MOST_MS;
        if too_old || !node.inner.clients.alive(lease.client, steady) {
            continue;
        }
        let release = record::Release {
            group: group.0,
            queue: queue.0,
            lease: Some(record::LeaseRef {
                offset: lease.offset,
                nonce: lease.nonce,
            }),
            action: record::release::Action::Renew as i32,
            at_ms: Some(now + AUTO_RENEW_LEASE_MS),
            new_nonce: 0,
        };
        // Nobody waits for the reply: a renewal that fails is tried again at the next look.
        if shard
            .proposer
            .enqueue(Command {
                command: Some(command::Command::Release(release)),
            })
            .is_err()
        {
            return;
        }
    }
}

/// The planted bug of a new leader that ends all leases.
#[cfg(madsim)]
fn release_all(shard: &DataShard) {
    let at_ms = Some(shard.now_ms());
    let leases: Vec<_> = shard.machine.read(|core| {
        let all = core.subscriptions().flat_map(|(group, queue, known)| {
            (0..known.cursor)
                .filter_map(move |offset| Some((group, queue, core.in_flight(group, queue, offset)?)))
        });
        all.filter(|(_, _, lease)| lease.leased).collect()
    });
    for (group, queue, lease) in leases {
        let release = record::Release {
            group: group.0,
            queue: queue.0,
            lease: Some(record::LeaseRef {
                offset: lease.offset,
                nonce: lease.nonce,
            }),
            action: record::release::Action::Retry as i32,
            at_ms,
            new_nonce: 0,
        };
        let command = Some(command::Command::Release(release));
        let _ = shard.proposer.enqueue(Command { command });
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
