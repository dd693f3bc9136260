//! The name of a data directory.
//!
//! File `IDENTITY`, little endian: `"FLOTNODE" | version u32 | identity u64 | crc32c u32` over what precedes it.
//! Written once, before anything else; a directory without it is empty or not whole.

use bytes::{Buf, BufMut};

use super::StoreError;
use crate::disk::Disk;

const FILE: &str = "IDENTITY";
const NEW_FILE: &str = "IDENTITY.new";
const MAGIC: &[u8; 8] = b"FLOTNODE";
const VERSION: u32 = 1;
const BYTES: usize = 24;

/// Reads the identity; `None` where there is none.
pub(super) fn read(disk: &dyn Disk) -> Result<Option<u64>, StoreError> {
    if !disk.exists(FILE)? {
        return Ok(None);
    }
    let file = disk.open(FILE, false)?;
    let mut stored = [0; BYTES];
    if file.len()? != BYTES as u64 {
        return Err(StoreError::Corrupt(format!("{FILE} has the wrong length")));
    }
    file.read_exact_at(&mut stored, 0)?;
    if crc32c::crc32c(&stored[..BYTES - 4]) != (&stored[BYTES - 4..]).get_u32_le() {
        return Err(StoreError::Corrupt(format!("the checksum of {FILE} differs")));
    }
    let mut rest = &stored[..];
    if rest.copy_to_bytes(MAGIC.len()) != MAGIC[..] {
        return Err(StoreError::Corrupt(format!("{FILE} is something else")));
    }
    let version = rest.get_u32_le();
    if version != VERSION {
        return Err(StoreError::Version {
            found: version,
            known: VERSION,
        });
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
    let file = disk.open(NEW_FILE, true)?;
    file.set_len(0)?;
    file.write_at(&bytes, 0)?;
    file.sync()?;
    disk.rename(NEW_FILE, FILE)?;
    disk.sync_dir("")?;
    Ok(())
}
