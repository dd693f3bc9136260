//! Consumers that die: the process ends in the middle of whatever it does, its connections break, or its machine has gone
//! without a word before. What comes back is another client to the nodes.

use std::{sync::PoisonError, time::Duration};

use madsim::{
    net::NetSim,
    rand::{Rng, thread_rng},
    runtime::{Handle, NodeHandle},
};
use tokio::time::sleep;
use tracing::debug;

use super::{Program, now};
use crate::history::{Event, VANISHES_WITHIN};

/// How long one lives, milliseconds.
const LIVES_MS: std::ops::Range<u64> = 5_000..60_000;
/// How long nobody takes its place.
const GONE_MS: std::ops::Range<u64> = 100..20_000;
/// How long nothing is heard of it before its connections break, if it vanishes.
const SILENT_MS: std::ops::Range<u64> = 1_000..VANISHES_WITHIN.as_millis() as u64;
/// So long after the last fault they live on: there is an end to what comes again because of it.
const AFTER_FAULTS: Duration = Duration::from_secs(40);

pub(super) async fn now_and_then(program: Program, machine: NodeHandle, topic: String, group: String) {
    let last = |ms: std::ops::Range<u64>| sleep(Duration::from_millis(thread_rng().gen_range(ms)));
    loop {
        last(LIVES_MS).await;
        if program.stopped() || now() > program.plan.faults_for + AFTER_FAULTS {
            return;
        }
        let vanishes = thread_rng().gen_bool(0.5);
        if vanishes {
            program.record(&Event::Vanishing {
                client: program.who.program(),
                group: group.clone(),
                topic: topic.clone(),
            });
            NetSim::current().clog_node(machine.id());
            last(SILENT_MS).await;
        }
        Handle::current().kill(machine.id());
        NetSim::current().unclog_node(machine.id());
        program.coverage.count(if vanishes {
            "client vanishes"
        } else {
            "client dies"
        });
        let unsure = std::mem::take(&mut *program.acking.lock().unwrap_or_else(PoisonError::into_inner));
        for receipt in unsure {
            program.record(&Event::AckUnsure(receipt));
        }
        program.record(&Event::Died {
            client: program.who.program(),
            group: group.clone(),
            topic: topic.clone(),
        });
        let name = program.who.rename();
        debug!(at = ?now(), name, group, topic, vanishes, "died");
        last(GONE_MS).await;
        Handle::current().restart(machine.id());
    }
}
