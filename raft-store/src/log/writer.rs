//! The one task that writes: it turns what is queued into batches, one write and one sync each, and uses idle time to
//! prepare the next segment.
//!
//! There is no timed linger. While one batch is being synced the next one gathers, and before a batch is cut the
//! writer steps back as long as records keep arriving; so batches grow with the load. A failed write or sync is never
//! retried: the log stops.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::error::StopReason;
use super::extent::Table;
use super::files::Closed;
use super::files::Files;
use super::open::write_sidecar;
use super::segment::SEGMENT_HEAD_BYTES;
use super::segment::sidecar_name;
use super::shared::Done;
use super::shared::Item;
use super::shared::Segment;
use super::shared::Shared;
use super::sidecar;
use super::written::Cut;
use crate::blocking::Work;
use crate::blocking::blocking;
use crate::disk::is_full;
use crate::limits::MAX_BATCH_BYTES;
use crate::limits::MAX_GATHER_YIELDS;
use crate::limits::ROOM_RETRY_MS;

/// The end of the writer: what failed.
struct Failed(&'static str, io::Error);

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> Failed {
    move |e| Failed(operation, e)
}

/// What the writer does next.
enum Step {
    Batch,
    Sidecar(Closed, BTreeMap<u32, Cut>),
    Recycle(u64, Segment),
    RecycleDone(Done),
    MakeSpare,
    Zero,
    Mark,
    Wait,
    WaitForRoom,
    Close,
    Leave,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    /// Taken while a blocking call has it.
    files: Option<Files>,
    /// Closed segments that have no sidecar yet.
    unindexed: VecDeque<(Closed, BTreeMap<u32, Cut>)>,
    /// The step before was housekeeping: batches have their turn first.
    batch_first: bool,
    /// Look for room now.
    retry_room: bool,
    /// When to look for room again.
    next_retry: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, files: Files) -> Writer {
        Writer {
            shared,
            files: Some(files),
            unindexed: VecDeque::new(),
            batch_first: false,
            retry_room: false,
            next_retry: None,
        }
    }

    /// Runs until the log is closed or fails.
    pub(super) async fn run(mut self) {
        loop {
            let step = self.next_step();
            let result = match step {
                Step::Leave => return,
                Step::Close => match self.finish().await {
                    Ok(()) => {
                        self.shared.stop(StopReason::Closed, Vec::new());
                        return;
                    }
                    Err(e) => Err(e),
                },
                step => self.take_step(step).await,
            };
            if let Err(Failed(operation, e)) = result {
                tracing::error!(operation, error = %e, "the log stops: nothing is acknowledged from now on");
                self.shared.stop(StopReason::failed(operation, &e), Vec::new());
                return;
            }
        }
    }

    fn next_step(&mut self) -> Step {
        let files = self.files.as_ref().expect("the files are here between steps");
        let mut inner = self.shared.lock();
        if inner.stopped.is_some() {
            return Step::Leave;
        }
        let batch = !inner.queue.is_empty() && (!inner.stuck || inner.closing);
        if batch && std::mem::take(&mut self.batch_first) {
            return Step::Batch;
        }
        if let Some((closed, cuts)) = self.unindexed.pop_front() {
            return Step::Sidecar(closed, cuts);
        }
        if let Some(recycle) = inner.recycles.front() {
            let oldest = inner
                .segments
                .first_key_value()
                .map(|(&sequence, &segment)| (sequence, segment));
            return match oldest {
                Some((sequence, segment))
                    if sequence <= recycle.through
                        && sequence < files.current.sequence
                        && inner.pinned != Some(sequence) =>
                {
                    Step::Recycle(sequence, segment)
                }
                _ => Step::RecycleDone(inner.recycles.pop_front().expect("there is a front").done),
            };
        }
        if !files.space.has_spare() && (!inner.full || self.retry_room) {
            return Step::MakeSpare;
        }
        if batch {
            Step::Batch
        } else if inner.closing {
            Step::Close
        } else if !files.current.marked {
            Step::Mark
        } else if files.space.can_zero() {
            Step::Zero
        } else if inner.full {
            Step::WaitForRoom
        } else {
            Step::Wait
        }
    }

    async fn take_step(&mut self, step: Step) -> Result<(), Failed> {
        // After a batch it is the turn of what else is due: under a load that never lets the queue run empty, segments are
        // still made ahead and given back.
        self.batch_first = !matches!(step, Step::Batch);
        match step {
            Step::Batch => self.batch().await,
            Step::Sidecar(closed, cuts) => self.index(closed, cuts).await,
            Step::Recycle(sequence, segment) => self.recycle(sequence, segment).await,
            Step::RecycleDone(done) => {
                done.tell(Ok(()));
                Ok(())
            }
            Step::MakeSpare => {
                self.retry_room = false;
                let made = self
                    .blocking(Work::Prepare, |files| files.space.make_ahead())
                    .await;
                let made = made.map_err(failed("making a segment"))?;
                let mut inner = self.shared.lock();
                inner.full = !made;
                // What waits is tried again, also with what is to be kept free.
                inner.stuck = plant!(StuckAfterAFullDisk => inner.stuck, else false);
                Ok(())
            }
            Step::Zero => self
                .blocking(Work::Prepare, |files| files.space.zero_step())
                .await
                .map_err(failed("preparing a segment")),
            Step::Mark => self
                .blocking(Work::Batch, Files::mark)
                .await
                .map_err(failed("marking the end")),
            Step::Wait => {
                self.shared.wake.notified().await;
                Ok(())
            }
            Step::WaitForRoom => {
                self.wait_for_room().await;
                Ok(())
            }
            Step::Close | Step::Leave => unreachable!("handled by the caller"),
        }
    }

    /// Waits for work, or until it is time to look for room again. That time goes on while there is work to do.
    async fn wait_for_room(&mut self) {
        let retry = || Box::pin(tokio::time::sleep(Duration::from_millis(ROOM_RETRY_MS)));
        let sleep = self.next_retry.get_or_insert_with(retry);
        tokio::select! {
            biased;
            () = sleep => {
                self.next_retry = None;
                self.retry_room = true;
            }
            () = self.shared.wake.notified() => {}
        }
    }

    // ---- batches ----

    async fn batch(&mut self) -> Result<(), Failed> {
        self.gather().await;
        if !self.find_segment().await? {
            return Ok(());
        }
        let files = self.files.as_ref().expect("the files are here between steps");
        let whole = files.current.len.min(files.space.options.segment_bytes) - SEGMENT_HEAD_BYTES as u64;
        let limit = (MAX_BATCH_BYTES as u64).min(whole / 2);
        let items = self.shared.lock().cut_batch(files.current.room(), limit);
        self.write_batch(items).await
    }

    /// Makes a segment if the next batch needs one and none is in reserve. False when the disk has no room for it:
    /// nothing was written and nothing failed to be written, so what is queued just waits.
    async fn find_segment(&mut self) -> Result<bool, Failed> {
        let files = self.files.as_ref().expect("the files are here between steps");
        if files.space.has_spare() || self.shared.lock().next_fits(files.current.room()) {
            return Ok(true);
        }
        match self
            .blocking(Work::Prepare, |files| files.space.make_last())
            .await
        {
            Ok(()) => {
                if std::mem::take(&mut self.shared.lock().reported) {
                    tracing::info!("the disk has room again: the log goes on");
                }
                Ok(true)
            }
            Err(e) if is_full(&e) && !self.shared.lock().closing => {
                let mut inner = self.shared.lock();
                inner.stuck = true;
                if !std::mem::replace(&mut inner.reported, true) {
                    tracing::error!(
                        "the disk is full to the last segment: nothing is stored until there is room; free space, or shorten the retention"
                    );
                }
                Ok(false)
            }
            Err(e) => Err(Failed("beginning a segment", e)),
        }
    }

    /// Steps back while records keep arriving.
    async fn gather(&self) {
        let mut queued = self.shared.lock().queued_bytes;
        for _ in 0..MAX_GATHER_YIELDS {
            if queued >= MAX_BATCH_BYTES {
                return;
            }
            tokio::task::yield_now().await;
            let now = self.shared.lock().queued_bytes;
            if now == queued {
                return;
            }
            queued = now;
        }
    }

    /// Writes and syncs; then everyone concerned is told, also of a failure.
    async fn write_batch(&mut self, mut items: Vec<Item>) -> Result<(), Failed> {
        let records: Vec<Bytes> = items.iter().map(|item| item.record.clone()).collect();
        let written = self.put(records).await;
        let dones = items
            .iter_mut()
            .filter_map(|item| item.done.take())
            .collect::<Vec<_>>();
        let first = match written {
            Ok(first) => first,
            Err(Failed(operation, e)) => {
                // In order: first those of this batch, then those that wait.
                self.shared.stop(StopReason::failed(operation, &e), dones);
                return Err(Failed(operation, e));
            }
        };
        let sequence = self
            .files
            .as_ref()
            .expect("the files are here between steps")
            .current
            .sequence;
        let dones = plant!(AnswerBeforeBatchWritten => super::planted::told_early(dones).await, else dones);
        self.shared.lock().batch_written(sequence, first, &items);
        for done in dones {
            done.tell(Ok(()));
        }
        Ok(())
    }

    /// Writes a batch and syncs it, in the next segment if need be.
    async fn put(&mut self, records: Vec<Bytes>) -> Result<u32, Failed> {
        let need: u64 = records.iter().map(|record| record.len() as u64).sum();
        if need
            > self
                .files
                .as_ref()
                .expect("the files are here between steps")
                .current
                .room()
        {
            self.roll(need).await?;
        }
        let Some(delay) = self.shared.disk.sync_delay() else {
            let write_and_sync = move |files: &mut Files| {
                let first = files.write(&records).map_err(failed("writing a batch"))?;
                files.sync().map_err(failed("syncing a batch"))?;
                Ok(first)
            };
            return self.blocking(Work::Batch, write_and_sync).await;
        };
        let first = self
            .blocking(Work::Batch, move |files| files.write(&records))
            .await
            .map_err(failed("writing a batch"))?;
        tokio::time::sleep(delay).await;
        let sync = plant!(FailedSyncRetried => super::planted::sync_again, else Files::sync);
        self.blocking(Work::Batch, sync)
            .await
            .map_err(failed("syncing a batch"))?;
        Ok(first)
    }

    async fn roll(&mut self, need: u64) -> Result<(), Failed> {
        let heads = self.shared.lock().shard_heads();
        let rolled = self
            .blocking(Work::Roll, move |files| files.roll(&heads, need))
            .await;
        let closed = rolled.map_err(failed("beginning a segment"))?;
        let current = &self
            .files
            .as_ref()
            .expect("the files are here between steps")
            .current;
        let mut inner = self.shared.lock();
        let old = inner
            .segments
            .get_mut(&closed.sequence)
            .expect("the open segment is listed");
        old.end = Some(closed.end);
        inner.segments.insert(
            current.sequence,
            Segment {
                len: current.len,
                end: None,
            },
        );
        let cuts = plant!(SidecarRepeatsCuts => inner.written.cuts.clone(), else std::mem::take(&mut inner.written.cuts));
        self.unindexed.push_back((closed, cuts));
        self.shared.begun.fetch_add(1, Ordering::SeqCst);
        self.shared.rolled.notify_waiters();
        Ok(())
    }

    // ---- housekeeping ----

    /// Writes the sidecar of a closed segment and lets its positions go from memory.
    async fn index(&mut self, closed: Closed, cuts: BTreeMap<u32, Cut>) -> Result<(), Failed> {
        let directory = self.shared.options.directory;
        let bytes = sidecar::encode(
            directory,
            closed.sequence,
            closed.end,
            &self.shared.lock().written,
            &cuts,
        );
        let name = sidecar_name(closed.sequence);
        let written = self
            .blocking(Work::Index, move |files| {
                write_sidecar(&mut files.space, &name, &bytes)
            })
            .await;
        match written {
            Ok(()) => {}
            // Then the positions stay in memory, and are found again by a scan when the log is opened next.
            Err(e) if is_full(&e) => {
                tracing::warn!(segment = closed.sequence, "no room for an index sidecar");
                return Ok(());
            }
            Err(e) => return Err(Failed("writing an index sidecar", e)),
        }
        let mut slot = 0;
        for (_, _, extent) in self.shared.lock().written.extents_in_mut(closed.sequence) {
            extent.table = Table::Sidecar { slot };
            slot += extent.count as u32;
        }
        Ok(())
    }

    async fn recycle(&mut self, sequence: u64, segment: Segment) -> Result<(), Failed> {
        {
            let mut inner = self.shared.lock();
            inner.written.forget_segment(sequence);
            inner.segments.remove(&sequence);
        }
        self.shared.handles.forget(sequence);
        let recycled = self
            .blocking(Work::Recycle, move |files| {
                files.space.recycle(sequence, segment.len)
            })
            .await;
        recycled.map_err(failed("recycling a segment"))?;
        self.shared.handles.forget(sequence);
        if self.files.as_ref().is_some_and(|files| files.space.has_spare()) {
            let mut inner = self.shared.lock();
            inner.full = false;
            inner.stuck = false;
        }
        Ok(())
    }

    /// The orderly end: what is known to be committed is saved, and the last batch is proven durable.
    async fn finish(&mut self) -> Result<(), Failed> {
        let items = self.shared.lock().cut_batch(0, 0);
        if !items.is_empty() {
            self.write_batch(items).await?;
        }
        let end = |files: &mut Files| {
            if !files.current.marked {
                files.mark()?;
            }
            files.sync()
        };
        self.blocking(Work::Batch, end)
            .await
            .map_err(failed("marking the end"))
    }

    /// Lends the files to a call that blocks, and brings the figures up to date.
    async fn blocking<T: Send + 'static>(
        &mut self,
        work: Work,
        call: impl FnOnce(&mut Files) -> T + Send + 'static,
    ) -> T {
        let mut files = self.files.take().expect("the files are here between steps");
        let (files, result) = blocking(work, move || {
            let result = call(&mut files);
            (files, result)
        })
        .await;
        {
            let mut inner = self.shared.lock();
            inner.stats.syncs = files.space.syncs;
            inner.stats.bytes_written = files.bytes_written;
            inner.spare_bytes = files.space.spare_bytes();
        }
        self.shared.synced.store(files.current.durable, Ordering::Release);
        self.files = Some(files);
        result
    }
}

impl Drop for Writer {
    /// A writer that panics must not leave anyone waiting. (The shipped program aborts.)
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.stop(
                StopReason::failed("writing", &io::Error::other("the writer panicked")),
                Vec::new(),
            );
        }
    }
}
