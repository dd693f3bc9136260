//! A disk that can lose, tear and corrupt, for tests and the simulator.
//!
//! It keeps two halves of everything: what a running machine sees (volatile) and what a power loss leaves (durable).
//! Writes move from one to the other at a sync of their file, names at a sync of their directory. Deterministic: chance
//! comes from a seed only.
//!
//! A [`SimDisk`] is the hardware: it survives its users. A process gets at it by [`SimDisk::mount`]; every earlier
//! mount is dead from then on, as a killed process is, so that a forgotten task of the life before cannot write.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;

use super::Disk;
use super::DiskFile;

mod broken;
mod chance;
mod content;
mod file;
mod world;

use world::World;

/// The simulated hardware. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    world: Arc<Mutex<World>>,
}

/// What a power loss does to what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Everything unsynced is gone.
    All,
    /// Everything written reached the disk after all.
    Nothing,
    /// Of each file's unsynced writes the first so many bytes reached the disk, in the order they were written; the
    /// unsynced names too.
    AfterBytes(u64),
    /// Drawn from the seed: whole writes lost, kept, or torn at any byte, in any combination; names up to some point.
    Random(u64),
}

/// Which operations a fault counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Writing and growing files.
    Write,
    /// Syncing files.
    Sync,
    /// Reading files.
    Read,
    /// Everything that changes the disk: writes, syncs, names and directories.
    Change,
}

/// What happens to the operation a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// EIO. A write may have been done in part; what a failed sync should have made durable is not, though it can
    /// still be read: as Linux does it.
    Error,
    /// ENOSPC; nothing was done.
    Full,
    /// The machine stops here: this operation and all later ones fail, until the next mount. What was not synced then
    /// depends on the [`SimDisk::crash`] that should come first.
    PowerLoss,
    /// A write that is reported as done and never happens. Writes only.
    Lost,
    /// A write that is reported as done and lands at another place of its file. Writes only.
    Misdirected,
}

/// How often the disk did what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimCounts {
    pub reads: u64,
    pub writes: u64,
    pub syncs: u64,
    /// Writes, syncs, and changes of names.
    pub changes: u64,
    /// Writes that failed because they met a part of a sector that cannot be read.
    pub met_sectors: u64,
}

impl SimDisk {
    pub fn new(seed: u64) -> SimDisk {
        SimDisk {
            world: Arc::new(Mutex::new(World::new(seed))),
        }
    }

    /// The disk for one life of a process. Earlier mounts fail from now on; what they wrote and did not sync can still
    /// be read, as after `kill -9`.
    pub fn mount(&self) -> Arc<dyn Disk> {
        let mut world = self.world();
        world.begin_life();
        Arc::new(Mount {
            life: world.life(),
            world: self.world.clone(),
        })
    }

    /// The power fails: what was not synced is lost as `loss` says. Mounts are dead; mount again.
    pub fn crash(&self, loss: Loss) {
        self.world().crash(loss);
    }

    /// Lets the `nth` next operation of the class (1 is the very next) meet the fault.
    pub fn inject(&self, operation: Operation, nth: u64, fault: Fault) {
        self.world().inject(operation, nth, fault);
    }

    /// Forgets faults that were injected and have not happened.
    pub fn clear_faults(&self) {
        self.world().clear_faults();
    }

    /// How many injected faults have not happened yet.
    pub fn faults_waiting(&self) -> usize {
        self.world().faults_waiting()
    }

    /// Flips one bit of a file, on the medium and in what is read.
    ///
    /// # Panics
    ///
    /// When there is no such file or byte.
    pub fn flip_bit(&self, name: &str, byte: u64, bit: u8) {
        self.world().flip_bit(name, byte, bit);
    }

    /// From now on the sector with this byte cannot be read (EIO), until it is written again.
    ///
    /// # Panics
    ///
    /// When there is no such file.
    pub fn break_sector(&self, name: &str, byte: u64) {
        let mut world = self.world();
        let file = *world
            .names()
            .get(name)
            .unwrap_or_else(|| panic!("no file {name}"));
        world.broken.add(file, byte);
    }

    /// All bytes of a file as a process would read them.
    pub fn read_file(&self, name: &str) -> Option<Vec<u8>> {
        self.world().read_file(name)
    }

    /// Puts a file there, durably: fixtures and vandalism.
    pub fn write_file(&self, name: &str, bytes: &[u8]) {
        self.world().write_file(name, bytes);
    }

    /// Deletes a file, durably.
    pub fn delete_file(&self, name: &str) {
        self.world().delete_file(name);
    }

    /// The bytes of a file that a power loss would leave at least.
    pub fn read_durable(&self, name: &str) -> Option<Vec<u8>> {
        self.world().read_durable(name)
    }

    /// Takes away what a file has from `len` on, durably. Whoever has it open notices.
    ///
    /// # Panics
    ///
    /// When there is no such file.
    pub fn cut_file(&self, name: &str, len: u64) {
        self.world().cut_file(name, len);
    }

    /// The kernel's cache gives up every page that it takes for clean, as it may at any time. What a failed sync should have
    /// made durable could be read until now, and is gone.
    pub fn forget_clean(&self) {
        self.world().forget_clean();
    }

    /// Names of all files.
    pub fn files(&self) -> Vec<String> {
        self.world().files()
    }

    /// How many bytes fit; without a call, any number.
    pub fn set_capacity(&self, bytes: u64) {
        self.world().capacity = bytes;
    }

    /// How long each sync takes in simulated time.
    pub fn set_sync_delay(&self, delay: Option<Duration>) {
        self.world().sync_delay = delay;
    }

    pub fn counts(&self) -> SimCounts {
        self.world().counts()
    }

    /// An independent copy of the disk in its present state: try several ends of one story.
    pub fn fork(&self) -> SimDisk {
        SimDisk {
            world: Arc::new(Mutex::new(self.world().clone())),
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }
}

/// A panic elsewhere does not make the bytes wrong.
fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The disk as one life of a process sees it.
struct Mount {
    world: Arc<Mutex<World>>,
    life: u64,
}

impl Mount {
    fn world(&self) -> io::Result<MutexGuard<'_, World>> {
        alive(lock(&self.world), self.life)
    }
}

fn alive(world: MutexGuard<'_, World>, life: u64) -> io::Result<MutexGuard<'_, World>> {
    if world.is_dead(life) {
        return Err(io::Error::other("this process is dead: the machine stopped"));
    }
    Ok(world)
}

impl Disk for Mount {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.world()?.open(name, create)?;
        Ok(Arc::new(SimFile {
            world: self.world.clone(),
            life: self.life,
            file,
        }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        Ok(self.world()?.names().contains_key(name))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let world = self.world()?;
        Ok(list(world.names(), dir))
    }

    fn create_dir(&self, _dir: &str) -> io::Result<()> {
        let _alive = self.world()?; // Directories are where their files are.
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.world()?.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.world()?.rename(from, to)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.world()?.sync_dir(dir)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.world()?.free_bytes())
    }

    fn sync_delay(&self) -> Option<Duration> {
        lock(&self.world).sync_delay
    }
}

fn list(names: &BTreeMap<String, u64>, dir: &str) -> Vec<String> {
    let prefix = if dir.is_empty() {
        String::new()
    } else {
        format!("{dir}/")
    };
    let inside = names.keys().filter_map(|name| name.strip_prefix(&prefix));
    inside
        .filter(|rest| !rest.contains('/'))
        .map(str::to_owned)
        .collect()
}

struct SimFile {
    world: Arc<Mutex<World>>,
    life: u64,
    file: u64,
}

impl SimFile {
    fn world(&self) -> io::Result<MutexGuard<'_, World>> {
        alive(lock(&self.world), self.life)
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.world()?.read(self.file, buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.world()?.write(self.file, data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.world()?.sync(self.file)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.world()?.len(self.file))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.world()?.set_len(self.file, len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        let mut world = self.world()?;
        match world.len(self.file) >= len {
            true => Ok(()),
            false => world.set_len(self.file, len),
        }
    }
}

#[cfg(test)]
mod tests;
