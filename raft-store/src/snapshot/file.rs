//! The snapshot file.
//!
//! Little endian:
//!
//! ```text
//! file   | "FLOTSNAP" | version u32 | head bytes u32 | crc32c of the head u32 | head: a SnapshotHead |  frame ...
//! frame  | kind u8 | zero x3 | payload bytes u32 | crc32c u32 | payload |
//! ```
//!
//! The frames: records (kind 1: log records, one after the other), then pairs (kind 2: key bytes u32, value bytes
//! u32, key, value, ...), then one end frame (kind 3: number of records u64, number of pairs u64), which is the
//! last of the file. A frame's crc covers its first eight bytes and its payload.

use std::{io, sync::Arc};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flotilla_proto::record::SnapshotHead;
use prost::Message;

use crate::{
    disk::{Disk, DiskFile},
    limits::{MAX_SNAPSHOT_FRAME_BYTES, SNAPSHOT_FRAME_BYTES},
    record::{Record, RecordHead},
    state::Standing,
    types::convert,
};

const MAGIC: &[u8; 8] = b"FLOTSNAP";
const VERSION: u32 = 1;
const FILE_HEAD_BYTES: usize = 20;
const FRAME_HEAD_BYTES: usize = 12;
/// A head holds a membership: a few dozen bytes for each replica.
const MAX_HEAD_BYTES: usize = 1 << 20;

const RECORDS: u8 = 1;
const PAIRS: u8 = 2;
const END: u8 = 3;

/// What a file consists of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Encoded log records, ascending by index.
    Records(Vec<Bytes>),
    /// Keys and values of the machine, ascending by key.
    Pairs(Vec<(Bytes, Bytes)>),
}

/// The file is not, or no longer, what was written.
pub(crate) fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("bad snapshot: {}", what.into()),
    )
}

/// Where the state of a file with this head stands.
pub(crate) fn standing(head: &SnapshotHead) -> Option<Standing> {
    let applied = Some(convert::from_proto(head.applied?));
    Some(Standing {
        applied,
        membership: convert::stored_from_proto(head.membership.clone()?)?,
    })
}

/// Writes a file from start to end.
pub(crate) struct Writer {
    file: Arc<dyn DiskFile>,
    at: u64,
    crc: u32,
    kind: u8,
    frame: BytesMut,
    records: u64,
    pairs: u64,
}

impl Writer {
    /// Starts over in `file`.
    pub(crate) fn create(file: Arc<dyn DiskFile>, head: &SnapshotHead) -> io::Result<Self> {
        file.set_len(0)?;
        let mut writer = Self {
            file,
            at: 0,
            crc: 0,
            kind: RECORDS,
            frame: BytesMut::new(),
            records: 0,
            pairs: 0,
        };
        let head = head.encode_to_vec();
        let mut bytes = BytesMut::with_capacity(FILE_HEAD_BYTES + head.len());
        bytes.put_slice(MAGIC);
        bytes.put_u32_le(VERSION);
        bytes.put_u32_le(head.len() as u32);
        bytes.put_u32_le(crc32c::crc32c(&head));
        bytes.put_slice(&head);
        writer.write(&bytes)?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        Ok(())
    }

    fn close_frame(&mut self) -> io::Result<()> {
        let payload = std::mem::take(&mut self.frame);
        if payload.is_empty() {
            return Ok(());
        }
        assert!(
            payload.len() <= MAX_SNAPSHOT_FRAME_BYTES,
            "a pair of {} bytes",
            payload.len()
        );
        let mut head = BytesMut::with_capacity(FRAME_HEAD_BYTES);
        head.put_slice(&[self.kind, 0, 0, 0]);
        head.put_u32_le(payload.len() as u32);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head), &payload);
        head.put_u32_le(crc);
        self.write(&head)?;
        self.write(&payload)
    }

    fn enter(&mut self, kind: u8) -> io::Result<()> {
        assert!(
            self.kind <= kind,
            "records come before pairs, pairs before the end"
        );
        if self.kind != kind || self.frame.len() >= SNAPSHOT_FRAME_BYTES {
            self.close_frame()?;
            self.kind = kind;
        }
        Ok(())
    }

    pub(crate) fn record(&mut self, record: &[u8]) -> io::Result<()> {
        self.enter(RECORDS)?;
        self.frame.put_slice(record);
        self.records += 1;
        Ok(())
    }

    pub(crate) fn pair(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.enter(PAIRS)?;
        self.frame.put_u32_le(key.len() as u32);
        self.frame.put_u32_le(value.len() as u32);
        self.frame.put_slice(key);
        self.frame.put_slice(value);
        self.pairs += 1;
        Ok(())
    }

    /// Ends and syncs the file. Returns its size and the crc of all of it.
    pub(crate) fn finish(mut self) -> io::Result<(u64, u32)> {
        self.enter(END)?;
        self.frame.put_u64_le(self.records);
        self.frame.put_u64_le(self.pairs);
        self.close_frame()?;
        self.file.sync()?;
        Ok((self.at, self.crc))
    }
}

/// Reads a file from start to end, checking everything.
pub(crate) struct Reader {
    file: Arc<dyn DiskFile>,
    at: u64,
    len: u64,
    shard: u32,
    kind: u8,
    records: u64,
    pairs: u64,
}

impl Reader {
    /// Opens a file and reads its head.
    pub(crate) fn open(disk: &dyn Disk, name: &str) -> io::Result<(Self, SnapshotHead)> {
        let file = disk.open(name, false)?;
        let len = file.len()?;
        let mut reader = Self {
            file,
            at: 0,
            len,
            shard: 0,
            kind: RECORDS,
            records: 0,
            pairs: 0,
        };
        let mut start = reader.take(FILE_HEAD_BYTES)?;
        if start.split_to(MAGIC.len()) != MAGIC[..] {
            return Err(invalid("not a snapshot file"));
        }
        let version = start.get_u32_le();
        if version != VERSION {
            return Err(invalid(format!(
                "format version {version}, this program reads version {VERSION}"
            )));
        }
        let (bytes, crc) = (start.get_u32_le() as usize, start.get_u32_le());
        if bytes > MAX_HEAD_BYTES {
            return Err(invalid("its head is longer than any"));
        }
        let head = reader.take(bytes)?;
        if crc32c::crc32c(&head) != crc {
            return Err(invalid("the checksum of its head differs"));
        }
        let head = SnapshotHead::decode(head).map_err(|e| invalid(e.to_string()))?;
        reader.shard = head.shard;
        Ok((reader, head))
    }

    fn take(&mut self, bytes: usize) -> io::Result<Bytes> {
        if self.at + bytes as u64 > self.len {
            return Err(invalid("it ends too early"));
        }
        let mut taken = vec![0; bytes];
        self.file.read_exact_at(&mut taken, self.at)?;
        self.at += bytes as u64;
        Ok(taken.into())
    }

    /// The next frame; `None` at the end of a complete file.
    pub(crate) fn next(&mut self) -> io::Result<Option<Frame>> {
        if self.kind == END {
            return Ok(None);
        }
        let mut head = self.take(FRAME_HEAD_BYTES)?;
        let covered = crc32c::crc32c(&head[..8]);
        let kind = head.get_u32_le();
        let (bytes, crc) = (head.get_u32_le() as usize, head.get_u32_le());
        if bytes > MAX_SNAPSHOT_FRAME_BYTES {
            return Err(invalid("a frame longer than any"));
        }
        let payload = self.take(bytes)?;
        if crc32c::crc32c_append(covered, &payload) != crc {
            return Err(invalid("the checksum of a frame differs"));
        }
        let kind = u8::try_from(kind).map_err(|_| invalid("an unknown kind of frame"))?;
        if kind < self.kind {
            return Err(invalid("frames out of order"));
        }
        self.kind = kind;
        match kind {
            RECORDS => self
                .split_records(payload)
                .map(|records| Some(Frame::Records(records))),
            PAIRS => self.split_pairs(payload).map(|pairs| Some(Frame::Pairs(pairs))),
            END => self.check_end(payload).map(|()| None),
            _ => Err(invalid("an unknown kind of frame")),
        }
    }

    fn split_records(&mut self, mut payload: Bytes) -> io::Result<Vec<Bytes>> {
        let mut records = Vec::new();
        while !payload.is_empty() {
            let head = RecordHead::parse(&payload).map_err(|e| invalid(e.to_string()))?;
            if head.record_bytes() > payload.len() {
                return Err(invalid("a record that ends too early"));
            }
            let record = payload.split_to(head.record_bytes());
            Record::decode(&record).map_err(|e| invalid(e.to_string()))?;
            if head.shard != self.shard || !head.kind.is_entry() {
                return Err(invalid("a record that is no entry of the shard"));
            }
            records.push(record);
        }
        self.records += records.len() as u64;
        Ok(records)
    }

    fn split_pairs(&mut self, mut payload: Bytes) -> io::Result<Vec<(Bytes, Bytes)>> {
        let mut pairs = Vec::new();
        while !payload.is_empty() {
            if payload.len() < 8 {
                return Err(invalid("a pair that ends too early"));
            }
            let (key, value) = (payload.get_u32_le() as usize, payload.get_u32_le() as usize);
            if key + value > payload.len() {
                return Err(invalid("a pair that ends too early"));
            }
            pairs.push((payload.split_to(key), payload.split_to(value)));
        }
        self.pairs += pairs.len() as u64;
        Ok(pairs)
    }

    fn check_end(&self, mut payload: Bytes) -> io::Result<()> {
        let counts = (payload.len() == 16).then(|| (payload.get_u64_le(), payload.get_u64_le()));
        if counts != Some((self.records, self.pairs)) || self.at != self.len {
            return Err(invalid("its end does not fit what comes before"));
        }
        Ok(())
    }
}

/// Reads the whole file and says whether it is complete and unharmed.
pub(crate) fn verify(disk: &dyn Disk, name: &str) -> io::Result<SnapshotHead> {
    let (mut reader, head) = Reader::open(disk, name)?;
    while reader.next()?.is_some() {}
    Ok(head)
}
