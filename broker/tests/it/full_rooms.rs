//! Receives at nodes where too many wait already.

use std::{collections::BTreeSet, time::Duration};

use broker::views::{GroupSpec, StartAt};
use flotilla_proto::rocketmq::{Code, ReceiveMessageRequest};
use tokio::time::Instant;

use crate::cluster::{
    Cluster, caller, code, properties, receive, receive_request, send, wait_for, wait_until,
};

const LONG: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn one_more_gets_what_is_there_at_any_node_and_does_not_wait() {
    let cluster = Cluster::start_with_full_rooms(3).await;
    let (first, second) = cluster.two_leaders().await;
    let third = 6 - first - second;
    let service = cluster.service(third);
    let asked = Instant::now();
    let (status, _) = receive(service, "orders", "readers", LONG).await;
    assert_eq!(status, Code::TooManyRequests);
    assert!(asked.elapsed() < LONG, "nothing is there, and it does not wait");
    let mut sent = BTreeSet::new();
    for i in 0..20 {
        let answer = send(cluster.service(first), "orders", &format!("id-{i}")).await;
        assert_eq!(code(&answer.status), Code::Ok);
        sent.insert(format!("id-{i}"));
    }
    // Its queues are led by the other two.
    let mut seen = BTreeSet::new();
    wait_until("all to come", async || {
        let (status, messages) = receive(service, "orders", "readers", LONG).await;
        assert!([Code::Ok, Code::TooManyRequests].contains(&status), "{status:?}");
        let ids = messages
            .iter()
            .map(|message| properties(message).message_id.clone());
        seen.extend(ids);
        seen.len() == sent.len()
    })
    .await;
    assert_eq!(seen, sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_more_leaves_is_told_to_nodes_that_wait_for_it() {
    let cluster = Cluster::start_with_full_rooms(3).await;
    let (first, second) = cluster.two_leaders().await;
    let service = cluster.service(first);
    let (status, _) = receive(service, "orders", "readers", Duration::ZERO).await;
    assert_eq!(status, Code::TooManyRequests);
    for i in 0..8 {
        let answer = send(service, "orders", &format!("id-{i}")).await;
        assert_eq!(code(&answer.status), Code::Ok);
    }
    let node = service.node();
    let topic = node.meta().topic("orders").expect("it was made").id;
    let group = node.meta().group("readers").expect("it was made").id;
    let hints = cluster.forwarded("flotilla.Hints");
    // It found the queue taken, let us say.
    node.hub().tell_later(second, (topic, group));
    let request = ReceiveMessageRequest {
        batch_size: 1,
        ..receive_request("orders", "readers", Duration::ZERO)
    };
    service.receive_message(&caller(), request).await;
    wait_for("word of the rest", || cluster.forwarded("flotilla.Hints") > hints).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_more_does_not_wait_for_its_groups_beginning_either() {
    let mut cluster = Cluster::start_with_full_rooms(3).await;
    let (first, second) = cluster.two_leaders().await;
    let third = 6 - first - second;
    let spec = GroupSpec {
        name: "late".into(),
        start_at: StartAt::Last,
        ..Default::default()
    };
    let service = cluster.service(third);
    service.create_group(spec).await.expect("the group is new");
    // The topic comes into being.
    let (status, _) = receive(service, "orders", "readers", Duration::ZERO).await;
    assert_eq!(status, Code::TooManyRequests);
    cluster.kill(first).await;
    cluster.kill(second).await;
    let asked = Instant::now();
    let (status, _) = receive(cluster.service(third), "orders", "late", LONG).await;
    assert_eq!(status, Code::HaNotAvailable);
    assert!(asked.elapsed() < LONG * 2 / 3, "{:?}", asked.elapsed());
}
