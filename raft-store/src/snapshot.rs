//! Snapshots: how a replica gets what the log no longer has.
//!
//! The state is on disk at all times, so nothing is "taken" in advance, and nothing is written for the sake of being sent.
//! When a replica lags behind the purge point, the leader reads the records its state still refers to, and then the
//! state, in parts, as the receiver asks for them. The receiver puts records into its own log at once (they are committed,
//! so they are right whatever comes of the transfer) and the state beside the one in use. When all is there, one write
//! makes it the one in use. So a transfer goes on where it was after whatever has happened to either side, and needs no room
//! but for what stays.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    blocking::{Work, blocking},
    health::Health,
    limits::{MAX_SNAPSHOTS_IN, MAX_SNAPSHOTS_OUT, SNAPSHOT_STALL_MS},
    log::{NodeLog, ReadError},
    log_id::LogId,
    machine::Machine,
    replica::Repairs,
    runtime::{Moment, now},
    state::{ShardState, Standing},
    types::convert,
};

mod hold;
mod image;
mod inbox;
mod piece;

pub(crate) use hold::Hold;
use hold::Holds;
pub(crate) use image::StateImage;
pub(crate) use inbox::{Complete, Finish, Inbox, Wanted};
pub(crate) use piece::{Outline, Piece, Place};

/// A snapshot as it passes through openraft.
pub(crate) enum SnapshotData {
    /// The state of this replica at some moment.
    Image(Arc<StateImage>),
    /// A state that has arrived, and stands complete beside the one in use.
    Staged,
}

/// What all replicas of a node share.
#[derive(Clone)]
pub(crate) struct Traffic {
    sending: Arc<Semaphore>,
    receiving: Arc<Semaphore>,
    /// Held while segments are given up, and while a receiver's hold begins: it either counts, or finds gone what is gone.
    recycling: Arc<tokio::sync::Mutex<()>>,
    /// A part of what is sent is closed at this size, bytes.
    piece_bytes: usize,
}

impl Traffic {
    pub(crate) fn new(piece_bytes: usize) -> Self {
        Self {
            piece_bytes,
            sending: Arc::new(Semaphore::new(MAX_SNAPSHOTS_OUT)),
            receiving: Arc::new(Semaphore::new(MAX_SNAPSHOTS_IN)),
            recycling: Arc::default(),
        }
    }

    /// No hold begins until this is dropped.
    pub(crate) async fn recycling(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.recycling.lock().await
    }
}

/// The image sent last, and when that was.
struct Outgoing {
    image: Arc<StateImage>,
    used: Moment,
}

/// The snapshots of one replica.
pub(crate) struct Snapshots {
    state: Arc<ShardState>,
    log: NodeLog,
    health: Health,
    traffic: Traffic,
    holds: Arc<Holds>,
    repairs: Arc<Repairs>,
    outgoing: Mutex<Option<Outgoing>>,
}

/// A transfer under way to another replica.
pub(crate) struct Sending {
    pub(crate) image: Arc<StateImage>,
    pub(crate) outline: Outline,
    pub(crate) hold: Hold,
    _slot: OwnedSemaphorePermit,
}

impl Snapshots {
    pub(crate) fn new(
        state: Arc<ShardState>,
        log: NodeLog,
        health: Health,
        traffic: Traffic,
        repairs: Arc<Repairs>,
    ) -> Self {
        Self {
            state,
            log,
            health,
            traffic,
            repairs,
            holds: Arc::default(),
            outgoing: Mutex::default(),
        }
    }

    fn outgoing(&self) -> MutexGuard<'_, Option<Outgoing>> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image sent last, if a replica that installs it can go on from the log.
    pub(crate) fn reusable(&self, purged: Option<LogId>) -> Option<Arc<StateImage>> {
        let image = self.outgoing().as_ref().map(|outgoing| outgoing.image.clone())?;
        let reached = image.standing.applied.map(|id| id.index);
        (!image.expired(now()) && reached >= purged.map(|id| id.index)).then_some(image)
    }

    /// The first record that must stay because of a transfer.
    pub(crate) fn held(&self) -> Option<u64> {
        self.holds.oldest(&self.log)
    }

    /// Begins to send an image. Refused while this node sends as many as it may.
    pub(crate) fn send(&self, image: Arc<StateImage>) -> io::Result<Sending> {
        let slot = self.traffic.sending.clone().try_acquire_owned();
        let slot = slot.map_err(|_| busy("this node sends as many snapshots as it may"))?;
        let image = plant!(SnapshotClaimsMore => crate::planted::claiming_more(image), else image);
        let outline = image
            .outline()
            .ok_or_else(|| io::Error::other("nothing was applied yet"))?;
        let hold = self.holds.to_send(outline.oldest, &self.log);
        *self.outgoing() = Some(Outgoing {
            image: image.clone(),
            used: now(),
        });
        Ok(Sending {
            image,
            outline,
            hold,
            _slot: slot,
        })
    }

    /// Reads a part of what is being sent.
    pub(crate) async fn piece(&self, sending: &Sending, from: Place) -> io::Result<Piece> {
        if let Some(outgoing) = self.outgoing().as_mut() {
            outgoing.used = now();
        }
        if sending.image.expired(now()) {
            self.forget();
            return Err(io::Error::other(
                "it took too long, and begins anew with a newer state",
            ));
        }
        let piece = loop {
            let (image, health, from) = (sending.image.clone(), self.health.clone(), from.clone());
            let most = self.traffic.piece_bytes;
            let piece = blocking(Work::Export, move || image.piece(from, most, &health)).await;
            match piece.as_ref().err().and_then(damaged_index) {
                Some(index) if self.repairs.mend(index).await => {}
                _ => break piece,
            }
        };
        if piece
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        {
            self.forget();
        }
        piece
    }

    /// Forgets the outgoing image, once whoever still sends it is done.
    pub(crate) fn forget(&self) {
        self.outgoing().take();
    }

    /// Forgets it also when the replica it was for has not asked for any of it in a while.
    pub(crate) fn tidy(&self) {
        let mut outgoing = self.outgoing();
        let idle = outgoing
            .as_ref()
            .map(|outgoing| now().saturating_duration_since(outgoing.used));
        if idle > Some(Duration::from_millis(SNAPSHOT_STALL_MS)) {
            outgoing.take();
        }
    }

    /// Replaces the state by a snapshot. Durable, and visible to the machine, when this returns.
    pub(crate) async fn install(
        &self,
        standing: Standing,
        data: SnapshotData,
        machine: &Arc<dyn Machine>,
    ) -> io::Result<()> {
        if let SnapshotData::Image(image) = data {
            self.copy(&image).await?;
        }
        let (state, marked) = (self.state.clone(), standing.clone());
        blocking(Work::Install, move || state.begin_install(&marked))
            .await
            .map_err(|e| self.health.engine(e))?;
        self.take_over(standing, machine).await
    }

    /// Takes in an image of this process.
    async fn copy(&self, image: &StateImage) -> io::Result<()> {
        let outline = image
            .outline()
            .ok_or_else(|| io::Error::other("nothing was applied yet"))?;
        let id = format!("a copy of {}", outline.applied);
        self.begin_stage(&id).await?;
        let mut from = Place::Record(outline.oldest);
        while from != Place::End {
            let piece = image.piece(from.clone(), self.traffic.piece_bytes, &self.health)?;
            match &from {
                Place::Record(index) => self.put_records(*index, outline.applied, piece.data).await?,
                Place::Pair(key) => self.put_pairs(&id, key, &piece.to, piece.data).await?,
                Place::End => {}
            }
            from = piece.to;
        }
        Ok(())
    }

    /// Finishes an installation that a crash has cut short.
    pub(crate) async fn resume(&self, machine: &Arc<dyn Machine>) -> io::Result<()> {
        match self.state.installing().map_err(|e| self.health.engine(e))? {
            Some(standing) => self.take_over(standing, machine).await,
            None => Ok(()),
        }
    }

    /// The first record from `from` to `last` that is not in the log. What was applied here is the same everywhere.
    fn missing(&self, from: u64, last: u64) -> Option<u64> {
        let own = self.state.applied().map(|id| id.index);
        let own = plant!(OwnTailTakenForTheSnapshots => Some(last), else own);
        self.log.first_missing(self.state.shard(), from, last, own)
    }

    /// With records and state in their places: the log goes on from the snapshot, then the state is switched.
    async fn take_over(&self, standing: Standing, machine: &Arc<dyn Machine>) -> io::Result<()> {
        // The note of what is being installed covers a purge point that is ahead of the state.
        if let Some(applied) = &standing.applied {
            self.log
                .purge(self.state.shard(), convert::from_raft(applied))
                .await?;
        }
        let (state, machine) = (self.state.clone(), machine.clone());
        blocking(Work::Install, move || {
            state.switch(standing, |read| machine.restore(read))
        })
        .await
        .map_err(|e| self.health.engine(e))
    }

    /// Refused while the disk has no room for what comes at this place.
    fn room_for(&self, place: &Place) -> io::Result<()> {
        let room = match place {
            Place::Record(_) => self.log.has_room(),
            // The state engine copes badly with a full disk: its reserve is not for this.
            Place::Pair(_) => self.log.free_bytes()? >= self.log.keep_free_bytes(),
            Place::End => true,
        };
        if room {
            Ok(())
        } else {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    /// Stores records of a snapshot in the log, durably.
    async fn put_records(&self, from: u64, last: u64, data: bytes::Bytes) -> io::Result<()> {
        let shard = self.state.shard();
        let records = piece::split_records(shard, from, last, data)?;
        Ok(self.log.import(shard, records).await?)
    }

    /// Where the staged state of snapshot `id` goes on; a stage of another snapshot is cleared.
    async fn begin_stage(&self, id: &str) -> io::Result<Place> {
        let (state, id) = (self.state.clone(), id.to_owned());
        let next = blocking(Work::Stage, move || state.begin_stage(&id)).await;
        let next = next.map_err(|e| self.health.engine(e))?;
        Ok(next.map_or(Place::End, Place::Pair))
    }

    /// Puts pairs of a snapshot beside the state in use.
    async fn put_pairs(
        &self,
        id: &str,
        from: &bytes::Bytes,
        to: &Place,
        data: bytes::Bytes,
    ) -> io::Result<()> {
        let pairs = piece::split_pairs(from, to, data)?;
        let next = match to {
            Place::Pair(key) => Some(key.clone()),
            Place::End => None,
            Place::Record(_) => return Err(piece::invalid("records after the state")),
        };
        let (state, id) = (self.state.clone(), id.to_owned());
        blocking(Work::Stage, move || state.stage(&id, pairs, next))
            .await
            .map_err(|e| self.health.engine(e))
    }

    /// Removes what was staged, if it was not put in: the replica was further already.
    pub(crate) async fn discard_stage(&self) -> io::Result<()> {
        let state = self.state.clone();
        blocking(Work::Stage, move || state.discard_stage())
            .await
            .map_err(|e| self.health.engine(e))
    }

    /// Where parts of other replicas' snapshots go.
    pub(crate) fn inbox(self: &Arc<Self>) -> Inbox {
        Inbox::new(self.clone())
    }
}

/// The index of the record that could not be read.
fn damaged_index(error: &io::Error) -> Option<u64> {
    match error.get_ref()?.downcast_ref()? {
        ReadError::Corrupt { index, .. } => Some(*index),
        _ => None,
    }
}

/// As much as there may be is under way: to be tried again.
fn busy(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::WouldBlock, what)
}

#[cfg(all(test, not(madsim)))]
mod tests;
