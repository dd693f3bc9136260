//! The log keeps to its size, however fast it is written, and dead letters live on in it.

use std::{collections::BTreeSet, time::Duration};

use broker::{service::Service, views::TopicSpec};
use flotilla_proto::rocketmq::{
    Code, EndTransactionRequest, ForwardMessageToDeadLetterQueueRequest, Message, MessageType,
    SendMessageRequest, TransactionResolution,
};

use crate::cluster::{
    Cluster, ack, caller, code, message, properties, receive, resource, send_large, wait_for,
};

const LONG: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(200);
const MIB: u64 = 1 << 20;
const SIZE: u64 = 24 * MIB;

/// With what is kept for later segments.
fn log_bytes(service: &Service) -> u64 {
    let log = service.node().store().log();
    log.size() + log.spare_bytes()
}

/// Sends so many messages and makes dead letters of them all, a few at a time: they must not be past retention before.
async fn make_dead_letters(service: &Service, count: usize, body: usize) {
    for first in (0..count).step_by(20) {
        let messages = (first..first + 20).map(|number| {
            let mut message = message("poison", &format!("poison-{number}"));
            message.body = vec![b'.'; body].into();
            message
        });
        let messages = messages.collect();
        let sent = service
            .send_message(&caller(), SendMessageRequest { messages })
            .await;
        assert_eq!(code(&sent.status), Code::Ok);
        let mut made = 0;
        while made < 20 {
            let (status, received) = receive(service, "poison", "readers", LONG).await;
            assert_eq!(status, Code::Ok, "{made} of 20");
            for message in received {
                give_up(service, &message).await;
                made += 1;
            }
        }
    }
}

async fn give_up(service: &Service, message: &Message) {
    let request = ForwardMessageToDeadLetterQueueRequest {
        group: Some(resource("readers")),
        topic: Some(resource("poison")),
        receipt_handle: properties(message).receipt_handle.clone().expect("a handle"),
        message_id: properties(message).message_id.clone(),
        ..Default::default()
    };
    let given_up = service
        .forward_message_to_dead_letter_queue(&caller(), request)
        .await;
    assert_eq!(code(&given_up.status), Code::Ok);
}

fn dead_letters(service: &Service) -> u64 {
    let topic = service.node().meta().topic("%DLQ%readers").expect("it exists").id;
    let shards = service.node().shards();
    let kept = |core: &queue_core::Core| -> u64 {
        let queues = core.queues().filter(|(queue, _)| queue.topic() == topic);
        queues.map(|(_, ends)| ends.next - ends.first).sum()
    };
    shards.iter().map(|shard| shard.machine.read(kept)).sum()
}

/// Found by reading: one segment in ten seconds was given back at most, and 25 messages a second copied forward.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_keeps_to_its_size_and_dead_letters_outlive_many_of_its_segments() {
    let cluster = Cluster::start_retaining(1, SIZE).await;
    let service = cluster.service(1);
    make_dead_letters(service, 500, 1000).await;
    assert_eq!(dead_letters(service), 500);
    // Five times the size of the log.
    for number in 0..5 * SIZE / (MIB / 2) {
        assert_eq!(
            code(&send_large(service, "flood", &format!("{number}")).await.status),
            Code::Ok
        );
    }
    for node in cluster.running() {
        let service = cluster.service(node);
        wait_for("the log to keep to its size", || log_bytes(service) <= SIZE).await;
        let shards = service.node().shards();
        let stored = shards.iter().map(|shard| shard.replica.status().purged);
        assert!(
            stored.flatten().all(|purged| purged.index > 0),
            "nothing was given back"
        );
    }
    assert_eq!(dead_letters(service), 500);
    let mut read = BTreeSet::new();
    for node in cluster.running().into_iter().cycle().take(90) {
        if read.len() == 500 {
            break;
        }
        let service = cluster.service(node);
        let (_, received) = receive(service, "%DLQ%readers", "undertakers", SHORT).await;
        for message in received {
            assert_eq!(message.body.len(), 1000);
            read.insert(properties(&message).message_id.clone());
        }
    }
    assert_eq!(read.len(), 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_not_forgotten_for_room_when_they_have_most_of_the_log() {
    let cluster = Cluster::start_retaining(1, SIZE).await;
    let service = cluster.service(1);
    // Twelve of the sixteen MiB that the log has beside its spare segments.
    make_dead_letters(service, 120, 100_000).await;
    for number in 0..2 * SIZE / (MIB / 2) {
        assert_eq!(
            code(&send_large(service, "flood", &format!("{number}")).await.status),
            Code::Ok
        );
    }
    wait_for("the log to keep to its size", || log_bytes(service) <= SIZE).await;
    assert_eq!(dead_letters(service), 120);
    let (status, received) = receive(service, "%DLQ%readers", "undertakers", LONG).await;
    assert_eq!(status, Code::Ok);
    assert!(received.iter().all(|message| message.body.len() == 100_000));
}

/// Found by reading: what had waited for its date stands in no order, and was copied forward until its age ended it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_delayed_and_read_does_not_keep_the_log_above_its_size() {
    let cluster = Cluster::start_retaining(1, SIZE).await;
    let service = cluster.service(1);
    let topic = TopicSpec {
        name: "later".into(),
        queues: Some(1),
        message_type: "DELAY".into(),
        ageing_ms: None,
    };
    service.create_topic(topic).await.expect("it is new");
    // Twelve of the sixteen MiB that the log has beside its spare segments, as with the dead letters above.
    for number in 0..120 {
        let mut message = message("later", &format!("later-{number}"));
        message.body = vec![b'.'; 100_000].into();
        let soon = (service.node().clock().wall_ms() + 20) as i64;
        let properties = message.system_properties.as_mut().expect("it has some");
        properties.delivery_timestamp = Some(prost_types::Timestamp {
            seconds: soon / 1_000,
            nanos: (soon % 1_000) as i32 * 1_000_000,
        });
        let messages = vec![message];
        let sent = service
            .send_message(&caller(), SendMessageRequest { messages })
            .await;
        assert_eq!(code(&sent.status), Code::Ok);
    }
    let mut read = 0;
    while read < 120 {
        let (status, received) = receive(service, "later", "readers", LONG).await;
        assert_eq!(status, Code::Ok, "{read} of 120");
        for message in &received {
            assert_eq!(ack(service, "later", "readers", message).await, Code::Ok);
        }
        read += received.len();
    }
    for number in 0..2 * SIZE / (MIB / 2) {
        assert_eq!(
            code(&send_large(service, "flood", &format!("{number}")).await.status),
            Code::Ok
        );
    }
    wait_for("the log to keep to its size", || log_bytes(service) <= SIZE).await;
    let later = service.describe_topic("later").await.expect("it exists");
    let queue = &later.queue_list[0];
    assert_eq!((queue.first_offset, queue.next_offset), (Some(120), Some(120)));
}

/// Found by reading: nothing but its age ended what was committed and nobody read, though its topic has nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_does_not_keep_the_log_above_its_size_whoever_reads_it() {
    let cluster = Cluster::start_retaining(1, SIZE).await;
    let service = cluster.service(1);
    let topic = TopicSpec {
        name: "deals".into(),
        queues: Some(1),
        message_type: "TRANSACTION".into(),
        ageing_ms: None,
    };
    service.create_topic(topic).await.expect("it is new");
    for number in 0..400 {
        let id = format!("deal-{number}");
        let mut message = message("deals", &id);
        message.body = vec![b'.'; 100_000].into();
        let properties = message.system_properties.as_mut().expect("it has some");
        properties.message_type = MessageType::Transaction as i32;
        let messages = vec![message];
        let sent = service
            .send_message(&caller(), SendMessageRequest { messages })
            .await;
        assert_eq!(code(&sent.status), Code::Ok);
        let end = EndTransactionRequest {
            topic: Some(resource("deals")),
            message_id: id,
            transaction_id: sent.entries[0].transaction_id.clone(),
            resolution: TransactionResolution::Commit as i32,
            ..Default::default()
        };
        let ended = service.end_transaction(&caller(), end).await;
        assert_eq!(code(&ended.status), Code::Ok);
    }
    wait_for("the log to keep to its size", || log_bytes(service) <= SIZE).await;
}
