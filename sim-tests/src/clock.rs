//! The node's clocks and random source: simulated time, and the one seed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::UNIX_EPOCH,
};

use broker::clock::Clock;
use madsim::{
    rand::{RngCore, thread_rng},
    time::TimeHandle,
};

use crate::trace::Trace;

/// How far a machine's wall clock is ahead of the true time, milliseconds. Clones are the same clock; it lasts when
/// processes die.
#[derive(Clone, Default)]
pub struct WallClock(Arc<AtomicI64>);

impl WallClock {
    /// A clock that is ahead by `ms`, or behind if that is negative.
    #[must_use]
    pub fn ahead(ms: i64) -> Self {
        WallClock(Arc::new(AtomicI64::new(ms)))
    }

    /// Somebody sets it.
    pub fn jump(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }

    /// By how much it is ahead now, milliseconds.
    #[must_use]
    pub fn ahead_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    fn now_ms(&self) -> u64 {
        let since = TimeHandle::current().now_time().duration_since(UNIX_EPOCH);
        let since = since.expect("simulated time starts after 1970").as_millis() as u64;
        since.saturating_add_signed(self.0.load(Ordering::SeqCst))
    }
}

/// What a node takes for its clocks and for chance.
pub struct SimClock {
    node: u64,
    wall: WallClock,
    trace: Trace,
}

impl SimClock {
    /// The clocks of one node.
    #[must_use]
    pub fn new(node: u64, wall: WallClock, trace: Trace) -> Self {
        SimClock { node, wall, trace }
    }
}

impl Clock for SimClock {
    fn wall_ms(&self) -> u64 {
        self.wall.now_ms()
    }

    fn steady_ms(&self) -> u64 {
        TimeHandle::current().elapsed().as_millis() as u64
    }

    fn random_u64(&self) -> u64 {
        let drawn = thread_rng().next_u64();
        self.trace.event("random", &[self.node, drawn], &[]);
        drawn
    }
}
