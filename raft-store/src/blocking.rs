//! Work that blocks on a disk, where it does not keep others from running: on a thread of its own, or, in the simulator,
//! for as long as the simulated machine takes.

#[cfg(madsim)]
pub mod sim;

/// What blocks. Only a simulated machine asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Opening a log.
    Open,
    /// Writing a batch of the log, or syncing it.
    Batch,
    /// Beginning a segment.
    Roll,
    /// Making room for segments ahead.
    Prepare,
    /// Writing the index of a closed segment.
    Index,
    /// Giving a segment up.
    Recycle,
    /// Reading what is stored.
    Read,
    /// Rewriting a damaged record.
    Repair,
    /// Making the state durable.
    Flush,
    /// Reading a part of a snapshot that is sent.
    Export,
    /// Putting a part of a snapshot beside the state.
    Stage,
    /// Putting a snapshot in the place of the state.
    Install,
    /// Removing a shard's state.
    Clear,
}

/// Runs what blocks, and waits for it. It goes on to its end also when nobody waits for it any more.
pub async fn blocking<T: Send + 'static>(work: Work, call: impl FnOnce() -> T + Send + 'static) -> T {
    #[cfg(madsim)]
    {
        sim::run(work, call).await
    }
    #[cfg(not(madsim))]
    {
        let _ = work;
        match tokio::task::spawn_blocking(call).await {
            Ok(result) => result,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            // The runtime is being shut down, and this task with it.
            Err(_) => std::future::pending().await,
        }
    }
}
