//! Where a consumer group begins to read.

use std::{collections::BTreeSet, time::Duration};

use broker::views::{GroupSpec, StartAt};
use flotilla_proto::rocketmq::Code;

use crate::cluster::{Cluster, code, properties, receive, send};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_starts_at_the_end_gets_what_comes_after_its_first_poll() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    let spec = GroupSpec {
        name: "late".into(),
        start_at: StartAt::Last,
        ..Default::default()
    };
    service.create_group(spec).await.expect("the group is new");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topic_takes_subscriptions_of_its_empty_queues_along() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    let spec = GroupSpec {
        name: "late".into(),
        start_at: StartAt::Last,
        ..Default::default()
    };
    service.create_group(spec).await.expect("the group is new");
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
