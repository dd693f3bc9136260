//! Configuration of a node: one table of keys, filled from defaults, one TOML file, the
//! environment and flags, in this order; the later wins. What is unknown or dangerous is refused
//! with the reason, before a socket or a file is opened.

mod check;
mod cluster;
mod keys;
mod layers;
mod units;

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use check::{Danger, check};
pub use cluster::InitialCluster;
pub use keys::{KEYS, Key, Kind};
pub use layers::{ConfigError, Layers, Origin};
pub use units::{Period, Size};

/// Everything that can be set on a node. Every field is a row of [`KEYS`]; what it means and its
/// default stand there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Id of this node.
    pub node_id: u32,
    /// Everything this node keeps.
    pub data_dir: PathBuf,
    /// Where clients (gRPC) are served.
    pub client_addr: String,
    /// Where administration (HTTP) is served.
    pub http_addr: String,
    /// Where the other nodes are served.
    pub peer_addr: String,
    /// What clients are told to connect to.
    pub advertise_client_addr: Option<String>,
    /// What the other nodes show as the HTTP address.
    pub advertise_http_addr: Option<String>,
    /// The nodes a new cluster starts with.
    pub initial_cluster: Option<InitialCluster>,
    /// Data shards of a new cluster.
    pub data_shards: Option<u32>,
    /// The explicit choice to serve peers on a public address.
    pub allow_public_peers: bool,
    /// Create topics when they are first used.
    pub auto_create_topics: bool,
    /// Create consumer groups when they are first used.
    pub auto_create_groups: bool,
    /// Queues of a topic that does not say.
    pub default_queues: u32,
    /// How far ahead a message may be sent.
    pub max_delay: Period,
    /// When producers are asked about transactions.
    pub transaction: Transaction,
    /// Threads of the runtime.
    pub worker_threads: Option<u32>,
    /// How long messages are kept.
    pub retention: Retention,
    /// Timing of the replication.
    pub raft: Raft,
    /// The node's log.
    pub log: Log,
    /// Certificates.
    pub tls: Tls,
    /// Bounds.
    pub limits: Limits,
}

/// When producers are asked about transactions that nobody has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transaction {
    /// For the first time after this.
    pub first_check: Period,
    /// Then so often again.
    pub check_every: Period,
    /// So often at most.
    pub max_checks: u32,
}

/// How long messages are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Messages older than this may go.
    pub age: Period,
    /// The log of this node is kept below this.
    pub size: Option<Size>,
}

/// Timing of the replication.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raft {
    /// Between two heartbeats of a leader.
    pub heartbeat: Period,
    /// Shortest silence after which a replica stands for election.
    pub election_timeout_min: Period,
    /// Longest one; each replica draws its own in between.
    pub election_timeout_max: Period,
}

/// The node's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// One file of the log.
    pub segment_size: Size,
    /// Recent entries kept in memory.
    pub cache_size: Size,
}

/// Certificates for clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// What the client port speaks.
    pub mode: TlsMode,
    /// PEM file with the certificate chain.
    pub certificate: Option<PathBuf>,
    /// PEM file with the private key.
    pub key: Option<PathBuf>,
}

/// What the client port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// TLS and plaintext, by the first byte.
    Permissive,
    /// TLS only.
    Enforcing,
    /// Plaintext only.
    Disabled,
}

/// Bounds that depend on the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Client connections.
    pub max_connections: u32,
    /// Request bytes being received at one time, over all connections.
    pub max_inbound_size: Size,
}

impl Config {
    /// The configuration of `flotilla serve` without anything: one node on loopback.
    pub fn zero() -> Config {
        Layers::defaults()
            .build()
            .expect("the defaults are a configuration")
            .0
    }
}

/// Whether packets to this address can only come from this machine or a private network.
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_private(IpAddr::V4(v4)),
            None => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
        },
    }
}

/// Splits `HOST:PORT` or `[V6]:PORT`. The reason is for people.
pub fn split_address(text: &str) -> Result<(&str, u16), String> {
    let wrong = || format!("`{text}` is not HOST:PORT (for IPv6 [ADDRESS]:PORT)");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let digits = !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit());
    let port = port.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(wrong)?,
        None if host.contains(':') => return Err(wrong()),
        None => host,
    };
    // What stands in addresses of the web with a meaning of its own would lead somewhere else, or nowhere.
    let strange = |c: char| c.is_whitespace() || c.is_control() || "/?#@,;=\\\"'<>%[]".contains(c);
    if host.is_empty() || host.contains(strange) {
        return Err(wrong());
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests;
