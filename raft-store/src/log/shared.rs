//! What the callers of the log and its writer share: the state behind one lock, and how calls change it.
//!
//! Two views of each shard live side by side. *Seen* is what callers see: everything they asked for, queued or not.
//! *Written* is what the records on disk say. The queue is the difference.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::sync::oneshot;

use super::LogOptions;
use super::LogStats;
use super::ShardState;
use super::StopReason;
use super::error::LogStopped;
use super::handles::Handles;
use super::recent::Recent;
use super::segment::encode_shard_head;
use super::written::Written;
use crate::disk::Disk;
use crate::limits::MAX_QUEUED_BYTES;
use crate::limits::RECORD_HEAD_BYTES;
use crate::log_id::LogId;
use crate::record::Kind;
use crate::record::Record;
use crate::record::RecordHead;

/// Whom to tell when a record is durable, or never will be.
pub(super) enum Done {
    Call(Box<dyn FnOnce(io::Result<()>) + Send>),
    Wake(oneshot::Sender<Result<(), LogStopped>>),
}

impl Done {
    pub(super) fn tell(self, result: Result<(), LogStopped>) {
        match self {
            Done::Call(call) => call(result.map_err(io::Error::from)),
            // Who waited may have gone.
            Done::Wake(waiter) => drop(waiter.send(result)),
        }
    }
}

/// A record waiting to be written.
pub(super) struct Item {
    pub(super) record: Bytes,
    pub(super) done: Option<Done>,
}

/// Segments to be given up.
pub(super) struct Recycle {
    pub(super) through: u64,
    pub(super) done: Done,
}

#[derive(Default)]
pub(super) struct SeenShard {
    pub(super) state: ShardState,
    /// The committed log id changed since it was last queued.
    pub(super) committed_unsaved: bool,
}

/// A segment, as far as it is not in [`Written`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// Size of the file.
    pub(super) len: u64,
    /// Where its durable batches end; only of closed segments.
    pub(super) end: Option<u64>,
}

pub(super) struct Inner {
    pub(super) written: Written,
    pub(super) seen: BTreeMap<u32, SeenShard>,
    pub(super) recent: Recent,
    pub(super) queue: VecDeque<Item>,
    pub(super) queued_bytes: usize,
    pub(super) recycles: VecDeque<Recycle>,
    pub(super) segments: BTreeMap<u64, Segment>,
    /// A segment that must not be recycled now: a record in it is being repaired.
    pub(super) pinned: Option<u64>,
    /// Cache, queue and segment figures are filled in when asked for.
    pub(super) stats: LogStats,
    pub(super) spare_bytes: u64,
    /// There is no spare segment and no room to make one.
    pub(super) full: bool,
    /// The queue waits for room.
    pub(super) stuck: bool,
    /// That it does was logged.
    pub(super) reported: bool,
    pub(super) closing: bool,
    pub(super) stopped: Option<StopReason>,
}

pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) options: LogOptions,
    pub(super) handles: Handles,
    inner: Mutex<Inner>,
    /// Number of the last batch that was synced.
    pub(super) synced: AtomicU64,
    /// Wakes the writer.
    pub(super) wake: Notify,
    /// Wakes whoever waits for the end.
    pub(super) end: Notify,
    /// Segments begun since the log was opened.
    pub(super) begun: AtomicU64,
    /// Wakes whoever waits for another.
    pub(super) rolled: Notify,
}

impl Shared {
    pub(super) fn new(disk: Arc<dyn Disk>, options: LogOptions, inner: Inner, synced: u64) -> Shared {
        let handles = Handles::new(disk.clone());
        Shared {
            disk,
            options,
            handles,
            inner: Mutex::new(inner),
            synced: AtomicU64::new(synced),
            wake: Notify::new(),
            end: Notify::new(),
            begun: AtomicU64::new(0),
            rolled: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        super::lock(&self.inner)
    }

    /// Stops the log for ever, for this reason unless there was one before, and tells everyone who waits.
    pub(super) fn stop(&self, reason: StopReason, under_way: Vec<Done>) {
        let (waiting, reason) = {
            let mut inner = self.lock();
            let reason = inner.stopped.get_or_insert(reason).clone();
            inner.queued_bytes = 0;
            let queued = std::mem::take(&mut inner.queue)
                .into_iter()
                .filter_map(|item| item.done);
            let recycles = std::mem::take(&mut inner.recycles)
                .into_iter()
                .map(|recycle| recycle.done);
            let waiting: Vec<Done> = under_way.into_iter().chain(queued).chain(recycles).collect();
            (waiting, reason)
        };
        for done in waiting {
            done.tell(Err(LogStopped(reason.clone())));
        }
        self.end.notify_waiters();
        self.wake.notify_one();
    }

    /// Changes the shared state and wakes the writer, unless the log has stopped.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> Result<T, LogStopped> {
        let result = {
            let mut inner = self.lock();
            if let Some(reason) = &inner.stopped {
                return Err(LogStopped(reason.clone()));
            }
            if inner.closing {
                return Err(LogStopped(StopReason::Closed));
            }
            change(&mut inner)
        };
        self.wake.notify_one();
        Ok(result)
    }

    /// Like [`Shared::change`], then waits until what `change` queued is durable.
    pub(super) async fn change_and_wait(
        &self,
        change: impl FnOnce(&mut Inner, Done),
    ) -> Result<(), LogStopped> {
        let (done, waiter) = oneshot::channel();
        self.change(|inner| change(inner, Done::Wake(done)))?;
        // The writer tells everyone before it goes; a runtime that is shut down does not.
        waiter.await.unwrap_or(Err(LogStopped(StopReason::Closed)))
    }
}

impl Inner {
    fn seen(&mut self, shard: u32) -> &mut SeenShard {
        self.seen.entry(shard).or_default()
    }

    pub(super) fn queue(&mut self, record: Bytes, done: Option<Done>) {
        self.queued_bytes += record.len();
        self.queue.push_back(Item { record, done });
    }

    pub(super) fn append(&mut self, shard: u32, records: Vec<Bytes>, done: Done) {
        if self.queued_bytes > MAX_QUEUED_BYTES {
            self.stats.overloads += 1;
        }
        let mut done = Some(done);
        let count = records.len();
        for (i, record) in records.into_iter().enumerate() {
            let id = entry_head(shard, &record).log_id;
            let state = &mut self.seen(shard).state;
            if let Some(last) = state.last {
                assert_eq!(
                    last.index + 1,
                    id.index,
                    "an entry of shard {shard} does not follow its last one"
                );
            }
            state.last = Some(id);
            self.recent.push(shard, id, record.clone());
            self.queue(record, if i + 1 == count { done.take() } else { None });
        }
    }

    pub(super) fn save_vote(&mut self, shard: u32, vote: Bytes, done: Done) {
        let record = Record::encode(Kind::Vote, shard, LogId::default(), &vote);
        plant!(VoteNotSaved => if self.seen(shard).state.vote.replace(vote.clone()).is_some() { return done.tell(Ok(())) });
        self.seen(shard).state.vote = Some(vote);
        self.queue(record, Some(done));
    }

    pub(super) fn save_committed(&mut self, shard: u32, committed: LogId) {
        let seen = self.seen(shard);
        seen.committed_unsaved |= seen.state.committed != Some(committed);
        seen.state.committed = Some(committed);
    }

    pub(super) fn truncate_after(&mut self, shard: u32, keep: Option<LogId>, done: Done) {
        self.seen(shard).state.truncate_after(keep);
        self.recent.cut_from(shard, keep.map_or(0, |keep| keep.index + 1));
        let payload: &[u8] = if keep.is_some() { &[1] } else { &[] };
        let record = Record::encode(Kind::TruncateAfter, shard, keep.unwrap_or_default(), payload);
        self.queue(record, Some(done));
    }

    pub(super) fn purge(&mut self, shard: u32, upto: LogId, done: Option<Done>) {
        self.seen(shard).state.purge(upto);
        self.queue(Record::encode(Kind::Purge, shard, upto, &[]), done);
    }

    pub(super) fn import(&mut self, shard: u32, records: Vec<Bytes>, done: Done) {
        let mut done = Some(done);
        let count = records.len();
        self.seen(shard);
        for (i, record) in records.into_iter().enumerate() {
            let id = entry_head(shard, &record).log_id;
            let wrapped = Record::encode(Kind::Imported, shard, id, &record);
            self.queue(wrapped, if i + 1 == count { done.take() } else { None });
        }
    }

    pub(super) fn drop_shard(&mut self, shard: u32, done: Done) {
        self.seen.remove(&shard);
        self.recent.drop_shard(shard);
        self.queue(
            Record::encode(Kind::ReplicaDropped, shard, LogId::default(), &[]),
            Some(done),
        );
    }

    /// What the next segment has to repeat.
    pub(super) fn shard_heads(&self) -> Vec<Bytes> {
        self.written
            .shards
            .iter()
            .map(|(&shard, written)| {
                plant!(VoteLostAtRoll => return super::planted::head_without_vote(shard, &written.state));
                encode_shard_head(shard, &written.state)
            })
            .collect()
    }

    /// Takes the next batch from the queue. `room` is what the open segment still holds, `limit` what a batch may
    /// have at most; a first record that is longer goes alone.
    pub(super) fn cut_batch(&mut self, room: u64, limit: u64) -> Vec<Item> {
        let mut commits = self.committed_records();
        let commit_bytes = (commits.len() * RECORD_HEAD_BYTES) as u64;
        let fits = self
            .queue
            .front()
            .is_some_and(|item| item.record.len() as u64 + commit_bytes <= room);
        let budget = if fits { limit.min(room) } else { limit };
        let mut items = Vec::new();
        let mut bytes = commit_bytes;
        while let Some(item) = self.queue.front() {
            let more = item.record.len() as u64;
            if !items.is_empty() && bytes + more > budget {
                break;
            }
            bytes += more;
            self.queued_bytes -= item.record.len();
            items.extend(self.queue.pop_front());
        }
        items.append(&mut commits);
        items
    }

    /// True if the next batch surely fits in so many bytes.
    pub(super) fn next_fits(&self, room: u64) -> bool {
        let commit_bytes = self.seen.len() * RECORD_HEAD_BYTES;
        let first = self.queue.front().map_or(0, |item| item.record.len());
        (first + commit_bytes) as u64 <= room
    }

    /// Records of committed log ids that have not been saved yet. Only of entries already written: the log must never
    /// claim that something is committed which it does not have.
    fn committed_records(&mut self) -> Vec<Item> {
        let mut records = Vec::new();
        for (&shard, seen) in &mut self.seen {
            let written = self.written.shards.get(&shard).and_then(|shard| shard.state.last);
            let Some(committed) = seen.state.committed else {
                continue;
            };
            if seen.committed_unsaved && written.is_some_and(|last| last.index >= committed.index) {
                seen.committed_unsaved = false;
                let record = Record::encode(Kind::Committed, shard, committed, &[]);
                records.push(Item { record, done: None });
            }
        }
        records
    }

    /// Takes in a batch that is durable now. `first` is the offset of its first record.
    pub(super) fn batch_written(&mut self, segment: u64, first: u32, items: &[Item]) {
        let (mut offset, mut entries) = (first, 0);
        for item in items {
            let head = RecordHead::parse(&item.record).expect("only good records are queued");
            let view = Record::view(head, &item.record);
            self.written
                .take(segment, offset, &view)
                .expect("only records that follow are queued");
            entries += u64::from(head.kind.is_entry());
            offset += item.record.len() as u32;
        }
        self.recent.written(entries);
        self.stats.batches += 1;
        self.stats.records += items.len() as u64;
    }
}

/// The head of a record that must be an entry of the shard.
fn entry_head(shard: u32, record: &Bytes) -> RecordHead {
    let head = RecordHead::parse(record).expect("an entry's record");
    assert!(
        head.kind.is_entry() && head.shard == shard,
        "a record is no entry of shard {shard}"
    );
    assert_eq!(
        head.record_bytes(),
        record.len(),
        "a record's length differs from its bytes"
    );
    head
}
