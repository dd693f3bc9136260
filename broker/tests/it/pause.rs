//! Consumer groups that are paused, and go on.

use std::time::Duration;

use broker::views::AdminErrorKind;
use flotilla_proto::rocketmq::Code;

use crate::cluster::{Cluster, ack, code, receive, send, wait_for};

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_delivered_from_the_answer_to_a_pause_on_and_receives_that_wait_go_on_at_once() {
    let cluster = Cluster::start(3).await;
    for number in 0..10 {
        let sent = send(cluster.service(1), "orders", &format!("id-{number}")).await;
        assert_eq!(code(&sent.status), Code::Ok);
    }
    let (_, leased) = receive(cluster.service(1), "orders", "readers", SHORT).await;
    assert!(!leased.is_empty());
    let view = cluster.service(2).pause_group("readers", true).await.unwrap();
    assert!(view.paused);
    for node in 1..=3 {
        let (status, messages) = receive(cluster.service(node), "orders", "readers", SHORT).await;
        assert_eq!((status, messages.len()), (Code::MessageNotFound, 0));
        // Others get theirs.
        let (status, messages) =
            receive(cluster.service(node), "orders", &format!("others-{node}"), SHORT).await;
        assert!(status == Code::Ok && !messages.is_empty());
    }
    assert_eq!(
        ack(cluster.service(3), "orders", "readers", &leased[0]).await,
        Code::Ok
    );
    let detail = cluster.service(3).describe_group("readers").await.unwrap();
    assert!(detail.group.paused);
    let service = cluster.service(3).clone();
    let waiting = tokio::spawn(async move { receive(&service, "orders", "readers", LONG).await });
    let hub = cluster.service(3).node().hub();
    wait_for("the receive to wait", || hub.waiting() == 1).await;
    let begun = tokio::time::Instant::now();
    assert!(
        !cluster
            .service(1)
            .pause_group("readers", false)
            .await
            .unwrap()
            .paused
    );
    let (status, messages) = waiting.await.unwrap();
    assert!(status == Code::Ok && !messages.is_empty());
    assert!(begun.elapsed() < LONG / 2, "it did not wait for its end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlives_the_leader_and_holds_where_the_consumer_group_has_never_been() {
    let mut cluster = Cluster::start(3).await;
    let spec = broker::views::GroupSpec {
        name: "readers".into(),
        ..Default::default()
    };
    cluster.service(1).create_group(spec).await.unwrap();
    // Twice is once.
    for node in [1, 2] {
        assert!(
            cluster
                .service(node)
                .pause_group("readers", true)
                .await
                .unwrap()
                .paused
        );
    }
    for number in 0..10 {
        let sent = send(cluster.service(1), "orders", &format!("id-{number}")).await;
        assert_eq!(code(&sent.status), Code::Ok);
    }
    let leader = cluster.service(1).node().leader(1).expect("a leader");
    cluster.kill(leader).await;
    cluster.wait_ready().await;
    for node in cluster.running() {
        let (_, messages) = receive(cluster.service(node), "orders", "readers", SHORT).await;
        assert!(messages.is_empty());
    }
    cluster.boot(leader).await;
    cluster.wait_ready().await;
    for node in 1..=3 {
        let (_, messages) = receive(cluster.service(node), "orders", "readers", SHORT).await;
        assert!(messages.is_empty());
    }
    cluster
        .service(leader)
        .pause_group("readers", false)
        .await
        .unwrap();
    let (_, messages) = receive(cluster.service(leader), "orders", "readers", LONG).await;
    assert!(!messages.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_paused() {
    let cluster = Cluster::start(1).await;
    for (name, kind) in [
        ("nobody", AdminErrorKind::NotFound),
        ("no name", AdminErrorKind::Invalid),
    ] {
        let refused = cluster.service(1).pause_group(name, true).await.unwrap_err();
        assert_eq!(refused.kind, kind, "{name}");
    }
}
