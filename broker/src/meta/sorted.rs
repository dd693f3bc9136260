//! A sorted list whose copies share what has not changed since.
//!
//! The catalogue is copied at every change, for its readers; copying all of a large one each time would make the cost of
//! many creations grow with their square. Here a change copies one leaf and the list of leaves.

use std::{cmp::Ordering, sync::Arc};

/// Entries of a leaf before it is divided into two.
const LEAF: usize = 128;

/// Things in an order that the caller knows: every call brings a function that compares a thing with what is looked for.
#[derive(Debug, Clone)]
pub(super) struct Sorted<T> {
    /// None is empty.
    leaves: Vec<Arc<Vec<Arc<T>>>>,
    len: usize,
}

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Sorted {
            leaves: Vec::new(),
            len: 0,
        }
    }
}

/// The same things; how they are divided into leaves does not matter.
impl<T: PartialEq> PartialEq for Sorted<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<T> Sorted<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.leaves.iter().flat_map(|leaf| leaf.iter())
    }

    /// The first thing that is not less, and all after it.
    pub(super) fn from(&self, order: impl Fn(&T) -> Ordering) -> impl Iterator<Item = &Arc<T>> {
        let leaf = self.leaf(&order);
        let rest = self.leaves.get(leaf..).unwrap_or_default();
        let skip = rest
            .first()
            .map_or(0, |leaf| leaf.partition_point(|thing| order(thing).is_lt()));
        rest.iter().flat_map(|leaf| leaf.iter()).skip(skip)
    }

    pub(super) fn get(&self, order: impl Fn(&T) -> Ordering) -> Option<&Arc<T>> {
        let leaf = self.leaves.get(self.leaf(&order))?;
        let at = leaf.binary_search_by(|thing| order(thing)).ok()?;
        Some(&leaf[at])
    }

    /// Puts a thing in its place, or in the place of the one that equals it.
    pub(super) fn set(&mut self, thing: Arc<T>, order: impl Fn(&T) -> Ordering) {
        if self.leaves.is_empty() {
            self.leaves.push(Arc::default());
        }
        let leaf = self.leaf(&order).min(self.leaves.len() - 1);
        let things = Arc::make_mut(&mut self.leaves[leaf]);
        match things.binary_search_by(|thing| order(thing)) {
            Ok(at) => things[at] = thing,
            Err(at) => {
                things.insert(at, thing);
                self.len += 1;
            }
        }
        if things.len() > LEAF {
            let second = things.split_off(LEAF / 2);
            self.leaves.insert(leaf + 1, Arc::new(second));
        }
    }

    pub(super) fn remove(&mut self, order: impl Fn(&T) -> Ordering) {
        let leaf = self.leaf(&order);
        let Some(things) = self.leaves.get_mut(leaf) else {
            return;
        };
        let Ok(at) = things.binary_search_by(|thing| order(thing)) else {
            return;
        };
        let things = Arc::make_mut(things);
        things.remove(at);
        self.len -= 1;
        if things.is_empty() {
            self.leaves.remove(leaf);
        }
    }

    /// The leaf in which the thing is if it is there.
    fn leaf(&self, order: impl Fn(&T) -> Ordering) -> usize {
        let ends_before = |leaf: &Arc<Vec<Arc<T>>>| leaf.last().is_some_and(|last| order(last).is_lt());
        self.leaves.partition_point(ends_before)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_change_copies_one_leaf_and_no_more() {
        let mut sorted = Sorted::default();
        for number in 0..20_000_u32 {
            sorted.set(Arc::new(number), |other| other.cmp(&number));
        }
        let before = sorted.clone();
        sorted.remove(|other| other.cmp(&7_000));
        sorted.set(Arc::new(7_001), |other| other.cmp(&7_001));
        let shared = sorted.leaves.iter().zip(&before.leaves);
        let copied = shared.filter(|(new, old)| !Arc::ptr_eq(new, old)).count();
        assert_eq!(copied, 1);
        assert_eq!((sorted.len(), before.len()), (19_999, 20_000));
        assert_eq!(
            before.get(|other| other.cmp(&7_000)).map(|found| **found),
            Some(7_000)
        );
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_set(changes in proptest::collection::vec((any::<bool>(), 0..600_u32), 0..2_000)) {
            let (mut sorted, mut set) = (Sorted::default(), BTreeSet::new());
            for (put, number) in changes {
                if put {
                    sorted.set(Arc::new(number), |other| other.cmp(&number));
                    set.insert(number);
                } else {
                    sorted.remove(|other| other.cmp(&number));
                    set.remove(&number);
                }
            }
            prop_assert!(sorted.iter().map(|number| **number).eq(set.iter().copied()));
            prop_assert_eq!(sorted.len(), set.len());
            for number in (0..601).step_by(13) {
                let found = sorted.get(|other| other.cmp(&number)).map(|found| **found);
                prop_assert_eq!(found, set.get(&number).copied());
                let rest = sorted.from(|other| other.cmp(&number)).map(|found| **found);
                prop_assert!(rest.eq(set.range(number..).copied()));
            }
            prop_assert!(sorted.leaves.iter().all(|leaf| !leaf.is_empty() && leaf.len() <= LEAF));
        }
    }
}
