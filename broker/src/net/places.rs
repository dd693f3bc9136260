//! How many connections each port may have, so that the log, the state and the other nodes never lack a descriptor.

use raft_store::descriptors::{kept_back, process_limit};

use crate::{
    http,
    peer::limits::{LANES, MAX_PEER_CONNECTIONS},
};

/// Fewer client connections than this are of no use: a process that is allowed less is served as far as it goes.
const MIN_CLIENTS: usize = 8;
/// Two other nodes, and one that is greeted anew before its old connections have ended.
const MIN_PEERS: usize = 3 * LANES;

/// Connections at one time, by port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) clients: u32,
    pub(crate) http: u32,
    pub(crate) peers: usize,
    /// Descriptors of the process, all together.
    pub(crate) limit: usize,
}

impl Places {
    /// For this process, which wants so many client connections.
    pub(crate) fn here(wanted: u32) -> Places {
        Places::within(process_limit(), wanted)
    }

    fn within(limit: usize, wanted: u32) -> Places {
        let peers = (limit / 8).clamp(MIN_PEERS, MAX_PEER_CONNECTIONS);
        let http = (limit / 16).clamp(8, http::MAX_CONNECTIONS as usize);
        let rest = limit
            .saturating_sub(kept_back(limit) + peers + http)
            .max(MIN_CLIENTS);
        Places {
            clients: u32::try_from(rest).unwrap_or(u32::MAX).min(wanted),
            http: u32::try_from(http).expect("bounded by a u32"),
            peers,
            limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_connections_leave_what_the_node_needs_for_itself() {
        for limit in [200, 256, 1024, 4096, 65_536, 1 << 20] {
            let places = Places::within(limit, 20_000);
            let connections = places.clients as usize + places.http as usize + places.peers;
            assert!(connections + kept_back(limit) <= limit, "{limit}: {places:?}");
            assert!(places.clients >= 30, "{limit}: {places:?}");
        }
    }

    #[test]
    fn with_enough_descriptors_clients_have_what_is_configured() {
        assert_eq!(Places::within(1 << 20, 20_000).clients, 20_000);
        assert_eq!(Places::within(usize::MAX, 7).clients, 7);
    }
}
