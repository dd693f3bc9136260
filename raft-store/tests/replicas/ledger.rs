//! A machine to test with: a numbered list of entries, which refers to their payloads in the log.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use raft_store::{Applied, EngineError, LogId, Machine, StateRead, StateWrite};

/// Commands: `put ...` adds an entry and answers its number; `trim N` forgets those below N.
#[derive(Default)]
pub(crate) struct Ledger {
    next: Mutex<u64>,
    pub(crate) restored: AtomicU64,
}

fn key(number: u64) -> [u8; 10] {
    let mut key = [0; 10];
    key[..2].copy_from_slice(b"s/");
    key[2..].copy_from_slice(&number.to_be_bytes());
    key
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("eight bytes"))
}

/// Number and log index of every entry kept.
pub(crate) fn entries(state: &dyn StateRead) -> Vec<(u64, u64)> {
    let pairs = state
        .scan(b"s/", b"s0", usize::MAX)
        .expect("the state can be read");
    pairs
        .iter()
        .map(|(key, value)| (number(&key[2..]), number(value)))
        .collect()
}

impl Machine for Ledger {
    fn restore(&self, state: &dyn StateRead) -> Result<(), EngineError> {
        *self.next.lock().unwrap() = state.get(b"next")?.map_or(0, |value| number(&value));
        self.restored.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn apply(&self, at: LogId, payload: &Bytes, state: &mut dyn StateWrite) -> Result<Applied, EngineError> {
        let mut next = self.next.lock().unwrap();
        assert_eq!(
            state.get(b"next")?.map_or(0, |value| number(&value)),
            *next,
            "memory and state agree"
        );
        if let Some(below) = payload.strip_prefix(b"trim ") {
            let below: u64 = std::str::from_utf8(below).unwrap().parse().unwrap();
            for (key, _) in state.scan(b"s/", &key(below), usize::MAX)? {
                state.delete(&key);
            }
            return Ok(Applied::none());
        }
        state.put(&key(*next), &at.index.to_be_bytes());
        *next += 1;
        state.put(b"next", &next.to_be_bytes());
        Ok(Applied::of(*next - 1))
    }

    fn oldest_live_index(&self, state: &dyn StateRead) -> Result<Option<u64>, EngineError> {
        Ok(state
            .scan(b"s/", b"s0", 1)?
            .first()
            .map(|(_, value)| number(value)))
    }
}
