//! The routes against their description, and errors in their one form.

use std::collections::BTreeMap;

use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use tonic::codegen::Service as _;

use super::*;
use crate::testing::OneNode;

async fn node() -> (OneNode, Router) {
    let node = OneNode::start().await;
    let api = Api {
        service: node.service.clone(),
        rim: Arc::default(),
    };
    (node, router(api))
}

async fn ask(router: &Router, method: Method, path: &str, body: &str) -> (StatusCode, String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(Body::from(body.to_owned()))
        .unwrap();
    let response = router.clone().call(request).await.unwrap();
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

fn code(body: &str) -> String {
    serde_json::from_str::<ErrorBody>(body)
        .unwrap_or_else(|error| panic!("{body}: {error}"))
        .error
        .code
}

#[tokio::test]
async fn every_described_route_exists_and_no_other_method_of_it() {
    let (_node, router) = node().await;
    let description: serde_json::Value =
        serde_json::from_str(&ask(&router, Method::GET, "/openapi.json", "").await.1).unwrap();
    let paths: BTreeMap<String, serde_json::Value> =
        serde_json::from_value(description["paths"].clone()).unwrap();
    assert_eq!(paths.len(), 22);
    for (path, operations) in &paths {
        let concrete = path.replace("{topic}", "some").replace("{group}", "some");
        for method in [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::DELETE,
            Method::PATCH,
        ] {
            let described = operations.get(method.as_str().to_lowercase()).is_some();
            let (status, body) = ask(&router, method.clone(), &concrete, "{}").await;
            assert_eq!(
                status != StatusCode::METHOD_NOT_ALLOWED,
                described,
                "{method} {path}: {status} {body}"
            );
            assert!(!body.contains("NO_SUCH_ROUTE"), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn every_schema_that_is_named_is_described() {
    let text = serde_json::to_string(&Description::openapi()).unwrap();
    let description: serde_json::Value = serde_json::from_str(&text).unwrap();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(description["components"]["schemas"].get(name).is_some(), "{name}");
    }
}

#[tokio::test]
async fn a_consumer_group_is_paused_and_resumed() {
    let (_node, router) = node().await;
    let spec = r#"{"name":"readers"}"#;
    ask(&router, Method::POST, "/v1/consumer-groups", spec).await;
    for (what, paused) in [("pause", true), ("pause", true), ("resume", false)] {
        let path = format!("/v1/consumer-groups/readers/{what}");
        let (status, body) = ask(&router, Method::POST, &path, "").await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let group: crate::views::GroupView = serde_json::from_str(&body).unwrap();
        assert_eq!(group.paused, paused);
        let (_, body) = ask(&router, Method::GET, "/v1/consumer-groups/readers", "").await;
        let detail: crate::views::GroupDetail = serde_json::from_str(&body).unwrap();
        assert_eq!(detail.group.paused, paused);
    }
    let (status, _) = ask(&router, Method::POST, "/v1/consumer-groups/nobody/pause", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_could_not_be_consumed_is_shown_and_the_policy_is_changed() {
    let (_node, router) = node().await;
    let spec = r#"{"name":"readers","fifo":true,"on_poison":"park"}"#;
    let (status, body) = ask(&router, Method::POST, "/v1/consumer-groups", spec).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let group = "/v1/consumer-groups/readers";
    for (what, body, shown) in [
        ("dead-letters", "{}", "\"letters\":[]"),
        ("dead-letters/redrive", r#"{"dry_run":true}"#, "\"dry_run\":true"),
        ("parked", r#"{"limit":9}"#, "\"messages\":[]"),
        (
            "poison",
            r#"{"on_poison":"dead_letter"}"#,
            "\"on_poison\":\"dead_letter\"",
        ),
    ] {
        let (status, answer) = ask(&router, Method::POST, &format!("{group}/{what}"), body).await;
        assert_eq!(status, StatusCode::OK, "{what}: {answer}");
        assert!(answer.contains(shown), "{what}: {answer}");
    }
    for what in ["parked/skip", "parked/release"] {
        let path = format!("{group}/{what}");
        let (status, _) = ask(&router, Method::POST, &path, r#"{"handle":"1-2"}"#).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{what}");
    }
    let path = "/v1/consumer-groups/nobody/dead-letters";
    assert_eq!(
        ask(&router, Method::POST, path, "{}").await.0,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn a_topic_is_created_listed_described_and_deleted() {
    let (_node, router) = node().await;
    let (status, body) = ask(
        &router,
        Method::POST,
        "/v1/topics",
        r#"{"name":"orders","queues":3}"#,
    )
    .await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let (status, body) = ask(&router, Method::POST, "/v1/topics", r#"{"name":"orders"}"#).await;
    assert_eq!(
        (status, code(&body).as_str()),
        (StatusCode::CONFLICT, "ALREADY_EXISTS")
    );
    let (_, body) = ask(&router, Method::GET, "/v1/topics", "").await;
    let topics: Vec<crate::views::TopicView> = serde_json::from_str(&body).unwrap();
    let found = topics.iter().find(|topic| topic.name == "orders").unwrap();
    assert_eq!((found.queues, found.message_type.as_str()), (3, "NORMAL"));
    let (status, body) = ask(&router, Method::GET, "/v1/topics/orders", "").await;
    assert_eq!(status, StatusCode::OK);
    let topic: crate::views::TopicDetail = serde_json::from_str(&body).unwrap();
    assert_eq!(topic.queue_list.len(), 3, "{body}");
    assert_eq!(
        ask(&router, Method::DELETE, "/v1/topics/orders", "").await.0,
        StatusCode::NO_CONTENT
    );
    let (status, body) = ask(&router, Method::GET, "/v1/topics/orders", "").await;
    assert_eq!(
        (status, code(&body).as_str()),
        (StatusCode::NOT_FOUND, "NOT_FOUND")
    );
}

#[tokio::test]
async fn a_consumer_group_is_created_described_and_deleted_and_its_dead_letters_have_a_topic() {
    let (_node, router) = node().await;
    let spec = r#"{"name":"billing","max_attempts":3,"backoff":{"customized":{"next_ms":[1000,5000]}}}"#;
    let (status, body) = ask(&router, Method::POST, "/v1/consumer-groups", spec).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let (status, body) = ask(&router, Method::GET, "/v1/consumer-groups/billing", "").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let group: crate::views::GroupDetail = serde_json::from_str(&body).unwrap();
    assert_eq!(group.group.max_attempts, 3);
    let dead_letters = "/v1/topics/%25DLQ%25billing";
    assert_eq!(
        ask(&router, Method::GET, dead_letters, "").await.0,
        StatusCode::OK
    );
    assert_eq!(
        ask(&router, Method::DELETE, "/v1/consumer-groups/billing", "")
            .await
            .0,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        ask(&router, Method::GET, "/v1/consumer-groups/billing", "")
            .await
            .0,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn errors_have_one_form() {
    let (_node, router) = node().await;
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(100 << 10));
    for (method, path, body, status, expected) in [
        (Method::GET, "/v1/topics/none", "", 404, "NOT_FOUND"),
        (Method::DELETE, "/v1/topics/none", "", 404, "NOT_FOUND"),
        (Method::GET, "/v1/consumer-groups/none", "", 404, "NOT_FOUND"),
        (Method::DELETE, "/v1/consumer-groups/none", "", 404, "NOT_FOUND"),
        (Method::POST, "/v1/topics", r#"{"name":"a b"}"#, 400, "INVALID"),
        (
            Method::POST,
            "/v1/topics",
            r#"{"name":"a","queues":0}"#,
            400,
            "INVALID",
        ),
        (
            Method::POST,
            "/v1/topics",
            r#"{"name":"a","message_type":"ODD"}"#,
            400,
            "INVALID",
        ),
        (
            Method::POST,
            "/v1/topics",
            r#"{"name":"a","colour":1}"#,
            422,
            "INVALID",
        ),
        (Method::POST, "/v1/topics", "{", 400, "INVALID"),
        (Method::POST, "/v1/topics", &large, 413, "BODY_TOO_LARGE"),
        (
            Method::POST,
            "/v1/consumer-groups",
            r#"{"name":""}"#,
            400,
            "INVALID",
        ),
        (Method::GET, "/nowhere", "", 404, "NO_SUCH_ROUTE"),
        (Method::PUT, "/v1/topics", "", 405, "METHOD_NOT_ALLOWED"),
    ] {
        let (answered, text) = ask(&router, method.clone(), path, body).await;
        assert_eq!(
            (answered.as_u16(), code(&text).as_str()),
            (status, expected),
            "{method} {path} {text}"
        );
    }
}

#[tokio::test]
async fn health_and_metrics_are_plain_text() {
    let (_node, router) = node().await;
    assert_eq!(
        ask(&router, Method::GET, "/healthz/live", "").await,
        (StatusCode::OK, "ok\n".to_owned())
    );
    assert_eq!(
        ask(&router, Method::GET, "/healthz/ready", "").await,
        (StatusCode::OK, "ok\n".to_owned())
    );
    let (status, metrics) = ask(&router, Method::GET, "/metrics", "").await;
    assert_eq!(status, StatusCode::OK);
    for line in metrics
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        let (_, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(metrics.contains("\nflotilla_grpc_connections 0\n"), "{metrics}");
    assert!(metrics.contains("\nprocess_cpu_seconds_total "), "{metrics}");
}

#[tokio::test]
async fn the_cluster_is_shown_with_its_shards() {
    let (_node, router) = node().await;
    let (_, body) = ask(&router, Method::GET, "/v1/cluster", "").await;
    let cluster: crate::views::ClusterView = serde_json::from_str(&body).unwrap();
    assert_eq!(cluster.nodes.len(), 1, "{body}");
    assert!(cluster.nodes[0].alive);
    assert!(
        cluster.shards.len() > 1 && cluster.shards.iter().all(|shard| shard.leader == Some(1)),
        "{body}"
    );
}

/// Asks for `path` on a connection of its own; whatever comes back until it is closed.
async fn get_over(address: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let _ = socket.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn requests_whose_bodies_never_come_leave_health_within_reach() {
    use tokio::io::AsyncWriteExt;
    const PLACES: u32 = 3;
    let (node, router) = node().await;
    let listener = net::bind("http_addr", "127.0.0.1:0", true).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let unread = node.service.unread().clone();
    let serve = move |socket, from, seat| {
        let reader = unread.reader();
        connection(socket, from, (seat, reader), router.clone(), stopping.clone())
    };
    let server = tokio::spawn(net::accept(listener, PLACES, stop.clone(), serve));
    let mut begun = Vec::new();
    for _ in 0..PLACES {
        let mut socket = TcpStream::connect(&address).await.unwrap();
        let head = "POST /v1/topics HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";
        socket.write_all(head.as_bytes()).await.unwrap();
        begun.push(socket);
    }
    let healthy = async {
        while !get_over(&address, "/healthz/live")
            .await
            .starts_with("HTTP/1.1 200")
        {
            time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    time::timeout(std::time::Duration::from_secs(20), healthy)
        .await
        .expect("health is within reach");
    drop(begun);
    stop.cancel();
    server.await.unwrap();
}
