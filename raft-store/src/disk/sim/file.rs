//! One simulated file: what is seen of it, what a power loss leaves, and what lies between.

use super::Loss;
use super::chance::Chance;
use super::content::Content;

/// A change of a file that no sync has covered yet.
#[derive(Clone)]
pub(super) enum Unsynced {
    Write { offset: u64, data: Vec<u8> },
    SetLen(u64),
}

#[derive(Clone, Default)]
pub(super) struct File {
    pub(super) volatile: Content,
    pub(super) durable: Content,
    pub(super) unsynced: Vec<Unsynced>,
}

impl File {
    /// What a power loss leaves of this file.
    pub(super) fn lose(&mut self, loss: Loss, chance: &mut Chance) {
        let mut budget = match loss {
            Loss::AfterBytes(bytes) => bytes,
            _ => u64::MAX,
        };
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Unsynced::Write { offset, data } => {
                    let keep = match loss {
                        Loss::All => 0,
                        Loss::Nothing => data.len(),
                        Loss::AfterBytes(_) => budget.min(data.len() as u64) as usize,
                        Loss::Random(_) => match chance.below(4) {
                            0 => 0,
                            1 => data.len(),
                            _ => chance.below(data.len() as u64 + 1) as usize,
                        },
                    };
                    budget -= keep as u64;
                    if keep == 0 {
                        continue;
                    }
                    // Half of the time it is the end that arrived and the beginning that did not.
                    if matches!(loss, Loss::Random(_)) && chance.below(2) == 0 {
                        let skip = data.len() - keep;
                        self.durable.write(&data[skip..], offset + skip as u64);
                    } else {
                        self.durable.write(&data[..keep], offset);
                    }
                }
                Unsynced::SetLen(len) => {
                    let keep = match loss {
                        Loss::All => false,
                        Loss::Nothing | Loss::AfterBytes(_) => budget > 0,
                        Loss::Random(_) => chance.below(2) == 0,
                    };
                    if keep {
                        self.durable.set_len(len);
                    }
                }
            }
        }
        self.volatile = self.durable.clone();
    }

    /// The kernel forgets what it takes for clean: from now on that is read from the medium. What a failed sync gave up is not
    /// there.
    pub(super) fn forget_clean(&mut self) {
        let mut content = self.durable.clone();
        for change in &self.unsynced {
            match change {
                Unsynced::Write { offset, data } => content.write(data, *offset),
                Unsynced::SetLen(len) => content.set_len(*len),
            }
        }
        self.volatile = content;
    }
}
