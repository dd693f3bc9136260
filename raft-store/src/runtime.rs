//! The async runtime: tokio in production, madsim's scheduler, clock and randomness in the simulator.
//!
//! openraft and the rest of this crate get everything that is not deterministic from here.

use std::future::Future;

#[cfg(madsim)]
mod sim;
pub(crate) mod watch;

#[cfg(not(madsim))]
pub(crate) type Runtime = openraft_rt_tokio::TokioRuntime;
#[cfg(madsim)]
pub(crate) type Runtime = sim::SimRuntime;

/// A moment on the runtime's clock.
#[cfg(madsim)]
pub(crate) type Moment = std::time::Instant;
/// A moment on the runtime's clock.
#[cfg(not(madsim))]
pub(crate) type Moment = tokio::time::Instant;

/// The runtime's clock.
#[cfg(madsim)]
pub(crate) fn now() -> Moment {
    madsim::time::TimeHandle::current().now_instant()
}

/// The runtime's clock.
#[cfg(not(madsim))]
pub(crate) fn now() -> Moment {
    Moment::now()
}

/// Polls `future` without tokio's cooperative budget.
///
/// A task that has used up its budget finds every channel "not ready", and its futures are woken again in reverse
/// order. Where the order of first polls is a promise, that must not happen.
pub(crate) fn in_order<F: Future>(future: F) -> impl Future<Output = F::Output> {
    #[cfg(madsim)]
    {
        future
    }
    #[cfg(not(madsim))]
    {
        tokio::task::unconstrained(future)
    }
}
