//! One shard's part of the state engine.
//!
//! ```text
//! | shard u32 big endian | section u8 | key |
//! ```
//! Section 0 is ours: which replica this is, what is applied, who takes part, which section is in use, and what of a
//! snapshot is there. Sections 1 and 2 are the machine's: one is in use, in the other one a snapshot is put together. What is
//! applied changes in the same batch as what applying it wrote.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flotilla_proto::record;
use prost::Message;

use crate::{
    engine::{Change, Engine, EngineError, EngineView, WriteBatch},
    machine::{StateRead, StateWrite},
    snapshot::Outline,
    types::{RaftLogId, StoredMembership, convert},
};

#[cfg(madsim)]
#[path = "../../sim-tests/plant/bodies/state.rs"]
mod planted;

mod overlay;

use overlay::Overlay;

const OURS: u8 = 0;
/// The machine's sections.
const FIRST: u8 = 1;
const SECOND: u8 = 2;
const APPLIED: &[u8] = b"applied";
const MEMBERSHIP: &[u8] = b"membership";
const REPLICA: &[u8] = b"replica";
/// Which of the machine's sections is in use; the first, when this is missing.
const SECTION: &[u8] = b"section";
/// What of a snapshot stands in the section that is not in use.
const STAGE: &[u8] = b"stage";
/// Where the state stands once what is staged is in use: while this is there, nothing else of the state counts.
const INSTALLING: &[u8] = b"installing";

pub(crate) const PREFIX_BYTES: usize = 5;

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

fn other(section: u8) -> u8 {
    FIRST + SECOND - section
}

/// The index of the last entry that a shard has applied, by what stands at the keys of a state engine: for who looks at one from
/// outside.
pub fn applied_in(shard: u32, get: impl Fn(&[u8]) -> Option<Bytes>) -> Option<u64> {
    let applied = get(&full_key(shard, OURS, APPLIED))?;
    let applied = record::LogId::decode(applied).ok()?;
    Some(applied.index)
}

/// Keys of one shard's machine in an engine or in a view of one.
pub(crate) struct ShardView<'a> {
    shard: u32,
    section: u8,
    view: &'a dyn EngineView,
}

impl<'a> ShardView<'a> {
    pub(crate) fn new(shard: u32, section: u8, view: &'a dyn EngineView) -> Self {
        Self { shard, section, view }
    }

    fn range(&self, from: &[u8], to: &[u8]) -> (Bytes, Bytes) {
        let end = if to.is_empty() {
            section_end(self.shard, self.section)
        } else {
            full_key(self.shard, self.section, to)
        };
        (full_key(self.shard, self.section, from), end)
    }
}

impl StateRead for ShardView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.view.get(&full_key(self.shard, self.section, key))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        let (from, to) = self.range(from, to);
        let mut pairs = self.view.scan(&from, &to, limit)?;
        for (key, _) in &mut pairs {
            key.advance(PREFIX_BYTES);
        }
        Ok(pairs)
    }

    fn digest(&self) -> Option<u64> {
        self.view.digest(&full_key(self.shard, self.section, &[]))
    }
}

/// What a shard's state stands at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) applied: Option<RaftLogId>,
    pub(crate) membership: StoredMembership,
}

/// What is in use.
#[derive(Default)]
struct Live {
    standing: Standing,
    section: u8,
}

/// One shard's state. Readers see it between batches only.
pub(crate) struct ShardState {
    shard: u32,
    engine: Arc<dyn Engine>,
    /// Held for writing from the first entry of a batch to its commit, so that what a machine keeps in
    /// memory and what it has written are never seen apart.
    live: RwLock<Live>,
    /// What is applied, for those who must not wait for a batch.
    applied: Mutex<Option<RaftLogId>>,
}

impl ShardState {
    /// The state as it is stored.
    pub(crate) fn open(shard: u32, engine: Arc<dyn Engine>) -> Result<Self, EngineError> {
        let state = Self {
            shard,
            engine,
            live: RwLock::default(),
            applied: Mutex::default(),
        };
        let live = state.load()?;
        state.publish(&live.standing);
        *state.write() = live;
        Ok(state)
    }

    fn load(&self) -> Result<Live, EngineError> {
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
        let section = match self.ours(SECTION)? {
            None => FIRST,
            Some(section) => match section[..] {
                [section @ (FIRST | SECOND)] => section,
                _ => return Err(EngineError::Corrupt("there is no such section of a state".into())),
            },
        };
        Ok(Live { standing, section })
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

    fn write(&self) -> RwLockWriteGuard<'_, Live> {
        self.live.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, standing: &Standing) {
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = standing.applied;
    }

    pub(crate) fn standing(&self) -> Standing {
        self.read().standing.clone()
    }

    /// What is applied. Waits for nobody.
    pub(crate) fn applied(&self) -> Option<RaftLogId> {
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view_of<'a>(&'a self, live: &Live) -> ShardView<'a> {
        ShardView::new(self.shard, live.section, &*self.engine)
    }

    /// Lets `read` see the state between two batches.
    pub(crate) fn with_read<R>(&self, read: impl FnOnce(&dyn StateRead, &Standing) -> R) -> R {
        let live = self.read();
        read(&self.view_of(&live), &live.standing)
    }

    /// Lets `apply` write over the state and change where it stands, and commits both at once.
    pub(crate) fn with_write<R>(
        &self,
        apply: impl FnOnce(&mut dyn StateWrite, &mut Standing) -> Result<R, EngineError>,
    ) -> Result<R, EngineError> {
        let mut live = self.write();
        let section = live.section;
        let standing = &mut live.standing;
        let mut after = standing.clone();
        let below = ShardView::new(self.shard, section, &*self.engine);
        let mut overlay = Overlay {
            below,
            changes: BTreeMap::new(),
        };
        let result = apply(&mut overlay, &mut after)?;
        let mut batch = WriteBatch::default();
        for (key, value) in overlay.changes {
            let key = full_key(self.shard, section, &key);
            batch.changes.push(match value {
                Some(value) => Change::Put(key, value),
                None => Change::Delete(key),
            });
        }
        plant!(AppliedSavedFirst => planted::standing_first(self, standing, &after)?);
        self.put_standing(&mut batch, &after, after.membership != standing.membership);
        plant!(AppliedSavedRarely => planted::leave_standing_out(self, &mut batch, standing, &after));
        self.engine.write(batch)?;
        self.publish(&after);
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

    /// The first key that is still to be staged of snapshot `id`; `None` when all are. What was staged of another one is
    /// cleared.
    pub(crate) fn begin_stage(&self, id: &str) -> Result<Option<Bytes>, EngineError> {
        if let Some(stage) = self.staged()?
            && stage.id == id
        {
            return Ok((!stage.complete).then_some(stage.next));
        }
        let clear = plant!(StageOfAnotherSnapshotKept => vec![], else vec![self.clear_stage()]);
        self.put_stage(id, clear, Some(Bytes::new()))?;
        Ok(Some(Bytes::new()))
    }

    /// Adds to what is staged of snapshot `id`, after which key `next` comes; `None` when it is complete.
    pub(crate) fn stage(
        &self,
        id: &str,
        pairs: Vec<(Bytes, Bytes)>,
        next: Option<Bytes>,
    ) -> Result<(), EngineError> {
        let section = other(self.read().section);
        let put = |(key, value): (Bytes, Bytes)| Change::Put(full_key(self.shard, section, &key), value);
        self.put_stage(id, pairs.into_iter().map(put).collect(), next)
    }

    /// Removes what is staged, if anything is.
    pub(crate) fn discard_stage(&self) -> Result<(), EngineError> {
        if self.staged()?.is_none() {
            return Ok(());
        }
        let note = Change::Delete(full_key(self.shard, OURS, STAGE));
        self.engine.write(WriteBatch {
            changes: vec![self.clear_stage(), note],
        })
    }

    fn staged(&self) -> Result<Option<record::SnapshotStage>, EngineError> {
        let stage = self.ours(STAGE)?.map(record::SnapshotStage::decode);
        stage.transpose().map_err(|e| corrupt("stage", e))
    }

    fn clear_stage(&self) -> Change {
        self.clear_section(other(self.read().section))
    }

    fn clear_section(&self, section: u8) -> Change {
        Change::DeleteRange(
            full_key(self.shard, section, &[]),
            section_end(self.shard, section),
        )
    }

    fn put_stage(&self, id: &str, mut changes: Vec<Change>, next: Option<Bytes>) -> Result<(), EngineError> {
        let note = record::SnapshotStage {
            id: id.to_owned(),
            complete: next.is_none(),
            next: next.unwrap_or_default(),
        };
        let note = note.encode_to_vec().into();
        changes.push(Change::Put(full_key(self.shard, OURS, STAGE), note));
        self.engine.write(WriteBatch { changes })
    }

    /// Where the state will stand, when a crash cut an installation short.
    pub(crate) fn installing(&self) -> Result<Option<Standing>, EngineError> {
        let Some(note) = self.ours(INSTALLING)? else {
            return Ok(None);
        };
        let head = record::SnapshotHead::decode(note).map_err(|e| corrupt("installing", e))?;
        let outline = Outline::of(head).ok_or_else(|| corrupt("installing", "it makes no sense"))?;
        Ok(Some(outline.standing))
    }

    /// From now on, and durably, the state is worth nothing but by what is staged, which stands at `after`.
    pub(crate) fn begin_install(&self, after: &Standing) -> Result<(), EngineError> {
        if !self.staged()?.is_some_and(|stage| stage.complete) {
            return Err(EngineError::Failed("no complete snapshot is staged".into()));
        }
        let note = Outline::at(after.clone()).head(self.shard).encode_to_vec();
        let change = Change::Put(full_key(self.shard, OURS, INSTALLING), note.into());
        self.engine.write(WriteBatch {
            changes: vec![change],
        })?;
        plant!(InstallNoteNotFlushed => Ok(()), else self.engine.flush())
    }

    /// Puts what is staged in the place of the state. Readers see the state before or after, and wait only while
    /// `restore` runs. Durable when this returns.
    pub(crate) fn switch(
        &self,
        after: Standing,
        restore: impl FnOnce(&dyn StateRead) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let mut live = self.write();
        let section = other(live.section);
        let mut batch = WriteBatch::default();
        self.put_standing(&mut batch, &after, true);
        let in_use = Bytes::copy_from_slice(&[section]);
        batch
            .changes
            .push(Change::Put(full_key(self.shard, OURS, SECTION), in_use));
        for note in [INSTALLING, STAGE] {
            batch
                .changes
                .push(Change::Delete(full_key(self.shard, OURS, note)));
        }
        batch.changes.push(self.clear_section(live.section));
        self.engine.write(batch)?;
        self.publish(&after);
        *live = Live {
            standing: after,
            section,
        };
        restore(&self.view_of(&live))?;
        drop(live);
        self.engine.flush()
    }

    /// The state as it is now, for a reader who takes longer.
    pub(crate) fn view(&self) -> Result<(Box<dyn EngineView>, u8, Standing), EngineError> {
        let live = self.read();
        Ok((self.engine.view()?, live.section, live.standing.clone()))
    }

    /// Removes everything of the shard; durable when this returns.
    pub(crate) fn clear(&self) -> Result<(), EngineError> {
        let mut live = self.write();
        let all = Change::DeleteRange(full_key(self.shard, OURS, &[]), section_end(self.shard, SECOND));
        self.engine.write(WriteBatch { changes: vec![all] })?;
        self.engine.flush()?;
        self.publish(&Standing::default());
        *live = Live {
            standing: Standing::default(),
            section: FIRST,
        };
        Ok(())
    }
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
        from = section_end(shard, SECOND);
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
