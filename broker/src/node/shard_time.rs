//! The time of a shard, by which its leases, retries and retention are measured.
//!
//! No wall clock can measure a lease: it may jump, and the next leader has another one. So the time of a shard begins with
//! zero and runs on from the last entry of its log, by the steady clock of whoever asks (docs/adr/0004).
//!
//! A lease must not be shorter by anybody's reckoning. A leader's time only runs on. A follower takes the time of every entry that
//! it applies, also if that puts it back: it applies later than the leader made the entry, so it is behind its leader, and what its
//! leader promised lasts at least as long by its own reckoning. While nobody leads and while all nodes are down the time of
//! a shard stands still.

use std::sync::{Arc, Mutex};

use crate::clock::Clock;

/// The time of one shard, as far as this replica knows.
pub struct ShardTime {
    clock: Arc<dyn Clock>,
    /// Nothing before the first entry.
    last: Mutex<Option<Reached>>,
}

/// It was `time_ms` when this node's steady clock showed `steady_ms`, or before.
#[derive(Debug, Clone, Copy)]
struct Reached {
    time_ms: u64,
    steady_ms: u64,
}

impl Reached {
    fn at(self, steady_ms: u64) -> u64 {
        self.time_ms + steady_ms.saturating_sub(self.steady_ms)
    }
}

impl ShardTime {
    /// The time of a shard without entries.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            last: Mutex::new(None),
        }
    }

    /// An entry that this replica made itself was applied, and with it the shard has come to `time_ms`.
    pub fn led_to(&self, time_ms: u64) {
        let steady_ms = self.clock.steady_ms();
        let mut last = self.last.lock().expect("no panic while held");
        if last.is_none_or(|last| last.at(steady_ms) < time_ms) {
            *last = Some(Reached { time_ms, steady_ms });
        }
    }

    /// An entry of another replica was applied, or a snapshot, and with it the shard has come to `time_ms`.
    pub fn followed_to(&self, time_ms: u64) {
        let steady_ms = self.clock.steady_ms();
        *self.last.lock().expect("no panic while held") = Some(Reached { time_ms, steady_ms });
    }

    /// The clock that it is reckoned by, milliseconds: never jumps, also when this node takes the lead.
    pub fn steady_ms(&self) -> u64 {
        self.clock.steady_ms()
    }

    /// The wall clock of this node, milliseconds since 1970: what is dated by it, and nothing that lasts.
    pub fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    /// Milliseconds, by this replica's reckoning.
    pub fn now_ms(&self) -> u64 {
        plant!(WallClockDeadlines => return self.clock.wall_ms());
        let last = *self.last.lock().expect("no panic while held");
        last.map_or(0, |last| last.at(self.clock.steady_ms()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Default)]
    struct Steady(AtomicU64);

    impl Clock for Steady {
        fn wall_ms(&self) -> u64 {
            panic!("nothing that lasts is measured by this")
        }

        fn steady_ms(&self) -> u64 {
            self.0.load(Ordering::SeqCst)
        }

        fn random_u64(&self) -> u64 {
            4
        }
    }

    #[test]
    fn it_begins_with_the_first_entry() {
        let clock = Arc::new(Steady::default());
        let time = ShardTime::new(clock.clone());
        clock.0.store(7_000, Ordering::SeqCst);
        assert_eq!(time.now_ms(), 0);
        time.led_to(0);
        clock.0.store(7_025, Ordering::SeqCst);
        assert_eq!(time.now_ms(), 25);
    }

    #[test]
    fn a_leader_goes_on_and_never_back() {
        let clock = Arc::new(Steady::default());
        let time = ShardTime::new(clock.clone());
        time.led_to(500);
        clock.0.store(100, Ordering::SeqCst);
        time.led_to(550);
        assert_eq!(time.now_ms(), 600, "it made the entry 50 ms ago");
        time.led_to(700);
        assert_eq!(time.now_ms(), 700, "its log was ahead");
    }

    #[test]
    fn a_follower_is_never_ahead_of_a_leader_that_fell_behind() {
        let clock = Arc::new(Steady::default());
        let time = ShardTime::new(clock.clone());
        time.followed_to(500);
        clock.0.store(2_000, Ordering::SeqCst);
        assert_eq!(time.now_ms(), 2_500);
        time.followed_to(600);
        assert_eq!(time.now_ms(), 600);
    }
}
