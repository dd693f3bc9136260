//! Everything that happens in a run, as one number.
//!
//! Every message, disk operation, drawn random number and fault goes into a 64-bit hash (FNV-1a, eight bytes at a time)
//! together with the simulated nanosecond. Two runs of one seed are the same run exactly if their hashes are
//! equal; where they differ, the trace files of both show the first difference.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use madsim::time::TimeHandle;

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// The hash under way. Clones are the same trace.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<State>>);

struct State {
    hash: u64,
    events: u64,
    file: Option<BufWriter<File>>,
}

/// What a trace came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// The hash over all events.
    pub hash: u64,
    /// How many there were.
    pub events: u64,
}

impl Trace {
    /// An empty trace; with a path, every event is also a line of that file.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn new(path: Option<&Path>) -> std::io::Result<Trace> {
        let file = path.map(File::create).transpose()?.map(BufWriter::new);
        Ok(Trace(Arc::new(Mutex::new(State {
            hash: OFFSET,
            events: 0,
            file,
        }))))
    }

    /// Something happened now: what, with which numbers and which bytes.
    pub fn event(&self, kind: &str, numbers: &[u64], bytes: &[u8]) {
        // Outside of the runtime (things dropped at its end) nothing belongs to the run any more.
        let Some(time) = TimeHandle::try_current() else {
            return;
        };
        let now = time.elapsed().as_nanos() as u64;
        let content = fnv(OFFSET, bytes);
        let mut state = self.lock();
        let mut hash = fnv(state.hash, &now.to_le_bytes());
        hash = fnv(hash, kind.as_bytes());
        for number in numbers {
            hash = fnv(hash, &number.to_le_bytes());
        }
        state.hash = fnv(hash, &content.to_le_bytes());
        state.events += 1;
        if let Some(file) = &mut state.file {
            let length = bytes.len();
            writeln!(file, "{now} {kind} {numbers:?} {length} {content:016x}")
                .expect("the trace can be written");
        }
    }

    /// The hash so far; also writes out the file.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut state = self.lock();
        if let Some(file) = &mut state.file {
            file.flush().expect("the trace can be written");
        }
        Digest {
            hash: state.hash,
            events: state.events,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hash of some bytes on their own.
#[must_use]
pub fn fnv_of(bytes: &[u8]) -> u64 {
    fnv(OFFSET, bytes)
}

/// By words, because everything that travels or is written goes through here. A multiplication only carries upwards, so
/// the upper half is folded down: else the upper bytes of a word would never reach the lower ones.
fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, word: u64| {
        let product = (hash ^ word).wrapping_mul(PRIME);
        product ^ (product >> 32)
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words.iter().fold(step(hash, bytes.len() as u64), |hash, word| {
        step(hash, u64::from_le_bytes(*word))
    });
    rest.iter().fold(hash, |hash, byte| step(hash, u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::fnv_of;

    #[test]
    fn every_flipped_bit_and_every_length_has_another_hash() {
        let bytes = [0_u8; 37];
        let mut seen: BTreeSet<u64> = (0..=bytes.len()).map(|length| fnv_of(&bytes[..length])).collect();
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            seen.insert(fnv_of(&flipped));
        }
        assert_eq!(seen.len(), bytes.len() + 1 + 8 * bytes.len());
    }
}
