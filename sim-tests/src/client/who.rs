//! Who a client is, over the lives of its process.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// Who a client is. Clones are the same one.
#[derive(Clone)]
pub struct Who {
    id: u32,
    /// Goes up when it says good-bye or dies: what comes after is another client to the nodes.
    generation: Arc<AtomicU32>,
}

impl Who {
    /// Client `id`, in its first generation.
    #[must_use]
    pub fn new(id: u32) -> Who {
        Who {
            id,
            generation: Arc::default(),
        }
    }

    /// The program that it is, whatever its id.
    #[must_use]
    pub fn program(&self) -> String {
        format!("client-{}", self.id)
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.id
    }

    /// The id it goes by now.
    pub(super) fn name(&self) -> String {
        format!("client-{}-{}", self.id, self.generation.load(Ordering::SeqCst))
    }

    /// Goes on under another id; the one it had.
    #[must_use]
    pub fn rename(&self) -> String {
        let before = self.name();
        self.generation.fetch_add(1, Ordering::SeqCst);
        before
    }
}
