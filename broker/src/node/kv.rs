//! The state of a replica, as raft-store keeps it, seen as the core's key-value view.

use bytes::Bytes;
use queue_core::{Fault, KeyValue};
use raft_store::{EngineError, StateRead, StateWrite};

use super::StopReason;

/// A state that can only be read; writing through it is a fault.
pub struct Reading<'a>(pub &'a dyn StateRead);

impl KeyValue for Reading<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        self.0.get(key).map_err(fault)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Fault> {
        self.0.scan(from, to, limit).map_err(fault)
    }

    fn put(&mut self, _: &[u8], _: &[u8]) -> Result<(), Fault> {
        Err(Fault::Failed("this view of the state is for reading".into()))
    }

    fn delete(&mut self, _: &[u8]) -> Result<(), Fault> {
        Err(Fault::Failed("this view of the state is for reading".into()))
    }
}

/// A state that is being changed by an entry.
pub struct Writing<'a>(pub &'a mut dyn StateWrite);

impl KeyValue for Writing<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        self.0.get(key).map_err(fault)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Fault> {
        self.0.scan(from, to, limit).map_err(fault)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.0.put(key, value);
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), Fault> {
        self.0.delete(key);
        Ok(())
    }
}

fn fault(error: EngineError) -> Fault {
    match error {
        EngineError::Corrupt(what) => Fault::Corrupt(what),
        EngineError::Failed(what) => Fault::Failed(what),
        EngineError::Newer(what) => Fault::Newer(what),
    }
}

/// The way back: the same class.
pub fn engine(fault: Fault) -> EngineError {
    match fault {
        Fault::Corrupt(what) => EngineError::Corrupt(what),
        Fault::Failed(what) => EngineError::Failed(what),
        Fault::Newer(what) => EngineError::Newer(what),
    }
}

/// Why a node stops that meets `fault` outside of its log.
pub fn stop_reason(fault: Fault) -> StopReason {
    match fault {
        Fault::Corrupt(what) => StopReason::Condemned(what),
        Fault::Failed(what) => StopReason::Fatal(what),
        Fault::Newer(what) => StopReason::Newer(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_fails_for_a_while_is_not_taken_for_damage() {
        for error in [
            EngineError::Corrupt("a".into()),
            EngineError::Failed("b".into()),
            EngineError::Newer("c".into()),
        ] {
            assert_eq!(engine(fault(error.clone())), error);
        }
        let passing = fault(EngineError::Failed("too many open files".into()));
        assert_eq!(
            stop_reason(passing),
            StopReason::Fatal("too many open files".into())
        );
    }
}
