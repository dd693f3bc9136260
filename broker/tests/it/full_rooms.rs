//! Receives at nodes where too many wait already.

use std::{collections::BTreeSet, time::Duration};

use broker::{
    service::Caller,
    views::{GroupSpec, StartAt},
};
use flotilla_proto::rocketmq::{Code, receive_message_response::Content};
use tokio::time::Instant;

use crate::cluster::{Cluster, Fault, caller, code, properties, receive, receive_request, send, wait_until};

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
async fn one_more_does_not_wait_for_its_groups_beginning_either() {
    let cluster = Cluster::start_with_full_rooms(3).await;
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
    cluster.fail("flotilla.Begin", Fault::Hang);
    let asked = Instant::now();
    let caller = Caller {
        deadline: Some(LONG * 2),
        ..caller()
    };
    let request = receive_request("orders", "late", LONG);
    let answer = cluster.service(third).receive_message(&caller, request).await;
    let refused = answer.iter().find_map(|each| match &each.content {
        Some(Content::Status(status)) => Some(status.code),
        _ => None,
    });
    assert_eq!(refused, Some(Code::HaNotAvailable as i32));
    assert!(asked.elapsed() < LONG * 2 / 3, "{:?}", asked.elapsed());
}
