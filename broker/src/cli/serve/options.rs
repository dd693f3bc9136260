//! From the configuration to what the node is told: advertised addresses, sizes, timing.

use std::{io, net::IpAddr};

use raft_store::{RaftOptions, StoreOptions};
use tokio::net::TcpListener;

use crate::{
    config::{Config, split_address},
    limits::Bounds,
    node::{NodeOptions, Transactions},
};

/// What others are told to connect to.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    pub(crate) client: String,
    pub(crate) http: String,
    pub(crate) peer: String,
}

impl Addresses {
    /// Of the configuration, and of the open sockets where it says port 0.
    pub(super) fn new(
        config: &Config,
        clients: &TcpListener,
        admin: &TcpListener,
        peers: &TcpListener,
    ) -> io::Result<Addresses> {
        let client = config
            .advertise_client_addr
            .as_ref()
            .unwrap_or(&config.client_addr);
        let http = config.advertise_http_addr.as_ref().unwrap_or(&config.http_addr);
        let listed = config
            .initial_cluster
            .as_ref()
            .and_then(|cluster| cluster.nodes().get(&config.node_id));
        let peer = listed.unwrap_or(&config.peer_addr);
        Ok(Addresses {
            client: with_port(client, clients)?,
            http: with_port(http, admin)?,
            peer: with_port(peer, peers)?,
        })
    }

    /// Names the self-signed certificate is made for.
    pub(super) fn certificate_hosts(&self) -> Vec<String> {
        let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let advertised = split_address(&self.client).map(|(host, _)| host.to_owned()).ok();
        let machine = rustix::system::uname()
            .nodename()
            .to_str()
            .ok()
            .map(str::to_owned);
        for host in [advertised, machine].into_iter().flatten() {
            // A name that no certificate can hold is left out; clients do not use it either.
            let usable = host.parse::<IpAddr>().is_ok() || host.is_ascii();
            if usable && !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        hosts
    }
}

fn with_port(address: &str, socket: &TcpListener) -> io::Result<String> {
    match address.strip_suffix(":0") {
        Some(host) => Ok(format!("{host}:{}", socket.local_addr()?.port())),
        None => Ok(address.to_owned()),
    }
}

/// What the node is told.
pub(crate) fn node_options(config: &Config, addresses: Addresses) -> NodeOptions {
    let defaults = StoreOptions::new(0);
    NodeOptions {
        node_id: config.node_id,
        initial_cluster: config
            .initial_cluster
            .as_ref()
            .map(|cluster| cluster.nodes().clone())
            .unwrap_or_default(),
        data_shards: config.data_shards,
        peer_addr: addresses.peer,
        client_addr: addresses.client,
        http_addr: addresses.http,
        auto_create_topics: config.auto_create_topics,
        auto_create_groups: config.auto_create_groups,
        default_queues: config.default_queues,
        retention: config.retention.age.0,
        retention_bytes: config.retention.size.map_or(u64::MAX, |size| size.0),
        max_delay: config.max_delay.0,
        transactions: Transactions {
            first_check: config.transaction.first_check.0,
            check_every: config.transaction.check_every.0,
            max_checks: config.transaction.max_checks,
        },
        renew_at_most: crate::limits::RENEW_AT_MOST,
        raft: RaftOptions {
            heartbeat: config.raft.heartbeat.0,
            election_min: config.raft.election_timeout_min.0,
            election_max: config.raft.election_timeout_max.0,
            ..RaftOptions::default()
        },
        store: StoreOptions {
            segment_bytes: config.log.segment_size.0,
            cache_bytes: usize::try_from(config.log.cache_size.0).unwrap_or(usize::MAX),
            ..defaults
        },
        bounds: Bounds::default(),
    }
}
