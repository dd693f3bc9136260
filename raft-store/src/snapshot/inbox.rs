//! Takes in a snapshot, chunk by chunk.
//!
//! The receiver says which byte it wants next, so that a broken transfer goes on where it stopped, and a
//! sender that is ahead or behind is put right. One transfer at a time: a new one replaces the one before.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
};

use flotilla_proto::peer::SnapshotChunk;

use super::{DIRECTORY, SnapshotFile, Snapshots, file};
use crate::{disk::DiskFile, runtime::blocking};

/// The transfer under way, or the last one.
pub(crate) struct Inbox {
    snapshots: Arc<Snapshots>,
    progress: Progress,
}

enum Progress {
    Idle,
    Receiving {
        id: String,
        name: String,
        file: Arc<dyn DiskFile>,
        next: u64,
        total: u64,
    },
    Installing {
        id: String,
        total: u64,
    },
    Installed {
        id: String,
        total: u64,
    },
}

/// What to answer to a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The byte to send next.
    pub(crate) next_offset: u64,
    /// Nothing more is wanted.
    pub(crate) installed: bool,
}

/// What to do after a chunk.
pub(crate) enum Finish {
    /// Wait for more.
    NotYet(Wanted),
    /// All bytes are here: check them, install, and call [`Inbox::finished`].
    Now(Wanted, Complete),
}

/// All bytes of a snapshot, not yet checked.
pub(crate) struct Complete {
    snapshots: Arc<Snapshots>,
    id: String,
    part: String,
    file: Arc<dyn DiskFile>,
    total: u64,
}

impl Inbox {
    pub(super) fn new(snapshots: Arc<Snapshots>) -> Self {
        Self {
            snapshots,
            progress: Progress::Idle,
        }
    }

    /// Takes a chunk. An error is this disk's, not the sender's.
    pub(crate) async fn take(&mut self, chunk: SnapshotChunk) -> io::Result<Finish> {
        let current = match &self.progress {
            Progress::Installed { id, total } if *id == chunk.id => {
                return Ok(Finish::NotYet(Wanted {
                    next_offset: *total,
                    installed: true,
                }));
            }
            Progress::Installing { id, total } if *id == chunk.id => {
                return Ok(Finish::NotYet(Wanted {
                    next_offset: *total,
                    installed: false,
                }));
            }
            Progress::Receiving { id, .. } => *id == chunk.id,
            _ => false,
        };
        if !current {
            self.start(&chunk).await?;
        }
        self.append(chunk).await
    }

    async fn start(&mut self, chunk: &SnapshotChunk) -> io::Result<()> {
        self.discard();
        let name = self.snapshots.new_name("in.part");
        let (disk, path) = (self.snapshots.disk.clone(), name.clone());
        let file = blocking(move || {
            disk.create_dir(DIRECTORY)?;
            let file = disk.open(&path, true)?;
            file.set_len(0)?;
            io::Result::Ok(file)
        })
        .await??;
        self.progress = Progress::Receiving {
            id: chunk.id.clone(),
            name,
            file,
            next: 0,
            total: chunk.total_size,
        };
        Ok(())
    }

    async fn append(&mut self, chunk: SnapshotChunk) -> io::Result<Finish> {
        let Progress::Receiving {
            id,
            name,
            file,
            next,
            total,
        } = &mut self.progress
        else {
            unreachable!("a transfer was just found or started");
        };
        let data = chunk.data;
        let fits = chunk.offset == *next && *next + data.len() as u64 <= *total;
        // Chunks that came out of turn, or damaged, are asked for again.
        if fits && crc32c::crc32c(&data) == chunk.data_crc32c && !data.is_empty() {
            let (target, offset, bytes) = (file.clone(), *next, data.len() as u64);
            blocking(move || target.write_at(&data, offset)).await??;
            *next += bytes;
        }
        let wanted = Wanted {
            next_offset: *next,
            installed: false,
        };
        if *next < *total {
            return Ok(Finish::NotYet(wanted));
        }
        let complete = Complete {
            snapshots: self.snapshots.clone(),
            id: id.clone(),
            part: name.clone(),
            file: file.clone(),
            total: *total,
        };
        self.progress = Progress::Installing {
            id: complete.id.clone(),
            total: complete.total,
        };
        Ok(Finish::Now(wanted, complete))
    }

    /// Tells how the installation of snapshot `id` ended. A failed one is asked for again from its start.
    pub(crate) fn finished(&mut self, id: &str, installed: bool) {
        if let Progress::Installing { id: current, total } = &self.progress
            && current == id
        {
            self.progress = match installed {
                true => Progress::Installed {
                    id: id.to_owned(),
                    total: *total,
                },
                false => Progress::Idle,
            };
        }
    }

    fn discard(&mut self) {
        if let Progress::Receiving { name, .. } = std::mem::replace(&mut self.progress, Progress::Idle) {
            // Left behind, it is removed when the replica opens again.
            let _ = self.snapshots.disk.remove(&name);
        }
    }
}

impl Complete {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Checks every byte and gives the file its final name, durably.
    pub(crate) async fn check(self) -> io::Result<SnapshotFile> {
        blocking(move || self.check_blocking()).await?
    }

    fn check_blocking(self) -> io::Result<SnapshotFile> {
        let disk = &self.snapshots.disk;
        self.file.sync()?;
        let head = match file::verify(&**disk, &self.part) {
            Ok(head) => head,
            Err(error) => {
                disk.remove(&self.part)?;
                return Err(error);
            }
        };
        let standing = file::standing(&head).ok_or_else(|| file::invalid("the head makes no sense"))?;
        if head.shard != self.snapshots.shard {
            return Err(file::invalid("a snapshot of another shard"));
        }
        let name = self.snapshots.new_name("in.snap");
        disk.rename(&self.part, &name)?;
        disk.sync_dir(DIRECTORY)?;
        Ok(SnapshotFile {
            disk: disk.clone(),
            name,
            size: self.total,
            id: self.id,
            standing,
            keep: AtomicBool::new(false),
        })
    }
}
