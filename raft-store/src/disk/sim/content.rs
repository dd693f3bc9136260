//! The bytes of one simulated file, in pages that the volatile and the durable half share until one of them changes.

use std::collections::BTreeMap;
use std::sync::Arc;

const PAGE: usize = 4096;
static ZEROS: [u8; PAGE] = [0; PAGE];

/// A file's bytes. Pages never written are zeros.
#[derive(Clone, Default)]
pub(super) struct Content {
    len: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let n = (self.len.saturating_sub(offset)).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < n {
            let (page, at) = split(offset + done as u64);
            let part = (PAGE - at).min(n - done);
            match self.pages.get(&page) {
                Some(bytes) => buf[done..done + part].copy_from_slice(&bytes[at..at + part]),
                None => buf[done..done + part].fill(0),
            }
            done += part;
        }
        n
    }

    pub(super) fn write(&mut self, data: &[u8], offset: u64) {
        let mut done = 0;
        while done < data.len() {
            let (page, at) = split(offset + done as u64);
            let part = (PAGE - at).min(data.len() - done);
            let source = &data[done..done + part];
            // Zeros over what is zero anyway need no page: segments are filled with zeros ahead of use.
            if self.pages.contains_key(&page) || *source != ZEROS[..part] {
                let bytes = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE]));
                Arc::make_mut(bytes)[at..at + part].copy_from_slice(source);
            }
            done += part;
        }
        self.len = self.len.max(offset + data.len() as u64);
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let (page, at) = split(len);
            self.pages.split_off(&(page + 1));
            if let Some(bytes) = self.pages.get_mut(&page) {
                Arc::make_mut(bytes)[at..].fill(0);
            }
        }
        self.len = len;
    }

    pub(super) fn flip_bit(&mut self, byte: u64, bit: u8) {
        let mut value = [0];
        assert_eq!(self.read(&mut value, byte), 1, "no byte {byte}");
        self.write(&[value[0] ^ (1 << bit)], byte);
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut out = vec![0; self.len as usize];
        self.read(&mut out, 0);
        out
    }
}

fn split(offset: u64) -> (u64, usize) {
    (offset / PAGE as u64, (offset % PAGE as u64) as usize)
}
