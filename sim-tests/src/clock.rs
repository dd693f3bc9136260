//! The node's clock and random source: simulated time, and the one seed.

use std::time::UNIX_EPOCH;

use broker::clock::Clock;
use madsim::{
    rand::{RngCore, thread_rng},
    time::TimeHandle,
};

use crate::trace::Trace;

/// What a node takes for wall clock and chance.
pub struct SimClock {
    node: u64,
    trace: Trace,
}

impl SimClock {
    /// The clock of one node.
    #[must_use]
    pub fn new(node: u64, trace: Trace) -> Self {
        SimClock { node, trace }
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        let since = TimeHandle::current().now_time().duration_since(UNIX_EPOCH);
        since.expect("simulated time starts after 1970").as_millis() as u64
    }

    fn random_u64(&self) -> u64 {
        let drawn = thread_rng().next_u64();
        self.trace.event("random", &[self.node, drawn], &[]);
        drawn
    }
}
