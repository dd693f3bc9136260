//! What the leader of a data shard does by itself: it lets time pass.

use std::{sync::Arc, time::Duration};

use flotilla_proto::record::{self, Command, command};
use queue_core::Reply;
use tokio::time::Instant;

use super::{Node, checks, kv::stop_reason, shard::DataShard};

/// Longest sleep between two looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it is said that message ids are forgotten before their time.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// After a refused command the next try waits so long.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// Runs until the node stops.
pub(super) async fn run(node: Node, shard: Arc<DataShard>) {
    let mut stop = node.inner.stop.subscribe();
    let mut status = shard.replica.subscribe();
    let mut progress = shard.replica.subscribe();
    let (mut told, mut told_at) = (0, Instant::now());
    loop {
        let seen = status.current();
        let catching_up = seen.is_leader && !seen.caught_up;
        if seen.is_leader && seen.caught_up {
            shard.machine.start_counting();
        }
        if shard.leadership().see(&seen, node.clock().steady_ms()) {
            // Waiters look again: queues came here, or went elsewhere.
            node.inner.hub.ring_all();
            plant!(LeasesReleasedAtFailover => super::planted::release_all(&shard));
        }
        let leads = shard.leads();
        let mut wait = LOOK_EVERY;
        if leads {
            wait = wait.min(tick(&shard).await);
            match shard.fire().await {
                Ok(none_for) => wait = wait.min(none_for),
                Err(fault) => {
                    tracing::error!(%fault, shard = shard.id, "what is due cannot be read from the state");
                    node.stop(stop_reason(fault));
                }
            }
            wait = wait.min(checks::check_back(&node, &shard).await);
            go_on_seeking(&shard).await;
            if told_at.elapsed() >= TELL_EVERY {
                tell_of_a_short_window(&shard, &mut told);
                told_at = Instant::now();
            }
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

/// Says that message ids are forgotten before their time: sends that are repeated later than that are stored twice.
fn tell_of_a_short_window(shard: &DataShard, told: &mut u64) {
    let (forgotten, age_ms) = shard.machine.read(queue_core::Core::dedup_shortened);
    // A state that was loaded anew counts anew.
    if forgotten > *told {
        tracing::warn!(
            shard = shard.id,
            forgotten = forgotten - *told,
            age_ms,
            "more messages come than ids can be remembered for the whole deduplication window: a send that is repeated later than `age_ms` is stored twice"
        );
    }
    *told = forgotten;
}

/// Takes a step of a seek that whoever began it has not finished: the leader died, or whoever asked gave up.
async fn go_on_seeking(shard: &DataShard) {
    let Some(seek) = shard.machine.read(|core| core.next_seek(shard.bounds.seek)) else {
        return;
    };
    let command = Command {
        command: Some(command::Command::Seek(seek)),
    };
    if !matches!(
        shard.proposer.submit(command).await,
        Ok(Reply::Sought { at: None })
    ) {
        return;
    }
    // The next step after what has come meanwhile.
    shard.machine.timer.notify_one();
}

/// Expires what is due; tells how long nothing will be.
async fn tick(shard: &DataShard) -> Duration {
    loop {
        let now = shard.now_ms();
        let limit = shard.bounds.tick as usize;
        let (expiries, deadline) = shard
            .machine
            .read(|core| (core.expiries(now, limit), core.next_deadline()));
        if expiries.is_empty() {
            let next = deadline.map(|deadline| Duration::from_millis(deadline.saturating_sub(now)));
            return next.unwrap_or(LOOK_EVERY);
        }
        let tick = command::Command::Tick(record::Tick { expiries });
        let tick = Command { command: Some(tick) };
        let ticked = plant!(TickStopsAfterRefusal => super::planted::tick_until_refused(shard, tick).await, else shard.proposer.submit(tick).await);
        match ticked {
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
