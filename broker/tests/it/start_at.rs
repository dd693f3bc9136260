//! Where a consumer group begins to read.

use std::{collections::BTreeSet, time::Duration};

use broker::{
    service::Service,
    views::{GroupSpec, StartAt},
};
use flotilla_proto::rocketmq::Code;

use crate::cluster::{Cluster, PATIENCE, code, properties, receive, send};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_starts_at_the_end_gets_what_comes_after_its_first_poll() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    create_late(service).await;
    // The poll finds queues that never had a message: it is the group's beginning all the same.
    assert_eq!(
        receive(service, "orders", "late", SHORT).await.0,
        Code::MessageNotFound
    );
    for i in 0..20 {
        assert_eq!(
            code(&send(service, "orders", &format!("id-{i}")).await.status),
            Code::Ok
        );
    }
    let mut seen = BTreeSet::new();
    while seen.len() < 20 {
        let (status, messages) = receive(service, "orders", "late", LONG).await;
        assert_eq!(status, Code::Ok, "only {} came", seen.len());
        seen.extend(
            messages
                .iter()
                .map(|message| properties(message).message_id.clone()),
        );
    }
}

async fn create_late(service: &Service) {
    let spec = GroupSpec {
        name: "late".into(),
        start_at: StartAt::Last,
        ..Default::default()
    };
    service.create_group(spec).await.expect("the group is new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_starts_at_the_end_begins_on_all_queues_of_all_nodes_at_once() {
    let mut cluster = Cluster::start(3).await;
    let (first, second) = cluster.two_leaders().await;
    create_late(cluster.service(first)).await;
    for i in 0..40 {
        let sent = send(cluster.service(first), "orders", &format!("before-{i}")).await;
        assert_eq!(code(&sent.status), Code::Ok);
    }
    // One receive at one node; the other leader is never asked, and dies.
    let (status, messages) = receive(cluster.service(first), "orders", "late", Duration::ZERO).await;
    assert_eq!((status, messages.len()), (Code::MessageNotFound, 0));
    let mut sent = BTreeSet::new();
    for i in 0..40 {
        let id = format!("after-{i}");
        assert_eq!(
            code(&send(cluster.service(first), "orders", &id).await.status),
            Code::Ok
        );
        sent.insert(id);
    }
    cluster.kill(second).await;
    let survivor = 6 - first - second;
    let mut seen = BTreeSet::new();
    let all = async {
        while seen.len() < sent.len() {
            let (_, messages) = receive(cluster.service(survivor), "orders", "late", SHORT).await;
            seen.extend(
                messages
                    .iter()
                    .map(|message| properties(message).message_id.clone()),
            );
        }
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .expect("what came after the first receive is delivered");
    assert_eq!(seen, sent, "and nothing that came before it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_starts_at_the_end_has_not_begun_while_the_end_of_a_queue_is_unknown() {
    let mut cluster = Cluster::start(3).await;
    let (first, second) = cluster.two_leaders().await;
    let third = 6 - first - second;
    create_late(cluster.service(first)).await;
    let sent = send(cluster.service(first), "orders", "before").await;
    assert_eq!(code(&sent.status), Code::Ok);
    // Nobody can tell where the queues end.
    cluster.kill(second).await;
    cluster.kill(third).await;
    let (status, messages) = receive(cluster.service(first), "orders", "late", SHORT).await;
    assert_eq!((status, messages.len()), (Code::HaNotAvailable, 0));
    cluster.boot(second).await;
    cluster.boot(third).await;
    cluster.wait_ready().await;
    let begun = async {
        while receive(cluster.service(first), "orders", "late", SHORT).await.0 != Code::MessageNotFound {}
    };
    tokio::time::timeout(PATIENCE, begun).await.expect("it begins");
    let sent = send(cluster.service(first), "orders", "after").await;
    assert_eq!(code(&sent.status), Code::Ok);
    let (_, messages) = receive(cluster.service(first), "orders", "late", LONG).await;
    assert_eq!(properties(&messages[0]).message_id, "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topic_takes_subscriptions_of_its_empty_queues_along() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    create_late(service).await;
    assert_eq!(
        receive(service, "orders", "late", SHORT).await.0,
        Code::MessageNotFound
    );
    service.delete_topic("orders").await.expect("the topic exists");
    let left = || -> usize {
        service
            .node()
            .shards()
            .iter()
            .map(|shard| shard.machine.read(|core| core.subscriptions().count()))
            .sum()
    };
    crate::cluster::wait_for("the subscriptions to go", || left() == 0).await;
}
