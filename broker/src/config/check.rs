//! Values that can be read and would do harm: refused here, each with the reason and the way out.

use std::{net::IpAddr, time::Duration};

use super::{Config, TlsMode, cluster::MAX_NODE_ID, is_private, split_address};
use crate::meta::limits::MAX_INITIAL_NODES;

/// A value that would do harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Danger {
    /// The key to change.
    pub key: &'static str,
    /// Another key whose value makes this one dangerous.
    pub cause: Option<&'static str>,
    /// What would happen, and what to do.
    pub reason: String,
}

/// A retried send must find its first copy, so messages outlive the window in which ids are compared.
/// Ten years.
const MAX_DELAY_SECONDS: u64 = 10 * 365 * 86_400;
const MIN_RETENTION: Duration = Duration::from_secs(120);
const MIN_SEGMENT_BYTES: u64 = 16 << 20;
const MAX_SEGMENT_BYTES: u64 = 1 << 30;
const MIN_CACHE_BYTES: u64 = 8 << 20;
const MIN_INBOUND_BYTES: u64 = 16 << 20;
const MAX_DATA_SHARDS: u32 = 256;
const MAX_DEFAULT_QUEUES: u32 = 1024;
const MAX_WORKER_THREADS: u32 = 1024;
const MIN_HEARTBEAT: Duration = Duration::from_millis(20);
const MAX_ELECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Refuses what is dangerous; otherwise tells what is merely unwise.
pub fn check(config: &Config) -> Result<Vec<String>, Danger> {
    identity(config)?;
    addresses(config)?;
    numbers(config)?;
    storage(config)?;
    raft(config)?;
    tls(config)?;
    let mut warnings = Vec::new();
    if literal(&config.http_addr).is_some_and(|ip| !is_private(ip)) {
        warnings.push(format!(
            "http_addr = {} can be reached from public networks, and whoever reaches it may delete topics: guard it with a \
             firewall",
            config.http_addr
        ));
    }
    if let Some(cluster) = &config.initial_cluster
        && cluster.nodes().len() % 2 == 0
    {
        let nodes = cluster.nodes().len();
        warnings.push(format!(
            "an initial cluster of {nodes} nodes survives no more failures than one of {}: use an odd number",
            nodes - 1
        ));
    }
    Ok(warnings)
}

fn refuse<T>(key: &'static str, reason: impl Into<String>) -> Result<T, Danger> {
    Err(Danger {
        key,
        cause: None,
        reason: reason.into(),
    })
}

/// Refuses a value for what another key says.
fn refuse_for<T>(key: &'static str, cause: &'static str, reason: impl Into<String>) -> Result<T, Danger> {
    Err(Danger {
        key,
        cause: Some(cause),
        reason: reason.into(),
    })
}

fn within(key: &'static str, value: u64, least: u64, most: u64, why: &str) -> Result<(), Danger> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    refuse(key, format!("{value} is not in {least}..={most}: {why}"))
}

fn identity(config: &Config) -> Result<(), Danger> {
    within(
        "node_id",
        config.node_id.into(),
        1,
        MAX_NODE_ID.into(),
        "node ids start at 1",
    )?;
    match &config.initial_cluster {
        Some(cluster) if !cluster.nodes().contains_key(&config.node_id) => refuse_for(
            "node_id",
            "initial_cluster",
            format!(
                "node {} is not in initial_cluster ({cluster}): every node of the list is started with its own id",
                config.node_id
            ),
        ),
        _ => Ok(()),
    }
}

fn host_of(address: &str) -> &str {
    split_address(address).expect("checked when it was set").0
}

fn port_of(address: &str) -> u16 {
    split_address(address).expect("checked when it was set").1
}

fn literal(address: &str) -> Option<IpAddr> {
    match host_of(address) {
        "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
        host => host.parse().ok(),
    }
}

fn addresses(config: &Config) -> Result<(), Danger> {
    // Names are looked at again when they are resolved, just before the socket is bound.
    if let Some(ip) = literal(&config.peer_addr)
        && !is_private(ip)
        && !config.allow_public_peers
    {
        return refuse(
            "peer_addr",
            format!(
                "{} can be reached from public networks, and the peer protocol has no authentication: bind it to a \
                 private address, or set allow_public_peers = true if a firewall guards the port",
                config.peer_addr
            ),
        );
    }
    let advertised = config
        .advertise_client_addr
        .as_ref()
        .unwrap_or(&config.client_addr);
    let told = literal(advertised);
    if told.is_some_and(|ip| ip.is_unspecified()) {
        return refuse_for(
            "advertise_client_addr",
            "client_addr",
            format!(
                "clients would be told to connect to {advertised}, which is no destination: set advertise_client_addr to an address clients can reach"
            ),
        );
    }
    one_port_each(config)?;
    let Some(cluster) = &config.initial_cluster else {
        return Ok(());
    };
    let nodes = cluster.nodes().len();
    if nodes > MAX_INITIAL_NODES {
        return refuse(
            "initial_cluster",
            format!("a cluster starts with at most {MAX_INITIAL_NODES} nodes, and it names {nodes}"),
        );
    }
    if let Some((node, address)) = cluster
        .nodes()
        .iter()
        .find(|(_, address)| nodes > 1 && split_address(address).is_ok_and(|(_, port)| port == 0))
    {
        return refuse(
            "initial_cluster",
            format!(
                "node {node} has the address {address}, which other nodes cannot connect to: it needs a port"
            ),
        );
    }
    if cluster
        .nodes()
        .values()
        .any(|peer| literal(peer).is_some_and(|ip| ip.is_unspecified()))
    {
        return refuse(
            "initial_cluster",
            "it names an address like 0.0.0.0, which other nodes cannot connect to",
        );
    }
    let spans_machines = cluster
        .nodes()
        .values()
        .any(|peer| literal(peer).is_none_or(|ip| !ip.is_loopback()));
    if spans_machines && told.is_some_and(|ip| ip.is_loopback()) {
        return refuse_for(
            "advertise_client_addr",
            "initial_cluster",
            format!(
                "clients of a cluster on several machines would be told to connect to {advertised}, their own machine: \
                 set client_addr or advertise_client_addr to an address they can reach"
            ),
        );
    }
    Ok(())
}

/// The operating system would say that another process has the port.
fn one_port_each(config: &Config) -> Result<(), Danger> {
    let ports = [
        ("client_addr", &config.client_addr),
        ("http_addr", &config.http_addr),
        ("peer_addr", &config.peer_addr),
    ];
    let same = |one: &str, other: &str| {
        let anywhere = |address: &str| literal(address).is_some_and(|ip| ip.is_unspecified());
        let (one_port, other_port) = (port_of(one), port_of(other));
        let meet = host_of(one) == host_of(other) || anywhere(one) || anywhere(other);
        one_port == other_port && one_port != 0 && meet
    };
    for (at, (cause, one)) in ports.iter().enumerate() {
        if let Some((key, other)) = ports[at + 1..].iter().find(|(_, other)| same(one, other)) {
            return refuse_for(
                key,
                cause,
                format!("{other} and {one} are one port: each needs its own"),
            );
        }
    }
    Ok(())
}

fn numbers(config: &Config) -> Result<(), Danger> {
    if let Some(shards) = config.data_shards {
        within(
            "data_shards",
            shards.into(),
            1,
            MAX_DATA_SHARDS.into(),
            "messages live in data shards, and each costs CPU on every replica",
        )?;
    }
    let why = "a topic has at least one queue";
    within(
        "default_queues",
        config.default_queues.into(),
        1,
        MAX_DEFAULT_QUEUES.into(),
        why,
    )?;
    if let Some(threads) = config.worker_threads {
        within(
            "worker_threads",
            threads.into(),
            1,
            MAX_WORKER_THREADS.into(),
            "leave it unset for one per core",
        )?;
    }
    let why = "a request of the largest allowed message needs room";
    within(
        "limits.max_inbound_size",
        config.limits.max_inbound_size.0,
        MIN_INBOUND_BYTES,
        u64::MAX,
        why,
    )?;
    within(
        "limits.max_connections",
        config.limits.max_connections.into(),
        1,
        1_000_000,
        "each costs memory and a file descriptor",
    )
}

fn transaction(config: &Config) -> Result<(), Danger> {
    let rules = &config.transaction;
    for (key, period) in [
        ("transaction.first_check", &rules.first_check),
        ("transaction.check_every", &rules.check_every),
    ] {
        let why = "milliseconds up to an hour: producers must have time to answer, and what nobody answers must be seen";
        within(key, period.0.as_millis() as u64, 100, 3_600_000, why)?;
    }
    let why = "a transaction that is never checked back, or without an end, is seen by nobody";
    within("transaction.max_checks", rules.max_checks.into(), 1, 1_000, why)
}

fn storage(config: &Config) -> Result<(), Danger> {
    within(
        "max_delay",
        config.max_delay.0.as_secs(),
        0,
        MAX_DELAY_SECONDS,
        "the bytes of what waits are kept, and a shard's time stands still while it has no leader",
    )?;
    transaction(config)?;
    if config.retention.age.0 < MIN_RETENTION {
        return refuse(
            "retention.age",
            format!(
                "{} is shorter than the {} s in which a retried send is recognised: a retry could be stored twice",
                config.retention.age,
                MIN_RETENTION.as_secs()
            ),
        );
    }
    let segment = config.log.segment_size.0;
    let why = "a segment holds at least one batch of entries, and its positions have 32 bits";
    within(
        "log.segment_size",
        segment,
        MIN_SEGMENT_BYTES,
        MAX_SEGMENT_BYTES,
        why,
    )?;
    within(
        "log.cache_size",
        config.log.cache_size.0,
        MIN_CACHE_BYTES,
        u64::MAX,
        "replication reads its newest entries from there",
    )?;
    match config.retention.size {
        Some(size) if size.0 < 4 * segment => refuse_for(
            "retention.size",
            "log.segment_size",
            format!(
                "{size} is less than four segments of {}: messages would go before they can be read",
                config.log.segment_size
            ),
        ),
        _ => Ok(()),
    }
}

fn raft(config: &Config) -> Result<(), Danger> {
    let raft = &config.raft;
    if raft.heartbeat.0 < MIN_HEARTBEAT {
        return refuse(
            "raft.heartbeat",
            format!(
                "{} would use the CPU for heartbeats alone: at least 20ms",
                raft.heartbeat
            ),
        );
    }
    if raft.election_timeout_min.0 < raft.heartbeat.0 * 3 {
        return refuse_for(
            "raft.election_timeout_min",
            "raft.heartbeat",
            format!(
                "{} is less than three heartbeats of {}: one late heartbeat would depose a healthy leader",
                raft.election_timeout_min, raft.heartbeat
            ),
        );
    }
    if raft.election_timeout_max.0 <= raft.election_timeout_min.0 {
        return refuse_for(
            "raft.election_timeout_max",
            "raft.election_timeout_min",
            format!(
                "it must be above election_timeout_min ({}), or replicas stand for election at the same moment",
                raft.election_timeout_min
            ),
        );
    }
    if raft.election_timeout_max.0 > MAX_ELECTION_TIMEOUT {
        return refuse(
            "raft.election_timeout_max",
            format!(
                "{} without a leader after a failure: at most 30s",
                raft.election_timeout_max
            ),
        );
    }
    Ok(())
}

fn tls(config: &Config) -> Result<(), Danger> {
    match (&config.tls.certificate, &config.tls.key, config.tls.mode) {
        (Some(_), None, _) => refuse_for(
            "tls.key",
            "tls.certificate",
            "tls.certificate is set without tls.key: set both or neither",
        ),
        (None, Some(_), _) => refuse_for(
            "tls.certificate",
            "tls.key",
            "tls.key is set without tls.certificate: set both or neither",
        ),
        (Some(_), Some(_), TlsMode::Disabled) => refuse_for(
            "tls.mode",
            "tls.certificate",
            "a certificate is configured and TLS is disabled: clients would be served in the clear",
        ),
        _ => Ok(()),
    }
}
