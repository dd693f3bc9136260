//! Precedence, refusals, and that the table of keys is the whole truth.

use std::{collections::BTreeMap, ffi::OsString, path::Path};

use super::*;

fn from_file(text: &str) -> Result<Config, ConfigError> {
    let mut layers = Layers::defaults();
    layers.file_text(Path::new("flotilla.toml"), text)?;
    layers.build().map(|(config, _)| config)
}

fn refusal(text: &str) -> String {
    from_file(text).expect_err("refused").to_string()
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    let text = |&(name, value): &(&str, &str)| (name.into(), value.into());
    pairs.iter().map(text).collect()
}

fn from_environment(pairs: &[(&str, &str)]) -> Result<Config, String> {
    let mut layers = Layers::defaults();
    let read = layers.environment(variables(pairs));
    read.and_then(|()| layers.build())
        .map(|(config, _)| config)
        .map_err(|error| error.to_string())
}

#[test]
fn nothing_set_is_one_node_on_loopback() {
    let config = Config::zero();
    assert_eq!(config.node_id, 1);
    assert_eq!(config.data_dir, Path::new("./flotilla-data"));
    assert_eq!(config.client_addr, "127.0.0.1:8081");
    assert_eq!(config.http_addr, "127.0.0.1:8082");
    assert_eq!(config.peer_addr, "127.0.0.1:8083");
    assert_eq!(config.initial_cluster, None);
    assert!(config.auto_create_topics);
}

#[test]
fn every_field_is_a_row_of_the_table_and_every_row_a_field() {
    // Sets every key, so that a row without a field is refused by the struct and a field without a row is missing.
    let example = |key: &Key| match (key.name, key.default) {
        (_, Some(default)) => default.to_owned(),
        ("initial_cluster", None) => "1=127.0.0.1:8083".to_owned(),
        ("tls.certificate" | "tls.key", None) => "some.pem".to_owned(),
        ("advertise_client_addr" | "advertise_http_addr", None) => "127.0.0.1:1".to_owned(),
        ("retention.size", None) => "1GiB".to_owned(),
        ("data_shards" | "worker_threads", None) => "4".to_owned(),
        (name, None) => panic!("give {name} an example"),
    };
    let flags: BTreeMap<&'static str, String> = KEYS.iter().map(|key| (key.name, example(key))).collect();
    let mut layers = Layers::defaults();
    layers.flags(&flags).unwrap();
    let (config, _) = layers.build().unwrap();
    let written = toml::Table::try_from(&config).unwrap();
    let mut names = Vec::new();
    for (name, value) in &written {
        match value {
            toml::Value::Table(inner) => names.extend(inner.keys().map(|leaf| format!("{name}.{leaf}"))),
            _ => names.push(name.clone()),
        }
    }
    let mut rows: Vec<String> = KEYS.iter().map(|key| key.name.to_owned()).collect();
    names.sort();
    rows.sort();
    assert_eq!(names, rows);
}

#[test]
fn a_written_configuration_reads_back_the_same() {
    let config = Config::zero();
    assert_eq!(
        from_file(&toml::Table::try_from(&config).unwrap().to_string()).unwrap(),
        config
    );
}

#[test]
fn the_environment_goes_over_the_file_and_flags_over_both() {
    let mut layers = Layers::defaults();
    let text = "node_id = 7\ndefault_queues = 2\n[raft]\nheartbeat = \"100ms\"\n";
    layers.file_text(Path::new("f"), text).unwrap();
    layers
        .environment(variables(&[
            ("FLOTILLA_DEFAULT_QUEUES", "3"),
            ("FLOTILLA_RAFT_HEARTBEAT", "110ms"),
        ]))
        .unwrap();
    layers
        .flags(&BTreeMap::from([("raft.heartbeat", "120ms".to_owned())]))
        .unwrap();
    let (config, _) = layers.build().unwrap();
    assert_eq!(config.node_id, 7);
    assert_eq!(config.default_queues, 3);
    assert_eq!(config.raft.heartbeat.to_string(), "120ms");
}

#[test]
fn an_unknown_key_is_refused_with_the_one_that_was_meant() {
    let message = refusal("[raft]\nheartbeet = \"1s\"\n");
    assert!(
        message.contains("unknown key `raft.heartbeet` (file flotilla.toml)"),
        "{message}"
    );
    assert!(message.contains("did you mean `raft.heartbeat`?"), "{message}");
    assert!(refusal("[cluster]\nname = \"x\"\n").contains("unknown key `cluster.name`"));
    let error = Layers::defaults()
        .environment(variables(&[("FLOTILLA_NODEID", "1")]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("did you mean `node_id`?"), "{error}");
}

#[test]
fn variables_of_others_are_left_alone() {
    let mut layers = Layers::defaults();
    let service_links = [
        ("FLOTILLA_SERVICE_HOST", "10.0.0.1"),
        ("FLOTILLA_PORT_8081_TCP_ADDR", "10.0.0.1"),
    ];
    layers.environment(variables(&service_links)).unwrap();
    layers
        .environment(variables(&[
            ("FLOTILLA_LOG", "debug"),
            ("PATH", "x"),
            ("FLOTILLA_PORT", "x"),
        ]))
        .unwrap();
    assert_eq!(layers.build().unwrap().0, Config::zero());
}

#[test]
fn every_variable_may_be_empty_and_then_counts_as_not_set() {
    for text in ["", "  "] {
        let all: Vec<(OsString, OsString)> = KEYS
            .iter()
            .map(|key| (key.variable().into(), text.into()))
            .collect();
        let mut layers = Layers::defaults();
        layers.environment(all).unwrap();
        assert_eq!(layers.build().unwrap().0, Config::zero());
    }
    let mut layers = Layers::defaults();
    layers.file_text(Path::new("f"), "node_id = 7").unwrap();
    layers
        .environment(variables(&[("FLOTILLA_NODE_ID", "")]))
        .unwrap();
    assert_eq!(layers.build().unwrap().0.node_id, 7, "what the file says stays");
}

#[test]
fn every_variable_that_cannot_be_read_is_refused_by_its_name() {
    for key in KEYS.iter().filter(|key| key.kind != Kind::Path) {
        let refused = from_environment(&[(&key.variable(), "\u{1}")]).unwrap_err();
        assert!(
            refused.contains(&format!("environment variable {}", key.variable())),
            "{refused}"
        );
    }
    let refused = from_environment(&[("FLOTILLA_TYPO", "")]).unwrap_err();
    assert!(
        refused.contains("environment variable FLOTILLA_TYPO"),
        "{refused}"
    );
    use std::os::unix::ffi::OsStringExt;
    let bytes = OsString::from_vec(vec![b'/', 0xff]);
    let refused = Layers::defaults().environment([("FLOTILLA_DATA_DIR".into(), bytes)]);
    assert!(refused.unwrap_err().to_string().contains("FLOTILLA_DATA_DIR"));
}

#[test]
fn what_is_refused_for_another_value_names_where_that_was_set() {
    for (pairs, named) in [
        (
            [("FLOTILLA_CLIENT_ADDR", "0.0.0.0:8081"), ("FLOTILLA_LOG", "")],
            "(the default; `client_addr` from environment variable FLOTILLA_CLIENT_ADDR)",
        ),
        (
            [
                ("FLOTILLA_NODE_ID", "4"),
                ("FLOTILLA_INITIAL_CLUSTER", "1=a:1,2=b:1"),
            ],
            "(environment variable FLOTILLA_NODE_ID; `initial_cluster` from environment variable FLOTILLA_INITIAL_CLUSTER)",
        ),
        (
            [("FLOTILLA_TLS_CERTIFICATE", "x.pem"), ("FLOTILLA_TLS_KEY", "")],
            "(the default; `tls.certificate` from environment variable FLOTILLA_TLS_CERTIFICATE)",
        ),
        (
            [("FLOTILLA_RAFT_HEARTBEAT", "300ms"), ("FLOTILLA_LOG", "")],
            "(the default; `raft.heartbeat` from environment variable FLOTILLA_RAFT_HEARTBEAT)",
        ),
    ] {
        let refused = from_environment(&pairs).unwrap_err();
        assert!(refused.contains(named), "{refused}");
    }
}

#[test]
fn a_value_of_the_wrong_type_is_refused_with_its_place() {
    let message = refusal("node_id = \"one\"");
    assert!(message.contains("`node_id` (file flotilla.toml): "), "{message}");
    assert!(refusal("node_id = -1").contains("whole number"));
    assert!(refusal("retention.age = 5").contains("in quotes"));
    assert!(refusal("retention.age = \"5 weeks\"").contains("150ms, 30s"));
    assert!(refusal("client_addr = \"8081\"").contains("HOST:PORT"));
    assert!(refusal("tls.mode = \"on\"").contains("permissive, enforcing, disabled"));
    assert!(refusal("auto_create_topics = 1").contains("neither true nor false"));
    assert!(refusal("node_id = ").contains("not valid TOML"));
}

#[test]
fn dangerous_values_are_refused_with_the_reason() {
    for (text, key, reason) in [
        (
            "raft.election_timeout_min = \"400ms\"",
            "raft.election_timeout_min",
            "three heartbeats",
        ),
        (
            "raft.election_timeout_max = \"600ms\"",
            "raft.election_timeout_max",
            "same moment",
        ),
        ("raft.heartbeat = \"1ms\"", "raft.heartbeat", "at least 20ms"),
        ("peer_addr = \"0.0.0.0:8083\"", "peer_addr", "allow_public_peers"),
        (
            "peer_addr = \"203.0.113.9:8083\"",
            "peer_addr",
            "no authentication",
        ),
        (
            "client_addr = \"0.0.0.0:8081\"",
            "advertise_client_addr",
            "no destination",
        ),
        ("retention.age = \"30s\"", "retention.age", "stored twice"),
        ("retention.size = \"64MiB\"", "retention.size", "four segments"),
        (
            "transaction.check_every = \"1ms\"",
            "transaction.check_every",
            "time to answer",
        ),
        (
            "transaction.max_checks = 0",
            "transaction.max_checks",
            "never checked back",
        ),
        ("data_shards = 0", "data_shards", "not in 1..="),
        ("default_queues = 0", "default_queues", "at least one queue"),
        ("node_id = 0", "node_id", "start at 1"),
        (
            "node_id = 4\ninitial_cluster = \"1=a:1,2=b:1,3=c:1\"",
            "node_id",
            "not in initial_cluster",
        ),
        (
            "initial_cluster = \"1=10.0.0.1:8083,2=10.0.0.2:8083,3=10.0.0.3:8083\"",
            "advertise_client_addr",
            "their own machine",
        ),
        ("log.segment_size = \"1MiB\"", "log.segment_size", "32 bits"),
        ("tls.certificate = \"x.pem\"", "tls.key", "both or neither"),
        ("tls.key = \"x.pem\"", "tls.certificate", "both or neither"),
        (
            "tls.key = \"x.pem\"\ntls.certificate = \"x.pem\"\ntls.mode = \"disabled\"",
            "tls.mode",
            "in the clear",
        ),
        (
            "limits.max_connections = 0",
            "limits.max_connections",
            "file descriptor",
        ),
        ("worker_threads = 0", "worker_threads", "one per core"),
        (
            "http_addr = \"127.0.0.1:8081\"",
            "http_addr",
            "each needs its own",
        ),
        (
            "peer_addr = \"127.0.0.1:8082\"\nhttp_addr = \"0.0.0.0:8082\"",
            "peer_addr",
            "each needs its own",
        ),
        (
            "initial_cluster = \"1=127.0.0.1:8083,2=127.0.0.1:0\"",
            "initial_cluster",
            "needs a port",
        ),
    ] {
        let message = refusal(text);
        assert!(message.contains(&format!("`{key}`")), "{text}: {message}");
        assert!(message.contains(reason), "{text}: {message}");
    }
}

#[test]
fn a_list_of_more_nodes_than_a_cluster_starts_with_is_refused() {
    let nodes: Vec<String> = (1..=65)
        .map(|id| format!("{id}=127.0.0.1:{}", 9000 + id))
        .collect();
    let message = refusal(&format!("initial_cluster = \"{}\"", nodes.join(",")));
    assert!(message.contains("at most 64 nodes"), "{message}");
}

#[test]
fn public_peers_are_an_explicit_choice() {
    assert!(from_file("peer_addr = \"0.0.0.0:8083\"\nallow_public_peers = true").is_ok());
    assert!(from_file("peer_addr = \"192.168.1.5:8083\"").is_ok());
    assert!(from_file("peer_addr = \"[fd00::1]:8083\"").is_ok());
}

#[test]
fn an_even_number_of_nodes_is_warned_about() {
    let mut layers = Layers::defaults();
    let flags = BTreeMap::from([("initial_cluster", "1=127.0.0.1:8083,2=127.0.0.1:8183".to_owned())]);
    layers.flags(&flags).unwrap();
    let (_, warnings) = layers.build().unwrap();
    assert!(warnings[0].contains("odd number"), "{warnings:?}");
}

#[test]
fn public_administration_is_warned_about() {
    let mut layers = Layers::defaults();
    layers
        .flags(&BTreeMap::from([("http_addr", "0.0.0.0:8082".to_owned())]))
        .unwrap();
    let (_, warnings) = layers.build().unwrap();
    assert!(warnings[0].contains("delete topics"), "{warnings:?}");
}

#[test]
fn a_node_told_only_the_cluster_listens_where_the_cluster_expects_it() {
    let config = from_file("node_id = 2\ninitial_cluster = \"1=127.0.0.1:8083,2=127.0.0.1:8183\"").unwrap();
    assert_eq!(config.peer_addr, "127.0.0.1:8183");
    let config = from_file("peer_addr = \"127.0.0.1:9\"\ninitial_cluster = \"1=127.0.0.1:8083\"").unwrap();
    assert_eq!(config.peer_addr, "127.0.0.1:9");
}

#[test]
fn a_bad_list_of_nodes_is_refused() {
    for (text, reason) in [
        ("1", "ID=HOST:PORT"),
        ("", "ID=HOST:PORT"),
        ("0=a:1", "not in 1..="),
        ("1=a:1,1=b:1", "twice"),
        ("1=a:1,2=a:1", "two nodes"),
        ("1=a", "HOST:PORT"),
    ] {
        let message = text.parse::<InitialCluster>().unwrap_err();
        assert!(message.contains(reason), "{text}: {message}");
    }
}

#[test]
fn durations_and_sizes_are_shown_as_they_are_written() {
    for text in ["150ms", "90s", "5m", "36h", "3d", "0ms"] {
        assert_eq!(text.parse::<Period>().unwrap().to_string(), text);
    }
    for text in ["100B", "3KiB", "64MiB", "20GiB", "2TiB", "0B"] {
        assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
    }
    assert_eq!("4096".parse::<Size>().unwrap().to_string(), "4KiB");
    assert!(
        "99999999999TiB"
            .parse::<Size>()
            .unwrap_err()
            .contains("too large")
    );
    assert!("5x".parse::<Size>().is_err() && "-5s".parse::<Period>().is_err());
}

#[test]
fn addresses_are_split_at_the_port() {
    assert_eq!(split_address("localhost:8081"), Ok(("localhost", 8081)));
    assert_eq!(split_address("[::1]:8081"), Ok(("::1", 8081)));
    for text in [
        "localhost:+80",
        "a/b:8083",
        "user@a:8083",
        "a?b:1",
        "a#b:1",
        "a;b:1",
        "a,b:1",
        "a\u{7}:1",
    ] {
        assert!(split_address(text).is_err(), "{text}");
    }
    for text in ["8081", ":8081", "::1:8081", "a:b", "a:70000", "[::1:80", "a b:1"] {
        assert!(split_address(text).is_err(), "{text}");
    }
}
