//! The state of a replica, as raft-store keeps it, seen as the core's key-value view.

use bytes::Bytes;
use queue_core::{Fault, KeyValue};
use raft_store::{StateRead, StateWrite};

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
        Err(Fault("this view of the state is for reading".into()))
    }

    fn delete(&mut self, _: &[u8]) -> Result<(), Fault> {
        Err(Fault("this view of the state is for reading".into()))
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

fn fault(error: raft_store::EngineError) -> Fault {
    Fault(error.to_string())
}
