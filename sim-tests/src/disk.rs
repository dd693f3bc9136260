//! A disk whose every operation is in the trace, and a state engine; both stand still when the power of their machine fails.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use raft_store::{
    disk::{Disk, DiskFile},
    engine::{Engine, EngineError, EngineStats, EngineView, WriteBatch},
};

use crate::{
    harm::{Chart, Harm},
    machine::Power,
    trace::{Trace, fnv_of},
};

/// A disk that no fault has filled has more room than this.
const FREE: u64 = u64::MAX / 4;

/// One life's view of a simulated disk, traced.
pub struct TracedDisk {
    inner: Arc<dyn Disk>,
    node: u64,
    power: Arc<Power>,
    chart: Chart,
    trace: Trace,
}

/// Puts down that the disk has not done what it was told to do. A read that fails is tried again: if that is of no use, the medium
/// is damaged, and whoever has damaged it knows.
fn refused<T>(chart: &Chart, done: io::Result<T>) -> io::Result<T> {
    done.inspect_err(|error| {
        chart.begins(match error.kind() {
            io::ErrorKind::StorageFull => Harm::Room,
            _ => Harm::Disk,
        });
    })
}

/// Before each change.
fn powered(power: &Power) -> io::Result<()> {
    match power.is_on() {
        true => Ok(()),
        false => Err(io::Error::other("the power has failed")),
    }
}

impl TracedDisk {
    /// Traces what `node` does to `inner` while it has power.
    #[must_use]
    pub fn new(inner: Arc<dyn Disk>, node: u64, (power, chart): (Arc<Power>, Chart), trace: Trace) -> Self {
        TracedDisk {
            inner,
            node,
            power,
            chart,
            trace,
        }
    }

    fn event(&self, kind: &str, name: &str) {
        self.trace.event(kind, &[self.node], name.as_bytes());
    }
}

impl Disk for TracedDisk {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        self.event(if create { "disk create" } else { "disk open" }, name);
        if create {
            powered(&self.power)?;
        }
        let inner = self.inner.open(name, create);
        let inner = if create {
            refused(&self.chart, inner)
        } else {
            inner
        }?;
        Ok(Arc::new(TracedFile {
            inner,
            node: self.node,
            name: fnv_of(name.as_bytes()),
            power: self.power.clone(),
            chart: self.chart.clone(),
            trace: self.trace.clone(),
        }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.inner.exists(name)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.event("disk list", dir);
        self.inner.list(dir)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.event("disk create dir", dir);
        powered(&self.power)?;
        refused(&self.chart, self.inner.create_dir(dir))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.event("disk remove", name);
        powered(&self.power)?;
        refused(&self.chart, self.inner.remove(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.event("disk rename from", from);
        self.event("disk rename to", to);
        powered(&self.power)?;
        refused(&self.chart, self.inner.rename(from, to))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.event("disk sync dir", dir);
        powered(&self.power)?;
        refused(&self.chart, self.inner.sync_dir(dir))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let free = self.inner.free_bytes()?;
        // A node does not wait for the refusal.
        if free < FREE {
            self.chart.begins(Harm::Room);
        }
        Ok(free)
    }

    fn sync_delay(&self) -> Option<Duration> {
        self.inner.sync_delay()
    }
}

struct TracedFile {
    inner: Arc<dyn DiskFile>,
    node: u64,
    name: u64,
    power: Arc<Power>,
    chart: Chart,
    trace: Trace,
}

impl DiskFile for TracedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.inner.read_at(buf, offset)?;
        self.trace
            .event("disk read", &[self.node, self.name, offset], &buf[..read]);
        Ok(read)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.trace
            .event("disk write", &[self.node, self.name, offset], data);
        powered(&self.power)?;
        refused(&self.chart, self.inner.write_at(data, offset))
    }

    fn sync(&self) -> io::Result<()> {
        self.trace.event("disk sync", &[self.node, self.name], &[]);
        powered(&self.power)?;
        refused(&self.chart, self.inner.sync())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.trace
            .event("disk set length", &[self.node, self.name, len], &[]);
        powered(&self.power)?;
        refused(&self.chart, self.inner.set_len(len))
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        self.trace
            .event("disk reserve", &[self.node, self.name, len], &[]);
        powered(&self.power)?;
        refused(&self.chart, self.inner.reserve(len))
    }
}

/// One life's view of a state engine, while its machine has power.
pub struct PoweredEngine {
    inner: Arc<dyn Engine>,
    power: Arc<Power>,
    chart: Chart,
}

impl PoweredEngine {
    /// `inner` on a machine with this power.
    #[must_use]
    pub fn new(inner: Arc<dyn Engine>, power: Arc<Power>, chart: Chart) -> Self {
        PoweredEngine { inner, power, chart }
    }

    fn failed<T>(&self, done: Result<T, EngineError>) -> Result<T, EngineError> {
        done.inspect_err(|_| self.chart.begins(Harm::Engine))
    }

    fn powered(&self) -> Result<(), EngineError> {
        powered(&self.power).map_err(|error| EngineError::Failed(error.to_string()))
    }
}

impl EngineView for PoweredEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.inner.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        self.inner.scan(from, to, limit)
    }

    fn digest(&self, prefix: &[u8]) -> Option<u64> {
        self.inner.digest(prefix)
    }
}

impl Engine for PoweredEngine {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        self.powered()?;
        self.failed(self.inner.write(batch))
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.powered()?;
        self.failed(self.inner.flush())
    }

    fn view(&self) -> Result<Box<dyn EngineView>, EngineError> {
        self.inner.view()
    }

    fn stats(&self) -> EngineStats {
        self.inner.stats()
    }
}
