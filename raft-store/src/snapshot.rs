//! Snapshots: how a replica gets what the log no longer has.
//!
//! The state is on disk at all times, so nothing is "taken" in advance. When a replica lags behind the purge point, the
//! leader writes its state and the records that state still refers to into one file, and sends that. The receiver
//! checks the file, puts the records into its log and replaces its state, so that a crash leaves either the old
//! state, the new one, or a note that says which file to do it again from.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

use crate::{
    disk::Disk,
    engine::{EngineError, EngineView},
    health::Health,
    limits::SNAPSHOT_KEEP_MS,
    log::NodeLog,
    log_id::LogId,
    machine::Machine,
    runtime::{Moment, blocking, now},
    state::{ShardState, Standing},
    types::{SnapshotMeta, convert},
};

mod export;
mod file;
mod inbox;

use file::{Frame, Reader};
pub(crate) use inbox::{Complete, Finish, Inbox, Wanted};

/// Where snapshot files live.
pub(crate) const DIRECTORY: &str = "snapshots";

/// A snapshot as it passes through openraft.
pub(crate) enum SnapshotData {
    /// The state of this replica, not yet written anywhere.
    State(StateImage),
    /// A complete file.
    File(Arc<SnapshotFile>),
}

/// A shard's state at one moment.
pub(crate) struct StateImage {
    pub(crate) shard: u32,
    pub(crate) view: Box<dyn EngineView>,
    pub(crate) standing: Standing,
    /// The first record the state still refers to.
    pub(crate) oldest: Option<u64>,
    /// Where the records are.
    pub(crate) log: NodeLog,
}

/// A complete, synced snapshot file. It is deleted with the last handle, unless kept.
pub(crate) struct SnapshotFile {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) name: String,
    pub(crate) size: u64,
    /// Names the content, so that a broken transfer can go on.
    pub(crate) id: String,
    pub(crate) standing: Standing,
    /// Set once an installation depends on it, which removes it itself.
    pub(crate) keep: AtomicBool,
}

impl SnapshotFile {
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.standing.applied,
            last_membership: self.standing.membership.clone(),
        }
    }
}

impl Drop for SnapshotFile {
    fn drop(&mut self) {
        if !self.keep.load(Ordering::Relaxed) {
            // Left behind, it is removed when the replica opens again.
            let _ = self.disk.remove(&self.name);
        }
    }
}

/// The file made last, and when it was last of use.
struct Outgoing {
    file: Arc<SnapshotFile>,
    used: Moment,
}

/// The snapshots of one replica.
pub(crate) struct Snapshots {
    shard: u32,
    disk: Arc<dyn Disk>,
    log: NodeLog,
    health: Health,
    outgoing: Mutex<Option<Outgoing>>,
    /// Numbers files: one that is still read is never written over.
    names: AtomicU64,
}

impl Snapshots {
    pub(crate) fn new(shard: u32, disk: Arc<dyn Disk>, log: NodeLog, health: Health) -> Self {
        Self {
            shard,
            disk,
            log,
            health,
            outgoing: Mutex::default(),
            names: AtomicU64::new(0),
        }
    }

    fn outgoing(&self) -> MutexGuard<'_, Option<Outgoing>> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file made last, if a replica that installs it can go on from the log.
    pub(crate) fn reusable(&self, purged: Option<LogId>) -> Option<Arc<SnapshotFile>> {
        let file = self.outgoing().as_ref().map(|outgoing| outgoing.file.clone())?;
        let reached = file.standing.applied.map(|id| id.index);
        (reached >= purged.map(|id| id.index)).then_some(file)
    }

    /// A file of the snapshot, written now if there is none.
    pub(crate) async fn file(&self, data: SnapshotData) -> io::Result<Arc<SnapshotFile>> {
        let image = match data {
            SnapshotData::File(file) => return Ok(file),
            SnapshotData::State(image) => image,
        };
        let (disk, health) = (self.disk.clone(), self.health.clone());
        let name = self.new_name("out.snap");
        let file = Arc::new(blocking(move || export::export(&disk, &name, &image, &health)).await??);
        *self.outgoing() = Some(Outgoing {
            file: file.clone(),
            used: now(),
        });
        Ok(file)
    }

    /// Forgets the outgoing file, once whoever still sends it is done.
    pub(crate) fn forget(&self) {
        self.outgoing().take();
    }

    /// Forgets it also when the replica it was for has not asked for any of it in a long time.
    pub(crate) fn tidy(&self) {
        let mut outgoing = self.outgoing();
        let idle = outgoing
            .as_ref()
            .map(|outgoing| now().saturating_duration_since(outgoing.used));
        if idle > Some(Duration::from_millis(SNAPSHOT_KEEP_MS)) {
            outgoing.take();
        }
    }

    /// Replaces the state by a snapshot. Durable, and visible to the machine, when this returns.
    pub(crate) async fn install(
        &self,
        standing: Standing,
        data: SnapshotData,
        state: &Arc<ShardState>,
        machine: &Arc<dyn Machine>,
    ) -> io::Result<()> {
        let file = match data {
            SnapshotData::File(file) => file,
            SnapshotData::State(image) => {
                let (disk, health, name) = (self.disk.clone(), self.health.clone(), self.new_name("in.snap"));
                Arc::new(blocking(move || export::export(&disk, &name, &image, &health)).await??)
            }
        };
        file.keep.store(true, Ordering::Relaxed);
        let marked = state.clone();
        let name = file.name.clone();
        blocking(move || marked.begin_install(&name))
            .await?
            .map_err(|e| self.health.engine(e))?;
        self.take_over(&file.name, standing, state, machine).await
    }

    /// Finishes an installation that a crash has cut short.
    pub(crate) async fn resume(&self, state: &Arc<ShardState>, machine: &Arc<dyn Machine>) -> io::Result<()> {
        let installing = state.installing().map_err(|e| self.health.engine(e))?;
        if let Some(name) = &installing {
            let (disk, checked) = (self.disk.clone(), name.clone());
            let head = blocking(move || file::verify(&*disk, &checked)).await??;
            let standing = file::standing(&head).ok_or_else(|| file::invalid("the head makes no sense"))?;
            self.take_over(name, standing, state, machine).await?;
        }
        self.remove_leftovers()
    }

    /// From a file that is known to be whole: records into the log first, then the state, then the note goes.
    async fn take_over(
        &self,
        name: &str,
        standing: Standing,
        state: &Arc<ShardState>,
        machine: &Arc<dyn Machine>,
    ) -> io::Result<()> {
        let mut reader = Reader::open(&*self.disk, name)?.0;
        let mut frame = reader.next()?;
        while let Some(Frame::Records(records)) = frame {
            self.log.import(self.shard, records).await?;
            frame = reader.next()?;
        }
        // The note of what is being installed covers a purge point that is ahead of the state.
        if let Some(applied) = &standing.applied {
            self.log.purge(self.shard, convert::from_raft(applied)).await?;
        }
        let (state, machine) = (state.clone(), machine.clone());
        blocking(move || {
            let mut first = frame;
            let next = || match first
                .take()
                .map_or_else(|| reader.next(), |frame| Ok(Some(frame)))
            {
                Ok(Some(Frame::Pairs(pairs))) => Ok(Some(pairs)),
                Ok(None) => Ok(None),
                Ok(Some(Frame::Records(_))) => Err(EngineError::Corrupt("records after the state".into())),
                Err(error) => Err(EngineError::Failed(error.to_string())),
            };
            state.replace(standing, next, |read| machine.restore(read))
        })
        .await?
        .map_err(|e| self.health.engine(e))?;
        self.disk.remove(name)
    }

    /// A file name of this shard that was not used since the replica was opened.
    fn new_name(&self, what: &str) -> String {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        format!("{DIRECTORY}/{:08x}-{number}-{what}", self.shard)
    }

    fn remove_leftovers(&self) -> io::Result<()> {
        let prefix = format!("{:08x}-", self.shard);
        for name in self.disk.list(DIRECTORY)? {
            if name.starts_with(&prefix) {
                self.disk.remove(&format!("{DIRECTORY}/{name}"))?;
            }
        }
        Ok(())
    }

    /// Where chunks of other replicas' snapshots go.
    pub(crate) fn inbox(self: &Arc<Self>) -> Inbox {
        Inbox::new(self.clone())
    }

    /// One chunk of a file.
    pub(crate) fn chunk(&self, file: &SnapshotFile, offset: u64, bytes: usize) -> io::Result<Bytes> {
        let len = bytes.min((file.size.saturating_sub(offset)) as usize);
        if let Some(outgoing) = self.outgoing().as_mut() {
            outgoing.used = now();
        }
        let mut chunk = vec![0; len];
        self.disk
            .open(&file.name, false)?
            .read_exact_at(&mut chunk, offset)?;
        Ok(chunk.into())
    }
}

/// What the head of a file for this standing says.
pub(crate) fn head_of(shard: u32, standing: &Standing) -> flotilla_proto::record::SnapshotHead {
    flotilla_proto::record::SnapshotHead {
        shard,
        applied: standing.applied.as_ref().map(convert::to_proto),
        membership: Some(convert::stored_to_proto(&standing.membership)),
        purged: None,
    }
}

#[cfg(all(test, not(madsim)))]
mod tests;
