//! The operating system's disk: a directory that only one process uses.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use super::Disk;
use super::DiskFile;
use crate::descriptors::open_segments;
use crate::descriptors::process_limit;
use crate::limits::ZERO_STEP_BYTES;

/// A directory of the file system. While it is open no other process can open it.
pub struct RealDisk {
    root: PathBuf,
    /// Holds the lock on the directory as long as it is open.
    _lock: File,
}

impl RealDisk {
    /// Opens the directory, making it where missing, and locks it.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when another process has it open; whatever the file system answers otherwise.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<RealDisk> {
        let root = root.into();
        make_dir(&root)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(root.join("LOCK"))?;
        lock.try_lock().map_err(|e| match e {
            fs::TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::WouldBlock,
                format!(
                    "another process uses the data directory {}: stop it first",
                    root.display()
                ),
            ),
            fs::TryLockError::Error(e) => e,
        })?;
        Ok(RealDisk { root, _lock: lock })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

/// Makes a directory and its parents, syncing each directory that got a new name.
fn make_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    };
    make_dir(parent)?;
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    File::open(parent)?.sync_all()
}

impl Disk for RealDisk {
    fn open_segments(&self) -> usize {
        open_segments(process_limit())
    }

    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .open(self.path(name))?;
        Ok(Arc::new(RealFile { file }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.path(name).try_exists()
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path(dir)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            // A name that is not UTF-8 is none of ours.
            if let (true, Ok(name)) = (entry.file_type()?.is_file(), entry.file_name().into_string()) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        make_dir(&self.path(dir))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.path(dir))?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

struct RealFile {
    file: File,
}

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        let old_len = self.len()?;
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, len) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            Err(e) => return Err(e.into()),
        }
        // This file system cannot promise room, it can only be made to use it.
        let zeros = vec![0; ZERO_STEP_BYTES];
        let mut at = old_len;
        while at < len {
            let n = zeros.len().min((len - at) as usize);
            self.file.write_all_at(&zeros[..n], at)?;
            at += n as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_processes_never_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = RealDisk::open(dir.path().join("a/b")).unwrap();
        let refused = RealDisk::open(dir.path().join("a/b")).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        drop(first);
        RealDisk::open(dir.path().join("a/b")).unwrap();
    }

    #[test]
    fn files_are_written_read_renamed_and_listed() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        disk.create_dir("log").unwrap();
        assert!(disk.open("log/a", false).is_err());
        let file = disk.open("log/a", true).unwrap();
        file.reserve(100).unwrap();
        file.write_at(b"hello", 98).unwrap();
        file.sync().unwrap();
        disk.rename("log/a", "log/b").unwrap();
        disk.sync_dir("log").unwrap();
        assert_eq!(disk.list("log").unwrap(), ["b"]);
        assert!(!disk.exists("log/a").unwrap());
        let mut buf = [0; 5];
        disk.open("log/b", false)
            .unwrap()
            .read_exact_at(&mut buf, 98)
            .unwrap();
        assert_eq!(&buf, b"hello");
        assert_eq!(file.len().unwrap(), 103);
        assert!(disk.free_bytes().unwrap() > 0);
        assert_eq!(disk.list("nowhere").unwrap(), Vec::<String>::new());
    }
}
