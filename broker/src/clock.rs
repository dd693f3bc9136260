//! Time and chance, the things that no replica may decide for itself.
//!
//! The leader asks here and writes what it got into the command. The simulator
//! puts its own clocks and seed behind the trait.

/// The clocks and the randomness of one node.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch. May jump, and differs from node to node: for people, never to measure how long
    /// something lasts.
    fn wall_ms(&self) -> u64;

    /// Milliseconds since some moment of this process. Never jumps; means nothing to anybody else.
    fn steady_ms(&self) -> u64;

    /// A number no other node draws: receipt nonces, identities.
    fn random_u64(&self) -> u64;
}

#[cfg(not(madsim))]
pub use system::SystemClock;

#[cfg(not(madsim))]
mod system {
    #![expect(
        clippy::disallowed_methods,
        reason = "the one home of the system's clocks and of chance"
    )]

    use std::time::{Instant, SystemTime, UNIX_EPOCH};

    use super::Clock;

    /// The operating system's clocks and random source.
    #[derive(Debug, Clone, Copy)]
    pub struct SystemClock {
        started: Instant,
    }

    impl Default for SystemClock {
        fn default() -> Self {
            SystemClock {
                started: Instant::now(),
            }
        }
    }

    impl Clock for SystemClock {
        fn wall_ms(&self) -> u64 {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            // A clock before 1970 is broken; zero is as good as any.
            since.map_or(0, |since| since.as_millis() as u64)
        }

        fn steady_ms(&self) -> u64 {
            self.started.elapsed().as_millis() as u64
        }

        fn random_u64(&self) -> u64 {
            rand::random()
        }
    }
}
