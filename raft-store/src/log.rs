//! The node's log: what the Raft logs of all its shards remember, in one sequence of segments.
//!
//! One log for all shards, because a sync costs the same however many shards wrote. Records are appended to the open
//! segment in batches; one batch is one write and one sync, and while it runs the next one gathers. Appends return at
//! once and are visible at once; a callback tells when they are durable. docs/on-disk-format.md draws the files.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::blocking::Work;
use crate::blocking::blocking;
use crate::disk::Disk;
use crate::limits;
use crate::log_id::LogId;

mod error;
mod extent;
mod files;
mod handles;
mod open;
#[cfg(madsim)]
#[path = "../../sim-tests/plant/bodies/log.rs"]
mod planted;
mod read;
mod recent;
mod repair;
mod retention;
mod scan;
mod segment;
mod shared;
mod sidecar;
mod space;
mod verify;
mod writer;
mod written;

#[cfg(test)]
mod tests;

use shared::Done;
use shared::Shared;

pub use error::LogStopped;
pub use error::OpenError;
pub use error::PurgePoints;
pub use error::ReadError;
pub use error::RecycleError;
pub use error::RepairError;
pub use error::StopReason;

/// How a log is opened.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Identity of the data directory. Written into each segment; a segment of another directory is refused.
    pub directory: u64,
    /// Size of a segment. One that must hold a longer batch is made longer.
    pub segment_bytes: u64,
    /// Bound of the recent records kept in memory.
    pub cache_bytes: usize,
    /// New segments are made ahead only while the disk keeps this much free.
    pub keep_free_bytes: u64,
}

impl LogOptions {
    /// The defaults, for a data directory with this identity.
    pub fn new(directory: u64) -> LogOptions {
        LogOptions {
            directory,
            segment_bytes: limits::DEFAULT_SEGMENT_BYTES,
            cache_bytes: limits::DEFAULT_CACHE_BYTES,
            keep_free_bytes: limits::DEFAULT_KEEP_FREE_BYTES,
        }
    }
}

/// What the log knows about one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardState {
    /// Entries up to this one are no longer part of the Raft log.
    pub purged: Option<LogId>,
    /// The last entry; the purge point when nothing follows it.
    pub last: Option<LogId>,
    /// The vote as it was saved; opaque.
    pub vote: Option<Bytes>,
    /// Known to be committed up to here. Possibly behind what was last saved.
    pub committed: Option<LogId>,
}

/// One segment, for retention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentView {
    pub sequence: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Where its batches end; 0 while it is written to. What is behind that was too small for the next batch.
    pub filled: u64,
    /// Still written to.
    pub open: bool,
    /// First and last index of each shard's entries in it, imported ones included.
    pub shards: BTreeMap<u32, (u64, u64)>,
}

/// Counters since the log was opened, and present sizes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Syncs of files and directories.
    pub syncs: u64,
    pub batches: u64,
    pub records: u64,
    /// Bytes written to segments, heads and padding included, zeros written ahead not.
    pub bytes_written: u64,
    pub cache_bytes: u64,
    /// Waiting to be written.
    pub queued_bytes: u64,
    /// How often an append found more than `MAX_QUEUED_BYTES` waiting.
    pub overloads: u64,
    pub segments: u64,
    /// Size of all segments and spares.
    pub disk_bytes: u64,
}

/// A handle on the node's log. Clones are the same log; when the last one goes without [`NodeLog::close`], the log
/// stops and what is queued is not written.
#[derive(Clone)]
pub struct NodeLog {
    shared: Arc<Shared>,
    _last: Arc<Last>,
}

/// Stops the log when the last handle goes.
struct Last(Arc<Shared>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.stop(StopReason::Closed, Vec::new());
    }
}

impl NodeLog {
    /// Whether this program can read the log in the disk's directory `log`; touches nothing.
    ///
    /// # Errors
    ///
    /// [`OpenError::Version`] when a newer one has written to it, [`OpenError::Io`] when that cannot be found out.
    pub(crate) fn check_release(disk: &dyn Disk) -> Result<(), OpenError> {
        open::check_release(disk)
    }

    /// Opens the log in the disk's directory `log`, making it where there is none. To be called in a tokio runtime,
    /// where the log's writer then runs.
    ///
    /// # Errors
    ///
    /// [`OpenError::Corrupt`] when something that was durable cannot be read. A torn tail is not corruption: it is
    /// dropped.
    pub async fn open(disk: Arc<dyn Disk>, options: LogOptions) -> Result<NodeLog, OpenError> {
        let (of_open, opts) = (disk.clone(), options.clone());
        let opened = blocking(Work::Open, move || open::open(of_open, opts)).await?;
        let shared = Arc::new(Shared::new(
            disk,
            options,
            opened.inner,
            opened.files.current.durable,
        ));
        tokio::spawn(writer::Writer::new(shared.clone(), opened.files).run());
        Ok(NodeLog {
            _last: Arc::new(Last(shared.clone())),
            shared,
        })
    }

    /// Identity of the data directory.
    pub fn directory(&self) -> u64 {
        self.shared.options.directory
    }

    /// Number of the last batch that was synced. It grows with whatever is stored and never goes back: a directory that shows
    /// less than it did has lost what was stored since.
    pub fn synced(&self) -> u64 {
        self.shared.synced.load(Ordering::Acquire)
    }

    /// Shards the log knows.
    pub fn shards(&self) -> Vec<u32> {
        self.shared.lock().seen.keys().copied().collect()
    }

    /// What is known about a shard, everything queued included. Default for an unknown one.
    pub fn shard(&self, shard: u32) -> ShardState {
        self.shared
            .lock()
            .seen
            .get(&shard)
            .map(|seen| seen.state.clone())
            .unwrap_or_default()
    }

    /// Appends entries: encoded records of the shard with consecutive indexes, following its last one. They can be
    /// read at once. `done` is called when they are durable, or with the error when the log stops first; calls are made
    /// in the order of the appends, by the writer: `done` must not block.
    ///
    /// # Errors
    ///
    /// When the log has stopped; then `done` is not called.
    ///
    /// # Panics
    ///
    /// When a record is not an entry of the shard or leaves a gap.
    pub fn append(
        &self,
        shard: u32,
        records: Vec<Bytes>,
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) -> Result<(), LogStopped> {
        if records.is_empty() {
            self.shared.change(|_| ())?;
            done(Ok(()));
            return Ok(());
        }
        self.shared
            .change(|inner| inner.append(shard, records, Done::Call(Box::new(done))))
    }

    /// Saves the shard's vote; returns when it is durable.
    pub async fn save_vote(&self, shard: u32, vote: Bytes) -> Result<(), LogStopped> {
        plant!(VoteNotSynced => return planted::save_vote_later(self, shard, vote));
        self.shared
            .change_and_wait(|inner, done| inner.save_vote(shard, vote, done))
            .await
    }

    /// Remembers up to where the shard is committed. Rides along with a later sync.
    pub fn save_committed(&self, shard: u32, committed: LogId) {
        // Not `change`: this alone is no reason to write.
        self.shared.lock().save_committed(shard, committed);
    }

    /// Removes entries after `last` (all, for `None`); returns when that is durable.
    pub async fn truncate_after(&self, shard: u32, last: Option<LogId>) -> Result<(), LogStopped> {
        self.shared
            .change_and_wait(|inner, done| inner.truncate_after(shard, last, done))
            .await
    }

    /// The log ids of the shard's records at `index` that cannot be read. Blocks on the disk.
    pub fn damaged(&self, shard: u32, index: u64) -> Result<Vec<LogId>, ReadError> {
        self.shared.damaged(shard, index)
    }

    /// Writes an entry's record, as another replica has it, once more wherever it should stand and cannot be read; durable
    /// when this returns. Blocks on the disk. One call at a time.
    ///
    /// # Errors
    ///
    /// [`RepairError::Misfit`] when it is not the record that was written there. A failed sync ends the log.
    pub fn rewrite(&self, shard: u32, record: &Bytes) -> Result<(), RepairError> {
        self.shared.rewrite(shard, record)
    }

    /// Moves the shard's purge point up to `upto`; returns when that is durable. Never beyond what the state engine
    /// has flushed: the caller's duty. The records stay readable by [`NodeLog::read_record`] until their segment is
    /// recycled.
    pub async fn purge(&self, shard: u32, upto: LogId) -> Result<(), LogStopped> {
        self.shared
            .change_and_wait(|inner, done| inner.purge(shard, upto, Some(done)))
            .await
    }

    /// Stores entries that came with a snapshot; returns when they are durable. They are not part of the Raft log:
    /// [`NodeLog::read_record`] finds them, and prefers them below the purge point.
    pub async fn import(&self, shard: u32, records: Vec<Bytes>) -> Result<(), LogStopped> {
        if records.is_empty() {
            return self.shared.change(|_| ());
        }
        self.shared
            .change_and_wait(|inner, done| inner.import(shard, records, done))
            .await
    }

    /// Forgets everything about the shard; returns when that is durable.
    pub async fn drop_shard(&self, shard: u32) -> Result<(), LogStopped> {
        self.shared
            .change_and_wait(|inner, done| inner.drop_shard(shard, done))
            .await
    }

    /// Encoded entries of the Raft log, from `from` to before `to`, ending early at the shard's last entry or before
    /// `max_bytes` would be exceeded; at least one, if there is one.
    ///
    /// # Errors
    ///
    /// [`ReadError::NotFound`] when `from` is purged. Reads the disk where the entries are not recent.
    pub fn read(&self, shard: u32, from: u64, to: u64, max_bytes: usize) -> Result<Vec<Bytes>, ReadError> {
        self.shared.read(shard, from, to, max_bytes)
    }

    /// One encoded entry, also below the purge point as long as its segment exists.
    pub fn read_record(&self, shard: u32, index: u64) -> Result<Bytes, ReadError> {
        self.shared.read_record(shard, index)
    }

    /// The first index from `from` to `last` whose record is not stored here: neither as an imported one, nor, up to `own`,
    /// as an entry of the shard.
    pub fn first_missing(&self, shard: u32, from: u64, last: u64, own: Option<u64>) -> Option<u64> {
        self.shared.lock().written.first_missing(shard, from, last, own)
    }

    /// Whether the entry is in memory: reading it touches no disk.
    pub fn is_recent(&self, shard: u32, index: u64) -> bool {
        self.shared.is_recent(shard, index)
    }

    /// The log id at an index of the Raft log; the purge point's too. `None` when there is none.
    pub fn log_id(&self, shard: u32, index: u64) -> Result<Option<LogId>, ReadError> {
        self.shared.log_id(shard, index)
    }

    /// All segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentView> {
        self.shared.segments()
    }

    /// Bytes of all segments, the open one as large as its file.
    pub fn size(&self) -> u64 {
        self.shared
            .lock()
            .segments
            .values()
            .map(|segment| segment.len)
            .sum()
    }

    /// Bytes of the spare segments beside them.
    pub fn spare_bytes(&self) -> u64 {
        self.shared.lock().spare_bytes
    }

    /// Segments begun since the log was opened.
    pub fn begun(&self) -> u64 {
        self.shared.begun.load(Ordering::SeqCst)
    }

    /// Returns when the number of segments begun is no longer the one `seen` last.
    pub async fn rolled(&self, seen: &mut u64) {
        loop {
            // Before the look: whoever exists by then is woken.
            let next = self.shared.rolled.notified();
            let begun = self.begun();
            if begun != *seen {
                *seen = begun;
                return;
            }
            next.await;
        }
    }

    /// Reads every entry of a segment, imported ones too; returns the first corrupt one of each shard. Blocks for as
    /// long as it takes to read a segment.
    pub fn verify(&self, sequence: u64) -> Result<BTreeMap<u32, u64>, ReadError> {
        self.shared.verify(sequence)
    }

    /// The highest index of each shard's records in the closed segments up to `sequence`. A state that points at or below
    /// it may need them, whatever of the log is purged: imported records stand below the purge point by nature.
    pub fn highest_through(&self, sequence: u64) -> BTreeMap<u32, u64> {
        self.shared.highest_through(sequence)
    }

    /// The purge points that recycling the closed segments up to `sequence` needs: each shard's last entry in them.
    pub fn purge_points_through(&self, sequence: u64) -> Result<PurgePoints, ReadError> {
        self.shared.purge_points_through(sequence)
    }

    /// Gives up all closed segments up to `sequence`: purge points are moved first, then the files are reused or
    /// deleted. Returns the shards' purge points where they moved.
    pub async fn recycle_through(&self, sequence: u64) -> Result<PurgePoints, RecycleError> {
        self.shared.recycle_through(sequence).await
    }

    /// True while there is a segment in reserve. Once false, only what frees space should be appended: what is left
    /// is less than one segment.
    pub fn has_room(&self) -> bool {
        !self.shared.lock().full
    }

    /// True while what was appended last waits for room on the disk: nothing more should be asked for until it is false
    /// again.
    pub fn is_stuck(&self) -> bool {
        self.shared.lock().stuck
    }

    /// Bytes to be kept free on the disk.
    pub fn keep_free_bytes(&self) -> u64 {
        self.shared.options.keep_free_bytes
    }

    /// Bytes free on the disk.
    pub fn free_bytes(&self) -> io::Result<u64> {
        self.shared.disk.free_bytes()
    }

    pub fn stats(&self) -> LogStats {
        self.shared.stats()
    }

    /// Why the log has stopped, if it has.
    pub fn stopped(&self) -> Option<StopReason> {
        self.shared.lock().stopped.clone()
    }

    /// Waits until the log has stopped.
    pub async fn wait_stopped(&self) -> StopReason {
        loop {
            let stop = self.shared.end.notified();
            tokio::pin!(stop);
            // Registered before the check, so that a stop in between is not missed.
            stop.as_mut().enable();
            if let Some(reason) = self.stopped() {
                return reason;
            }
            stop.await;
        }
    }

    /// Writes what is queued, marks the end as complete and stops. Other handles find the log stopped.
    pub async fn close(self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_one();
        self.wait_stopped().await;
    }
}

/// A panic elsewhere is no reason to stop here: whoever holds a lock of the log leaves it consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
