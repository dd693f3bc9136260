//! Which clients this node heard of lately: for renewals and for administrators.
//!
//! A hint only. A client nobody knows is served like any other.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard},
};

use crate::limits::{
    CLIENT_OVERDUE_MS, CLIENT_SILENT_MS, CLIENTS_SWEPT_EVERY_MS, DEPARTED_KEPT_MS, MAX_CLIENT_ID_BYTES,
    MAX_CLIENTS, MAX_CLIENTS_PER_HOST,
};

/// The clients of one node.
#[derive(Default)]
pub struct Clients {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    clients: BTreeMap<u64, Client>,
    /// How many of them come from each host.
    hosts: BTreeMap<String, usize>,
    departures: u64,
    swept_ms: Option<u64>,
}

/// Who gives a sign of life.
#[derive(Debug, Clone, Copy, Default)]
pub struct Who<'a> {
    /// As in the request metadata.
    pub id: &'a str,
    /// The SDK's word for its language.
    pub language: &'a str,
    /// Where it comes from; empty if that is not known.
    pub host: &'a str,
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
    /// Where it came from at first; empty if other nodes heard of it first.
    pub host: String,
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
    /// A sign of life that no client gives after its good-bye: a client that gives it is back. Over the bounds, of all
    /// clients and of those of one host, new ones are not remembered.
    pub fn saw(&self, who: Who<'_>, now_ms: u64) {
        self.remember(who, now_ms, Sign::Begins);
    }

    /// A sign of life of a client that has not said good-bye. After that it is a request that comes late.
    pub fn heard(&self, who: Who<'_>, now_ms: u64) {
        self.remember(who, now_ms, Sign::Acts);
    }

    /// Another node heard the client with this hash.
    pub fn heard_elsewhere(&self, hash: u64, now_ms: u64) {
        self.lock().note(hash, Who::default(), now_ms, Sign::Acts);
    }

    /// The client said good-bye. That is remembered for a while, also of a client this node never heard of: it may come
    /// to lead what other nodes have leased to it.
    pub fn left(&self, who: Who<'_>, now_ms: u64) {
        self.remember(who, now_ms, Sign::GoodBye);
    }

    fn remember(&self, who: Who<'_>, now_ms: u64, sign: Sign) {
        // Whoever has too long an id is refused, and not remembered, good-byes included.
        if who.id.is_empty() || who.id.len() > MAX_CLIENT_ID_BYTES {
            return;
        }
        self.lock().note(client_hash(who.id), who, now_ms, sign);
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
            seen.note(hash, Who::default(), at_ms, sign);
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
    fn note(&mut self, hash: u64, who: Who<'_>, now_ms: u64, sign: Sign) {
        self.departures += u64::from(sign == Sign::GoodBye);
        if let Some(client) = self.clients.get_mut(&hash) {
            if client.departed && sign == Sign::Acts {
                return;
            }
            client.last_seen_ms = client.last_seen_ms.max(now_ms);
            client.departed = sign == Sign::GoodBye;
            return;
        }
        if self.has_room(who.host, now_ms) {
            let client = Client {
                id: who.id.into(),
                language: who.language.into(),
                host: who.host.into(),
                last_seen_ms: now_ms,
                departed: sign == Sign::GoodBye,
            };
            *self.hosts.entry(client.host.clone()).or_default() += 1;
            self.clients.insert(hash, client);
        }
    }

    fn has_room(&mut self, host: &str, now_ms: u64) -> bool {
        let is_swept = |swept_ms| swept_ms + CLIENTS_SWEPT_EVERY_MS > now_ms;
        if self.is_full(host) && !self.swept_ms.is_some_and(is_swept) {
            self.swept_ms = Some(now_ms);
            self.clients.retain(|_, client| client.is_kept(now_ms));
            self.hosts.clear();
            for client in self.clients.values() {
                *self.hosts.entry(client.host.clone()).or_default() += 1;
            }
        }
        !self.is_full(host)
    }

    fn is_full(&self, host: &str) -> bool {
        let of_host = self.hosts.get(host).copied().unwrap_or_default();
        self.clients.len() >= MAX_CLIENTS || (!host.is_empty() && of_host >= MAX_CLIENTS_PER_HOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(id: &str) -> Who<'_> {
        Who {
            id,
            language: "JAVA",
            host: "",
        }
    }

    #[test]
    fn one_host_cannot_fill_the_room_of_all() {
        let clients = Clients::default();
        let from = |host| Who { host, ..who("a") };
        for number in 0..MAX_CLIENTS {
            let id = number.to_string();
            let who = Who {
                id: &id,
                ..from("10.0.0.1")
            };
            clients.saw(who, 1_000);
        }
        assert_eq!(clients.count(1_001), MAX_CLIENTS_PER_HOST);
        clients.saw(from("10.0.0.1"), 1_001);
        assert_eq!(clients.last_sign(client_hash("a")), None);
        clients.saw(from("10.0.0.2"), 1_002);
        assert_eq!(clients.last_sign(client_hash("a")), Some((1_002, false)));
        let late = 1_000 + CLIENT_SILENT_MS;
        clients.saw(
            Who {
                id: "b",
                ..from("10.0.0.1")
            },
            late,
        );
        assert_eq!(clients.count(late), 2, "the silent make room");
    }

    #[test]
    fn a_silent_client_is_not_alive() {
        let clients = Clients::default();
        clients.saw(who("a"), 1_000);
        assert!(clients.alive(client_hash("a"), 0, 1_000 + CLIENT_SILENT_MS - 1));
        assert!(!clients.alive(client_hash("a"), 0, 1_000 + CLIENT_SILENT_MS));
    }

    #[test]
    fn a_client_that_said_good_bye_is_departed_until_it_comes_back_or_is_forgotten() {
        let clients = Clients::default();
        let a = client_hash("a");
        clients.saw(who("a"), 1_000);
        clients.left(who("a"), 2_000);
        assert!(!clients.alive(a, 0, 2_001));
        assert_eq!((clients.count(2_001), clients.departures()), (0, 1));
        assert_eq!(clients.departed(1_999 + CLIENT_SILENT_MS), [a].into());
        assert_eq!(clients.departed(2_000 + CLIENT_SILENT_MS), [].into());
        clients.saw(who("a"), 3_000);
        assert!(clients.alive(a, 0, 3_001));
        assert_eq!(clients.departed(3_001), [].into());
    }

    #[test]
    fn what_a_client_sent_before_its_good_bye_does_not_bring_it_back() {
        let clients = Clients::default();
        let a = client_hash("a");
        clients.left(who("a"), 1_000);
        clients.heard(who("a"), 1_001);
        clients.heard_elsewhere(a, 1_002);
        assert!(!clients.alive(a, 0, 1_003));
        assert_eq!(clients.departed(1_003), [a].into());
    }

    #[test]
    fn who_has_just_begun_to_look_takes_the_unknown_for_living_but_not_the_silent() {
        let clients = Clients::default();
        let (silent, unknown) = (client_hash("a"), client_hash("b"));
        clients.saw(who("a"), 1_000);
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
        clients.saw(who("a"), 1_000);
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
        clients.left(who("a"), 1_000);
        assert_eq!(clients.departed(1_001), [client_hash("a")].into());
        assert_eq!(clients.departures(), 1);
    }

    #[test]
    fn a_good_bye_without_a_name_is_nobodys() {
        let clients = Clients::default();
        clients.left(who(""), 1_000);
        assert_eq!((clients.departed(1_001), clients.departures()), ([].into(), 0));
    }

    #[test]
    fn over_the_bound_those_who_departed_a_while_ago_make_room_once_a_second() {
        let clients = Clients::default();
        for number in 0..MAX_CLIENTS {
            clients.left(who(&number.to_string()), 1_000);
        }
        let end = 1_000 + DEPARTED_KEPT_MS;
        let remembers = |id: &str, now_ms| {
            clients.saw(who(id), now_ms);
            clients.count(now_ms) == 1
        };
        assert!(!remembers("a", end - 1), "every good-bye is to be seen to");
        assert!(!remembers("a", end), "just looked");
        assert!(remembers("a", end - 1 + CLIENTS_SWEPT_EVERY_MS));
    }
}
