//! Disks that can be full: an ext4 file system of its own for each node, in a file, mounted through a loop device. Needs
//! root; without it nodes have directories, which cannot be full.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FallocateFlags, fallocate, statvfs},
    io::Errno,
};

use super::{cleanup::Cleanup, shell};

/// Size of a file system: more than the longest runs write, or a disk would be full that no fault has filled. Its file
/// has holes: only what is written takes space.
const BYTES: u64 = 16 << 30;
const MIB: u64 = 1 << 20;

/// Makes a file system in `image` and mounts it on `directory`.
pub(super) fn mount(image: &Path, directory: &Path, cleanup: &Cleanup) -> io::Result<()> {
    File::create(image)?.set_len(BYTES)?;
    fs::create_dir_all(directory)?;
    let (image, on) = (image.to_string_lossy(), directory.to_string_lossy());
    shell::run("mkfs.ext4", &["-q", "-F", "-m", "0", &image])?;
    cleanup.will_mount(directory.to_owned())?;
    shell::run("mount", &["-o", "loop", &image, &on])
}

/// Takes all space of a file system but about so many MiB; returns the bytes that are left.
pub(super) fn fill(directory: &Path, leave_mib: u64) -> io::Result<u64> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(ballast(directory))?;
    let mut wanted = free(directory)?.saturating_sub(leave_mib * MIB);
    // The nodes write meanwhile, and the file system keeps books of its own: a little less may fit.
    while wanted > 0 {
        match fallocate(&file, FallocateFlags::empty(), 0, wanted) {
            Ok(()) => break,
            Err(Errno::NOSPC) => wanted = wanted.saturating_sub(MIB),
            Err(error) => return Err(error.into()),
        }
    }
    free(directory)
}

/// Gives it back.
pub(super) fn empty(directory: &Path) -> io::Result<()> {
    match fs::remove_file(ballast(directory)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn free(directory: &Path) -> io::Result<u64> {
    let stat = statvfs(directory)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn ballast(directory: &Path) -> PathBuf {
    directory.join("ballast")
}
