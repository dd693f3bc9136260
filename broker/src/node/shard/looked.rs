//! What is known of new messages without looking again: which ones a filter lets through. A hint of the leader's, for each
//! consumer group and queue: without it the same messages were looked at with every receive that finds nothing.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use flotilla_proto::record::Run;
use queue_core::{GroupId, QueueId};

use crate::limits::{MAX_LOOKED, MAX_LOOKED_RUNS};

/// Messages one after the other, and of each whether a filter passes it over. Neighbours of a kind are one run.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Runs(Vec<Run>);

impl Runs {
    pub(super) fn add(&mut self, filtered: bool, count: u32) {
        match self.0.last_mut().filter(|run| run.filtered == filtered) {
            Some(run) => run.count += count,
            None if count > 0 => self.0.push(Run {
                count,
                filtered,
                blocked: false,
            }),
            None => {}
        }
    }

    /// All messages.
    pub(super) fn len(&self) -> u64 {
        self.0.iter().map(|run| u64::from(run.count)).sum()
    }

    /// True if any is let through.
    pub(super) fn has_any(&self) -> bool {
        self.0.iter().any(|run| !run.filtered)
    }

    pub(super) fn first(&self) -> Option<Run> {
        self.0.first().copied()
    }

    /// Takes messages from the first run.
    pub(super) fn drop_first(&mut self, count: u32) {
        if let Some(first) = self.0.first_mut() {
            first.count -= count;
            if first.count == 0 {
                self.0.remove(0);
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Run> {
        self.0.iter()
    }

    /// Without the first so many messages.
    fn behind(&self, mut skip: u64) -> Self {
        let mut rest = Self::default();
        for run in &self.0 {
            let skipped = skip.min(u64::from(run.count));
            skip -= skipped;
            rest.add(run.filtered, run.count - skipped as u32);
        }
        rest
    }

    /// The messages as the log names them.
    pub(super) fn to_wire(&self) -> Vec<Run> {
        self.0.clone()
    }
}

/// A consumer group on a queue, with a filter's identity.
type Key = (GroupId, QueueId, u64);

/// What consumer groups know of queues.
#[derive(Debug, Default)]
pub(super) struct Looked(Mutex<BTreeMap<Key, Known>>);

/// Of messages from an offset on.
#[derive(Debug, Clone)]
struct Known {
    first: u64,
    /// When something was passed over from there on, by the node's steady clock.
    since_ms: u64,
    runs: Runs,
}

impl Looked {
    /// What a filter does with the messages from an offset on, as far as it is known.
    pub(super) fn from(&self, key: Key, offset: u64) -> Runs {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = all
            .get(&key)
            .and_then(|known| Some((known, offset.checked_sub(known.first)?)));
        let skip = plant!(FilterHintAges => skip.map(|(known, _)| (known, 0)), else skip);
        skip.map_or_else(Runs::default, |(known, skip)| known.runs.behind(skip))
    }

    /// Since when something is passed over that the log has not been told.
    pub(super) fn since(&self, key: Key) -> Option<u64> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&key).map(|known| known.since_ms)
    }

    /// Remembers what a filter does with the messages from an offset on.
    pub(super) fn remember(&self, key: Key, first: u64, mut runs: Runs, now_ms: u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Rarely, and then they look again.
        if all.len() >= MAX_LOOKED && !all.contains_key(&key) {
            all.clear();
        }
        runs.0.truncate(MAX_LOOKED_RUNS);
        let before = all
            .get(&key)
            .filter(|known| known.first == first && known.runs.len() > 0);
        let since_ms = before.map_or(now_ms, |known| known.since_ms);
        all.insert(
            key,
            Known {
                first,
                since_ms,
                runs,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = (GroupId(1), QueueId(2), 7);

    fn runs(runs: &[(bool, u32)]) -> Runs {
        let mut all = Runs::default();
        for &(filtered, count) in runs {
            all.add(filtered, count);
        }
        all
    }

    #[test]
    fn neighbours_of_a_kind_are_one_run() {
        let all = runs(&[(true, 2), (true, 3), (false, 0), (false, 1), (true, 1)]);
        assert_eq!((all.0.len(), all.len(), all.has_any()), (3, 7, true));
        assert!(!runs(&[(true, 9)]).has_any());
    }

    #[test]
    fn what_is_known_counts_from_where_the_group_is_by_now() {
        let looked = Looked::default();
        looked.remember(KEY, 100, runs(&[(true, 10), (false, 2), (true, 5)]), 5);
        assert_eq!(looked.from(KEY, 100).len(), 17);
        assert_eq!(looked.from(KEY, 111), runs(&[(false, 1), (true, 5)]));
        for (filter, offset) in [(7, 117), (7, 200), (7, 99), (8, 100)] {
            assert_eq!(looked.from((KEY.0, KEY.1, filter), offset), Runs::default());
        }
    }

    #[test]
    fn what_is_not_told_is_as_old_as_the_first_of_it() {
        let looked = Looked::default();
        assert_eq!(looked.since(KEY), None);
        looked.remember(KEY, 100, Runs::default(), 3);
        looked.remember(KEY, 100, runs(&[(true, 1)]), 5);
        looked.remember(KEY, 100, runs(&[(true, 4)]), 9);
        assert_eq!(looked.since(KEY), Some(5));
        looked.remember(KEY, 104, runs(&[(true, 1)]), 11);
        assert_eq!(looked.since(KEY), Some(11), "the log was told of what was before");
    }

    #[test]
    fn it_is_bounded() {
        let looked = Looked::default();
        for group in 0..=MAX_LOOKED as u32 {
            looked.remember((GroupId(group), KEY.1, KEY.2), 0, runs(&[(true, 1)]), 5);
        }
        assert_eq!(looked.0.lock().unwrap().len(), 1);
        let many: Vec<(bool, u32)> = (0..2 * MAX_LOOKED_RUNS).map(|at| (at % 2 == 0, 1)).collect();
        looked.remember(KEY, 0, runs(&many), 5);
        assert_eq!(looked.from(KEY, 0).len(), MAX_LOOKED_RUNS as u64);
    }
}
