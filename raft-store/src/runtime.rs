//! The async runtime: tokio in production, madsim's scheduler, clock and randomness in the simulator.
//!
//! openraft and the rest of this crate get everything that is not deterministic from here.

use std::io;

#[cfg(madsim)]
mod sim;
pub(crate) mod watch;

#[cfg(not(madsim))]
pub(crate) type Runtime = openraft_rt_tokio::TokioRuntime;
#[cfg(madsim)]
pub(crate) type Runtime = sim::SimRuntime;

/// The runtime's clock.
#[cfg(madsim)]
pub(crate) fn now() -> std::time::Instant {
    madsim::time::TimeHandle::current().now_instant()
}

/// The runtime's clock.
#[cfg(not(madsim))]
pub(crate) fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// Runs what blocks on a disk. In the simulator nothing blocks, and no other thread may exist.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    #[cfg(madsim)]
    {
        Ok(work())
    }
    #[cfg(not(madsim))]
    {
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| io::Error::other(e.to_string()))
    }
}
