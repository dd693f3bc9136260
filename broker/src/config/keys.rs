//! The table of all configuration keys. The file key, the environment variable, the flag, the
//! help text and the default all come from one row, so none can be forgotten.

use super::{InitialCluster, Period, Size, split_address};

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Switch,
    /// A path of the file system.
    Path,
    /// `HOST:PORT`.
    Address,
    /// As [`Period`] reads it.
    Period,
    /// As [`Size`] reads it.
    Size,
    /// As [`InitialCluster`] reads it.
    Cluster,
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// In the file; a dot is a table.
    pub name: &'static str,
    /// What its values look like.
    pub kind: Kind,
    /// As it would be written; `None`: not set, `help` says what happens then.
    pub default: Option<&'static str>,
    /// For people.
    pub help: &'static str,
}

macro_rules! keys {
    ($($name:literal $kind:expr, $default:expr, $help:literal;)*) => {
        /// All keys, in the order of the help.
        pub const KEYS: &[Key] =
            &[$(Key { name: $name, kind: $kind, default: $default, help: $help },)*];
    };
}

keys! {
    "node_id" Kind::Integer, Some("1"), "Id of this node, 1 to 65535, never used by another node of the cluster";
    "data_dir" Kind::Path, Some("./flotilla-data"), "Directory of everything this node keeps; made when it is missing";
    "client_addr" Kind::Address, Some("127.0.0.1:8081"), "Where RocketMQ clients are served (gRPC, plaintext and TLS on one port)";
    "http_addr" Kind::Address, Some("127.0.0.1:8082"), "Where administration, metrics and health are served (HTTP); whoever reaches it may administrate";
    "peer_addr" Kind::Address, Some("127.0.0.1:8083"), "Where the other nodes are served; when only `initial_cluster` is set, this node's address in it";
    "advertise_client_addr" Kind::Address, None, "What clients are told to connect to; `client_addr` when not set";
    "advertise_http_addr" Kind::Address, None, "What the cluster shows as this node's HTTP address; `http_addr` when not set";
    "initial_cluster" Kind::Cluster, None, "Nodes a new cluster starts with, the same on each: ID=HOST:PEERPORT,...; this node alone when not set";
    "data_shards" Kind::Integer, None, "Data shards of a new cluster, the same on each node; chosen from the number of nodes when not set; cannot be changed later";
    "allow_public_peers" Kind::Switch, Some("false"), "Serve peers on an address that is neither loopback nor private: the peer protocol has no authentication, a firewall must guard it";
    "auto_create_topics" Kind::Switch, Some("true"), "Create a topic when a client first uses it";
    "auto_create_groups" Kind::Switch, Some("true"), "Create a consumer group when a client first uses it";
    "default_queues" Kind::Integer, Some("8"), "Queues of a topic that is created without saying how many";
    "worker_threads" Kind::Integer, None, "Threads that serve; one per core when not set";
    "max_delay" Kind::Period, Some("40d"), "A message can be sent so long before it is to be delivered";
    "transaction.first_check" Kind::Period, Some("6s"), "A producer is asked about a transaction that nobody has ended so long after its message was sent, unless the message says otherwise";
    "transaction.check_every" Kind::Period, Some("30s"), "And then so often again";
    "transaction.max_checks" Kind::Integer, Some("15"), "So often at most; then the transaction waits until it is ended, by a producer or with `flotilla transaction resolve`";
    "retention.age" Kind::Period, Some("3d"), "Messages are kept at least this long, read or not, unless `retention.size` is reached";
    "retention.size" Kind::Size, None, "The oldest messages go, on all nodes, when this node's log, spare segments included, grows beyond; dead letters go by `retention.age` only, and may make it larger; no bound when not set";
    "raft.heartbeat" Kind::Period, Some("150ms"), "Between two heartbeats of a shard's leader";
    "raft.election_timeout_min" Kind::Period, Some("600ms"), "Shortest silence of a leader after which a replica stands for election; at least three heartbeats";
    "raft.election_timeout_max" Kind::Period, Some("900ms"), "Longest such silence; every replica draws its own in between";
    "log.segment_size" Kind::Size, Some("64MiB"), "Size of one file of the log; disk space is given back in such steps";
    "log.cache_size" Kind::Size, Some("64MiB"), "Memory for recently written entries, shared by all shards of this node";
    "tls.mode" Kind::Choice(&["permissive", "enforcing", "disabled"]), Some("permissive"), "What the client port speaks: TLS and plaintext, TLS only, or plaintext only";
    "tls.certificate" Kind::Path, None, "PEM file with the certificate chain for clients; a self-signed one is made in the data directory when not set";
    "tls.key" Kind::Path, None, "PEM file with the private key of `tls.certificate`";
    "limits.max_connections" Kind::Integer, Some("20000"), "Client connections served at one time; more are closed at once";
    "limits.max_inbound_size" Kind::Size, Some("512MiB"), "Bytes of sends being received or carried out at one time, over all connections; more are refused at once";
}

impl Key {
    /// The row of a name.
    pub fn find(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The environment variable, as in `FLOTILLA_RAFT_HEARTBEAT`.
    pub fn variable(&self) -> String {
        format!("FLOTILLA_{}", self.name.replace('.', "_").to_uppercase())
    }

    /// The flag without its dashes, as in `raft-heartbeat`.
    pub fn flag(&self) -> String {
        self.name.replace(['.', '_'], "-")
    }

    /// What stands for the value in the help.
    pub fn placeholder(&self) -> String {
        match self.kind {
            Kind::Integer => "N".to_owned(),
            Kind::Switch => "true|false".to_owned(),
            Kind::Path => "PATH".to_owned(),
            Kind::Address => "HOST:PORT".to_owned(),
            Kind::Period => "DURATION".to_owned(),
            Kind::Size => "SIZE".to_owned(),
            Kind::Cluster => "1=HOST:PORT,...".to_owned(),
            Kind::Choice(words) => words.join("|"),
        }
    }

    /// Reads a value written as text. The reason is for people.
    pub fn read(&self, text: &str) -> Result<toml::Value, String> {
        let string = || toml::Value::String(text.to_owned());
        match self.kind {
            Kind::Integer => match text.parse::<u32>() {
                Ok(number) => Ok(toml::Value::Integer(i64::from(number))),
                Err(_) => Err(format!("`{text}` is not a whole number up to {}", u32::MAX)),
            },
            Kind::Switch => match text {
                "true" => Ok(toml::Value::Boolean(true)),
                "false" => Ok(toml::Value::Boolean(false)),
                _ => Err(format!("`{text}` is neither true nor false")),
            },
            Kind::Path if text.is_empty() => Err("an empty path".to_owned()),
            Kind::Path => Ok(string()),
            Kind::Address => split_address(text).map(|_| string()),
            Kind::Period => text.parse::<Period>().map(|_| string()),
            Kind::Size => text.parse::<Size>().map(|_| string()),
            Kind::Cluster => text.parse::<InitialCluster>().map(|_| string()),
            Kind::Choice(words) if words.contains(&text) => Ok(string()),
            Kind::Choice(words) => Err(format!("`{text}` is not one of {}", words.join(", "))),
        }
    }

    /// Checks a value of a TOML file, which has a type of its own.
    pub fn accept(&self, value: &toml::Value) -> Result<toml::Value, String> {
        match (self.kind, value) {
            (Kind::Integer | Kind::Size, toml::Value::Integer(number)) => self.read(&number.to_string()),
            (Kind::Switch, toml::Value::Boolean(on)) => Ok(toml::Value::Boolean(*on)),
            (Kind::Integer, _) => Err(format!("{value} is not a whole number")),
            (Kind::Switch, _) => Err(format!("{value} is neither true nor false")),
            (_, toml::Value::String(text)) => self.read(text),
            (_, _) => Err(format!(
                "{value} has the wrong type: write \"{}\" in quotes",
                self.placeholder()
            )),
        }
    }
}
