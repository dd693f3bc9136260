//! Which clients this node heard of lately: for renewals and for administrators.
//!
//! A hint only. A client nobody knows is served like any other.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard},
};

use crate::limits::{
    CLIENT_OVERDUE_MS, CLIENT_SILENT_MS, CLIENTS_SWEPT_EVERY_MS, DEPARTED_KEPT_MS, MAX_CLIENT_ID_BYTES,
    MAX_CLIENTS,
};

/// The clients of one node.
#[derive(Default)]
pub struct Clients {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    clients: BTreeMap<u64, Client>,
    departures: u64,
    swept_ms: Option<u64>,
}

/// What a client gave to hear.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// It begins, or goes on for sure.
    Begins,
    /// It did something, which may be late.
    Acts,
    GoodBye,
}

/// One client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// As in the request metadata; empty if other nodes alone have heard of it.
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

    fn is_kept(&self, now_ms: u64) -> bool {
        self.alive(now_ms) || (self.departed && self.last_seen_ms + DEPARTED_KEPT_MS > now_ms)
    }
}

/// The number under which leases remember a client (FNV-1a, 64 bits).
pub fn client_hash(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Clients {
    /// A sign of life that no client gives after its good-bye: a client that gives it is back. Over the bound, new clients
    /// are not remembered.
    pub fn saw(&self, id: &str, language: &str, now_ms: u64) {
        self.remember(id, language, now_ms, Sign::Begins);
    }

    /// A sign of life of a client that has not said good-bye. After that it is a request that comes late.
    pub fn heard(&self, id: &str, language: &str, now_ms: u64) {
        self.remember(id, language, now_ms, Sign::Acts);
    }

    /// Another node heard the client with this hash.
    pub fn heard_elsewhere(&self, hash: u64, now_ms: u64) {
        self.lock().note(hash, ("", ""), now_ms, Sign::Acts);
    }

    /// The client said good-bye. That is remembered for a while, also of a client this node never heard of: it may come
    /// to lead what other nodes have leased to it.
    pub fn left(&self, id: &str, language: &str, now_ms: u64) {
        self.remember(id, language, now_ms, Sign::GoodBye);
    }

    fn remember(&self, id: &str, language: &str, now_ms: u64, sign: Sign) {
        // Whoever has too long an id is refused, and not remembered, good-byes included.
        if id.is_empty() || id.len() > MAX_CLIENT_ID_BYTES {
            return;
        }
        self.lock().note(client_hash(id), (id, language), now_ms, sign);
    }

    /// True if the client with this hash gave a sign of life lately, or if it may live for all that can be known by who
    /// looks after it since `since_ms`: a client that was not heard of yet is alive until it has been silent for too long.
    pub fn alive(&self, hash: u64, since_ms: u64, now_ms: u64) -> bool {
        match self.lock().clients.get(&hash) {
            Some(client) => client.alive(now_ms),
            None => since_ms + CLIENT_SILENT_MS > now_ms,
        }
    }

    /// True if the client with this hash said good-bye, and nothing after it.
    pub fn has_departed(&self, hash: u64) -> bool {
        let seen = self.lock();
        seen.clients.get(&hash).is_some_and(|client| client.departed)
    }

    /// True if a client that holds leases was not heard of for so long that other nodes are to be asked about it, by who
    /// looks after it since `since_ms`.
    pub fn is_overdue(&self, hash: u64, since_ms: u64, now_ms: u64) -> bool {
        let last_ms = match self.lock().clients.get(&hash) {
            Some(client) if client.departed => return false,
            Some(client) => client.last_seen_ms,
            None => since_ms,
        };
        last_ms + CLIENT_OVERDUE_MS <= now_ms
    }

    /// When the client with this hash was heard of last, and whether that was its good-bye.
    pub fn last_sign(&self, hash: u64) -> Option<(u64, bool)> {
        let seen = self.lock();
        let client = seen.clients.get(&hash)?;
        Some((client.last_seen_ms, client.departed))
    }

    /// Another node heard of it last at `at_ms`. What was heard here since then counts more.
    pub fn told(&self, hash: u64, at_ms: u64, departed: bool) {
        let mut seen = self.lock();
        let known = seen.clients.get(&hash);
        if known.is_none_or(|client| client.last_seen_ms < at_ms) {
            let sign = if departed { Sign::GoodBye } else { Sign::Begins };
            seen.note(hash, ("", ""), at_ms, sign);
        }
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

impl Seen {
    fn note(&mut self, hash: u64, (id, language): (&str, &str), now_ms: u64, sign: Sign) {
        self.departures += u64::from(sign == Sign::GoodBye);
        if let Some(client) = self.clients.get_mut(&hash) {
            if client.departed && sign == Sign::Acts {
                return;
            }
            client.last_seen_ms = client.last_seen_ms.max(now_ms);
            client.departed = sign == Sign::GoodBye;
            return;
        }
        if self.has_room(now_ms) {
            let client = Client {
                id: id.into(),
                language: language.into(),
                last_seen_ms: now_ms,
                departed: sign == Sign::GoodBye,
            };
            self.clients.insert(hash, client);
        }
    }

    fn has_room(&mut self, now_ms: u64) -> bool {
        let is_full = self.clients.len() >= MAX_CLIENTS;
        let is_swept = |swept_ms| swept_ms + CLIENTS_SWEPT_EVERY_MS > now_ms;
        if is_full && !self.swept_ms.is_some_and(is_swept) {
            self.swept_ms = Some(now_ms);
            self.clients.retain(|_, client| client.is_kept(now_ms));
        }
        self.clients.len() < MAX_CLIENTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_client_is_not_alive() {
        let clients = Clients::default();
        clients.saw("a", "JAVA", 1_000);
        assert!(clients.alive(client_hash("a"), 0, 1_000 + CLIENT_SILENT_MS - 1));
        assert!(!clients.alive(client_hash("a"), 0, 1_000 + CLIENT_SILENT_MS));
    }

    #[test]
    fn a_client_that_said_good_bye_is_departed_until_it_comes_back_or_is_forgotten() {
        let clients = Clients::default();
        let a = client_hash("a");
        clients.saw("a", "JAVA", 1_000);
        clients.left("a", "JAVA", 2_000);
        assert!(!clients.alive(a, 0, 2_001));
        assert_eq!((clients.count(2_001), clients.departures()), (0, 1));
        assert_eq!(clients.departed(1_999 + CLIENT_SILENT_MS), [a].into());
        assert_eq!(clients.departed(2_000 + CLIENT_SILENT_MS), [].into());
        clients.saw("a", "JAVA", 3_000);
        assert!(clients.alive(a, 0, 3_001));
        assert_eq!(clients.departed(3_001), [].into());
    }

    #[test]
    fn what_a_client_sent_before_its_good_bye_does_not_bring_it_back() {
        let clients = Clients::default();
        let a = client_hash("a");
        clients.left("a", "JAVA", 1_000);
        clients.heard("a", "JAVA", 1_001);
        clients.heard_elsewhere(a, 1_002);
        assert!(!clients.alive(a, 0, 1_003));
        assert_eq!(clients.departed(1_003), [a].into());
    }

    #[test]
    fn who_has_just_begun_to_look_takes_the_unknown_for_living_but_not_the_silent() {
        let clients = Clients::default();
        let (silent, unknown) = (client_hash("a"), client_hash("b"));
        clients.saw("a", "JAVA", 1_000);
        let since = 1_000 + CLIENT_SILENT_MS;
        assert!(!clients.alive(silent, since, since));
        assert!(clients.alive(unknown, since, since + CLIENT_SILENT_MS - 1));
        assert!(!clients.alive(unknown, since, since + CLIENT_SILENT_MS));
        clients.heard_elsewhere(unknown, since + CLIENT_SILENT_MS);
        assert!(clients.alive(unknown, since, since + CLIENT_SILENT_MS));
    }

    #[test]
    fn of_what_several_nodes_heard_the_latest_counts() {
        let clients = Clients::default();
        let a = client_hash("a");
        clients.saw("a", "JAVA", 1_000);
        let late = 1_000 + CLIENT_OVERDUE_MS;
        assert!(!clients.is_overdue(a, 0, late - 1) && clients.is_overdue(a, 0, late));
        clients.told(a, 900, true);
        assert!(clients.alive(a, 0, late), "it was heard here since");
        clients.told(a, late, false);
        assert!(!clients.is_overdue(a, 0, late + CLIENT_OVERDUE_MS - 1));
        clients.told(a, late + 1, true);
        assert_eq!(clients.departed(late + 2), [a].into());
        assert!(!clients.is_overdue(a, 0, u64::MAX), "that is known");
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
    fn over_the_bound_those_who_departed_a_while_ago_make_room_once_a_second() {
        let clients = Clients::default();
        for number in 0..MAX_CLIENTS {
            clients.left(&number.to_string(), "JAVA", 1_000);
        }
        let end = 1_000 + DEPARTED_KEPT_MS;
        let remembers = |id: &str, now_ms| {
            clients.saw(id, "JAVA", now_ms);
            clients.count(now_ms) == 1
        };
        assert!(!remembers("a", end - 1), "every good-bye is to be seen to");
        assert!(!remembers("a", end), "just looked");
        assert!(remembers("a", end - 1 + CLIENTS_SWEPT_EVERY_MS));
    }
}
