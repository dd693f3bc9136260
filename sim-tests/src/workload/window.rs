//! The dedup window, from both sides: in some worlds, once the faults are over, a message is sent again while the window must be
//! open, and once more when it must be over. Nobody reads its topic, so no oracle of what comes takes it for a mistake.

use std::{
    ops::Range,
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
use crate::{host::Host, letter::Letter, plan::Plan};

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
    pub(super) fn drawn(plan: &Plan) -> Window {
        let window = Window::default();
        let is_tried = thread_rng().gen_bool(SHARE) || plan.window;
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
        let first = send(&context, 0).await;
        let after = now();
        send_others(&context, 1..41).await;
        sleep((before + WINDOW).saturating_sub(now() + BEFORE)).await;
        let within = send(&context, 0).await;
        if now() < before + WINDOW && within != first {
            let told = format!(
                "P7: stored at {first}, and again at {within} within {:?}",
                now() - before
            );
            context.history.broken(told);
        }
        context.coverage.count("sent again within the window");
        sleep((after + WINDOW + AFTER).saturating_sub(now())).await;
        let beyond = send(&context, 0).await;
        if beyond == first {
            let told = format!(
                "P7: {:?} after it was stored a message counts as sent twice",
                now() - after
            );
            context.history.broken(told);
        }
        context.coverage.count("sent again after the window");
        // Whatever has become of the first one since, the later is known.
        let at = now();
        send_others(&context, 41..200).await;
        let again = send(&context, 0).await;
        if again != beyond && now() < at + WINDOW - BEFORE {
            let told = format!("P7: stored anew at {beyond} after the window, and once more at {again}");
            context.history.broken(told);
        }
        self.done.store(true, Ordering::SeqCst);
    }
}

/// Others, so that many ids have come since, and what is over is forgotten.
async fn send_others(context: &Context, numbers: Range<u32>) {
    for number in numbers.filter(|_| context.plan.window) {
        send(context, number).await;
    }
}

/// Sends the message until it is stored; its offset.
async fn send(context: &Context, number: u32) -> i64 {
    let id = format!("{TOPIC}/1-{number:04}");
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
