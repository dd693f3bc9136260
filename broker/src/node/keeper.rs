//! What the leader of a data shard does by itself: lets time pass, renews leases of
//! living push consumers, and ends those of push consumers that said good-bye.

use std::{sync::Arc, time::Duration};

use flotilla_proto::record::{self, Command, command};
use queue_core::{GroupId, InFlightView, QueueId, Reply};

use super::{Node, shard::DataShard};
use crate::limits::{
    AUTO_RENEW_LEASE_MS, DEPARTED_VISIBLE_AFTER_MS, RENEW_AT_MOST_MS, RENEW_BEFORE_MS, RENEW_EVERY_MS,
    TICK_LIMIT,
};

/// Longest sleep between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After a refused command the next try waits so long.
const PAUSE: Duration = Duration::from_millis(100);
/// Leases renewed at once, and leases of departed clients ended at once.
const RENEW_AT_ONCE: usize = 4096;

/// Runs until the node stops.
pub(super) async fn run(node: Node, shard: Arc<DataShard>) {
    let mut stop = node.inner.stop.subscribe();
    let mut status = shard.replica.subscribe();
    let mut progress = shard.replica.subscribe();
    let mut renewed_ms = 0;
    let mut departures = Departures::default();
    loop {
        let seen = status.current();
        let catching_up = seen.is_leader && !seen.caught_up;
        if shard.leadership().see(&seen, node.clock().steady_ms()) {
            // Waiters look again: queues came here, or went elsewhere.
            node.inner.hub.ring_all();
            // What the leader before was about to do for departed clients may be lost.
            departures = Departures::default();
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
            }
            departures.see(&node, &shard);
            wait = wait.min(tick(&shard).await);
        }
        tokio::select! {
            biased;
            _ = stop.wait_for(Option::is_some) => return,
            () = shard.machine.timer.notified(), if leads => {}
            changed = status.changed() => if !changed { return },
            changed = progress.progressed(), if catching_up => if !changed { return },
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
        .read(|core| core.renewable(now + RENEW_BEFORE_MS, RENEW_AT_ONCE, |_| true));
    for (group, queue, lease) in due {
        let too_old = now.saturating_sub(lease.first_leased_ms) > RENEW_AT_MOST_MS;
        if too_old || !node.inner.clients.alive(lease.client, steady) {
            continue;
        }
        let end = record::release::Action::Renew;
        // Nobody waits for the reply: a renewal that fails is tried again at the next look.
        if !release(shard, (group, queue, lease), end, now + AUTO_RENEW_LEASE_MS) {
            return;
        }
    }
}

/// Clients that said good-bye, as far as one keeper has seen to their leases.
#[derive(Default)]
struct Departures {
    done: u64,
    looked_ms: u64,
}

impl Departures {
    /// Ends the leases that were renewed for clients that have departed since the last look, as an attempt that failed.
    /// All leases are looked through, so only if there is reason to, and not all the time.
    fn see(&mut self, node: &Node, shard: &DataShard) {
        let (now, steady) = (shard.now_ms(), node.clock().steady_ms());
        let clients = &node.inner.clients;
        let departures = clients.departures();
        if departures == self.done || steady < self.looked_ms + LOOK_EVERY.as_millis() as u64 {
            return;
        }
        self.looked_ms = steady;
        let departed = clients.departed(steady);
        let theirs = |lease: &InFlightView| departed.contains(&lease.client);
        let due = shard
            .machine
            .read(|core| core.renewable(u64::MAX, RENEW_AT_ONCE, theirs));
        let cut = due.len() == RENEW_AT_ONCE;
        for lease in due {
            let end = record::release::Action::Retry;
            if !release(shard, lease, end, now + DEPARTED_VISIBLE_AFTER_MS) {
                return;
            }
        }
        // The rest is found at the next look.
        if !cut {
            self.done = departures;
        }
    }
}

/// Proposes another end for a lease, under the receipt that its holder has: what it acknowledged before it left still
/// counts. False if the proposer takes no more.
fn release(
    shard: &DataShard,
    (group, queue, lease): (GroupId, QueueId, InFlightView),
    action: record::release::Action,
    at_ms: u64,
) -> bool {
    let release = record::Release {
        group: group.0,
        queue: queue.0,
        lease: Some(record::LeaseRef {
            offset: lease.offset,
            nonce: lease.nonce,
        }),
        action: action as i32,
        at_ms: Some(at_ms),
        // A renewal has no use for it.
        new_nonce: lease.nonce,
    };
    let command = Some(command::Command::Release(release));
    shard.proposer.enqueue(Command { command }).is_ok()
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
