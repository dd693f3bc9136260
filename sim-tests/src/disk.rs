//! A disk whose every operation is in the trace.

use std::{io, sync::Arc, time::Duration};

use raft_store::disk::{Disk, DiskFile};

use crate::trace::{Trace, fnv_of};

/// One life's view of a simulated disk, traced.
pub struct TracedDisk {
    inner: Arc<dyn Disk>,
    node: u64,
    trace: Trace,
}

impl TracedDisk {
    /// Traces what `node` does to `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Disk>, node: u64, trace: Trace) -> Self {
        TracedDisk { inner, node, trace }
    }

    fn event(&self, kind: &str, name: &str) {
        self.trace.event(kind, &[self.node], name.as_bytes());
    }
}

impl Disk for TracedDisk {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        self.event(if create { "disk create" } else { "disk open" }, name);
        let inner = self.inner.open(name, create)?;
        Ok(Arc::new(TracedFile {
            inner,
            node: self.node,
            name: fnv_of(name.as_bytes()),
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
        self.inner.create_dir(dir)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.event("disk remove", name);
        self.inner.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.event("disk rename from", from);
        self.event("disk rename to", to);
        self.inner.rename(from, to)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.event("disk sync dir", dir);
        self.inner.sync_dir(dir)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.inner.free_bytes()
    }

    fn sync_delay(&self) -> Option<Duration> {
        self.inner.sync_delay()
    }
}

struct TracedFile {
    inner: Arc<dyn DiskFile>,
    node: u64,
    name: u64,
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
        self.inner.write_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.trace.event("disk sync", &[self.node, self.name], &[]);
        self.inner.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.trace
            .event("disk set length", &[self.node, self.name, len], &[]);
        self.inner.set_len(len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        self.trace
            .event("disk reserve", &[self.node, self.name, len], &[]);
        self.inner.reserve(len)
    }
}
