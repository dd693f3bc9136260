//! The disk as the log sees it: one directory tree of files with positional reads and writes.
//!
//! Two small traits at the height where a disk can fail: a write is not durable before a sync, a name is not durable
//! before its directory is synced. [`real`] is the operating system's; [`sim`] can lose, tear and corrupt.

use std::io;
use std::sync::Arc;
use std::time::Duration;

pub mod real;
pub mod sim;
mod small;

pub use real::RealDisk;
pub use sim::SimDisk;
pub use small::{mark, read_small, replace};

/// One directory tree, used by one process. Names are relative paths such as `log/00000001.seg`; `""` is the root.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file for reading and writing. With `create`, a missing file is made (empty); its name is durable only
    /// after [`Disk::sync_dir`].
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>>;
    fn exists(&self, name: &str) -> io::Result<bool>;
    /// Names of the files (not directories) directly in `dir`, sorted, without the path. Empty when `dir` is missing.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Makes a directory and its parents, durably. Nothing happens when it exists.
    fn create_dir(&self, dir: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Gives a file another name, atomically, replacing what had that name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Bytes that can still be allocated.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Closed segments of the log whose files may stay open for reading.
    fn open_segments(&self) -> usize {
        crate::limits::MAX_OPEN_SEGMENTS
    }
    /// How long to wait between a write and its sync. Only the simulated disk answers: there a sync is a function
    /// call, and the (simulated) time it takes has to pass somewhere.
    fn sync_delay(&self) -> Option<Duration> {
        None
    }
}

/// One open file.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads up to `buf.len()` bytes; 0 at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `data`, growing the file where needed. Durable after [`DiskFile::sync`].
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Makes everything written durable. After a failure nothing is known about what was written since the last
    /// success, and trying again proves nothing.
    fn sync(&self) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    fn set_len(&self, len: u64) -> io::Result<()>;

    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Makes the file at least `len` long and takes the room for it now, so that later writes cannot find the disk
    /// full.
    fn reserve(&self, len: u64) -> io::Result<()>;

    /// Fills `buf`. What cannot be read is tried once more: an error that passes is no damage.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` when the file ends first.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let (mut done, mut tried) = (0, false);
        while done < buf.len() {
            match self.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_unreadable(&e) && !tried => tried = true,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Whether a read failed because the medium does not give back what it was given (EIO): damage, as a wrong checksum is.
#[must_use]
pub fn is_unreadable(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::IO)
}

/// Whether an operation failed only because there is no room: it may succeed later.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
