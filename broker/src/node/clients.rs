//! Which clients this node heard of lately: for renewals and for administrators.
//!
//! A hint only. A client nobody knows is served like any other.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard},
};

use crate::limits::{CLIENT_SILENT_MS, MAX_CLIENT_ID_BYTES, MAX_CLIENTS};

/// The clients of one node.
#[derive(Default)]
pub struct Clients {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    clients: BTreeMap<u64, Client>,
    departures: u64,
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
    /// That was its good-bye.
    pub departed: bool,
}

impl Client {
    fn is_recent(&self, now_ms: u64) -> bool {
        self.last_seen_ms + CLIENT_SILENT_MS > now_ms
    }

    fn alive(&self, now_ms: u64) -> bool {
        !self.departed && self.is_recent(now_ms)
    }
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
        self.remember(id, language, now_ms, false);
    }

    /// The client said good-bye. That is remembered for a while, also of a client this node never heard of: it may come
    /// to lead what other nodes have leased to it.
    pub fn left(&self, id: &str, language: &str, now_ms: u64) {
        self.remember(id, language, now_ms, true);
    }

    fn remember(&self, id: &str, language: &str, now_ms: u64, departed: bool) {
        // Whoever has too long an id is refused, and not remembered, good-byes included.
        if id.is_empty() || id.len() > MAX_CLIENT_ID_BYTES {
            return;
        }
        let mut seen = self.lock();
        seen.departures += u64::from(departed);
        let clients = &mut seen.clients;
        let hash = client_hash(id);
        if let Some(client) = clients.get_mut(&hash) {
            client.last_seen_ms = client.last_seen_ms.max(now_ms);
            client.departed = departed;
            return;
        }
        if clients.len() >= MAX_CLIENTS {
            clients.retain(|_, client| client.alive(now_ms));
        }
        if clients.len() < MAX_CLIENTS {
            clients.insert(
                hash,
                Client {
                    id: id.into(),
                    language: language.into(),
                    last_seen_ms: now_ms,
                    departed,
                },
            );
        }
    }

    /// True if the client with this hash gave a sign of life lately.
    pub fn alive(&self, hash: u64, now_ms: u64) -> bool {
        let seen = self.lock();
        seen.clients.get(&hash).is_some_and(|client| client.alive(now_ms))
    }

    /// True if the client with this hash said good-bye, and nothing after it.
    pub fn has_departed(&self, hash: u64) -> bool {
        let seen = self.lock();
        seen.clients.get(&hash).is_some_and(|client| client.departed)
    }

    /// Clients heard of lately.
    pub fn count(&self, now_ms: u64) -> usize {
        let seen = self.lock();
        seen.clients
            .values()
            .filter(|client| client.alive(now_ms))
            .count()
    }

    /// How many good-byes there were: tells whether it is worth to look for [`departed`](Self::departed) clients again.
    pub fn departures(&self) -> u64 {
        self.lock().departures
    }

    /// Hashes of the clients that said good-bye lately, and nothing after it.
    pub fn departed(&self, now_ms: u64) -> BTreeSet<u64> {
        let seen = self.lock();
        let departed = seen
            .clients
            .iter()
            .filter(|(_, client)| client.departed && client.is_recent(now_ms));
        departed.map(|(&hash, _)| hash).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no panic while held")
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
    }

    #[test]
    fn a_client_that_said_good_bye_is_departed_until_it_comes_back_or_is_forgotten() {
        let clients = Clients::default();
        let a = client_hash("a");
        clients.saw("a", "JAVA", 1_000);
        clients.left("a", "JAVA", 2_000);
        assert!(!clients.alive(a, 2_001));
        assert_eq!((clients.count(2_001), clients.departures()), (0, 1));
        assert_eq!(clients.departed(1_999 + CLIENT_SILENT_MS), [a].into());
        assert_eq!(clients.departed(2_000 + CLIENT_SILENT_MS), [].into());
        clients.saw("a", "JAVA", 3_000);
        assert!(clients.alive(a, 3_001));
        assert_eq!(clients.departed(3_001), [].into());
    }

    #[test]
    fn the_good_bye_of_a_client_nobody_knew_counts() {
        let clients = Clients::default();
        clients.left("a", "JAVA", 1_000);
        assert_eq!(clients.departed(1_001), [client_hash("a")].into());
        assert_eq!(clients.departures(), 1);
    }

    #[test]
    fn a_good_bye_without_a_name_is_nobodys() {
        let clients = Clients::default();
        clients.left("", "JAVA", 1_000);
        assert_eq!((clients.departed(1_001), clients.departures()), ([].into(), 0));
    }

    #[test]
    fn over_the_bound_the_departed_make_room_for_the_living() {
        let clients = Clients::default();
        for number in 0..MAX_CLIENTS {
            clients.left(&number.to_string(), "JAVA", 1_000);
        }
        clients.saw("a", "JAVA", 1_001);
        assert!(clients.alive(client_hash("a"), 1_002));
    }
}
