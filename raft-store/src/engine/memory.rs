//! A state engine in memory, for the simulator and for tests.
//!
//! It behaves like the real one in what matters: writes are atomic, durable only after a flush, and
//! [`MemoryEngine::crash`] takes away what was not. A [`MemoryEngine`] plays the disk that outlives its processes: each
//! process gets at it by [`MemoryEngine::mount`], which cuts off whatever is left of the process before.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{Change, Engine, EngineError, EngineStats, EngineView, WriteBatch, digest::Digests};

type Keys = BTreeMap<Bytes, Bytes>;

/// What stood at the keys that a write changed, in the order in which it changed them.
type Undo = Vec<(Bytes, Option<Bytes>)>;

/// An engine in memory. Clones are the same engine.
#[derive(Clone, Default)]
pub struct MemoryEngine {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Clone, Default)]
struct Shared {
    /// What readers see; copied only when written while a view is held.
    live: Arc<Keys>,
    /// Of what is live.
    digests: Digests,
    /// What takes back the writes since the last flush, one by one: what survives a crash is what is left then.
    unflushed: Vec<Undo>,
    flushes: u64,
    failing: bool,
    /// Counts mounts; only the last one may write.
    life: u64,
}

impl MemoryEngine {
    /// An empty engine.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another engine with the same in it.
    pub fn fork(&self) -> Self {
        let shared = self.lock().clone();
        Self {
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// The engine for one life of a process. Writes through every earlier mount fail from now on.
    pub fn mount(&self) -> Arc<dyn Engine> {
        let mut shared = self.lock();
        shared.life += 1;
        Arc::new(Mount {
            shared: self.shared.clone(),
            life: shared.life,
        })
    }

    /// Power loss: of the writes since the last flush the first `survivors` remain, the rest never happened. What was
    /// mounted is dead.
    pub fn crash(&self, survivors: usize) {
        let mut shared = self.lock();
        let Shared {
            live,
            digests,
            unflushed,
            ..
        } = &mut *shared;
        let live = Arc::make_mut(live);
        let survivors = survivors.min(unflushed.len());
        for undo in unflushed.drain(survivors..).rev() {
            for (key, before) in undo.into_iter().rev() {
                set(live, digests, key, before);
            }
        }
        unflushed.clear();
        shared.life += 1;
    }

    /// Writes since the last flush.
    pub fn unflushed(&self) -> usize {
        self.lock().unflushed.len()
    }

    /// What stands at a key once the power has failed, whatever else a crash leaves.
    pub fn durable(&self, key: &[u8]) -> Option<Bytes> {
        let shared = self.lock();
        let mut undone = shared.unflushed.iter().flatten();
        match undone.find(|(changed, _)| changed[..] == *key) {
            Some((_, before)) => before.clone(),
            None => shared.live.get(key).cloned(),
        }
    }

    /// From now on every write and flush fails, or works again.
    pub fn fail(&self, failing: bool) {
        self.lock().failing = failing;
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The engine as one life of a process sees it.
struct Mount {
    shared: Arc<Mutex<Shared>>,
    life: u64,
}

impl Mount {
    fn lock(&self) -> Result<MutexGuard<'_, Shared>, EngineError> {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.life != self.life {
            return Err(EngineError::Failed(
                "this process is dead: the machine stopped".into(),
            ));
        }
        Ok(shared)
    }

    fn writable(&self) -> Result<MutexGuard<'_, Shared>, EngineError> {
        let shared = self.lock()?;
        if shared.failing {
            return Err(EngineError::Failed("told to fail".into()));
        }
        Ok(shared)
    }
}

/// Carries out a write; what takes it back.
fn change(keys: &mut Keys, digests: &mut Digests, batch: WriteBatch) -> Undo {
    let mut undo = Vec::with_capacity(batch.changes.len());
    let mut set = |keys: &mut Keys, key: Bytes, value| {
        let before = set(keys, digests, key.clone(), value);
        undo.push((key, before));
    };
    for change in batch.changes {
        match change {
            Change::Put(key, value) => set(keys, key, Some(value)),
            Change::Delete(key) => set(keys, key, None),
            Change::DeleteRange(from, to) => {
                let doomed: Vec<Bytes> = keys
                    .range::<[u8], _>(between(&from, &to))
                    .map(|(key, _)| key.clone())
                    .collect();
                for key in doomed {
                    set(keys, key, None);
                }
            }
        }
    }
    undo
}

/// Gives a key another value, or none; the one before.
fn set(keys: &mut Keys, digests: &mut Digests, key: Bytes, value: Option<Bytes>) -> Option<Bytes> {
    match value {
        Some(value) => {
            digests.add(&key, &value);
            let before = keys.insert(key.clone(), value);
            digests.remove(&key, before.as_ref());
            before
        }
        None => {
            let before = keys.remove(&key);
            digests.remove(&key, before.as_ref());
            before
        }
    }
}

/// A range as an ordered map takes it, which panics on one that ends before it starts.
fn between<'a>(from: &'a [u8], to: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    (Bound::Included(from), Bound::Excluded(to.max(from)))
}

fn scan(keys: &Keys, from: &[u8], to: &[u8], limit: usize) -> Vec<(Bytes, Bytes)> {
    if from >= to {
        return Vec::new();
    }
    keys.range::<[u8], _>(between(from, to))
        .take(limit)
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

impl EngineView for Mount {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.lock()?.live.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        Ok(scan(&self.lock()?.live, from, to, limit))
    }

    fn digest(&self, prefix: &[u8]) -> Option<u64> {
        self.lock().ok().map(|shared| shared.digests.sum(prefix))
    }
}

impl Engine for Mount {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        let mut shared = self.writable()?;
        let Shared { live, digests, .. } = &mut *shared;
        let undo = change(Arc::make_mut(live), digests, batch);
        shared.unflushed.push(undo);
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut shared = self.writable()?;
        shared.unflushed.clear();
        shared.flushes += 1;
        Ok(())
    }

    fn view(&self) -> Result<Box<dyn EngineView>, EngineError> {
        Ok(Box::new(MemoryView(self.lock()?.live.clone())))
    }

    fn stats(&self) -> EngineStats {
        let flushes = self.lock().map_or(0, |shared| shared.flushes);
        EngineStats {
            memory_bytes: 0,
            disk_bytes: 0,
            flushes,
        }
    }
}

struct MemoryView(Arc<Keys>);

impl EngineView for MemoryView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        Ok(scan(&self.0, from, to, limit))
    }
}
