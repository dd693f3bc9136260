//! The index sidecar of a closed segment: where each entry's record stands, and what the segment takes away from
//! earlier ones. Everything in it can be found again by scanning the segment, so a bad sidecar is never more than a
//! delay.
//!
//! ```text
//! head, 64 bytes
//!  0       8         12    16         24          32    40          48     52     56      64
//!  | magic | version | crc | sequence | directory | end | positions | runs | cuts | zero×8 |
//! then the positions (32 bytes each), the runs (32 bytes each), the cuts (16 bytes each)
//!
//! position   | offset u32 | bytes u32 | term u64 | node u64 | crc u32 | zero u32 |
//! run        | shard u32 | imported u32 | first u64 | count u64 | slot u64 |
//! cut        | shard u32 | flags u32: 1 dropped, 2 from | from u64 |
//! ```
//!
//! `crc` covers the head, the runs and the cuts, which are read when a log is opened. Each position has a checksum of
//! its own, over its shard and index too, since positions are read one by one.

use std::collections::BTreeMap;
use std::io;

use super::extent::Extent;
use super::extent::Position;
use super::extent::Table;
use super::segment::FORMAT_VERSION;
use super::segment::salted_crc;
use super::written::Cut;
use super::written::Written;
use crate::disk::DiskFile;
use crate::record::u32_at;
use crate::record::u64_at;

const MAGIC: &[u8; 8] = b"FLOTINDX";
const HEAD_BYTES: usize = 64;
const POSITION_BYTES: usize = 32;
const RUN_BYTES: usize = 32;
const CUT_BYTES: usize = 16;
const DROPPED: u32 = 1;
const FROM: u32 = 2;

/// What a position belongs to; part of its checksum.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) directory: u64,
    pub(super) segment: u64,
    pub(super) shard: u32,
}

/// A closed segment, as its sidecar tells it when the log is opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sidecar {
    /// Where the segment's durable batches end.
    pub(super) end: u64,
    /// (shard, imported, extent)
    pub(super) extents: Vec<(u32, bool, Extent)>,
    pub(super) cuts: BTreeMap<u32, Cut>,
}

/// The bytes of the sidecar of a segment whose positions are all in memory.
pub(super) fn encode(
    directory: u64,
    segment: u64,
    end: u64,
    written: &Written,
    cuts: &BTreeMap<u32, Cut>,
) -> Vec<u8> {
    let mut out = vec![0; HEAD_BYTES];
    let (mut runs, mut slot) = (Vec::new(), 0_u64);
    for (shard, imported, extent) in written.extents_in(segment) {
        let Table::Memory(positions) = &extent.table else {
            unreachable!("the positions of a segment without a sidecar are in memory");
        };
        runs.push((shard, imported, extent.first, extent.count, slot));
        for (index, position) in (extent.first..).zip(positions) {
            encode_position(
                &mut out,
                Place {
                    directory,
                    segment,
                    shard,
                },
                index,
                position,
            );
        }
        slot += extent.count;
    }
    let tables = out.len();
    for (shard, imported, first, count, slot) in &runs {
        out.extend_from_slice(&shard.to_le_bytes());
        out.extend_from_slice(&u32::from(*imported).to_le_bytes());
        for number in [first, count, slot] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
    for (shard, cut) in cuts {
        let flags = if cut.dropped { DROPPED } else { 0 } | if cut.from.is_some() { FROM } else { 0 };
        out.extend_from_slice(&shard.to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&cut.from.unwrap_or(0).to_le_bytes());
    }
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    out[16..24].copy_from_slice(&segment.to_le_bytes());
    out[24..32].copy_from_slice(&directory.to_le_bytes());
    out[32..40].copy_from_slice(&end.to_le_bytes());
    out[40..48].copy_from_slice(&slot.to_le_bytes());
    out[48..52].copy_from_slice(&(runs.len() as u32).to_le_bytes());
    out[52..56].copy_from_slice(&(cuts.len() as u32).to_le_bytes());
    let crc = tables_crc(&out[..HEAD_BYTES], &out[tables..]);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

fn tables_crc(head: &[u8], tables: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&head[..12]);
    let crc = crc32c::crc32c_append(crc, &head[16..]);
    crc32c::crc32c_append(crc, tables)
}

/// Reads what opening a log needs. `None` when it is not a good sidecar of this segment.
pub(super) fn read(file: &dyn DiskFile, directory: u64, segment: u64) -> io::Result<Option<Sidecar>> {
    let len = file.len()?;
    let mut head = [0; HEAD_BYTES];
    if len < HEAD_BYTES as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut head, 0)?;
    let (positions, runs, cuts) = (
        u64_at(&head, 40),
        u32_at(&head, 48) as usize,
        u32_at(&head, 52) as usize,
    );
    let positions_bytes = positions.saturating_mul(POSITION_BYTES as u64);
    let tables_bytes = (runs * RUN_BYTES + cuts * CUT_BYTES) as u64;
    let expected = positions_bytes
        .saturating_add(tables_bytes)
        .saturating_add(HEAD_BYTES as u64);
    let of_this_segment = &head[..8] == MAGIC
        && u32_at(&head, 8) == FORMAT_VERSION
        && u64_at(&head, 16) == segment
        && u64_at(&head, 24) == directory;
    if expected != len || !of_this_segment {
        return Ok(None);
    }
    let mut tables = vec![0; tables_bytes as usize];
    file.read_exact_at(&mut tables, HEAD_BYTES as u64 + positions_bytes)?;
    if tables_crc(&head, &tables) != u32_at(&head, 12) {
        return Ok(None);
    }
    let (runs, cuts) = tables.split_at(runs * RUN_BYTES);
    let extents = runs
        .chunks_exact(RUN_BYTES)
        .map(|run| decode_run(segment, run))
        .collect();
    let cuts = cuts.chunks_exact(CUT_BYTES).map(decode_cut).collect();
    Ok(Some(Sidecar {
        end: u64_at(&head, 32),
        extents,
        cuts,
    }))
}

fn decode_run(segment: u64, run: &[u8]) -> (u32, bool, Extent) {
    let table = Table::Sidecar {
        slot: u64_at(run, 24) as u32,
    };
    let extent = Extent {
        segment,
        first: u64_at(run, 8),
        count: u64_at(run, 16),
        table,
    };
    (u32_at(run, 0), u32_at(run, 4) != 0, extent)
}

fn decode_cut(cut: &[u8]) -> (u32, Cut) {
    let flags = u32_at(cut, 4);
    let from = (flags & FROM != 0).then(|| u64_at(cut, 8));
    (
        u32_at(cut, 0),
        Cut {
            dropped: flags & DROPPED != 0,
            from,
        },
    )
}

/// Looks up the positions of `count` consecutive entries. `None` when one of them is not what was written.
pub(super) fn read_positions(
    file: &dyn DiskFile,
    place: Place,
    first: u64,
    slot: u32,
    count: u64,
) -> io::Result<Option<Vec<Position>>> {
    let mut bytes = vec![0; count as usize * POSITION_BYTES];
    match file.read_exact_at(
        &mut bytes,
        HEAD_BYTES as u64 + u64::from(slot) * POSITION_BYTES as u64,
    ) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let positions = (first..).zip(bytes.chunks_exact(POSITION_BYTES));
    Ok(positions
        .map(|(index, bytes)| decode_position(bytes, place, index))
        .collect())
}

fn encode_position(out: &mut Vec<u8>, place: Place, index: u64, position: &Position) {
    let start = out.len();
    out.extend_from_slice(&position.offset.to_le_bytes());
    out.extend_from_slice(&position.bytes.to_le_bytes());
    out.extend_from_slice(&position.term.to_le_bytes());
    out.extend_from_slice(&position.node.to_le_bytes());
    let crc = position_crc(place, index, &out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
}

fn decode_position(bytes: &[u8], place: Place, index: u64) -> Option<Position> {
    if position_crc(place, index, &bytes[..24]) != u32_at(bytes, 24) || bytes[28..] != [0; 4] {
        return None;
    }
    Some(Position {
        offset: u32_at(bytes, 0),
        bytes: u32_at(bytes, 4),
        term: u64_at(bytes, 8),
        node: u64_at(bytes, 16),
    })
}

fn position_crc(place: Place, index: u64, bytes: &[u8]) -> u32 {
    let mut crc = salted_crc(place.directory, &place.segment.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &place.shard.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &index.to_le_bytes());
    crc32c::crc32c_append(crc, bytes)
}
