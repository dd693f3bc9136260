//! The dedup window, from both sides: in some worlds, once the faults are over, a message is sent again while the window must be
//! open, and once more when it must be over. Nobody reads its topic, so no oracle of what comes takes it for a mistake.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use madsim::rand::{Rng, thread_rng};
use queue_core::limits::DEDUP_WINDOW_MS;
use tokio::time::sleep;

use super::{Context, founded, now, pause};
use crate::{host::Host, letter::Letter};

/// Its topic.
const TOPIC: &str = "again";
/// Share of worlds.
const SHARE: f64 = 0.05;
const WINDOW: Duration = Duration::from_millis(DEDUP_WINDOW_MS);
/// So long before the window ends it is sent again: a try may have to be made again.
const BEFORE: Duration = Duration::from_secs(20);
/// So long after the window has ended it is sent again: a shard's time stands still while nobody leads it.
const AFTER: Duration = Duration::from_secs(20);

/// Both signs of the one who does it. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Window {
    calm: Arc<AtomicBool>,
    done: Arc<AtomicBool>,
}

impl Window {
    /// The cluster is whole, and the faults are over.
    pub(super) fn calm(&self) {
        self.calm.store(true, Ordering::SeqCst);
    }

    /// It was tried, or it is not in this world.
    #[must_use]
    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }

    /// Draws whether it is tried.
    pub(super) fn drawn() -> Window {
        let window = Window::default();
        let is_tried = thread_rng().gen_bool(SHARE);
        window.done.store(!is_tried, Ordering::SeqCst);
        window
    }

    /// Tries it.
    pub(super) async fn run(self, context: Context, hosts: Arc<Vec<Host>>) {
        while !self.calm.load(Ordering::SeqCst) {
            pause().await;
        }
        founded::make(&hosts, founded::topic(TOPIC, 1, "NORMAL"), None).await;
        let before = now();
        let first = send(&context).await;
        let after = now();
        sleep((before + WINDOW).saturating_sub(now() + BEFORE)).await;
        let within = send(&context).await;
        if now() < before + WINDOW && within != first {
            let told = format!(
                "P7: stored at {first}, and again at {within} within {:?}",
                now() - before
            );
            context.history.broken(told);
        }
        context.coverage.count("sent again within the window");
        sleep((after + WINDOW + AFTER).saturating_sub(now())).await;
        let beyond = send(&context).await;
        if beyond == first {
            let told = format!(
                "P7: {:?} after it was stored a message counts as sent twice",
                now() - after
            );
            context.history.broken(told);
        }
        context.coverage.count("sent again after the window");
        self.done.store(true, Ordering::SeqCst);
    }
}

/// Sends the message until it is stored; its offset.
async fn send(context: &Context) -> i64 {
    let id = format!("{TOPIC}/1-0000");
    let letters = [(id.clone(), Letter::of(&id, context.plan.body))];
    let mut node = thread_rng().gen_range(1..=context.plan.nodes);
    loop {
        let answer = context.client.send(node, TOPIC, None, &letters).await;
        match answer.and_then(|mut all| all.remove(0)) {
            Ok(offset) => return offset,
            Err(failure) => context.failed("send", node, &failure),
        }
        node = context.next(node);
        pause().await;
    }
}
