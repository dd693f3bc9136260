//! What does not fit: sizes that clients and administrators choose, at and over their bounds.

use std::{collections::BTreeSet, time::Duration};

use broker::{
    limits::{
        MAX_BACKOFF_MS, MAX_BODY_BYTES, MAX_BORN_HOST_BYTES, MAX_DELIVERED_BYTES, MAX_KEYS,
        MAX_MESSAGE_ID_BYTES, MAX_PROPERTIES, MAX_PROPERTIES_BYTES, MAX_TRACE_CONTEXT_BYTES,
        MAX_UNREAD_BYTES_PER_READER,
    },
    views::{BackoffView, GroupSpec},
};
use flotilla_proto::record::{Append, Command, StoredMessage, command};
use flotilla_proto::rocketmq::{
    Code, Message, ReceiveMessageResponse, SendMessageRequest, receive_message_response::Content,
};
use prost::Message as _;
use queue_core::{QueueId, Reply};

use crate::cluster::{Cluster, caller, code, message, properties, receive, receive_request, resource, send};

const LONG: Duration = Duration::from_secs(5);

async fn send_one(cluster: &Cluster, message: Message) -> Code {
    let request = SendMessageRequest {
        messages: vec![message],
    };
    let sent = cluster.service(1).send_message(&caller(), request).await;
    code(&sent.status)
}

/// A message with as much of everything as is allowed.
fn largest(topic: &str) -> Message {
    let mut largest = message(topic, &"i".repeat(MAX_MESSAGE_ID_BYTES));
    largest.body = vec![b'x'; MAX_BODY_BYTES].into();
    let mut room = MAX_PROPERTIES_BYTES;
    let properties = largest.system_properties.as_mut().expect("it has some");
    properties.keys = vec!["k".into(); MAX_KEYS];
    properties.born_host = "h".repeat(MAX_BORN_HOST_BYTES);
    properties.trace_context = Some("t".repeat(MAX_TRACE_CONTEXT_BYTES));
    room -= MAX_KEYS;
    for number in 0..MAX_PROPERTIES {
        let key = format!("p{number:03}");
        let value = "v".repeat(room / (MAX_PROPERTIES - number) - key.len());
        room -= key.len() + value.len();
        largest.user_properties.insert(key, value);
    }
    assert_eq!(room, 0, "every byte is used");
    largest
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_message_with_the_largest_envelope_is_one_that_every_sdk_can_receive() {
    let cluster = Cluster::start(1).await;
    let topic = "t".repeat(127);
    assert_eq!(send_one(&cluster, largest(&topic)).await, Code::Ok);
    let (status, messages) = receive(cluster.service(1), &topic, &"g".repeat(120), LONG).await;
    assert_eq!((status, messages.len()), (Code::Ok, 1));
    assert_eq!(messages[0].user_properties.len(), MAX_PROPERTIES);
    let delivered = ReceiveMessageResponse {
        content: Some(Content::Message(messages[0].clone())),
    };
    let bytes = delivered.encoded_len();
    assert!(bytes < MAX_DELIVERED_BYTES, "{bytes} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_no_record_could_hold_is_refused_and_the_node_serves_on() {
    let cluster = Cluster::start(1).await;
    let with = |change: &dyn Fn(&mut Message)| {
        let mut message = message("orders", "too large");
        message.body = vec![b'x'; MAX_BODY_BYTES].into();
        change(&mut message);
        message
    };
    let trace = with(&|message| {
        let properties = message.system_properties.as_mut().expect("it has some");
        properties.trace_context = Some("t".repeat(4_194_200));
    });
    assert_eq!(send_one(&cluster, trace).await, Code::MessagePropertiesTooLarge);
    let host = with(&|message| {
        let properties = message.system_properties.as_mut().expect("it has some");
        properties.born_host = "h".repeat(4_194_200);
    });
    assert_eq!(send_one(&cluster, host).await, Code::BadRequest);
    let namespace = with(&|message| {
        message.topic = Some(flotilla_proto::rocketmq::Resource {
            resource_namespace: "n".repeat(4_194_200),
            ..resource("orders")
        });
    });
    assert_eq!(send_one(&cluster, namespace).await, Code::IllegalTopic);
    assert_eq!(
        code(&send(cluster.service(1), "orders", "small").await.status),
        Code::Ok
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backoff_that_no_duration_could_hold_is_refused() {
    let cluster = Cluster::start(1).await;
    let create = async |name: &str, backoff| {
        let spec = GroupSpec {
            name: name.into(),
            backoff: Some(backoff),
            ..GroupSpec::default()
        };
        cluster.service(1).create_group(spec).await
    };
    let list = |ms| BackoffView::Customized { next_ms: vec![1, ms] };
    let growing = |initial_ms, max_ms, multiplier_percent| BackoffView::Exponential {
        initial_ms,
        max_ms,
        multiplier_percent,
    };
    assert!(create("longest", list(MAX_BACKOFF_MS)).await.is_ok());
    for (number, backoff) in [
        list(MAX_BACKOFF_MS + 1),
        list(u64::MAX),
        growing(1, u64::MAX, 200),
        growing(u64::MAX, u64::MAX, 200),
        growing(1, 2, u32::MAX),
    ]
    .into_iter()
    .enumerate()
    {
        let refused = create(&format!("g{number}"), backoff)
            .await
            .expect_err("too long");
        assert!(!refused.message.is_empty(), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_to_be_delivered_does_not_take_its_batch_with_it() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    assert_eq!(code(&send(service, "orders", "first").await.status), Code::Ok);
    let topic = service.node().meta().topic("orders").expect("the send made it");
    let shard = service.node().shard(topic.queue_shards[0]).expect("it is here");
    // As a release with other bounds may have stored it.
    for (id, bytes) in [("before", 10), ("large", MAX_DELIVERED_BYTES), ("after", 10)] {
        let stored = StoredMessage {
            body: vec![b'x'; bytes].into(),
            message_id: id.into(),
            topic: "orders".into(),
            ..Default::default()
        };
        let append = Append {
            queue: QueueId::new(topic.id, 0).0,
            message_id: id.into(),
            message: stored.encode_to_vec().into(),
            ..Default::default()
        };
        let command = Some(command::Command::Append(append));
        let appended = shard.proposer.submit(Command { command }).await;
        assert!(matches!(appended, Ok(Reply::Appended { .. })), "{appended:?}");
    }
    let mut seen = BTreeSet::new();
    while seen.len() < 3 {
        let (status, messages) = receive(service, "orders", "readers", LONG).await;
        assert_eq!(status, Code::Ok);
        seen.extend(messages.iter().map(|each| properties(each).message_id.clone()));
    }
    assert_eq!(Vec::from_iter(seen), ["after", "before", "first"]);
    assert_eq!(service.counters().undeliverable.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_room_for_an_answer_is_refused_and_nothing_is_leased_for_it() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    assert_eq!(code(&send(service, "orders", "only").await.status), Code::Ok);
    let slow = service.unread().reader();
    let mut unread = slow.room();
    assert!(unread.grow(MAX_UNREAD_BYTES_PER_READER));
    let request = receive_request("orders", "readers", LONG);
    let mut room = slow.room();
    let refused = service.receive_within(&caller(), request, &mut room).await;
    assert!(
        matches!(&refused[..], [only] if matches!(&only.content, Some(Content::Status(status))
            if status.code == Code::TooManyRequests as i32)),
        "{refused:?}"
    );
    assert_eq!((room.bytes(), service.unread().refused()), (0, 1));
    let (status, messages) = receive(service, "orders", "readers", LONG).await;
    assert_eq!((status, messages.len()), (Code::Ok, 1));
    assert_eq!(properties(&messages[0]).delivery_attempt, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn room_for_what_another_node_may_have_is_taken_before_it_is_asked() {
    let cluster = Cluster::start(3).await;
    let (leader, other) = cluster.two_leaders().await;
    let asks = cluster.service(6 - leader - other);
    let mut ids = BTreeSet::new();
    for number in 0..20 {
        let id = format!("id-{number}");
        assert_eq!(code(&send(asks, "orders", &id).await.status), Code::Ok);
        ids.insert(id);
    }
    let slow = asks.unread().reader();
    let mut unread = slow.room();
    assert!(unread.grow(MAX_UNREAD_BYTES_PER_READER));
    let short = Duration::from_millis(300);
    let request = receive_request("orders", "readers", short);
    asks.receive_within(&caller(), request, &mut slow.room()).await;
    while !ids.is_empty() {
        let (status, messages) = receive(asks, "orders", "readers", LONG).await;
        assert_eq!(status, Code::Ok);
        for message in &messages {
            assert_eq!(properties(message).delivery_attempt, Some(1), "leased for nobody");
            ids.remove(&properties(message).message_id);
        }
    }
    drop((unread, slow));
    for node in 1..=3 {
        assert_eq!(cluster.service(node).unread().held(), 0, "node {node}");
    }
}
