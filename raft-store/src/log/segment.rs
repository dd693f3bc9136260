//! The formats of a segment: its head, and the head of each batch in it.
//!
//! ```text
//! segment head, 64 bytes
//!  0       8         12     16         24          32             40               48       64
//!  | magic | version | crc  | sequence | directory | previous end | previous batch | zero×16 |
//!
//! batch head, 48 bytes, at a multiple of 8; the records follow without gaps, then zeros up to the next multiple of 8
//!  0       4     8          16       24        32      36      40            44     48
//!  | magic | crc | sequence | number | durable | bytes | count | records crc | zero |
//! ```
//!
//! A batch head is salted with the directory's identity, so that no payload can look like one. `number` grows with
//! every batch of the node and is never used again. `durable` names the last batch that was synced when this one was
//! written: the proof that what comes before may not be missing.

use bytes::Bytes;

use super::ShardState;
use crate::log_id::LogId;
use crate::record::Kind;
use crate::record::Record;
use crate::record::RecordView;
use crate::record::u32_at;
use crate::record::u64_at;

/// The format version written, and the only one read.
pub(super) const FORMAT_VERSION: u32 = 1;
pub(super) const SEGMENT_HEAD_BYTES: usize = 64;
pub(super) const BATCH_HEAD_BYTES: usize = 48;
pub(super) const BATCH_ALIGN: u64 = 8;

const SEGMENT_MAGIC: &[u8; 8] = b"FLOTILLA";
const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"FLBT");

pub(super) fn segment_name(sequence: u64) -> String {
    format!("log/{sequence:08}.seg")
}

pub(super) fn sidecar_name(sequence: u64) -> String {
    format!("log/{sequence:08}.idx")
}

/// What stands at the start of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHead {
    pub(super) sequence: u64,
    pub(super) directory: u64,
    /// Where the durable batches of the segment before this one end.
    pub(super) previous_end: u64,
    /// The number of the last batch before this segment.
    pub(super) previous_batch: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadSegmentHead {
    Corrupt(&'static str),
    Version(u32),
}

impl SegmentHead {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEAD_BYTES] {
        let mut out = [0; SEGMENT_HEAD_BYTES];
        out[..8].copy_from_slice(SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        out[24..32].copy_from_slice(&self.directory.to_le_bytes());
        out[32..40].copy_from_slice(&self.previous_end.to_le_bytes());
        out[40..48].copy_from_slice(&self.previous_batch.to_le_bytes());
        let crc = crc_around(&out, 12);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn parse(bytes: &[u8; SEGMENT_HEAD_BYTES]) -> Result<SegmentHead, BadSegmentHead> {
        if &bytes[..8] != SEGMENT_MAGIC {
            return Err(BadSegmentHead::Corrupt("not the head of a segment"));
        }
        if crc_around(bytes, 12) != u32_at(bytes, 12) {
            return Err(BadSegmentHead::Corrupt("checksum of the segment's head differs"));
        }
        match u32_at(bytes, 8) {
            FORMAT_VERSION => {}
            other => return Err(BadSegmentHead::Version(other)),
        }
        Ok(SegmentHead {
            sequence: u64_at(bytes, 16),
            directory: u64_at(bytes, 24),
            previous_end: u64_at(bytes, 32),
            previous_batch: u64_at(bytes, 40),
        })
    }
}

/// CRC32C of bytes that hold their own checksum at `at`.
pub(super) fn crc_around(bytes: &[u8], at: usize) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..at]), &bytes[at + 4..])
}

/// What stands before the records of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHead {
    pub(super) sequence: u64,
    pub(super) number: u64,
    pub(super) durable: u64,
    /// Of all records.
    pub(super) bytes: u32,
    pub(super) count: u32,
    /// CRC32C over the checksum fields of the records.
    pub(super) records_crc: u32,
}

impl BatchHead {
    fn encode(&self, directory: u64) -> [u8; BATCH_HEAD_BYTES] {
        let mut out = [0; BATCH_HEAD_BYTES];
        out[..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
        out[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        out[16..24].copy_from_slice(&self.number.to_le_bytes());
        out[24..32].copy_from_slice(&self.durable.to_le_bytes());
        out[32..36].copy_from_slice(&self.bytes.to_le_bytes());
        out[36..40].copy_from_slice(&self.count.to_le_bytes());
        out[40..44].copy_from_slice(&self.records_crc.to_le_bytes());
        let crc = salted_crc(directory, &out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The head at the start of `bytes`, if there is a whole and unharmed one of this segment.
    pub(super) fn parse(bytes: &[u8], directory: u64, sequence: u64) -> Option<BatchHead> {
        let head = bytes.first_chunk::<BATCH_HEAD_BYTES>()?;
        if u32_at(head, 0) != BATCH_MAGIC || u64_at(head, 8) != sequence {
            return None;
        }
        if salted_crc(directory, &head[8..]) != u32_at(head, 4) {
            return None;
        }
        Some(BatchHead {
            sequence,
            number: u64_at(head, 16),
            durable: u64_at(head, 24),
            bytes: u32_at(head, 32),
            count: u32_at(head, 36),
            records_crc: u32_at(head, 40),
        })
    }
}

/// CRC32C of `bytes`, starting from the identity of the directory they belong to.
pub(super) fn salted_crc(directory: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&directory.to_le_bytes()), bytes)
}

/// Bytes a batch of so many record bytes takes in a segment.
pub(super) fn batch_bytes(record_bytes: u64) -> u64 {
    (BATCH_HEAD_BYTES as u64 + record_bytes).next_multiple_of(BATCH_ALIGN)
}

/// Adds a batch to `out`.
pub(super) fn encode_batch(
    out: &mut Vec<u8>,
    directory: u64,
    sequence: u64,
    number: u64,
    durable: u64,
    records: &[Bytes],
) {
    let bytes: usize = records.iter().map(Bytes::len).sum();
    let head = BatchHead {
        sequence,
        number,
        durable,
        bytes: bytes as u32,
        count: records.len() as u32,
        records_crc: records
            .iter()
            .fold(0, |crc, record| crc32c::crc32c_append(crc, &record[4..8])),
    };
    let start = out.len();
    out.reserve(batch_bytes(bytes as u64) as usize);
    out.extend_from_slice(&head.encode(directory));
    for record in records {
        out.extend_from_slice(record);
    }
    out.resize(start + batch_bytes(bytes as u64) as usize, 0);
}

const HAS_LAST: u8 = 1;
const HAS_PURGED: u8 = 2;
const HAS_COMMITTED: u8 = 4;
const HAS_VOTE: u8 = 8;
const SHARD_HEAD_BYTES: usize = 56;

/// The record that repeats a shard's state at the head of a segment. Its log id is the shard's last one; the payload:
/// flags (1 last, 2 purged, 4 committed, 8 vote), 7 zeros, purged (term, node, index), committed (the same), vote.
pub(super) fn encode_shard_head(shard: u32, state: &ShardState) -> Bytes {
    let mut payload = vec![0; 8];
    let flag = |present: bool, flag: u8| if present { flag } else { 0 };
    payload[0] = flag(state.last.is_some(), HAS_LAST)
        | flag(state.purged.is_some(), HAS_PURGED)
        | flag(state.committed.is_some(), HAS_COMMITTED)
        | flag(state.vote.is_some(), HAS_VOTE);
    for id in [state.purged, state.committed] {
        let id = id.unwrap_or_default();
        for number in [id.term, id.node, id.index] {
            payload.extend_from_slice(&number.to_le_bytes());
        }
    }
    payload.extend_from_slice(state.vote.as_deref().unwrap_or_default());
    Record::encode(Kind::ShardHead, shard, state.last.unwrap_or_default(), &payload)
}

pub(super) fn decode_shard_head(record: &RecordView) -> Result<ShardState, &'static str> {
    let payload = &record.payload;
    if payload.len() < SHARD_HEAD_BYTES || payload[0] & !15 != 0 || payload[1..8] != [0; 7] {
        return Err("impossible state of a shard");
    }
    let has = |flag: u8| payload[0] & flag != 0;
    let id = |at: usize| {
        LogId::at(
            u64_at(payload, at),
            u64_at(payload, at + 8),
            u64_at(payload, at + 16),
        )
    };
    Ok(ShardState {
        last: has(HAS_LAST).then_some(record.log_id),
        purged: has(HAS_PURGED).then(|| id(8)),
        committed: has(HAS_COMMITTED).then(|| id(32)),
        vote: has(HAS_VOTE).then(|| Bytes::copy_from_slice(&payload[SHARD_HEAD_BYTES..])),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_segment_head_is_noticed() {
        let head = SegmentHead {
            sequence: 3,
            directory: 77,
            previous_end: 4096,
            previous_batch: 12,
        };
        let good = head.encode();
        assert_eq!(SegmentHead::parse(&good), Ok(head));
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(
                matches!(SegmentHead::parse(&bad), Err(BadSegmentHead::Corrupt(_))),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn another_format_version_is_refused_by_its_number() {
        let head = SegmentHead {
            sequence: 3,
            directory: 77,
            previous_end: 0,
            previous_batch: 0,
        };
        let mut newer = head.encode();
        newer[8..12].copy_from_slice(&2_u32.to_le_bytes());
        let crc = crc_around(&newer, 12);
        newer[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHead::parse(&newer), Err(BadSegmentHead::Version(2)));
    }

    #[test]
    fn a_batch_head_belongs_to_one_directory_and_one_segment() {
        let mut out = Vec::new();
        encode_batch(
            &mut out,
            7,
            3,
            10,
            9,
            &[Record::encode(Kind::Blank, 1, LogId::at(1, 1, 1), b"")],
        );
        assert_eq!(out.len() % 8, 0);
        let head = BatchHead::parse(&out, 7, 3).unwrap();
        assert_eq!(
            (head.number, head.durable, head.count, head.bytes),
            (10, 9, 1, 40)
        );
        assert_eq!(BatchHead::parse(&out, 8, 3), None);
        assert_eq!(BatchHead::parse(&out, 7, 4), None);
        for bit in 0..BATCH_HEAD_BYTES * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(BatchHead::parse(&bad, 7, 3), None, "bit {bit}");
        }
    }

    #[test]
    fn the_state_of_a_shard_comes_back_as_it_was_written() {
        let id = |n| Some(LogId::at(n, n + 1, n + 2));
        for state in [
            ShardState::default(),
            ShardState {
                last: id(9),
                ..ShardState::default()
            },
            ShardState {
                purged: id(1),
                last: id(2),
                vote: Some(Bytes::new()),
                committed: None,
            },
            ShardState {
                purged: id(1),
                last: id(2),
                vote: Some(Bytes::from_static(b"vote")),
                committed: id(5),
            },
        ] {
            let record = Record::decode(&encode_shard_head(4, &state)).unwrap();
            assert_eq!(decode_shard_head(&record), Ok(state));
        }
    }
}
