//! One node: what a client can do, and what it is refused.

use std::{collections::BTreeSet, time::Duration};

use broker::service::{Caller, handle::Handle};
use flotilla_proto::rocketmq::{
    ChangeInvisibleDurationRequest, Code, ForwardMessageToDeadLetterQueueRequest, MessageType,
    NotifyClientTerminationRequest, Permission, QueryRouteRequest, ReceiveMessageRequest, SendMessageRequest,
    receive_message_response::Content,
};

use crate::cluster::{
    Cluster, ack, caller, code, message, properties, receive, receive_request, resource, send, wait_for,
};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_is_received_once_and_acknowledged() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    for i in 0..100 {
        let sent = send(service, "orders", &format!("id-{i}")).await;
        assert_eq!(code(&sent.status), Code::Ok);
        assert_eq!(sent.entries[0].message_id, format!("id-{i}"));
    }
    let mut seen = BTreeSet::new();
    while seen.len() < 100 {
        let (status, messages) = receive(service, "orders", "readers", LONG).await;
        assert_eq!(status, Code::Ok);
        for message in messages {
            let found = properties(&message);
            assert_eq!(message.body, format!("body of {}", found.message_id));
            assert_eq!(found.delivery_attempt, Some(1));
            assert!(found.body_digest.is_some() && found.born_timestamp.is_some());
            assert!(seen.insert(found.message_id.clone()), "delivered twice");
            assert_eq!(ack(service, "orders", "readers", &message).await, Code::Ok);
            assert_eq!(
                ack(service, "orders", "readers", &message).await,
                Code::InvalidReceiptHandle
            );
        }
    }
    let (status, messages) = receive(service, "orders", "readers", SHORT).await;
    assert_eq!((status, messages.len()), (Code::MessageNotFound, 0));
    let readers = service.describe_group("readers").await;
    let lag = readers.expect("the group exists").total;
    assert_eq!((lag.ready, lag.leased, lag.waiting), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_receive_gets_a_message_that_comes() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1).clone();
    let waiting = tokio::spawn({
        let service = service.clone();
        async move { receive(&service, "news", "readers", LONG).await }
    });
    wait_for("the receive to wait", || service.node().hub().waiting() == 1).await;
    assert_eq!(code(&send(&service, "news", "one").await.status), Code::Ok);
    let (status, messages) = waiting.await.unwrap();
    assert_eq!((status, messages.len()), (Code::Ok, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_send_is_stored_once() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    let first = send(service, "orders", "same").await;
    let second = send(service, "orders", "same").await;
    assert_eq!(code(&second.status), Code::Ok);
    assert_eq!(first.entries[0].offset, second.entries[0].offset);
    let (_, messages) = receive(service, "orders", "readers", LONG).await;
    assert_eq!(messages.len(), 1);
    assert_eq!(
        receive(service, "orders", "readers", SHORT).await.0,
        Code::MessageNotFound
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_message_comes_again_with_the_next_attempt() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    send(service, "orders", "again").await;
    let (_, messages) = receive(service, "orders", "readers", LONG).await;
    let change = |handle: String, seconds| ChangeInvisibleDurationRequest {
        group: Some(resource("readers")),
        topic: Some(resource("orders")),
        receipt_handle: handle,
        invisible_duration: Some(prost_types::Duration { seconds, nanos: 0 }),
        ..Default::default()
    };
    let handle = properties(&messages[0]).receipt_handle.clone().unwrap();
    let extended = service
        .change_invisible_duration(&caller(), change(handle.clone(), 30))
        .await;
    assert_eq!(code(&extended.status), Code::Ok);
    assert_ne!(extended.receipt_handle, handle);
    let stale = service
        .change_invisible_duration(&caller(), change(handle.clone(), 30))
        .await;
    assert_eq!(code(&stale.status), Code::InvalidReceiptHandle);
    assert_eq!(stale.receipt_handle, handle, "never an empty handle");
    let nacked = service
        .change_invisible_duration(&caller(), change(extended.receipt_handle, 0))
        .await;
    assert_eq!(code(&nacked.status), Code::Ok);
    // Given back is given back, for every request alike.
    let mut given_back = messages[0].clone();
    let receipt = given_back.system_properties.as_mut().unwrap();
    receipt.receipt_handle = Some(nacked.receipt_handle.clone());
    assert_eq!(
        ack(service, "orders", "readers", &given_back).await,
        Code::InvalidReceiptHandle
    );
    let again = service
        .change_invisible_duration(&caller(), change(nacked.receipt_handle, 30))
        .await;
    assert_eq!(code(&again.status), Code::InvalidReceiptHandle);
    let (_, messages) = receive(service, "orders", "readers", LONG).await;
    assert_eq!(properties(&messages[0]).delivery_attempt, Some(2));
    assert_eq!(ack(service, "orders", "readers", &messages[0]).await, Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_push_consumer_holds_when_it_says_good_bye_soon_comes_to_another() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    send(service, "orders", "left behind").await;
    let push = Caller {
        client_id: "push@1".into(),
        ..caller()
    };
    let request = ReceiveMessageRequest {
        auto_renew: true,
        invisible_duration: None,
        ..receive_request("orders", "readers", LONG)
    };
    let responses = service.receive_message(&push, request).await;
    let is_message = |content: &Option<Content>| matches!(content, Some(Content::Message(_)));
    assert!(responses.iter().any(|response| is_message(&response.content)));
    assert_eq!(
        receive(service, "orders", "readers", SHORT).await.0,
        Code::MessageNotFound
    );
    let bye = NotifyClientTerminationRequest::default();
    let answer = service.notify_client_termination(&push, bye).await;
    assert_eq!(code(&answer.status), Code::Ok);
    // Long before the end of a lease of 60 seconds.
    let (status, messages) = receive(service, "orders", "readers", LONG).await;
    assert_eq!((status, messages.len()), (Code::Ok, 1));
    assert_eq!(properties(&messages[0]).delivery_attempt, Some(2));
    assert_eq!(ack(service, "orders", "readers", &messages[0]).await, Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_given_up_is_read_from_the_dead_letter_queue() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    send(service, "orders", "poison").await;
    let (_, messages) = receive(service, "orders", "readers", LONG).await;
    let request = ForwardMessageToDeadLetterQueueRequest {
        group: Some(resource("readers")),
        topic: Some(resource("orders")),
        receipt_handle: properties(&messages[0]).receipt_handle.clone().unwrap(),
        message_id: "poison".into(),
        ..Default::default()
    };
    let given_up = service
        .forward_message_to_dead_letter_queue(&caller(), request)
        .await;
    assert_eq!(code(&given_up.status), Code::Ok);
    let (status, dead) = receive(service, "%DLQ%readers", "undertakers", LONG).await;
    assert_eq!((status, dead.len()), (Code::Ok, 1));
    let origin = properties(&dead[0])
        .dead_letter_queue
        .as_ref()
        .expect("where it came from");
    assert_eq!(
        (origin.topic.as_str(), origin.message_id.as_str()),
        ("orders", "poison")
    );
    assert_eq!(dead[0].body, "body of poison");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_tried_before_is_not_done_because_the_message_is_a_dead_letter() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    send(service, "orders", "poison").await;
    let (_, messages) = receive(service, "orders", "readers", LONG).await;
    let (group, topic) = (Some(resource("readers")), Some(resource("orders")));
    let handle = properties(&messages[0]).receipt_handle.clone().unwrap();
    let request = ForwardMessageToDeadLetterQueueRequest {
        group: group.clone(),
        topic: topic.clone(),
        receipt_handle: handle.clone(),
        ..Default::default()
    };
    let given_up = service
        .forward_message_to_dead_letter_queue(&caller(), request)
        .await;
    assert_eq!(code(&given_up.status), Code::Ok);
    let retried = Caller {
        retried: true,
        ..caller()
    };
    let change = |caller: Caller, seconds| {
        let request = ChangeInvisibleDurationRequest {
            group: group.clone(),
            topic: topic.clone(),
            receipt_handle: handle.clone(),
            invisible_duration: Some(prost_types::Duration { seconds, nanos: 0 }),
            ..Default::default()
        };
        async move { code(&service.change_invisible_duration(&caller, request).await.status) }
    };
    assert_eq!(change(retried.clone(), 10).await, Code::HaNotAvailable);
    assert_eq!(change(caller(), 10).await, Code::InvalidReceiptHandle);
    // "Again, at once", of the last attempt, makes a dead letter.
    assert_eq!(change(retried, 0).await, Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_get_the_right_codes() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    let refused = send(service, "no spaces", "x").await;
    assert_eq!(code(&refused.status), Code::IllegalTopic);
    assert_eq!(
        code(&send(service, "orders", " ").await.status),
        Code::IllegalMessageId
    );
    let empty = service
        .send_message(&caller(), SendMessageRequest::default())
        .await;
    assert_eq!(code(&empty.status), Code::MessageCorrupted);
    let mut fifo = message("orders", "fifo");
    fifo.system_properties.as_mut().unwrap().message_group = Some("g".into());
    let refused = service
        .send_message(&caller(), SendMessageRequest { messages: vec![fifo] })
        .await;
    assert_eq!(code(&refused.status), Code::MessagePropertyConflictWithType);
    let nobody = Caller::default();
    let request = SendMessageRequest {
        messages: vec![message("orders", "x")],
    };
    assert_eq!(
        code(&service.send_message(&nobody, request).await.status),
        Code::ClientIdRequired
    );
    assert_eq!(
        receive(service, "orders", "no group!", SHORT).await.0,
        Code::IllegalConsumerGroup
    );
    assert_eq!(
        receive(service, "%DLQ%nobody", "readers", SHORT).await.0,
        Code::TopicNotFound
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_handle_of_no_shard_is_invalid_at_once() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    send(service, "orders", "one").await;
    let (_, mut messages) = receive(service, "orders", "readers", LONG).await;
    let good = Handle::decode(properties(&messages[0]).receipt_handle.as_ref().unwrap()).unwrap();
    for shard in [0, 3, u32::MAX] {
        let forged = Handle { shard, ..good }.encode();
        messages[0].system_properties.as_mut().unwrap().receipt_handle = Some(forged);
        let answer = tokio::time::timeout(
            Duration::from_secs(1),
            ack(service, "orders", "readers", &messages[0]),
        );
        assert_eq!(
            answer.await.expect("at once"),
            Code::InvalidReceiptHandle,
            "shard {shard}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_has_everything_the_sdks_look_for() {
    let cluster = Cluster::start(1).await;
    let request = QueryRouteRequest {
        topic: Some(resource("orders")),
        endpoints: None,
    };
    let route = cluster.service(1).query_route(&caller(), request).await;
    assert_eq!(code(&route.status), Code::Ok);
    assert_eq!(route.message_queues.len(), 4);
    for (at, queue) in route.message_queues.iter().enumerate() {
        let broker = queue.broker.as_ref().unwrap();
        assert_eq!((queue.id as usize, broker.id), (at, 0));
        assert_eq!(queue.permission, Permission::ReadWrite as i32);
        assert_eq!(queue.accept_message_types, [MessageType::Normal as i32]);
        assert_eq!(broker.endpoints.as_ref().unwrap().addresses.len(), 1);
        assert_eq!(queue.topic, Some(resource("orders")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_acknowledged_is_there_after_a_crash() {
    let mut cluster = Cluster::start(1).await;
    for i in 0..50 {
        assert_eq!(
            code(
                &send(cluster.service(1), "orders", &format!("id-{i}"))
                    .await
                    .status
            ),
            Code::Ok
        );
    }
    let (_, leased) = receive(cluster.service(1), "orders", "readers", LONG).await;
    assert!(!leased.is_empty());
    cluster.kill(1).await;
    cluster.boot(1).await;
    cluster.wait_ready().await;
    let service = cluster.service(1);
    // The leases live in the log: the old handles are good, and nothing leased comes again.
    for message in &leased {
        assert_eq!(ack(service, "orders", "readers", message).await, Code::Ok);
    }
    let mut rest = BTreeSet::new();
    while rest.len() < 50 - leased.len() {
        let (status, messages) = receive(service, "orders", "readers", LONG).await;
        assert_eq!(status, Code::Ok);
        rest.extend(
            messages
                .iter()
                .map(|message| properties(message).message_id.clone()),
        );
    }
    for message in &leased {
        assert!(
            !rest.contains(&properties(message).message_id),
            "leased messages were delivered again"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_queue_with_messages_has_its_turn() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    // Enough for each of the four queues to have some left all the time.
    for i in 0..800 {
        assert_eq!(
            code(&send(service, "orders", &format!("id-{i}")).await.status),
            Code::Ok
        );
    }
    let mut queues = BTreeSet::new();
    for _ in 0..4 {
        let (_, messages) = receive(service, "orders", "readers", LONG).await;
        queues.extend(messages.iter().map(|message| properties(message).queue_id));
    }
    assert_eq!(queues.len(), 4, "only queues {queues:?} were served");
}
