//! Receives at nodes where too many wait already.

use std::{collections::BTreeSet, time::Duration};

use broker::views::{GroupSpec, StartAt};
use flotilla_proto::rocketmq::Code;
use tokio::time::{Instant, timeout};

use crate::cluster::{Cluster, PATIENCE, code, properties, receive, send};

const LONG: Duration = Duration::from_secs(15);
/// Between two tries of a client that was refused.
const AGAIN: Duration = Duration::from_millis(20);

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
    let all = async {
        while seen.len() < sent.len() {
            let (status, messages) = receive(service, "orders", "readers", LONG).await;
            assert!([Code::Ok, Code::TooManyRequests].contains(&status), "{status:?}");
            let ids = messages
                .iter()
                .map(|message| properties(message).message_id.clone());
            seen.extend(ids);
            if status != Code::Ok {
                tokio::time::sleep(AGAIN).await;
            }
        }
    };
    let all = timeout(PATIENCE, all).await;
    assert!(all.is_ok(), "{} of 20 came", seen.len());
    assert_eq!(seen, sent);
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
