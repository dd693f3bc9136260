//! The command line as it is typed.

use std::sync::Arc;

use clap::CommandFactory;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{config::KEYS, net, testing::OneNode, views::TopicSpec};

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn the_help_of_serve_documents_every_key() {
    let mut command = Cli::command();
    let help = command
        .find_subcommand_mut("serve")
        .unwrap()
        .render_long_help()
        .to_string();
    // Lines are wrapped, which is of no interest here.
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for key in KEYS {
        assert!(
            help.contains(&format!("--{} <", key.flag())) || help.contains(&format!("--{} [<", key.flag())),
            "{}",
            key.flag()
        );
        for text in [
            format!("[file: {}]", key.name),
            format!("[env: {}]", key.variable()),
            key.help.to_owned(),
        ] {
            assert!(help.contains(&text), "{text}\n{help}");
        }
    }
}

fn serve(flags: &[&str]) -> Result<(crate::config::Config, Vec<String>), String> {
    let line = ["flotilla", "serve"].iter().chain(flags);
    let Cli {
        command: Command::Serve(args),
    } = Cli::try_parse_from(line).map_err(|error| error.to_string())?
    else {
        panic!("serve was typed");
    };
    args.load().map_err(|error| error.to_string())
}

#[test]
fn the_flags_that_scripts_rely_on_are_there() {
    let (config, _) = serve(&[
        "--data-dir",
        "/x",
        "--node-id",
        "2",
        "--client-addr",
        "127.0.0.1:1",
        "--http-addr",
        "127.0.0.1:2",
        "--peer-addr",
        "127.0.0.1:3",
        "--advertise-client-addr",
        "localhost:4",
        "--initial-cluster",
        "1=127.0.0.1:8083,2=127.0.0.1:3,3=127.0.0.1:5",
        "--data-shards",
        "6",
        "--auto-create-topics",
        "--auto-create-groups=false",
    ])
    .unwrap();
    assert_eq!((config.node_id, config.data_shards), (2, Some(6)));
    assert_eq!(config.advertise_client_addr.as_deref(), Some("localhost:4"));
    assert!(config.auto_create_topics && !config.auto_create_groups);
    assert!(
        serve(&["--raft-heartbeat", "5 weeks"])
            .unwrap_err()
            .contains("flag --raft-heartbeat")
    );
    assert!(serve(&["--no-such-flag"]).is_err());
    assert!(
        serve(&["--data-shards", "0"])
            .unwrap_err()
            .contains("flag --data-shards")
    );
}

#[test]
fn a_configuration_file_is_named_by_a_flag() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flotilla.toml");
    std::fs::write(&path, "node_id = 9\ndefault_queues = 5\n").unwrap();
    let path = path.to_str().unwrap();
    let (config, _) = serve(&["--config", path, "--node-id", "3"]).unwrap();
    assert_eq!((config.node_id, config.default_queues), (3, 5));
    let missing = serve(&["--config", "/nowhere/flotilla.toml"]).unwrap_err();
    assert!(
        missing.contains("cannot read the configuration file /nowhere/flotilla.toml"),
        "{missing}"
    );
}

#[test]
fn names_are_encoded_for_paths() {
    assert_eq!(client::segment("%DLQ%billing|a-b_c"), "%25DLQ%25billing%7Ca-b_c");
    assert_eq!(client::segment("../x?y=ä"), "%2E%2E%2Fx%3Fy%3D%C3%A4");
}

#[tokio::test]
async fn exit_codes_tell_refused_from_unreachable() {
    let node = OneNode::start().await;
    let listener = net::bind("http_addr", "127.0.0.1:0", true).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let server = tokio::spawn(crate::http::serve(
        listener,
        node.service.clone(),
        Arc::default(),
        stop.clone(),
    ));
    let run = async |line: &[&str]| {
        let line = ["flotilla"]
            .iter()
            .chain(line)
            .copied()
            .chain(["--http-addr", &address]);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Topic(command) => topic::run(command).await,
            Command::Group(command) => group::run(command).await,
            Command::Cluster(command) => cluster::run(command).await,
            _ => panic!("not typed here"),
        }
    };
    run(&["topic", "create", "orders", "--queues", "2", "--type", "fifo"])
        .await
        .unwrap();
    let error = run(&["topic", "create", "orders"]).await.unwrap_err();
    assert_eq!(error.exit_code(), 1, "{error}");
    run(&["topic", "list"]).await.unwrap();
    run(&["topic", "describe", "orders", "--json"]).await.unwrap();
    run(&["topic", "delete", "orders"]).await.unwrap();
    assert_eq!(
        run(&["topic", "describe", "orders"])
            .await
            .unwrap_err()
            .exit_code(),
        1
    );
    run(&[
        "group",
        "create",
        "billing",
        "--max-attempts",
        "3",
        "--backoff",
        "1s,5s",
    ])
    .await
    .unwrap();
    run(&[
        "group",
        "create",
        "b2",
        "--backoff-initial",
        "1s",
        "--backoff-max",
        "1m",
        "--start-at",
        "last",
    ])
    .await
    .unwrap();
    run(&["group", "list"]).await.unwrap();
    run(&["group", "describe", "billing"]).await.unwrap();
    run(&["group", "delete", "billing"]).await.unwrap();
    run(&["cluster", "status"]).await.unwrap();

    stop.cancel();
    server.await.unwrap();
    let error = run(&["topic", "list"]).await.unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
    assert!(
        error.to_string().contains("start one with `flotilla serve`"),
        "{error}"
    );
}

#[tokio::test]
async fn an_answer_of_a_stranger_is_not_taken_for_a_node() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stranger = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        let _ = socket.read(&mut head).await.unwrap();
        socket
            .write_all(b"HTTP/1.1 418 teapot\r\ncontent-length: 2\r\n\r\nhi")
            .await
            .unwrap();
    });
    let spec = TopicSpec {
        name: "a".to_owned(),
        queues: None,
        message_type: "NORMAL".to_owned(),
        ageing_ms: None,
    };
    let asked = client::AdminClient::new(format!("http://{address}/"), "flag --http-addr")
        .post::<crate::views::TopicView>("/v1/topics", &spec)
        .await;
    let error = asked.unwrap_err().to_string();
    assert!(error.contains("not as a Flotilla node"), "{error}");
    stranger.await.unwrap();
}

#[test]
fn an_empty_variable_that_names_a_node_or_a_file_counts_as_not_set() {
    let target = |http: Option<&str>| Target {
        http: http.map(str::to_owned),
        json: false,
    };
    for (flag, variable, named) in [
        (None, None, "the default"),
        (None, Some(""), "the default"),
        (None, Some("127.0.0.1:1"), "environment variable FLOTILLA_HTTP"),
        (Some("127.0.0.1:1"), Some("x"), "flag --http-addr"),
    ] {
        let client = target(flag).client_in(variable.map(str::to_owned));
        assert_eq!(client.named, named);
    }
    let loaded = |path: &str| {
        let environment = vec![("FLOTILLA_CONFIG".into(), path.into())];
        serve_args::ServeArgs::default().load_in(environment)
    };
    assert!(loaded("").is_ok());
    let refused = loaded("/nowhere.toml").unwrap_err().to_string();
    assert!(
        refused.contains("/nowhere.toml (environment variable FLOTILLA_CONFIG)"),
        "{refused}"
    );
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_by_what_gave_it() {
    let client = client::AdminClient::new("8082".to_owned(), "environment variable FLOTILLA_HTTP");
    let refused = client.delete("/v1/topics/a").await.unwrap_err().to_string();
    assert!(
        refused.starts_with("environment variable FLOTILLA_HTTP: `8082`"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_redrive_whose_first_answer_is_lost_can_be_asked_for_again_by_its_name() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = tokio::spawn(async move {
        use tokio::io::AsyncReadExt;
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = String::new();
        while !request.ends_with('}') {
            let mut some = [0; 1024];
            let count = socket.read(&mut some).await.unwrap();
            request.push_str(std::str::from_utf8(&some[..count]).unwrap());
        }
        let body = request.split_once("\r\n\r\n").unwrap().1;
        let spec: crate::views::RedriveSpec = serde_json::from_str(body).unwrap();
        spec.id
    });
    let line = [
        "flotilla",
        "dead-letter",
        "redrive",
        "readers",
        "--http-addr",
        &address,
    ];
    let Command::DeadLetter(command) = Cli::try_parse_from(line).unwrap().command else {
        panic!("typed otherwise");
    };
    let error = dead_letter::run(command).await.unwrap_err().to_string();
    let id = asked.await.unwrap().expect("it has a name");
    assert!(id != 0 && error.ends_with(&format!("--id {id}")), "{error}");
}
