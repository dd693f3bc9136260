//! Time and chance, the two things that no replica may decide for itself.
//!
//! The leader asks here and writes what it got into the command. The simulator
//! puts its own clock and seed behind the trait.

/// Wall clock and randomness of one node.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch. May jump; the core keeps the maximum.
    fn now_ms(&self) -> u64;

    /// A number no other node draws: receipt nonces, identities.
    fn random_u64(&self) -> u64;
}

/// The operating system's clock and random source.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

#[cfg(not(madsim))]
#[expect(
    clippy::disallowed_methods,
    reason = "the one home of the wall clock and of chance"
)]
impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        // A clock before 1970 is broken; zero delays everything and breaks nothing.
        since.map_or(0, |d| d.as_millis() as u64)
    }

    fn random_u64(&self) -> u64 {
        rand::random()
    }
}
