//! A push consumer that is busy for minutes with what it has: it receives nothing meanwhile, and says that it lives, in
//! Heartbeats and in nothing else. Another consumer goes on receiving, and gets none of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use madsim::rand::{Rng, thread_rng};
use tokio::time::sleep;
use tracing::debug;

use super::{Context, now};

/// From one Heartbeat to the next, as SDKs send them.
const BEATS_EVERY: Duration = Duration::from_secs(10);
/// For how long, seconds: a client of which nothing is heard is gone before, and what it had then comes to others.
const RESTS: std::ops::Range<u64> = 190..230;
/// Share of receives with messages after which it rests.
const TIRED: f64 = 0.3;
/// How often it rests.
const TIMES: u32 = 2;
/// So long after the last fault the first time, so that nothing counts as lost that it has then.
const AFTER_FAULTS: Duration = Duration::from_secs(10);

/// The rests of a client. Clones are of the same one.
#[derive(Clone, Default)]
pub(super) struct Rest {
    is_resting: Arc<AtomicBool>,
    left: Arc<AtomicU32>,
    /// It rests at all.
    rests: bool,
}

impl Rest {
    /// Of a client that rests now and then, or never.
    pub(super) fn new(rests: bool) -> Rest {
        Rest {
            left: Arc::new(AtomicU32::new(if rests { TIMES } else { 0 })),
            rests,
            ..Rest::default()
        }
    }

    /// Whether this is a client that rests.
    pub(super) fn is_any(&self) -> bool {
        self.rests
    }

    /// It must not receive now.
    pub(super) fn is_on(&self) -> bool {
        self.is_resting.load(Ordering::SeqCst)
    }

    fn begins(&self) -> bool {
        let may = self.left.load(Ordering::SeqCst) > 0 && !self.is_on();
        if may {
            self.left.fetch_sub(1, Ordering::SeqCst);
            self.is_resting.store(true, Ordering::SeqCst);
        }
        may
    }
}

/// Now that something came, and it is tired, it rests.
pub(super) async fn maybe(context: &Context, group: &str) {
    let is_early = now() < context.plan.faults_for + AFTER_FAULTS;
    if is_early || !thread_rng().gen_bool(TIRED) || !context.rest.begins() {
        return;
    }
    let until = now() + Duration::from_secs(thread_rng().gen_range(RESTS));
    debug!(at = ?now(), who = context.who.program(), ?until, "rests");
    while now() < until && !context.stopped() {
        let beats = (1..=context.plan.nodes).map(|node| async move {
            if let Err(failure) = context.client.say_it_lives(node, group).await {
                context.failed("heartbeat", node, &failure);
            }
        });
        join_all(beats).await;
        sleep(BEATS_EVERY).await;
    }
    context.coverage.count("push rests");
    context.rest.is_resting.store(false, Ordering::SeqCst);
}
