//! Messages that are to be delivered at a date.

use std::{collections::BTreeMap, time::Duration};

use broker::{
    limits::MAX_DELAY,
    service::{Service, delay::RecallHandle},
    views::{AdminErrorKind, DelayedQuery, RecallSpec, RetimeSpec, TopicSpec},
};
use flotilla_proto::rocketmq::{
    Code, Message, MessageType, RecallMessageRequest, RecallMessageResponse, SendMessageRequest,
    SendMessageResponse,
};
use prost_types::Timestamp;
use tokio::time::Instant;

use crate::cluster::{
    Cluster, Fault, ack, caller, code, message, properties, receive, resource, send_large, wait_for,
};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_secs(3_600);

async fn make_topic(service: &Service, name: &str, message_type: &str) {
    let spec = TopicSpec {
        name: name.into(),
        queues: Some(4),
        message_type: message_type.into(),
        ageing_ms: None,
    };
    service.create_topic(spec).await.unwrap();
}

fn stamp(ms: u64) -> Timestamp {
    Timestamp {
        seconds: (ms / 1_000) as i64,
        nanos: (ms % 1_000) as i32 * 1_000_000,
    }
}

/// A message that is to be delivered so long from now; and when that is.
fn later(service: &Service, topic: &str, id: &str, ahead: Duration) -> (Message, u64) {
    let at = service.node().clock().wall_ms() + ahead.as_millis() as u64;
    let mut message = message(topic, id);
    message.system_properties.as_mut().unwrap().delivery_timestamp = Some(stamp(at));
    (message, at)
}

async fn send_message(service: &Service, message: Message) -> SendMessageResponse {
    let request = SendMessageRequest {
        messages: vec![message],
    };
    service.send_message(&caller(), request).await
}

/// Its recall handle.
async fn send_later(service: &Service, id: &str, ahead: Duration) -> String {
    let (message, _) = later(service, "orders", id, ahead);
    let sent = send_message(service, message).await;
    assert_eq!(code(&sent.status), Code::Ok, "{sent:?}");
    assert_eq!(sent.entries[0].message_id, id);
    sent.entries[0].recall_handle.clone()
}

async fn recall(service: &Service, topic: &str, handle: &str) -> RecallMessageResponse {
    let request = RecallMessageRequest {
        topic: Some(resource(topic)),
        recall_handle: handle.into(),
    };
    service.recall_message(&caller(), request).await
}

async fn recalled(service: &Service, handle: &str) -> Code {
    code(&recall(service, "orders", handle).await.status)
}

/// Receives so many and acknowledges them: what came, by id.
async fn take(service: &Service, count: usize) -> BTreeMap<String, Message> {
    let mut came = BTreeMap::new();
    let until = Instant::now() + 4 * LONG;
    while came.len() < count && Instant::now() < until {
        let (_, messages) = receive(service, "orders", "readers", LONG).await;
        for message in messages {
            assert_eq!(ack(service, "orders", "readers", &message).await, Code::Ok);
            let id = properties(&message).message_id.clone();
            assert!(came.insert(id, message).is_none(), "it came twice");
        }
    }
    came
}

/// Nothing comes for a moment.
async fn nothing_comes(service: &Service) {
    let (status, messages) = receive(service, "orders", "readers", SHORT).await;
    assert_eq!((status, messages.len()), (Code::MessageNotFound, 0));
}

fn waiting(service: &Service) -> u64 {
    let shards = service.node().shards();
    let leads = shards.iter().filter(|shard| shard.leads());
    leads
        .map(|shard| {
            let topic = service.node().meta().topic("orders").expect("it exists");
            let queues = (0..4).map(|number| queue_core::QueueId::new(topic.id, number));
            shard
                .machine
                .read(|core| queues.map(|queue| core.waiting_for(queue)).sum::<u64>())
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_comes_when_it_is_due_and_not_before() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    make_topic(service, "orders", "DELAY").await;
    let clock = service.node().clock();
    let (soon, at) = later(service, "orders", "soon", Duration::from_millis(700));
    let begun = Instant::now();
    let sent = send_message(service, soon).await;
    assert_eq!(code(&sent.status), Code::Ok);
    assert!(!sent.entries[0].recall_handle.is_empty());
    let (_, messages) = receive(service, "orders", "readers", LONG).await;
    assert!(
        begun.elapsed() >= Duration::from_millis(690),
        "{:?}",
        begun.elapsed()
    );
    assert!(clock.wall_ms() >= at);
    let all = properties(&messages[0]);
    assert_eq!(all.message_id, "soon");
    assert_eq!(all.message_type, MessageType::Delay as i32);
    assert_eq!(all.delivery_timestamp, Some(stamp(at)));
    assert_eq!(messages[0].body, "body of soon");
    // What is to be delivered in the past is delivered at once, and cannot be recalled.
    let mut past = message("orders", "past");
    past.system_properties.as_mut().unwrap().delivery_timestamp = Some(stamp(1_000));
    let sent = send_message(service, past).await;
    assert_eq!(
        (code(&sent.status), sent.entries[0].recall_handle.as_str()),
        (Code::Ok, "")
    );
    let (_, messages) = receive(service, "orders", "readers", LONG).await;
    assert_eq!(properties(&messages[0]).message_id, "past");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_recalled_never_comes_and_what_came_is_not_recalled() {
    let cluster = Cluster::start(3).await;
    make_topic(cluster.service(1), "orders", "MIXED").await;
    make_topic(cluster.service(1), "others", "DELAY").await;
    let service = cluster.service(1);
    let handle = send_later(service, "unwanted", HOUR).await;
    let kept = send_later(service, "wanted", HOUR).await;
    // Any node takes it.
    let answer = recall(cluster.service(2), "orders", &handle).await;
    assert_eq!(
        (code(&answer.status), answer.message_id.as_str()),
        (Code::Ok, "unwanted")
    );
    assert_eq!(recalled(cluster.service(3), &handle).await, Code::MessageNotFound);
    assert_eq!(
        code(&recall(service, "others", &kept).await.status),
        Code::BadRequest,
        "of another topic"
    );
    assert_eq!(
        code(&recall(service, "nothing", &kept).await.status),
        Code::TopicNotFound
    );
    for odd in [
        "",
        "x",
        "AQAAAAEAAAAAAAAAAQAAAAEAAAAAAAAAAQAAAAAAAAAB",
        &"A".repeat(500),
    ] {
        assert_eq!(recalled(service, odd).await, Code::BadRequest, "{odd}");
    }
    assert_eq!(recalled(service, &"A".repeat(1 << 20)).await, Code::BadRequest);
    let elsewhere = RecallHandle {
        shard: 77,
        ..RecallHandle::decode(&kept).unwrap()
    };
    assert_eq!(recalled(service, &elsewhere.encode()).await, Code::BadRequest);
    let never = RecallHandle {
        timer: 1 << 40,
        ..RecallHandle::decode(&kept).unwrap()
    };
    assert_eq!(recalled(service, &never.encode()).await, Code::MessageNotFound);
    cluster.pass(HOUR);
    assert_eq!(
        take(cluster.service(2), 1).await.into_keys().collect::<Vec<_>>(),
        ["wanted"]
    );
    nothing_comes(service).await;
    assert_eq!(recalled(service, &kept).await, Code::MessageNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recall_that_is_repeated_inside_the_cluster_is_told_what_it_did() {
    let cluster = Cluster::start(3).await;
    make_topic(cluster.service(1), "orders", "DELAY").await;
    let handle = send_later(cluster.service(1), "unwanted", HOUR).await;
    let shard = RecallHandle::decode(&handle).unwrap().shard;
    assert_eq!(recalled(cluster.service(1), &handle).await, Code::Ok);
    let leader = cluster.service(1).node().leader(shard).expect("it has one");
    let again = broker::service::Caller {
        retried: true,
        ..caller()
    };
    let request = RecallMessageRequest {
        topic: Some(resource("orders")),
        recall_handle: handle,
    };
    let answer = cluster.service(leader).recall_message(&again, request).await;
    assert_eq!(code(&answer.status), Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn dates_that_cannot_be_and_kinds_that_do_not_go_together_are_refused() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    make_topic(service, "orders", "DELAY").await;
    make_topic(service, "plain", "NORMAL").await;
    let at_most = |ahead| later(service, "orders", "a", ahead).0;
    let sent = send_message(service, at_most(MAX_DELAY - LONG)).await;
    assert_eq!(code(&sent.status), Code::Ok);
    let sent = send_message(service, at_most(MAX_DELAY + LONG)).await;
    assert_eq!(code(&sent.status), Code::IllegalDeliveryTime);
    for seconds in [-1, i64::MIN, i64::MAX] {
        let mut odd = message("orders", "odd");
        odd.system_properties.as_mut().unwrap().delivery_timestamp = Some(Timestamp { seconds, nanos: 0 });
        assert_eq!(
            code(&send_message(service, odd).await.status),
            Code::IllegalDeliveryTime
        );
    }
    let mut transaction = at_most(HOUR);
    transaction.system_properties.as_mut().unwrap().message_type = MessageType::Transaction as i32;
    let conflict = Code::MessagePropertyConflictWithType;
    assert_eq!(code(&send_message(service, transaction).await.status), conflict);
    let elsewhere = later(service, "plain", "a", HOUR).0;
    assert_eq!(code(&send_message(service, elsewhere).await.status), conflict);
    let undated = send_message(service, message("orders", "undated")).await;
    assert_eq!(code(&undated.status), conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_outlives_restarts_and_failovers_and_a_repeated_send_is_the_first() {
    let mut cluster = Cluster::start(3).await;
    make_topic(cluster.service(1), "orders", "DELAY").await;
    let mut handles = BTreeMap::new();
    for number in 0..20 {
        let id = format!("id-{number}");
        handles.insert(id.clone(), send_later(cluster.service(1), &id, HOUR).await);
    }
    assert_eq!(recalled(cluster.service(2), &handles["id-7"]).await, Code::Ok);
    let (victim, _) = cluster.two_leaders().await;
    cluster.kill(victim).await;
    let other = cluster.running()[0];
    wait_for("another leader", || {
        [1, 2].iter().all(|&shard| {
            let leader = cluster.service(other).node().leader(shard);
            leader.is_some_and(|leader| leader != victim)
        })
    })
    .await;
    for (id, handle) in &handles {
        assert_eq!(
            send_later(cluster.service(other), id, 2 * HOUR).await,
            *handle,
            "{id}"
        );
    }
    assert_eq!(recalled(cluster.service(other), &handles["id-8"]).await, Code::Ok);
    nothing_comes(cluster.service(other)).await;
    cluster.boot(victim).await;
    for id in cluster.running() {
        if id != victim {
            cluster.kill(id).await;
        }
    }
    for id in 1..=3 {
        if id != victim {
            cluster.boot(id).await;
        }
    }
    cluster.wait_ready().await;
    cluster.pass(HOUR);
    let came = take(cluster.service(victim), 18).await;
    assert_eq!(came.len(), 18);
    assert!(!came.contains_key("id-7") && !came.contains_key("id-8"));
    nothing_comes(cluster.service(other)).await;
    // It was delivered: there is nothing to be recalled.
    let (again, _) = later(cluster.service(other), "orders", "id-3", HOUR);
    let sent = send_message(cluster.service(other), again).await;
    assert_eq!(code(&sent.status), Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_send_of_what_came_already_is_told_its_place() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    make_topic(service, "orders", "DELAY").await;
    let ahead = Duration::from_secs(60);
    let handle = send_later(service, "a", ahead).await;
    assert_eq!(send_later(service, "a", ahead).await, handle);
    cluster.pass(ahead);
    let came = take(service, 1).await;
    let offset = properties(&came["a"]).queue_offset.unwrap();
    let (again, _) = later(service, "orders", "a", ahead);
    let sent = send_message(service, again).await;
    let entry = &sent.entries[0];
    assert_eq!(
        (code(&sent.status), entry.offset, entry.recall_handle.as_str()),
        (Code::Ok, offset, "")
    );
    nothing_comes(service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_outlives_many_segments_of_the_log() {
    const MIB: u64 = 1 << 20;
    let cluster = Cluster::start_retaining(1, 24 * MIB).await;
    let service = cluster.service(1);
    make_topic(service, "orders", "DELAY").await;
    for number in 0..50 {
        send_later(service, &format!("id-{number}"), HOUR).await;
    }
    for number in 0..5 * 24 * 2 {
        let sent = send_large(service, "flood", &format!("{number}")).await;
        assert_eq!(code(&sent.status), Code::Ok);
    }
    let log = service.node().store().log();
    wait_for("the log to keep to its size", || {
        log.size() + log.spare_bytes() <= 24 * MIB
    })
    .await;
    assert_eq!(waiting(service), 50);
    cluster.pass(HOUR);
    let came = take(service, 50).await;
    assert_eq!(came.len(), 50);
    assert!(
        came.iter()
            .all(|(id, message)| message.body == format!("body of {id}"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_goes_with_its_topic() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    make_topic(service, "orders", "DELAY").await;
    for number in 0..30 {
        send_later(service, &format!("id-{number}"), HOUR).await;
    }
    let topic = service.node().meta().topic("orders").expect("it exists").id;
    service.delete_topic("orders").await.unwrap();
    wait_for("everything to be dropped", || {
        let shards = service.node().shards();
        shards.iter().all(|shard| {
            shard
                .machine
                .read(|core| core.queues_of(topic).is_empty() && core.displaced_bytes() == 0)
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recall_whose_way_to_the_leader_is_broken_is_not_answered_as_done() {
    let cluster = Cluster::start(3).await;
    make_topic(cluster.service(1), "orders", "DELAY").await;
    let handle = send_later(cluster.service(1), "a", HOUR).await;
    let shard = RecallHandle::decode(&handle).unwrap().shard;
    let leader = cluster.service(1).node().leader(shard).expect("it has one");
    let other = cluster.service(1 + leader % 3);
    cluster.fail("RecallMessage", Fault::Hang);
    assert_eq!(recalled(other, &handle).await, Code::HaNotAvailable);
    cluster.heal("RecallMessage");
    assert_eq!(recalled(other, &handle).await, Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_what_waits_recall_it_and_give_it_another_date() {
    let cluster = Cluster::start(3).await;
    make_topic(cluster.service(1), "orders", "DELAY").await;
    let mut handles = BTreeMap::new();
    for number in 0..10 {
        let id = format!("id-{number}");
        handles.insert(id.clone(), send_later(cluster.service(1), &id, HOUR).await);
    }
    // Any node, page by page.
    let mut shown = BTreeMap::new();
    let mut query = DelayedQuery {
        limit: Some(3),
        ..Default::default()
    };
    loop {
        let page = cluster
            .service(2)
            .list_delayed("orders", query.clone())
            .await
            .unwrap();
        assert!(page.messages.len() <= 3);
        shown.extend(page.messages.into_iter().map(|it| (it.message_id.clone(), it)));
        query.from = page.next;
        if query.from.is_none() {
            break;
        }
    }
    let handles_shown: BTreeMap<String, String> = shown
        .iter()
        .map(|(id, it)| (id.clone(), it.recall_handle.clone()))
        .collect();
    assert_eq!(handles_shown, handles);
    let left = Duration::from_millis(shown["id-0"].left_ms);
    assert!(left <= HOUR && left > HOUR / 2, "{left:?}");
    let query = DelayedQuery {
        message_id: Some("id-4".into()),
        ..Default::default()
    };
    let found = cluster.service(3).list_delayed("orders", query).await.unwrap();
    assert_eq!(found.messages.len(), 1);
    assert_eq!(found.messages[0].recall_handle, handles["id-4"]);
    let recall = RecallSpec {
        recall_handle: handles["id-4"].clone(),
    };
    let done = cluster
        .service(2)
        .recall_delayed("orders", recall.clone())
        .await
        .unwrap();
    assert_eq!(done.message_id, "id-4");
    cluster
        .service(2)
        .recall_delayed("orders", recall)
        .await
        .unwrap_err();
    // At once; and the message says so.
    let now_ms = cluster.service(1).node().clock().wall_ms();
    let retime = |id: &str, delivery_ms| RetimeSpec {
        recall_handle: handles[id].clone(),
        delivery_ms,
    };
    let done = cluster
        .service(2)
        .retime_delayed("orders", retime("id-5", now_ms))
        .await
        .unwrap();
    assert_eq!(done.message_id, "id-5");
    let came = take(cluster.service(1), 1).await;
    assert_eq!(properties(&came["id-5"]).delivery_timestamp, Some(stamp(now_ms)));
    let late = cluster
        .service(2)
        .retime_delayed("orders", retime("id-5", now_ms))
        .await;
    assert_eq!(late.unwrap_err().kind, AdminErrorKind::NotFound);
    let too_far = now_ms + (MAX_DELAY + HOUR).as_millis() as u64;
    let refused = cluster
        .service(2)
        .retime_delayed("orders", retime("id-6", too_far))
        .await;
    assert_eq!(refused.unwrap_err().kind, AdminErrorKind::Invalid);
    let odd = DelayedQuery {
        from: Some("somewhere".into()),
        ..Default::default()
    };
    let refused = cluster.service(1).list_delayed("orders", odd).await;
    assert_eq!(refused.unwrap_err().kind, AdminErrorKind::Invalid);
    nothing_comes(cluster.service(1)).await;
    cluster.pass(HOUR);
    assert_eq!(take(cluster.service(3), 8).await.len(), 8);
}
