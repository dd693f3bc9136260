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
    /// What survives a crash.
    durable: Keys,
    /// The writes between the two.
    unflushed: Vec<WriteBatch>,
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
        let mut lost = std::mem::take(&mut shared.unflushed);
        lost.truncate(survivors);
        for batch in lost {
            change(&mut shared.durable, &batch, None);
        }
        shared.live = Arc::new(shared.durable.clone());
        shared.digests = Digests::of(&*shared.live);
        shared.life += 1;
    }

    /// Writes since the last flush.
    pub fn unflushed(&self) -> usize {
        self.lock().unflushed.len()
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

fn change(keys: &mut Keys, batch: &WriteBatch, mut digests: Option<&mut Digests>) {
    for change in &batch.changes {
        match change {
            Change::Put(key, value) => {
                let before = keys.insert(key.clone(), value.clone());
                if let Some(digests) = digests.as_deref_mut() {
                    digests.change(key, before.as_ref(), Some(value));
                }
            }
            Change::Delete(key) => delete(keys, key, digests.as_deref_mut()),
            Change::DeleteRange(from, to) => {
                let doomed: Vec<Bytes> = keys
                    .range::<[u8], _>(between(from, to))
                    .map(|(key, _)| key.clone())
                    .collect();
                for key in doomed {
                    delete(keys, &key, digests.as_deref_mut());
                }
            }
        }
    }
}

fn delete(keys: &mut Keys, key: &[u8], digests: Option<&mut Digests>) {
    let before = keys.remove(key);
    if let Some(digests) = digests {
        digests.change(key, before.as_ref(), None);
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
        change(Arc::make_mut(live), &batch, Some(digests));
        shared.unflushed.push(batch);
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut shared = self.writable()?;
        for batch in std::mem::take(&mut shared.unflushed) {
            change(&mut shared.durable, &batch, None);
        }
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
