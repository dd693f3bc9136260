//! Power that fails in the middle of what a process does.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use madsim::{runtime::Handle, task::NodeId};
use tracing::debug;

use super::{lock, process::Process};
use crate::machine::{MayFail, Outage, Power, SlowMachine};

/// The power of one machine. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Supply {
    /// What the disk and the state engine ask before they do anything.
    pub(super) power: Arc<Power>,
    may_fail: Arc<AtomicBool>,
    has_failed: Arc<AtomicBool>,
}

impl Supply {
    /// It may fail in the middle of work, or no longer.
    pub(super) fn may_fail(&self, may: bool) {
        self.may_fail.store(may, Ordering::SeqCst);
    }

    /// It has failed, and nobody has looked after the machine since.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::SeqCst)
    }

    /// The process has ended, and is to be started again as after a power failure, unless somebody does so before.
    pub(super) fn await_start(&self) {
        self.has_failed.store(true, Ordering::SeqCst);
    }

    /// Somebody looks after the machine.
    pub(super) fn back(&self) {
        self.has_failed.store(false, Ordering::SeqCst);
    }
}

impl Process {
    /// How long its work takes on this machine, and what comes of it when the power fails meanwhile.
    pub(super) fn slow_machine(&self, machine: NodeId) -> Arc<SlowMachine> {
        Arc::new(SlowMachine::new(
            self.plan.slowness,
            self.supply.power.clone(),
            self.clone().power_may_fail_now(),
            self.clone().outage(machine),
        ))
    }

    /// While faults come. Where data is damaged, or the disk is about to fail, that fault decides when the machine stops: what
    /// is written wrong just before the power fails cannot be told from what was being written.
    fn power_may_fail_now(self) -> MayFail {
        Box::new(move || {
            let others = [&self.damaged, &self.may_stop];
            self.supply.may_fail.load(Ordering::Relaxed)
                && !others.iter().any(|fault| fault.load(Ordering::Relaxed))
        })
    }

    /// Ends the process when its machine loses power in the middle of work.
    fn outage(self, machine: NodeId) -> Outage {
        Box::new(move |work| {
            self.trace
                .event("power fails", &[self.id.into()], work.as_bytes());
            debug!(node = self.id, work, "power fails");
            self.coverage.count(&format!("power failed during {work}"));
            *lock(&self.running) = None;
            Handle::current().kill(machine);
            lock(&self.hardware).crash();
            self.supply.has_failed.store(true, Ordering::SeqCst);
        })
    }
}
