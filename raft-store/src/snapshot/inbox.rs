//! Takes in a snapshot, part by part.
//!
//! The receiver says what it wants next, so that a broken transfer goes on where it stopped, and a sender that is ahead or
//! behind is put right. What is wanted follows from what is stored: records that the log has are not asked for again,
//! and the staged state knows which key comes next. One transfer at a time: a new one replaces the one before.

use std::{io, sync::Arc, time::Duration};

use flotilla_proto::peer::SnapshotChunk;
use tokio::sync::OwnedSemaphorePermit;

use super::{Hold, Outline, Place, Snapshots, busy, piece::invalid};
use crate::{
    limits::SNAPSHOT_STALL_MS,
    runtime::{Moment, now},
    state::Standing,
    types::SnapshotMeta,
};

/// The transfer under way, or the last one.
pub(crate) struct Inbox {
    snapshots: Arc<Snapshots>,
    progress: Progress,
}

enum Progress {
    Idle,
    Receiving(Box<Receiving>),
    Installing(Box<Receiving>),
    Installed { id: String },
}

struct Receiving {
    id: String,
    outline: Outline,
    next: Place,
    used: Moment,
    hold: Hold,
    _slot: OwnedSemaphorePermit,
}

/// What to answer to a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// What to send next.
    pub(crate) next: Place,
    /// Nothing more is wanted.
    pub(crate) installed: bool,
}

/// What to do after a part.
#[derive(Debug)]
pub(crate) enum Finish {
    /// Wait for more.
    NotYet(Wanted),
    /// All is here: install it, and call [`Inbox::finished`].
    Now(Wanted, Complete),
}

/// A snapshot that is all here.
#[derive(Debug)]
pub(crate) struct Complete {
    pub(crate) id: String,
    pub(crate) standing: Standing,
}

impl Complete {
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.standing.applied,
            last_membership: self.standing.membership.clone(),
        }
    }
}

fn not_yet(next: Place) -> Finish {
    Finish::NotYet(Wanted {
        next,
        installed: false,
    })
}

impl Inbox {
    pub(super) fn new(snapshots: Arc<Snapshots>) -> Self {
        Self {
            snapshots,
            progress: Progress::Idle,
        }
    }

    /// Takes a part. An error of kind `InvalidData` is the sender's, one of kind `WouldBlock` says that too much is under
    /// way; any other is this disk's.
    pub(crate) async fn take(&mut self, chunk: SnapshotChunk) -> io::Result<Finish> {
        match &self.progress {
            Progress::Installed { id } if *id == chunk.id => {
                return Ok(Finish::NotYet(Wanted {
                    next: Place::End,
                    installed: true,
                }));
            }
            Progress::Installing(current) if current.id == chunk.id => return Ok(not_yet(Place::End)),
            Progress::Installing(_) => return Err(busy("another snapshot is being installed")),
            Progress::Receiving(current) if current.id == chunk.id => {}
            _ => self.start(&chunk).await?,
        }
        self.accept(chunk).await
    }

    async fn start(&mut self, chunk: &SnapshotChunk) -> io::Result<()> {
        let head = chunk.head.clone().ok_or_else(|| invalid("it has no head"))?;
        if head.shard != self.snapshots.state.shard() {
            return Err(invalid("it is another shard's"));
        }
        let outline = Outline::of(head).ok_or_else(|| invalid("its head makes no sense"))?;
        self.progress = Progress::Idle;
        let traffic = &self.snapshots.traffic;
        let slot = traffic.receiving.clone().try_acquire_owned();
        let slot = slot.map_err(|_| busy("this node receives as many snapshots as it may"))?;
        let hold = {
            let _recycling = traffic.recycling().await;
            self.snapshots.holds.to_keep(outline.oldest)
        };
        let mut receiving = Receiving {
            id: chunk.id.clone(),
            next: Place::Record(outline.oldest),
            outline,
            used: now(),
            hold,
            _slot: slot,
        };
        receiving.next = self.wanted(&receiving).await?;
        self.progress = Progress::Receiving(Box::new(receiving));
        Ok(())
    }

    /// What of a snapshot is not here yet.
    async fn wanted(&self, receiving: &Receiving) -> io::Result<Place> {
        let Outline { oldest, applied, .. } = receiving.outline;
        match self.snapshots.missing(oldest, applied) {
            Some(index) => Ok(Place::Record(index)),
            None => self.snapshots.begin_stage(&receiving.id).await,
        }
    }

    async fn accept(&mut self, chunk: SnapshotChunk) -> io::Result<Finish> {
        let Progress::Receiving(mut receiving) = std::mem::replace(&mut self.progress, Progress::Idle) else {
            unreachable!("a transfer was just found or started");
        };
        receiving.used = now();
        receiving.hold.moved(0);
        // Before anything is sent, too: a part that cannot be stored need not travel.
        if let Err(full) = self.snapshots.room_for(&receiving.next) {
            self.progress = Progress::Receiving(receiving);
            return Err(full);
        }
        let from = chunk.from.and_then(Place::from_proto);
        let to = chunk.to.and_then(Place::from_proto);
        // Parts that come out of turn, or damaged, are asked for again.
        let fits = from.as_ref() == Some(&receiving.next) && crc32c::crc32c(&chunk.data) == chunk.data_crc32c;
        let mut taken = match to {
            Some(to) if fits && to > receiving.next => self.store(&mut receiving, to, chunk.data).await,
            _ => Ok(()),
        };
        if taken.is_ok() && receiving.next == Place::End {
            taken = self.pin(&mut receiving).await;
        }
        let next = receiving.next.clone();
        let done = taken.is_ok() && next == Place::End;
        let complete = Complete {
            id: receiving.id.clone(),
            standing: receiving.outline.standing.clone(),
        };
        self.progress = match done {
            true => Progress::Installing(receiving),
            false => Progress::Receiving(receiving),
        };
        taken?;
        if !done {
            return Ok(not_yet(next));
        }
        let wanted = Wanted {
            next,
            installed: false,
        };
        Ok(Finish::Now(wanted, complete))
    }

    async fn store(&self, receiving: &mut Receiving, to: Place, data: bytes::Bytes) -> io::Result<()> {
        let applied = receiving.outline.applied;
        match receiving.next.clone() {
            Place::Record(index) => {
                self.snapshots.put_records(index, applied, data).await?;
                receiving.next = self.wanted(receiving).await?;
            }
            Place::Pair(key) => {
                self.snapshots.put_pairs(&receiving.id, &key, &to, data).await?;
                receiving.next = to;
            }
            Place::End => {}
        }
        Ok(())
    }

    /// Keeps the records of a snapshot that seems to be all here until the state that refers to them is in use. What is gone
    /// by now, whatever the hold was worth before, is asked for again.
    async fn pin(&self, receiving: &mut Receiving) -> io::Result<()> {
        let _recycling = self.snapshots.traffic.recycling().await;
        receiving.hold.pin(true);
        let wanted = self.wanted(receiving).await;
        receiving.hold.pin(matches!(wanted, Ok(Place::End)));
        receiving.next = wanted?;
        Ok(())
    }

    /// Tells how the installation of snapshot `id` ended. One that was not put in is asked for again. Not to be called when
    /// the replica stopped in the middle of it: when it is opened again it goes on, and needs the records.
    pub(crate) fn finished(&mut self, id: &str, installed: bool) {
        if matches!(&self.progress, Progress::Installing(current) if current.id == id) {
            self.progress = match installed {
                true => Progress::Installed { id: id.to_owned() },
                false => Progress::Idle,
            };
        }
    }

    /// Gives up a transfer whose sender is silent. What has arrived stays.
    pub(crate) fn tidy(&mut self) {
        if let Progress::Receiving(receiving) = &self.progress
            && now().saturating_duration_since(receiving.used) > Duration::from_millis(SNAPSHOT_STALL_MS)
        {
            self.progress = Progress::Idle;
        }
    }
}
