//! Counters of what happened in a run: faults, operations, answers, and things that should happen sometimes. A sweep over
//! many seeds in which one of them stays at zero has not tested what it claims to.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The counters of a run. Clones are the same counters.
#[derive(Clone, Default)]
pub struct Coverage(Arc<Mutex<BTreeMap<String, u64>>>);

impl Coverage {
    /// It happened once more.
    pub fn count(&self, what: &str) {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counters.entry(what.to_owned()).or_default() += 1;
    }

    /// All counters, in order of their names.
    #[must_use]
    pub fn all(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
