//! Figures that are kept apart by topic, consumer group or kind of client: a bounded number of rows, and one more for all that
//! find no place.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::limits::MAX_TALLY_ROWS;

/// Rows of `N` figures each. The row of the default key has what found no place.
#[derive(Debug)]
pub struct Tally<K, const N: usize>(Mutex<BTreeMap<K, [u64; N]>>);

impl<K, const N: usize> Default for Tally<K, N> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord + Clone + Default, const N: usize> Tally<K, N> {
    /// Adds to a row; gives the key under which that was done.
    pub fn add(&self, key: K, figures: [u64; N]) -> K {
        let mut rows = self.lock();
        let known = rows.len() < MAX_TALLY_ROWS || rows.contains_key(&key);
        let key = if known { key } else { K::default() };
        let row = rows.entry(key.clone()).or_insert([0; N]);
        for (sum, figure) in row.iter_mut().zip(figures) {
            *sum += figure;
        }
        key
    }

    /// Takes from the row of a key that [`Self::add`] gave; a row of zeroes goes.
    pub fn take(&self, key: &K, figures: [u64; N]) {
        let mut rows = self.lock();
        let Some(row) = rows.get_mut(key) else { return };
        for (sum, figure) in row.iter_mut().zip(figures) {
            *sum = sum.saturating_sub(figure);
        }
        if row.iter().all(|sum| *sum == 0) {
            rows.remove(key);
        }
    }

    /// All rows; those of what is not known any more go, so that they make room.
    pub fn rows(&self, mut is_known: impl FnMut(&K) -> bool) -> Vec<(K, [u64; N])> {
        let mut rows = self.lock();
        rows.retain(|key, _| *key == K::default() || is_known(key));
        rows.iter().map(|(key, row)| (key.clone(), *row)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, [u64; N]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_place_is_counted_together_and_what_is_gone_makes_room() {
        let tally: Tally<u32, 1> = Tally::default();
        for key in 1..=MAX_TALLY_ROWS as u32 + 5 {
            tally.add(key, [1]);
        }
        let rows = tally.rows(|key| *key > 1);
        assert_eq!(rows.len(), MAX_TALLY_ROWS);
        assert_eq!(rows[0], (0, [5]));
        assert_eq!(tally.add(9_000_000, [2]), 0, "no row has gone by itself");
        assert_eq!(tally.rows(|_| false), [(0, [7])]);
        assert_eq!(tally.add(9_000_000, [2]), 9_000_000);
    }

    #[test]
    fn what_is_taken_back_leaves_no_row() {
        let tally: Tally<u32, 2> = Tally::default();
        let key = tally.add(3, [1, 4]);
        tally.take(&key, [1, 3]);
        assert_eq!(tally.rows(|_| true), [(3, [0, 1])]);
        tally.take(&key, [0, 1]);
        assert_eq!(tally.rows(|_| true), []);
    }
}
