//! What a batch has written so far, over the state that it will be added to.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;

use super::ShardView;
use crate::{
    engine::EngineError,
    machine::{StateRead, StateWrite},
};

/// Writes of a batch that has not committed, over the state below.
pub(crate) struct Overlay<'a> {
    pub(super) below: ShardView<'a>,
    /// The machine's keys; `None` where one is deleted.
    pub(super) changes: BTreeMap<Bytes, Option<Bytes>>,
}

impl StateRead for Overlay<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.changes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.below.get(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        if self.changes.is_empty() {
            return self.below.scan(from, to, limit);
        }
        if limit == 0 || (!to.is_empty() && from >= to) {
            return Ok(Vec::new());
        }
        let upper = if to.is_empty() {
            Bound::Unbounded
        } else {
            Bound::Excluded(to)
        };
        let mut above = self
            .changes
            .range::<[u8], _>((Bound::Included(from), upper))
            .peekable();
        let mut merged = Vec::new();
        let mut start = Bytes::copy_from_slice(from);
        loop {
            let below = self.below.scan(&start, to, limit)?;
            let last_page = below.len() < limit;
            for (key, value) in below {
                while let Some((changed, new)) = above.next_if(|(changed, _)| **changed < key) {
                    merged.extend(new.clone().map(|new| (changed.clone(), new)));
                }
                start = key.clone();
                match above.next_if(|(changed, _)| **changed == key) {
                    Some((_, new)) => merged.extend(new.clone().map(|new| (key, new))),
                    None => merged.push((key, value)),
                }
                if merged.len() >= limit {
                    merged.truncate(limit);
                    return Ok(merged);
                }
            }
            if last_page {
                merged.extend(above.filter_map(|(key, new)| Some((key.clone(), new.clone()?))));
                merged.truncate(limit);
                return Ok(merged);
            }
            // The next page begins right after the last key seen.
            start = [&start[..], &[0]].concat().into();
        }
    }
}

impl StateWrite for Overlay<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.changes
            .insert(Bytes::copy_from_slice(key), Some(Bytes::copy_from_slice(value)));
    }

    fn delete(&mut self, key: &[u8]) {
        self.changes.insert(Bytes::copy_from_slice(key), None);
    }
}
