//! Which clients this node heard of lately: for renewals and for administrators.
//!
//! A hint only. A client nobody knows is served like any other.

use std::{collections::BTreeMap, sync::Mutex};

use crate::limits::{CLIENT_SILENT_MS, MAX_CLIENTS};

/// The clients of one node.
#[derive(Default)]
pub struct Clients {
    seen: Mutex<BTreeMap<u64, Client>>,
}

/// One client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// As in the request metadata.
    pub id: String,
    /// The SDK's word for its language.
    pub language: String,
    /// Last sign of life, by this node's clock.
    pub last_seen_ms: u64,
}

/// The number under which leases remember a client (FNV-1a, 64 bits).
pub fn client_hash(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Clients {
    /// A sign of life. Over the bound, new clients are not remembered.
    pub fn saw(&self, id: &str, language: &str, now_ms: u64) {
        if id.is_empty() {
            return;
        }
        let mut seen = self.seen.lock().expect("no panic while held");
        let hash = client_hash(id);
        if let Some(client) = seen.get_mut(&hash) {
            client.last_seen_ms = client.last_seen_ms.max(now_ms);
            return;
        }
        if seen.len() >= MAX_CLIENTS {
            seen.retain(|_, client| client.last_seen_ms + CLIENT_SILENT_MS > now_ms);
        }
        if seen.len() < MAX_CLIENTS {
            seen.insert(
                hash,
                Client {
                    id: id.into(),
                    language: language.into(),
                    last_seen_ms: now_ms,
                },
            );
        }
    }

    /// The client said good-bye.
    pub fn left(&self, id: &str) {
        self.seen
            .lock()
            .expect("no panic while held")
            .remove(&client_hash(id));
    }

    /// True if the client with this hash gave a sign of life lately.
    pub fn alive(&self, hash: u64, now_ms: u64) -> bool {
        let seen = self.seen.lock().expect("no panic while held");
        seen.get(&hash)
            .is_some_and(|client| client.last_seen_ms + CLIENT_SILENT_MS > now_ms)
    }

    /// Clients heard of lately.
    pub fn count(&self, now_ms: u64) -> usize {
        let seen = self.seen.lock().expect("no panic while held");
        seen.values()
            .filter(|client| client.last_seen_ms + CLIENT_SILENT_MS > now_ms)
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_client_is_not_alive() {
        let clients = Clients::default();
        clients.saw("a", "JAVA", 1_000);
        assert!(clients.alive(client_hash("a"), 1_000 + CLIENT_SILENT_MS - 1));
        assert!(!clients.alive(client_hash("a"), 1_000 + CLIENT_SILENT_MS));
        clients.left("a");
        assert!(!clients.alive(client_hash("a"), 1_001));
    }
}
