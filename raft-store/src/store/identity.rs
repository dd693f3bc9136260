//! The name of a data directory.
//!
//! File `IDENTITY`, little endian: `"FLOTNODE" | version u32 | identity u64 | crc32c u32` over what precedes it.
//! Written once, before anything else; a directory without it is empty or not whole.

use std::io;

use bytes::{Buf, BufMut};

use super::StoreError;
use crate::disk::{Disk, read_small, replace};

const FILE: &str = "IDENTITY";
const MAGIC: &[u8; 8] = b"FLOTNODE";
const VERSION: u32 = 1;
const BYTES: usize = 24;
/// No version is longer.
const MAX_BYTES: u64 = 4096;

/// Reads the identity; `None` where there is none.
pub(super) fn read(disk: &dyn Disk) -> Result<Option<u64>, StoreError> {
    let stored = read_small(disk, FILE, MAX_BYTES + 1).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => StoreError::Corrupt(error.to_string()),
        _ => error.into(),
    })?;
    let Some(stored) = stored else {
        return Ok(None);
    };
    if !(BYTES as u64..=MAX_BYTES).contains(&(stored.len() as u64)) {
        return Err(StoreError::Corrupt(format!("{FILE} has the wrong length")));
    }
    // The checksum comes last in every version, so that a flipped bit is never taken for a newer version.
    let (content, mut crc) = stored.split_at(stored.len() - 4);
    if crc32c::crc32c(content) != crc.get_u32_le() {
        return Err(StoreError::Corrupt(format!("the checksum of {FILE} differs")));
    }
    let mut rest = &stored[..];
    if rest.copy_to_bytes(MAGIC.len()) != MAGIC[..] {
        return Err(StoreError::Corrupt(format!("{FILE} is something else")));
    }
    let version = rest.get_u32_le();
    if plant!(NewerReleaseIgnored => false, else version != VERSION) {
        return Err(StoreError::Newer(format!(
            "{FILE} has format version {version}, this program reads version {VERSION}; use the program that wrote it, or newer"
        )));
    }
    if stored.len() != BYTES {
        return Err(StoreError::Corrupt(format!("{FILE} has the wrong length")));
    }
    Ok(Some(rest.get_u64_le()))
}

/// Gives an empty directory its identity, durably.
pub(super) fn write(disk: &dyn Disk, identity: u64) -> Result<(), StoreError> {
    let mut bytes = Vec::with_capacity(BYTES);
    bytes.put_slice(MAGIC);
    bytes.put_u32_le(VERSION);
    bytes.put_u64_le(identity);
    let crc = crc32c::crc32c(&bytes);
    bytes.put_u32_le(crc);
    Ok(replace(disk, FILE, &bytes)?)
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;
    use crate::disk::SimDisk;

    fn with(change: impl FnOnce(&mut Vec<u8>)) -> Result<Option<u64>, StoreError> {
        let disk = SimDisk::new(1).mount();
        write(&*disk, 7)?;
        let mut bytes = vec![0; BYTES - 4];
        disk.open(FILE, false)?.read_exact_at(&mut bytes, 0)?;
        change(&mut bytes);
        bytes.put_u32_le(crc32c::crc32c(&bytes));
        let file = disk.open(FILE, true)?;
        file.set_len(bytes.len() as u64)?;
        file.write_at(&bytes, 0)?;
        read(&*disk)
    }

    #[test]
    fn a_newer_version_is_not_damage_also_when_it_is_longer() {
        assert_eq!(with(|_| {}).unwrap(), Some(7));
        let same_length = with(|bytes| bytes[8] = 2);
        let longer = with(|bytes| {
            bytes[8] = 2;
            bytes.extend([1; 40]);
        });
        for read in [same_length, longer] {
            assert!(matches!(read, Err(StoreError::Newer(_))), "{read:?}");
        }
    }

    #[test]
    fn a_version_whose_checksum_differs_is_damage() {
        let disk = SimDisk::new(1).mount();
        write(&*disk, 7).unwrap();
        disk.open(FILE, true).unwrap().write_at(&[2], 8).unwrap();
        let read = read(&*disk);
        assert!(matches!(read, Err(StoreError::Corrupt(_))), "{read:?}");
    }
}
