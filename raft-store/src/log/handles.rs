//! Open files for reading: a bounded number, the least recently used closed first.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;

use super::segment::segment_name;
use super::segment::sidecar_name;
use crate::disk::Disk;
use crate::disk::DiskFile;

#[derive(Default)]
struct Opened {
    segment: Option<Arc<dyn DiskFile>>,
    sidecar: Option<Arc<dyn DiskFile>>,
    used: u64,
}

#[derive(Default)]
struct Table {
    opened: BTreeMap<u64, Opened>,
    uses: u64,
}

pub(super) struct Handles {
    disk: Arc<dyn Disk>,
    table: Mutex<Table>,
}

impl Handles {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Handles {
        Handles {
            disk,
            table: Mutex::default(),
        }
    }

    pub(super) fn segment(&self, sequence: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.get(sequence, |opened| &mut opened.segment, segment_name(sequence))
    }

    pub(super) fn sidecar(&self, sequence: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.get(sequence, |opened| &mut opened.sidecar, sidecar_name(sequence))
    }

    pub(super) fn forget(&self, sequence: u64) {
        super::lock(&self.table).opened.remove(&sequence);
    }

    fn get(
        &self,
        sequence: u64,
        slot: impl Fn(&mut Opened) -> &mut Option<Arc<dyn DiskFile>>,
        name: String,
    ) -> io::Result<Arc<dyn DiskFile>> {
        let mut table = super::lock(&self.table);
        table.uses += 1;
        let uses = table.uses;
        if let Some(opened) = table.opened.get_mut(&sequence)
            && let Some(file) = slot(opened)
        {
            let file = file.clone();
            opened.used = uses;
            return Ok(file);
        }
        let file = self.disk.open(&name, false)?;
        let opened = table.opened.entry(sequence).or_default();
        *slot(opened) = Some(file.clone());
        opened.used = uses;
        if table.opened.len() > self.disk.open_segments() {
            let oldest = table
                .opened
                .iter()
                .min_by_key(|(_, opened)| opened.used)
                .map(|(&sequence, _)| sequence);
            table.opened.remove(&oldest.expect("the table is not empty"));
        }
        Ok(file)
    }
}
