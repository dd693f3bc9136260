//! The state of the simulated hardware: files, names, what is not yet durable, and the faults to come.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::Fault;
use super::Loss;
use super::Operation;
use super::SimCounts;
use super::broken::Broken;
use super::chance::Chance;
use super::content::Content;
use super::file::File;
use super::file::Unsynced;

/// Disks find the wrong place in steps of these, bytes.
pub(super) const SECTOR: u64 = 512;

/// A change of names that no sync of the directory has covered yet.
#[derive(Clone)]
enum Naming {
    Give { name: String, file: u64 },
    Remove { name: String },
    Rename { from: String, to: String },
}

impl Naming {
    fn dir(&self) -> &str {
        let name = match self {
            Naming::Give { name, .. } | Naming::Remove { name } => name,
            Naming::Rename { to, .. } => to,
        };
        name.rsplit_once('/').map_or("", |(dir, _)| dir)
    }

    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Naming::Give { name, file } => {
                names.insert(name.clone(), *file);
            }
            Naming::Remove { name } => {
                names.remove(name);
            }
            Naming::Rename { from, to } => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }
}

#[derive(Clone)]
pub(super) struct World {
    files: BTreeMap<u64, File>,
    next_file: u64,
    volatile_names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    unsynced_names: Vec<Naming>,
    pub(super) capacity: u64,
    pub(super) sync_delay: Option<Duration>,
    counts: SimCounts,
    faults: Vec<(Operation, u64, Fault)>,
    pub(super) broken: Broken,
    life: u64,
    power: bool,
    chance: Chance,
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        World {
            files: BTreeMap::new(),
            next_file: 1,
            volatile_names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            capacity: u64::MAX / 2,
            sync_delay: None,
            counts: SimCounts::default(),
            faults: Vec::new(),
            broken: Broken::default(),
            life: 0,
            power: false,
            chance: Chance(seed),
        }
    }

    // ---- lives and faults ----

    pub(super) fn begin_life(&mut self) {
        self.life += 1;
        self.power = true;
    }

    pub(super) fn life(&self) -> u64 {
        self.life
    }

    pub(super) fn is_dead(&self, life: u64) -> bool {
        !self.power || life != self.life
    }

    pub(super) fn counts(&self) -> SimCounts {
        self.counts
    }

    pub(super) fn inject(&mut self, operation: Operation, nth: u64, fault: Fault) {
        assert!(nth > 0, "the next operation is number 1");
        let lies = matches!(fault, Fault::Lost | Fault::Misdirected);
        assert!(!lies || operation == Operation::Write, "only writes get lost");
        self.faults.push((operation, nth, fault));
    }

    pub(super) fn clear_faults(&mut self) {
        self.faults.clear();
    }

    pub(super) fn faults_waiting(&self) -> usize {
        self.faults.len()
    }

    /// Counts an operation; the fault that it meets, if any.
    fn count(&mut self, operation: Operation) -> Option<Fault> {
        let change = operation != Operation::Read;
        match operation {
            Operation::Read => self.counts.reads += 1,
            Operation::Write => self.counts.writes += 1,
            Operation::Sync => self.counts.syncs += 1,
            Operation::Change => {}
        }
        self.counts.changes += u64::from(change);
        let mut hit = None;
        self.faults.retain_mut(|(class, left, fault)| {
            if *class == operation || (*class == Operation::Change && change) {
                *left -= 1;
                if *left == 0 {
                    hit = Some(*fault);
                    return false;
                }
            }
            true
        });
        if hit == Some(Fault::PowerLoss) {
            self.power = false;
        }
        hit
    }

    /// For operations that are done or not done, nothing between.
    fn count_whole(&mut self, operation: Operation) -> io::Result<()> {
        match self.count(operation) {
            // There are no bytes that could get lost.
            None | Some(Fault::Lost | Fault::Misdirected) => Ok(()),
            Some(fault) => Err(error_of(fault)),
        }
    }

    // ---- files ----

    pub(super) fn read(&mut self, file: u64, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.count_whole(Operation::Read)?;
        if !self.broken.may_read(file, offset, buf.len()) {
            return Err(error_of(Fault::Error));
        }
        Ok(self.file(file).volatile.read(buf, offset))
    }

    pub(super) fn write(&mut self, id: u64, data: &[u8], offset: u64) -> io::Result<()> {
        let fault = self.count(Operation::Write);
        let cut = match fault {
            None | Some(Fault::Misdirected) => data.len(),
            Some(Fault::Lost) => return Ok(()),
            Some(Fault::Full) => return Err(error_of(Fault::Full)),
            Some(Fault::Error | Fault::PowerLoss) => self.chance.below(data.len() as u64 + 1) as usize,
        };
        let offset = match fault {
            Some(Fault::Misdirected) => self.chance.below(self.len(id).max(1)) / SECTOR * SECTOR,
            _ => offset,
        };
        let grows = (offset + cut as u64).saturating_sub(self.len(id));
        // All files are looked at for that.
        if grows > 0 && grows > self.free_bytes() {
            return Err(error_of(Fault::Full));
        }
        let data = &data[..cut];
        if !self.broken.may_write(id, offset, cut) {
            self.counts.met_sectors += 1;
            return Err(error_of(Fault::Error));
        }
        let file = self.file(id);
        file.volatile.write(data, offset);
        file.unsynced.push(Unsynced::Write {
            offset,
            data: data.to_vec(),
        });
        match fault {
            None | Some(Fault::Misdirected) => Ok(()),
            Some(fault) => Err(error_of(fault)),
        }
    }

    pub(super) fn set_len(&mut self, id: u64, len: u64) -> io::Result<()> {
        self.count_whole(Operation::Write)?;
        if len.saturating_sub(self.len(id)) > self.free_bytes() {
            return Err(error_of(Fault::Full));
        }
        self.broken.cut(id, len);
        let file = self.file(id);
        file.volatile.set_len(len);
        file.unsynced.push(Unsynced::SetLen(len));
        Ok(())
    }

    pub(super) fn sync(&mut self, id: u64) -> io::Result<()> {
        let fault = self.count(Operation::Sync);
        match fault {
            Some(Fault::PowerLoss) => return Err(error_of(Fault::PowerLoss)),
            // The kernel gives the pages up: still readable, never to be written again.
            Some(fault) => {
                self.file(id).unsynced.clear();
                return Err(error_of(fault));
            }
            None => {}
        }
        let file = self.file(id);
        for change in std::mem::take(&mut file.unsynced) {
            match change {
                Unsynced::Write { offset, data } => file.durable.write(&data, offset),
                Unsynced::SetLen(len) => file.durable.set_len(len),
            }
        }
        Ok(())
    }

    pub(super) fn len(&self, file: u64) -> u64 {
        self.files.get(&file).map_or(0, |file| file.volatile.len())
    }

    /// A file that lost its last name can still be used by who has it open, so it stays.
    fn file(&mut self, id: u64) -> &mut File {
        self.files.entry(id).or_default()
    }

    pub(super) fn free_bytes(&self) -> u64 {
        let used: u64 = self.volatile_names.values().map(|&file| self.len(file)).sum();
        self.capacity.saturating_sub(used)
    }

    // ---- names ----

    pub(super) fn names(&self) -> &BTreeMap<String, u64> {
        &self.volatile_names
    }

    pub(super) fn open(&mut self, name: &str, create: bool) -> io::Result<u64> {
        if let Some(&file) = self.volatile_names.get(name) {
            return Ok(file);
        }
        if !create {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no file {name}")));
        }
        self.count_whole(Operation::Change)?;
        let file = self.next_file;
        self.next_file += 1;
        self.files.insert(file, File::default());
        self.name(Naming::Give {
            name: name.to_owned(),
            file,
        });
        Ok(file)
    }

    pub(super) fn remove(&mut self, name: &str) -> io::Result<()> {
        self.require(name)?;
        self.count_whole(Operation::Change)?;
        self.name(Naming::Remove {
            name: name.to_owned(),
        });
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.require(from)?;
        self.count_whole(Operation::Change)?;
        self.name(Naming::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
        });
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, dir: &str) -> io::Result<()> {
        self.count_whole(Operation::Change)?;
        let (synced, left) = std::mem::take(&mut self.unsynced_names)
            .into_iter()
            .partition(|n| n.dir() == dir);
        self.unsynced_names = left;
        let synced: Vec<Naming> = synced;
        for naming in synced {
            naming.apply(&mut self.durable_names);
        }
        self.collect_garbage();
        Ok(())
    }

    fn require(&self, name: &str) -> io::Result<()> {
        match self.volatile_names.contains_key(name) {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::NotFound, format!("no file {name}"))),
        }
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.volatile_names);
        self.unsynced_names.push(naming);
    }

    /// Forgets files that no name, seen or durable, leads to. Open files come back empty; nobody reads those.
    fn collect_garbage(&mut self) {
        let named: Vec<u64> = self
            .volatile_names
            .values()
            .chain(self.durable_names.values())
            .copied()
            .collect();
        let pending = &self.unsynced_names;
        self.files.retain(|id, _| {
            named.contains(id)
                || pending
                    .iter()
                    .any(|n| matches!(n, Naming::Give { file, .. } if file == id))
        });
    }

    // ---- the end of a life ----

    pub(super) fn crash(&mut self, loss: Loss) {
        self.power = false;
        let mut chance = match loss {
            Loss::Random(seed) => Chance(seed),
            _ => Chance(0),
        };
        let namings = std::mem::take(&mut self.unsynced_names);
        let kept = match loss {
            Loss::All => 0,
            Loss::Nothing | Loss::AfterBytes(_) => namings.len(),
            Loss::Random(_) => chance.below(namings.len() as u64 + 1) as usize,
        };
        for naming in &namings[..kept] {
            naming.apply(&mut self.durable_names);
        }
        self.volatile_names = self.durable_names.clone();
        for file in self.files.values_mut() {
            file.lose(loss, &mut chance);
        }
        self.collect_garbage();
    }

    // ---- vandalism and fixtures ----

    pub(super) fn flip_bit(&mut self, name: &str, byte: u64, bit: u8) {
        let id = *self
            .volatile_names
            .get(name)
            .unwrap_or_else(|| panic!("no file {name}"));
        let file = self.file(id);
        file.volatile.flip_bit(byte, bit);
        if byte < file.durable.len() {
            file.durable.flip_bit(byte, bit);
        }
    }

    pub(super) fn read_file(&self, name: &str) -> Option<Vec<u8>> {
        let id = self.volatile_names.get(name)?;
        Some(self.files[id].volatile.to_vec())
    }

    pub(super) fn write_file(&mut self, name: &str, bytes: &[u8]) {
        let mut content = Content::default();
        content.write(bytes, 0);
        let id = self.next_file;
        self.next_file += 1;
        let file = File {
            volatile: content.clone(),
            durable: content,
            unsynced: Vec::new(),
        };
        self.files.insert(id, file);
        self.volatile_names.insert(name.to_owned(), id);
        self.durable_names.insert(name.to_owned(), id);
    }

    /// What a power loss would leave of a file at least.
    pub(super) fn read_durable(&self, name: &str) -> Option<Vec<u8>> {
        let id = self.durable_names.get(name)?;
        Some(self.files.get(id)?.durable.to_vec())
    }

    pub(super) fn cut_file(&mut self, name: &str, len: u64) {
        let id = *self
            .volatile_names
            .get(name)
            .unwrap_or_else(|| panic!("no file {name}"));
        let file = self.file(id);
        file.volatile.set_len(len);
        file.durable = file.volatile.clone();
        file.unsynced.clear();
    }

    pub(super) fn forget_clean(&mut self) {
        self.files.values_mut().for_each(File::forget_clean);
    }

    pub(super) fn delete_file(&mut self, name: &str) {
        self.volatile_names.remove(name);
        self.durable_names.remove(name);
    }

    pub(super) fn files(&self) -> Vec<String> {
        self.volatile_names.keys().cloned().collect()
    }
}

fn error_of(fault: Fault) -> io::Error {
    match fault {
        Fault::Error => rustix::io::Errno::IO.into(),
        Fault::Full => io::Error::new(io::ErrorKind::StorageFull, "simulated disk is full"),
        Fault::PowerLoss => io::Error::other("simulated power loss"),
        Fault::Lost | Fault::Misdirected => unreachable!("nobody is told"),
    }
}
