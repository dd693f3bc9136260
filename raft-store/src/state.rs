//! One shard's part of the state engine.
//!
//! ```text
//! | shard u32 big endian | section u8 | key |
//! ```
//! Section 0 is ours: which replica this is, what is applied, who takes part, and whether a snapshot is being
//! installed. Section 1 is the machine's. What is applied changes in the same batch as what applying it wrote.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flotilla_proto::record;
use prost::Message;

use crate::{
    engine::{Change, Engine, EngineError, EngineView, WriteBatch},
    machine::{StateRead, StateWrite},
    types::{RaftLogId, StoredMembership, convert},
};

const OURS: u8 = 0;
const MACHINE: u8 = 1;
const APPLIED: &[u8] = b"applied";
const MEMBERSHIP: &[u8] = b"membership";
const REPLICA: &[u8] = b"replica";
const INSTALLING: &[u8] = b"installing";

const PREFIX_BYTES: usize = 5;

fn full_key(shard: u32, section: u8, key: &[u8]) -> Bytes {
    let mut full = BytesMut::with_capacity(PREFIX_BYTES + key.len());
    full.put_u32(shard);
    full.put_u8(section);
    full.put_slice(key);
    full.freeze()
}

/// The first key after all keys of a section.
fn section_end(shard: u32, section: u8) -> Bytes {
    full_key(shard, section + 1, &[])
}

/// Keys of one shard's machine in an engine or in a view of one.
pub(crate) struct ShardView<'a> {
    shard: u32,
    view: &'a dyn EngineView,
}

impl<'a> ShardView<'a> {
    pub(crate) fn new(shard: u32, view: &'a dyn EngineView) -> Self {
        Self { shard, view }
    }

    fn range(&self, from: &[u8], to: &[u8]) -> (Bytes, Bytes) {
        let end = if to.is_empty() {
            section_end(self.shard, MACHINE)
        } else {
            full_key(self.shard, MACHINE, to)
        };
        (full_key(self.shard, MACHINE, from), end)
    }
}

impl StateRead for ShardView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.view.get(&full_key(self.shard, MACHINE, key))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        let (from, to) = self.range(from, to);
        let mut pairs = self.view.scan(&from, &to, limit)?;
        for (key, _) in &mut pairs {
            key.advance(PREFIX_BYTES);
        }
        Ok(pairs)
    }
}

/// Writes of a batch that has not committed, over the state below.
pub(crate) struct Overlay<'a> {
    below: ShardView<'a>,
    /// The machine's keys; `None` where one is deleted.
    changes: BTreeMap<Bytes, Option<Bytes>>,
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

/// What a shard's state stands at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) applied: Option<RaftLogId>,
    pub(crate) membership: StoredMembership,
}

/// One shard's state. Readers see it between batches only.
pub(crate) struct ShardState {
    shard: u32,
    engine: Arc<dyn Engine>,
    /// Held for writing from the first entry of a batch to its commit, so that what a machine keeps in
    /// memory and what it has written are never seen apart.
    standing: RwLock<Standing>,
}

impl ShardState {
    /// The state as it is stored.
    pub(crate) fn open(shard: u32, engine: Arc<dyn Engine>) -> Result<Self, EngineError> {
        let state = Self {
            shard,
            engine,
            standing: RwLock::default(),
        };
        *state.write() = state.load()?;
        Ok(state)
    }

    fn load(&self) -> Result<Standing, EngineError> {
        let mut standing = Standing::default();
        if let Some(bytes) = self.ours(APPLIED)? {
            let id = record::LogId::decode(bytes).map_err(|e| corrupt("applied", e))?;
            standing.applied = Some(convert::from_proto(id));
        }
        if let Some(bytes) = self.ours(MEMBERSHIP)? {
            let stored = record::StoredMembership::decode(bytes).map_err(|e| corrupt("membership", e))?;
            standing.membership = convert::stored_from_proto(stored)
                .ok_or_else(|| EngineError::Corrupt("the stored membership makes no sense".into()))?;
        }
        Ok(standing)
    }

    fn ours(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine.get(&full_key(self.shard, OURS, key))
    }

    pub(crate) fn shard(&self) -> u32 {
        self.shard
    }

    pub(crate) fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    fn write(&self) -> RwLockWriteGuard<'_, Standing> {
        self.standing.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, Standing> {
        self.standing.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn standing(&self) -> Standing {
        self.read().clone()
    }

    pub(crate) fn applied(&self) -> Option<RaftLogId> {
        self.read().applied
    }

    /// Lets `read` see the state between two batches.
    pub(crate) fn with_read<R>(&self, read: impl FnOnce(&dyn StateRead, &Standing) -> R) -> R {
        let standing = self.read();
        read(&ShardView::new(self.shard, &*self.engine), &standing)
    }

    /// Lets `apply` write over the state and change where it stands, and commits both at once.
    pub(crate) fn with_write<R>(
        &self,
        apply: impl FnOnce(&mut dyn StateWrite, &mut Standing) -> Result<R, EngineError>,
    ) -> Result<R, EngineError> {
        let mut standing = self.write();
        let mut after = standing.clone();
        let below = ShardView::new(self.shard, &*self.engine);
        let mut overlay = Overlay {
            below,
            changes: BTreeMap::new(),
        };
        let result = apply(&mut overlay, &mut after)?;
        let mut batch = WriteBatch::default();
        for (key, value) in overlay.changes {
            let key = full_key(self.shard, MACHINE, &key);
            batch.changes.push(match value {
                Some(value) => Change::Put(key, value),
                None => Change::Delete(key),
            });
        }
        // Planted: two writes where one would do.
        #[cfg(madsim)]
        if plant::is(plant::Bug::AppliedSavedFirst) {
            let mut first = WriteBatch::default();
            self.put_standing(&mut first, &after, after.membership != standing.membership);
            self.engine.write(first)?;
        }
        // Planted: the applied index is thought to be a matter of speed only.
        #[cfg(madsim)]
        if plant::is(plant::Bug::AppliedSavedRarely) && skips(&standing, &after) {
            self.engine.write(batch)?;
            *standing = after;
            return Ok(result);
        }
        self.put_standing(&mut batch, &after, after.membership != standing.membership);
        self.engine.write(batch)?;
        *standing = after;
        Ok(result)
    }

    fn put_standing(&self, batch: &mut WriteBatch, standing: &Standing, membership: bool) {
        if let Some(applied) = &standing.applied {
            let value = convert::to_proto(applied).encode_to_vec();
            batch
                .changes
                .push(Change::Put(full_key(self.shard, OURS, APPLIED), value.into()));
        }
        if membership {
            let value = convert::stored_to_proto(&standing.membership).encode_to_vec();
            batch
                .changes
                .push(Change::Put(full_key(self.shard, OURS, MEMBERSHIP), value.into()));
        }
    }

    /// The replica whose state this is.
    pub(crate) fn replica(&self) -> Result<Option<u64>, EngineError> {
        self.ours(REPLICA)?.map(|bytes| to_u64(&bytes)).transpose()
    }

    pub(crate) fn set_replica(&self, replica: u64) -> Result<(), EngineError> {
        let value = Bytes::copy_from_slice(&replica.to_be_bytes());
        let change = Change::Put(full_key(self.shard, OURS, REPLICA), value);
        self.engine.write(WriteBatch {
            changes: vec![change],
        })
    }

    /// The snapshot that is to replace the state, when a crash cut that short.
    pub(crate) fn installing(&self) -> Result<Option<String>, EngineError> {
        let Some(name) = self.ours(INSTALLING)? else {
            return Ok(None);
        };
        String::from_utf8(name.to_vec())
            .map(Some)
            .map_err(|e| corrupt("installing", e))
    }

    /// From now on, and durably, the state is worth nothing but by the snapshot in file `name`.
    pub(crate) fn begin_install(&self, name: &str) -> Result<(), EngineError> {
        let value = Bytes::copy_from_slice(name.as_bytes());
        let change = Change::Put(full_key(self.shard, OURS, INSTALLING), value);
        self.engine.write(WriteBatch {
            changes: vec![change],
        })?;
        self.engine.flush()
    }

    /// Replaces the state: `next` yields chunks of the machine's pairs until `None`. Readers see the
    /// state before or after. Durable when this returns.
    pub(crate) fn replace(
        &self,
        after: Standing,
        mut next: impl FnMut() -> Result<Option<Vec<(Bytes, Bytes)>>, EngineError>,
        restore: impl FnOnce(&dyn StateRead) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let mut standing = self.write();
        let whole = Change::DeleteRange(
            full_key(self.shard, MACHINE, &[]),
            section_end(self.shard, MACHINE),
        );
        self.engine.write(WriteBatch { changes: vec![whole] })?;
        while let Some(pairs) = next()? {
            let changes = pairs
                .into_iter()
                .map(|(key, value)| Change::Put(full_key(self.shard, MACHINE, &key), value))
                .collect();
            self.engine.write(WriteBatch { changes })?;
        }
        let mut batch = WriteBatch::default();
        self.put_standing(&mut batch, &after, true);
        batch
            .changes
            .push(Change::Delete(full_key(self.shard, OURS, INSTALLING)));
        self.engine.write(batch)?;
        self.engine.flush()?;
        *standing = after;
        restore(&ShardView::new(self.shard, &*self.engine))
    }

    /// The state as it is now, for a reader who takes longer.
    pub(crate) fn view(&self) -> Result<(Box<dyn EngineView>, Standing), EngineError> {
        let standing = self.read();
        Ok((self.engine.view()?, standing.clone()))
    }

    /// Removes everything of the shard; durable when this returns.
    pub(crate) fn clear(&self) -> Result<(), EngineError> {
        let mut standing = self.write();
        let all = Change::DeleteRange(full_key(self.shard, OURS, &[]), section_end(self.shard, MACHINE));
        self.engine.write(WriteBatch { changes: vec![all] })?;
        self.engine.flush()?;
        *standing = Standing::default();
        Ok(())
    }
}

/// Of the planted bug of an applied index that is seldom saved: this is one of the other times.
#[cfg(madsim)]
fn skips(before: &Standing, after: &Standing) -> bool {
    let eighth = after
        .applied
        .is_some_and(|applied| applied.index.is_multiple_of(8));
    before.membership == after.membership && !eighth
}

/// The shards an engine holds, and whose replicas they are.
pub(crate) fn shards(engine: &dyn Engine) -> Result<Vec<(u32, u64)>, EngineError> {
    let mut found = Vec::new();
    let mut from = full_key(0, OURS, &[]);
    let end = Bytes::from_static(&[0xff; PREFIX_BYTES + 1]);
    while let Some((key, _)) = engine.scan(&from, &end, 1)?.pop() {
        let shard = key
            .get(..4)
            .and_then(|prefix| prefix.try_into().ok())
            .map(u32::from_be_bytes);
        let shard = shard.ok_or_else(|| EngineError::Corrupt("a key without a shard".into()))?;
        if let Some(bytes) = engine.get(&full_key(shard, OURS, REPLICA))? {
            found.push((shard, to_u64(&bytes)?));
        }
        from = section_end(shard, MACHINE);
    }
    Ok(found)
}

fn to_u64(bytes: &Bytes) -> Result<u64, EngineError> {
    let bytes = bytes[..].try_into().map_err(|e| corrupt("replica", e))?;
    Ok(u64::from_be_bytes(bytes))
}

fn corrupt(key: &str, error: impl std::fmt::Display) -> EngineError {
    EngineError::Corrupt(format!("the stored value of {key} cannot be read: {error}"))
}

#[cfg(all(test, not(madsim)))]
mod tests;
