//! The record: one checksummed unit of the node's log, belonging to one shard.
//!
//! A leader encodes an entry once; the same bytes travel to the followers and stand on every disk. So nothing in a
//! record depends on where it is stored. Little endian throughout:
//!
//! ```text
//!  0      4      8      9        12      16     24     32      40
//!  | len  | crc  | kind | zero×3 | shard | term | node | index | payload (len bytes) |
//! ```
//!
//! `crc` is CRC32C of the four bytes of `len` followed by every byte from `kind` to the end of the payload.

use bytes::Bytes;

use crate::limits::MAX_PAYLOAD_BYTES;
use crate::limits::RECORD_HEAD_BYTES;
use crate::log_id::LogId;

impl LogId {
    pub(crate) fn at(term: u64, node: u64, index: u64) -> LogId {
        LogId { term, node, index }
    }
}

/// What a record remembers. The numbers are eternal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An entry with commands.
    Normal,
    /// An entry without content, as a new leader writes it.
    Blank,
    /// An entry that changes the shard's replicas.
    Membership,
    /// An entry that came with a snapshot: the payload is the entry's whole record.
    Imported,
    /// The vote; the payload is opaque.
    Vote,
    /// The log id up to which the shard is known to be committed.
    Committed,
    /// Entries after the log id are gone; with an empty payload, all entries.
    TruncateAfter,
    /// Entries up to the log id are no longer part of the Raft log.
    Purge,
    /// Everything about the shard is forgotten.
    ReplicaDropped,
    /// A shard's vote, committed, purge point and last log id, repeated at the head of each segment.
    ShardHead,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Kind::Normal => 1,
            Kind::Blank => 2,
            Kind::Membership => 3,
            Kind::Imported => 4,
            Kind::Vote => 16,
            Kind::Committed => 17,
            Kind::TruncateAfter => 18,
            Kind::Purge => 19,
            Kind::ReplicaDropped => 20,
            Kind::ShardHead => 21,
        }
    }

    fn from_number(number: u8) -> Option<Kind> {
        Some(match number {
            1 => Kind::Normal,
            2 => Kind::Blank,
            3 => Kind::Membership,
            4 => Kind::Imported,
            16 => Kind::Vote,
            17 => Kind::Committed,
            18 => Kind::TruncateAfter,
            19 => Kind::Purge,
            20 => Kind::ReplicaDropped,
            21 => Kind::ShardHead,
            _ => return None,
        })
    }

    /// True for the three kinds of Raft entries.
    pub fn is_entry(self) -> bool {
        matches!(self, Kind::Normal | Kind::Blank | Kind::Membership)
    }

    fn max_payload_bytes(self) -> usize {
        match self {
            Kind::Imported => MAX_PAYLOAD_BYTES + RECORD_HEAD_BYTES,
            _ => MAX_PAYLOAD_BYTES,
        }
    }
}

/// The bytes are not a record, or no longer the record that was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("corrupt record: {0}")]
pub struct Corrupt(pub &'static str);

/// The fixed part of a record. Read from bytes without looking at the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    pub kind: Kind,
    pub shard: u32,
    pub log_id: LogId,
    pub payload_bytes: usize,
    /// The checksum as it stands in the record.
    pub crc: u32,
}

impl RecordHead {
    /// Reads the head at the start of `bytes`, which may go on after the record. Checks that every field is possible,
    /// before anything is allocated; does not check the checksum.
    pub fn parse(bytes: &[u8]) -> Result<RecordHead, Corrupt> {
        let Some(head) = bytes.first_chunk::<RECORD_HEAD_BYTES>() else {
            return Err(Corrupt("shorter than a record's head"));
        };
        let kind = Kind::from_number(head[8]).ok_or(Corrupt("unknown kind"))?;
        if head[9..12] != [0; 3] {
            return Err(Corrupt("reserved bytes are not zero"));
        }
        let payload_bytes = u32_at(head, 0) as usize;
        if payload_bytes > kind.max_payload_bytes() {
            return Err(Corrupt("longer than any record"));
        }
        Ok(RecordHead {
            kind,
            shard: u32_at(head, 12),
            log_id: LogId::at(u64_at(head, 16), u64_at(head, 24), u64_at(head, 32)),
            payload_bytes,
            crc: u32_at(head, 4),
        })
    }

    /// Bytes of the whole record.
    pub fn record_bytes(&self) -> usize {
        RECORD_HEAD_BYTES + self.payload_bytes
    }
}

/// A decoded record. The payload shares the memory it was decoded from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordView {
    pub kind: Kind,
    pub shard: u32,
    pub log_id: LogId,
    pub payload: Bytes,
}

/// Encodes and decodes records.
pub struct Record;

impl Record {
    /// The record's bytes.
    ///
    /// # Panics
    ///
    /// When the payload is longer than `MAX_PAYLOAD_BYTES`: whoever proposes bounds what is proposed.
    pub fn encode(kind: Kind, shard: u32, log_id: LogId, payload: &[u8]) -> Bytes {
        assert!(
            payload.len() <= kind.max_payload_bytes(),
            "a payload of {} bytes is too long",
            payload.len()
        );
        let mut out = Vec::with_capacity(RECORD_HEAD_BYTES + payload.len());
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&[kind.number(), 0, 0, 0]);
        out.extend_from_slice(&shard.to_le_bytes());
        out.extend_from_slice(&log_id.term.to_le_bytes());
        out.extend_from_slice(&log_id.node.to_le_bytes());
        out.extend_from_slice(&log_id.index.to_le_bytes());
        out.extend_from_slice(payload);
        let crc = checksum(&out);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        Bytes::from(out)
    }

    /// Decodes bytes that are exactly one record.
    ///
    /// # Errors
    ///
    /// `Corrupt` when a field is impossible, the length does not fit or the checksum differs.
    pub fn decode(bytes: &Bytes) -> Result<RecordView, Corrupt> {
        let head = RecordHead::parse(bytes)?;
        if head.record_bytes() != bytes.len() {
            return Err(Corrupt("length does not fit"));
        }
        if checksum(bytes) != head.crc {
            return Err(Corrupt("checksum differs"));
        }
        Ok(Record::view(head, bytes))
    }

    /// The kind of the record at the start of `bytes` when it is one of a newer release: whole, and of a kind that is not
    /// known here. That is no damage.
    pub(crate) fn newer_kind(bytes: &[u8]) -> Option<u8> {
        let head = bytes.first_chunk::<RECORD_HEAD_BYTES>()?;
        let payload_bytes = u32_at(head, 0) as usize;
        if Kind::from_number(head[8]).is_some() || payload_bytes > Kind::Imported.max_payload_bytes() {
            return None;
        }
        let record = bytes.get(..RECORD_HEAD_BYTES + payload_bytes)?;
        (checksum(record) == u32_at(head, 4)).then_some(head[8])
    }

    /// The view of bytes whose checksum is known to be right: this process encoded or decoded them.
    pub(crate) fn view(head: RecordHead, bytes: &Bytes) -> RecordView {
        RecordView {
            kind: head.kind,
            shard: head.shard,
            log_id: head.log_id,
            payload: bytes.slice(RECORD_HEAD_BYTES..head.record_bytes()),
        }
    }
}

/// CRC32C over a whole record except the checksum itself.
fn checksum(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..4]), &record[8..])
}

/// Reads a little-endian number. The caller has checked the length.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Reads a little-endian number. The caller has checked the length.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The sample as a release would write it that has another kind.
    pub(crate) fn of_kind(number: u8, record: &Bytes) -> Bytes {
        let mut bytes = record.to_vec();
        bytes[8] = number;
        let crc = checksum(&bytes);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes.into()
    }

    #[test]
    fn a_whole_record_of_an_unknown_kind_is_a_newer_releases_and_a_damaged_one_is_not() {
        let newer = of_kind(99, &sample());
        assert_eq!(Record::newer_kind(&newer), Some(99));
        assert_eq!(
            Record::newer_kind(&[&newer[..], b"what follows"].concat()),
            Some(99)
        );
        assert_eq!(Record::newer_kind(&sample()), None);
        for bit in 0..newer.len() * 8 {
            let mut bad = newer.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::newer_kind(&bad), None, "bit {bit}");
        }
    }

    fn sample() -> Bytes {
        Record::encode(Kind::Normal, 7, LogId::at(3, 2, 99), b"a payload")
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let view = Record::decode(&sample()).unwrap();
        assert_eq!(
            view,
            RecordView {
                kind: Kind::Normal,
                shard: 7,
                log_id: LogId::at(3, 2, 99),
                payload: Bytes::from_static(b"a payload"),
            }
        );
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = sample();
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&Bytes::from(bad)).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_shortened_record_is_noticed() {
        let good = sample();
        for len in 0..good.len() {
            assert!(Record::decode(&good.slice(..len)).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn every_kind_keeps_its_number() {
        for number in 0..=255 {
            if let Some(kind) = Kind::from_number(number) {
                assert_eq!(kind.number(), number);
            }
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_any_allocation() {
        let mut bad = sample().to_vec();
        bad[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(RecordHead::parse(&bad), Err(Corrupt("longer than any record")));
    }
}
