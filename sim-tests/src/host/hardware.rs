//! What lasts of a machine when its process dies.

use std::time::Duration;

use madsim::rand::{Rng, thread_rng};
use raft_store::{
    disk::sim::{Loss, SimDisk},
    engine::memory::MemoryEngine,
};

use crate::plan::Plan;

/// What lasts when a process dies.
pub struct Hardware {
    pub(super) disk: SimDisk,
    pub(super) engine: MemoryEngine,
}

impl Hardware {
    /// With nothing on it.
    #[must_use]
    pub fn new(plan: &Plan) -> Hardware {
        let disk = SimDisk::new(thread_rng().r#gen());
        disk.set_sync_delay(Some(Duration::from_micros(plan.sync_us)));
        Hardware {
            disk,
            engine: MemoryEngine::new(),
        }
    }

    /// An empty place.
    pub(crate) fn nothing() -> Hardware {
        Hardware {
            disk: SimDisk::new(0),
            engine: MemoryEngine::new(),
        }
    }

    pub(super) fn fork(&self) -> Hardware {
        Hardware {
            disk: self.disk.fork(),
            engine: self.engine.fork(),
        }
    }

    /// The power fails: what was not synced is lost, torn or kept, as chance has it.
    pub(super) fn crash(&self) {
        self.disk.crash(Loss::Random(thread_rng().r#gen()));
        let unflushed = self.engine.unflushed();
        self.engine.crash(thread_rng().gen_range(0..=unflushed));
    }
}
