//! The parts a snapshot travels in, and their places.
//!
//! Places are ordered: records by index, then pairs by key, then the end. Pairs stand as
//! `key bytes u32 | value bytes u32 | key | value`, little endian; records as they stand in the log.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flotilla_proto::{
    peer::{SnapshotPlace, snapshot_place},
    record::SnapshotHead,
};

use crate::{
    limits::MAX_SNAPSHOT_PIECE_BYTES,
    record::{Record, RecordHead},
    state::Standing,
    types::convert,
};

/// A place in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Before the record with this index.
    Record(u64),
    /// Before the first pair whose key is not before this one.
    Pair(Bytes),
    /// After everything.
    End,
}

impl Place {
    pub(crate) fn to_proto(&self) -> SnapshotPlace {
        use snapshot_place::Place as Wire;
        let place = match self {
            Place::Record(index) => Wire::Record(*index),
            Place::Pair(key) => Wire::Pair(key.clone()),
            Place::End => Wire::End(true),
        };
        SnapshotPlace { place: Some(place) }
    }

    pub(crate) fn from_proto(place: SnapshotPlace) -> Option<Self> {
        use snapshot_place::Place as Wire;
        Some(match place.place? {
            Wire::Record(index) => Place::Record(index),
            Wire::Pair(key) => Place::Pair(key),
            Wire::End(_) => Place::End,
        })
    }
}

/// A part of a snapshot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) from: Place,
    pub(crate) data: Bytes,
    /// What comes after it.
    pub(crate) to: Place,
}

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outline {
    pub(crate) standing: Standing,
    /// Index of the last entry that is applied in it.
    pub(crate) applied: u64,
    /// The first record its state refers to; beyond `applied` when it refers to none.
    pub(crate) oldest: u64,
}

impl Outline {
    /// Of a state that is known to be whole: its records are there.
    pub(crate) fn at(standing: Standing) -> Self {
        let applied = standing.applied.map_or(0, |id| id.index);
        Self {
            standing,
            applied,
            oldest: applied + 1,
        }
    }

    pub(crate) fn head(&self, shard: u32) -> SnapshotHead {
        SnapshotHead {
            shard,
            applied: self.standing.applied.as_ref().map(convert::to_proto),
            membership: Some(convert::stored_to_proto(&self.standing.membership)),
            oldest: self.oldest,
        }
    }

    /// `None` when the head makes no sense.
    pub(crate) fn of(head: SnapshotHead) -> Option<Self> {
        let applied = convert::from_proto(head.applied?);
        let outline = Self {
            applied: applied.index,
            oldest: head.oldest,
            standing: Standing {
                applied: Some(applied),
                membership: convert::stored_from_proto(head.membership?)?,
            },
        };
        // The last index has none after it.
        let end = outline.applied.checked_add(1)?;
        let membership = outline.standing.membership.log_id();
        (outline.oldest <= end && *membership <= outline.standing.applied).then_some(outline)
    }
}

/// What came is not a part of a snapshot.
pub(crate) fn invalid(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("bad snapshot: {what}"))
}

/// A part with a record that only a newer release knows.
fn newer(kind: u8) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("records of kind {kind}"))
}

/// Checks records that are to be those of `shard` from index `from` on, none of them after `last`.
pub(crate) fn split_records(shard: u32, from: u64, last: u64, mut data: Bytes) -> io::Result<Vec<Bytes>> {
    let mut records = Vec::new();
    let mut next = from;
    while !data.is_empty() {
        if let Some(kind) = Record::newer_kind(&data) {
            return Err(newer(kind));
        }
        let head = RecordHead::parse(&data).map_err(invalid)?;
        if head.record_bytes() > data.len() {
            return Err(invalid("a record that ends too early"));
        }
        let record = data.split_to(head.record_bytes());
        Record::decode(&record).map_err(invalid)?;
        if head.shard != shard || !head.kind.is_entry() || head.log_id.index != next || next > last {
            return Err(invalid("a record that is not the one that follows"));
        }
        records.push(record);
        next += 1;
    }
    Ok(records)
}

pub(crate) fn put_pair(data: &mut BytesMut, key: &[u8], value: &[u8]) {
    data.put_u32_le(key.len() as u32);
    data.put_u32_le(value.len() as u32);
    data.put_slice(key);
    data.put_slice(value);
    assert!(
        data.len() <= MAX_SNAPSHOT_PIECE_BYTES,
        "a pair of {} bytes",
        key.len() + value.len()
    );
}

/// Checks pairs that are to lie from key `from` to before `to`, ascending.
pub(crate) fn split_pairs(from: &Bytes, to: &Place, mut data: Bytes) -> io::Result<Vec<(Bytes, Bytes)>> {
    let mut pairs: Vec<(Bytes, Bytes)> = Vec::new();
    while !data.is_empty() {
        if data.len() < 8 {
            return Err(invalid("a pair that ends too early"));
        }
        let (key, value) = (data.get_u32_le() as usize, data.get_u32_le() as usize);
        if key + value > data.len() {
            return Err(invalid("a pair that ends too early"));
        }
        let pair = (data.split_to(key), data.split_to(value));
        let after = pairs.last().map_or(*from <= pair.0, |last| last.0 < pair.0);
        if !after || Place::Pair(pair.0.clone()) >= *to {
            return Err(invalid("a pair out of its place"));
        }
        pairs.push(pair);
    }
    Ok(pairs)
}
