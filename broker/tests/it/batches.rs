//! Several messages in one request: stored together, in their order, or not at all.

use std::collections::BTreeMap;

use broker::{
    limits::{MAX_BATCH_BYTES, MAX_SEND_MESSAGES},
    service::Service,
};
use flotilla_proto::rocketmq::{Code, Message, SendMessageRequest, SendMessageResponse};
use futures::future::join_all;

use crate::cluster::{Cluster, caller, code, message, properties, receive};

const SHORT: std::time::Duration = std::time::Duration::from_millis(300);

async fn send_all(service: &Service, messages: Vec<Message>) -> SendMessageResponse {
    service
        .send_message(&caller(), SendMessageRequest { messages })
        .await
}

fn numbered(name: &str, count: usize) -> Vec<Message> {
    (0..count)
        .map(|number| message("orders", &format!("{name}-{number:03}")))
        .collect()
}

/// Messages stored in the data shards, as a node knows.
fn stored(service: &Service) -> u64 {
    let shards = [1, 2].map(|shard| service.node().shard(shard).expect("every node has all shards"));
    let ends = |core: &queue_core::Core| core.queues().map(|(_, ends)| ends.next).sum::<u64>();
    shards.iter().map(|shard| shard.machine.read(ends)).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_messages_of_a_request_stand_one_behind_the_other_however_many_send_at_once() {
    let cluster = Cluster::start(3).await;
    let names: Vec<String> = (0..30).map(|number| format!("batch-{number}")).collect();
    let sends = names.iter().enumerate().map(|(number, name)| {
        let service = cluster.service(1 + number as u32 % 3);
        send_all(service, numbered(name, 1 + number % MAX_SEND_MESSAGES))
    });
    for sent in join_all(sends).await {
        assert_eq!(code(&sent.status), Code::Ok);
        assert!(
            sent.entries
                .windows(2)
                .all(|two| two[1].offset == two[0].offset + 1)
        );
    }
    let mut came: BTreeMap<(i32, i64), String> = BTreeMap::new();
    loop {
        let (_, messages) = receive(cluster.service(1), "orders", "readers", SHORT).await;
        if messages.is_empty() {
            break;
        }
        for message in &messages {
            let all = properties(message);
            let place = (all.queue_id, all.queue_offset.expect("an offset"));
            came.insert(place, all.message_id.clone());
        }
    }
    for (number, name) in names.iter().enumerate() {
        let ids: Vec<String> = (0..=number).map(|at| format!("{name}-{at:03}")).collect();
        let (&(queue, first), _) = came.iter().find(|(_, id)| **id == ids[0]).expect("it came");
        let there = (first..).map_while(|offset| came.get(&(queue, offset)));
        assert!(there.take(ids.len()).eq(&ids), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_repeated_at_another_node_gets_its_first_receipts() {
    let cluster = Cluster::start(3).await;
    let receipts = |sent: SendMessageResponse| -> Vec<(String, i64)> {
        assert_eq!(code(&sent.status), Code::Ok);
        let of = |entry: flotilla_proto::rocketmq::SendResultEntry| (entry.message_id, entry.offset);
        sent.entries.into_iter().map(of).collect()
    };
    let first = receipts(send_all(cluster.service(1), numbered("id", 7)).await);
    for node in 1..=3 {
        assert_eq!(
            receipts(send_all(cluster.service(node), numbered("id", 7)).await),
            first
        );
    }
    cluster.wait_level().await;
    assert_eq!(stored(cluster.service(2)), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_large_as_a_whole_is_refused_as_a_whole_at_any_node() {
    let cluster = Cluster::start(3).await;
    let with_bodies = |name: &str, bytes: usize| {
        let mut messages = numbered(name, 2);
        for message in &mut messages {
            message.body = vec![b'.'; bytes].into();
        }
        messages
    };
    for node in 1..=3 {
        let sent = send_all(cluster.service(node), with_bodies("large", MAX_BATCH_BYTES / 2)).await;
        assert_eq!(code(&sent.status), Code::MessageBodyTooLarge);
        let why = sent.status.expect("a status").message;
        assert!(
            why.contains("2 messages") && why.contains("several requests"),
            "{why}"
        );
        assert!(sent.entries.is_empty());
    }
    cluster.wait_level().await;
    assert_eq!(stored(cluster.service(1)), 0);
    let sent = send_all(
        cluster.service(1),
        with_bodies("fits", MAX_BATCH_BYTES / 2 - 1_000),
    )
    .await;
    assert_eq!(code(&sent.status), Code::Ok);
}
