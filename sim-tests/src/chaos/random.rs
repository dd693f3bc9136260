//! Chance, from one seed: the order and the length of faults can be drawn again, though real processes never do the same
//! twice.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    ops::Range,
    time::Duration,
};

/// SplitMix64. Clones draw the same; [`Random::fork`] makes an independent one.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A seed nobody chose.
    pub(super) fn any_seed() -> u64 {
        u64::from(RandomState::new().build_hasher().finish() as u32)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn fork(&mut self) -> Random {
        Random(self.next())
    }

    pub(super) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start).max(1)
    }

    pub(super) fn millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }

    /// From 0 up to, and without, 1.
    pub(super) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn chance(&mut self, share: f64) -> bool {
        self.share() < share
    }

    /// One of them; there must be some.
    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.within(0..from.len() as u64) as usize].clone()
    }

    pub(super) fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            all.swap(last, self.within(0..last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_draw_equally_and_forks_do_not() {
        let (mut one, mut other) = (Random::new(7), Random::new(7));
        assert_eq!(one.next(), other.next());
        assert_ne!(one.fork().next(), other.next());
    }

    #[test]
    fn what_is_drawn_is_within_bounds_and_a_shuffle_loses_nothing() {
        let mut random = Random::new(1);
        assert!((0..1_000).all(|_| (3..7).contains(&random.within(3..7))));
        assert!((0..1_000).all(|_| (0.0..1.0).contains(&random.share())));
        let mut all: Vec<u32> = (0..20).collect();
        random.shuffle(&mut all);
        assert_ne!(all, (0..20).collect::<Vec<_>>());
        all.sort_unstable();
        assert_eq!(all, (0..20).collect::<Vec<_>>());
    }
}
