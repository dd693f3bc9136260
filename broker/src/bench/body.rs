//! What a benchmark message says about itself: which run, which producer, as which, when it was due.
//!
//! ```text
//! | magic 8 | run 8 | producer 4 | sequence 4 | due 8 | length 4 | crc32c 4 | filler ... |
//! ```
//! Little endian; the checksum covers what stands before it. The filler is the same pseudo-random
//! text for everybody, so every byte of a body can be checked.

use std::fmt;
use std::sync::LazyLock;

use bytes::{BufMut, Bytes, BytesMut};

use super::limits::MAX_PAYLOAD;

/// Bytes before the filler.
pub(super) const HEADER: usize = 40;
const MAGIC: &[u8; 8] = b"FLOTBNCH";

/// Names one run: messages of other runs on the same topic are not ours to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RunId(pub u64);

impl RunId {
    /// A new one, from the time and the process.
    pub(super) fn draw() -> Self {
        let mut random = Random::new(now_ns() ^ (u64::from(std::process::id()) << 40));
        Self(random.next())
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a message says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub run: RunId,
    pub producer: u32,
    pub sequence: u32,
    /// Nanoseconds since 1970 at which it should have been sent.
    pub due_ns: u64,
}

/// Why a body is not a good benchmark message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// Not written by a benchmark.
    Foreign,
    /// Written by a benchmark, and changed since.
    Changed,
}

impl Stamp {
    /// The body that says so, `size` bytes long.
    pub(super) fn encode(&self, size: usize) -> Bytes {
        assert!((HEADER..=MAX_PAYLOAD).contains(&size), "a body of {size} bytes");
        let mut body = BytesMut::with_capacity(size);
        body.put_slice(MAGIC);
        body.put_u64_le(self.run.0);
        body.put_u32_le(self.producer);
        body.put_u32_le(self.sequence);
        body.put_u64_le(self.due_ns);
        body.put_u32_le(size as u32);
        let sum = crc32c::crc32c(&body);
        body.put_u32_le(sum);
        body.put_slice(&FILLER[..size - HEADER]);
        body.freeze()
    }

    /// Reads a body, every byte of it.
    pub(super) fn decode(body: &[u8]) -> Result<Self, Damage> {
        if body.len() < HEADER || body[..8] != *MAGIC {
            return Err(Damage::Foreign);
        }
        let word = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"));
        let whole = word(32) as usize == body.len() && body.len() <= MAX_PAYLOAD;
        if !whole
            || word(36) != crc32c::crc32c(&body[..36])
            || body[HEADER..] != FILLER[..body.len() - HEADER]
        {
            return Err(Damage::Changed);
        }
        Ok(Self {
            run: RunId(long(8)),
            producer: word(16),
            sequence: word(20),
            due_ns: long(24),
        })
    }

    /// The message id that goes with it: 34 characters, as the SDKs make them.
    pub(super) fn message_id(&self) -> String {
        format!("01{:016x}{:08x}{:08x}", self.run.0, self.producer, self.sequence)
    }
}

/// The run a message id was made for, if a benchmark made it.
pub(super) fn run_of_message_id(id: &str) -> Option<RunId> {
    let digits = id.strip_prefix("01").filter(|rest| rest.len() == 32)?.get(..16)?;
    u64::from_str_radix(digits, 16).ok().map(RunId)
}

static FILLER: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = Random::new(1);
    let mut filler = Vec::with_capacity(MAX_PAYLOAD);
    while filler.len() < MAX_PAYLOAD {
        filler.extend_from_slice(&random.next().to_le_bytes());
    }
    filler
});

/// A small generator (splitmix64): good enough for fillers and arrival times, the same everywhere.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in (0, 1]: its logarithm is finite.
    pub(super) fn fraction(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

/// Nanoseconds since 1970.
pub(super) fn now_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp {
        Stamp {
            run: RunId(0x0123_4567_89ab_cdef),
            producer: 7,
            sequence: 99,
            due_ns: 1_700_000_000_000_000_000,
        }
    }

    #[test]
    fn a_body_says_what_was_put_into_it_at_any_size() {
        for size in [HEADER, HEADER + 1, 100, 1024, 70_000] {
            let body = stamp().encode(size);
            assert_eq!(body.len(), size);
            assert_eq!(Stamp::decode(&body), Ok(stamp()));
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let body = stamp().encode(100);
        for bit in 0..body.len() * 8 {
            let mut changed = body.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 64 {
                Damage::Foreign
            } else {
                Damage::Changed
            };
            assert_eq!(Stamp::decode(&changed), Err(expected), "bit {bit}");
        }
        assert_eq!(Stamp::decode(&body[..99]), Err(Damage::Changed));
        assert_eq!(Stamp::decode(b"hello"), Err(Damage::Foreign));
    }

    #[test]
    fn a_message_id_tells_its_run() {
        let id = stamp().message_id();
        assert_eq!(id.len(), 34);
        assert_eq!(run_of_message_id(&id), Some(stamp().run));
        assert_eq!(run_of_message_id("01ABCDEF"), None);
        assert_eq!(
            run_of_message_id("0156F4B1C0A8FFFF0000000100000002zz"),
            Some(RunId(0x56F4_B1C0_A8FF_FF00))
        );
    }
}
