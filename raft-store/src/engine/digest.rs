//! A number for what a state holds: the sum of a hash of every row. The simulator compares replicas all the time, and a sum
//! can be kept up to date row by row.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::state::PREFIX_BYTES;

/// A number for one row: equal for equal rows, and else different but for chance.
pub fn row_digest(key: &[u8], value: &[u8]) -> u64 {
    mix(value, mix(key, 0))
}

/// The length counts, too.
fn mix(bytes: &[u8], start: u64) -> u64 {
    let step = |digest: u64, word: u64| {
        let product = u128::from(digest ^ word ^ 0xf39c_c060_5ced_c835) * 0x9e37_79b9_7f4a_7c15;
        (product as u64) ^ ((product >> 64) as u64)
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let digest = words
        .iter()
        .fold(step(start, !(bytes.len() as u64)), |digest, word| {
            step(digest, u64::from_le_bytes(*word))
        });
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    step(digest, u64::from_le_bytes(last))
}

/// The sums of all rows of an engine, by the section of a shard that they belong to.
#[derive(Clone, Default)]
pub(super) struct Digests(BTreeMap<[u8; PREFIX_BYTES], u64>);

impl Digests {
    /// A row is there from now on.
    pub(super) fn add(&mut self, key: &[u8], value: &Bytes) {
        if let Some((prefix, rest)) = key.split_first_chunk() {
            let sum = self.0.entry(*prefix).or_default();
            *sum = sum.wrapping_add(row_digest(rest, value));
        }
    }

    /// A row is no longer there, if it was.
    pub(super) fn remove(&mut self, key: &[u8], value: Option<&Bytes>) {
        if let (Some((prefix, rest)), Some(value)) = (key.split_first_chunk(), value) {
            let sum = self.0.entry(*prefix).or_default();
            *sum = sum.wrapping_sub(row_digest(rest, value));
        }
    }

    /// The sum of the rows whose keys begin with `prefix`.
    pub(super) fn sum(&self, prefix: &[u8]) -> u64 {
        self.0
            .iter()
            .find(|(kept, _)| *kept == prefix)
            .map_or(0, |(_, sum)| *sum)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::row_digest;
    use crate::{
        Engine, MemoryEngine,
        engine::{Change, WriteBatch},
    };

    /// The rows of shard 1 in section 1 (its prefix and the one that comes next), one by one.
    fn counted(engine: &dyn Engine) -> u64 {
        let rows = engine
            .scan(&[0, 0, 0, 1, 1], &[0, 0, 0, 1, 2], usize::MAX)
            .unwrap();
        let digests = rows.iter().map(|(key, value)| row_digest(&key[5..], value));
        digests.fold(0, u64::wrapping_add)
    }

    fn kept(engine: &dyn Engine) -> u64 {
        engine.digest(&[0, 0, 0, 1, 1]).unwrap()
    }

    fn key(section: u8, key: u8) -> bytes::Bytes {
        vec![0, 0, 0, 1, section, key].into()
    }

    #[test]
    fn what_is_kept_is_the_sum_of_the_rows_whatever_happens_to_them() {
        let memory = MemoryEngine::new();
        let mut engine = memory.mount();
        for step in 0..2_000_u32 {
            let number = step.wrapping_mul(2_654_435_761).to_be_bytes();
            let (one, other) = (number[0] % 16, number[1] % 16);
            let change = match number[2] % 8 {
                0 => Change::DeleteRange(key(1, one), key(1, other)),
                1 | 2 => Change::Delete(key(1, one)),
                3 => Change::Put(key(2, one), number.to_vec().into()),
                _ => Change::Put(key(1, one), number.to_vec().into()),
            };
            engine
                .write(WriteBatch {
                    changes: vec![change],
                })
                .unwrap();
            match number[3] % 64 {
                0 => engine.flush().unwrap(),
                1 => {
                    memory.crash(memory.unflushed() / 2);
                    engine = memory.mount();
                }
                _ => {}
            }
            assert_eq!(kept(&*engine), counted(&*engine));
        }
        assert_ne!(kept(&*engine), 0);
    }

    #[test]
    fn every_flipped_bit_every_length_and_every_end_of_the_key_is_another_row() {
        let bytes = [0_u8; 37];
        let mut seen = BTreeSet::new();
        for end in 0..=bytes.len() {
            seen.insert(row_digest(&bytes[..end], &[]));
            seen.insert(row_digest(&bytes[..end], &bytes[end..]));
        }
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            seen.insert(row_digest(&flipped[..20], &flipped[20..]));
        }
        // The whole as a key has nothing after it either way.
        assert_eq!(seen.len(), 2 * bytes.len() + 1 + 8 * bytes.len());
    }
}
