//! Topics whose messages come by their priority.

use std::time::Duration;

use broker::{
    service::Service,
    views::{AdminErrorKind, GroupSpec, TopicSpec},
};
use flotilla_proto::rocketmq::{
    Code, Message, MessageType, QueryAssignmentRequest, QueryRouteRequest, ReceiveMessageRequest,
    SendMessageRequest,
};
use prost_types::Timestamp;

use crate::cluster::{
    Cluster, ack, ask, caller, code, message, properties, receive, receive_request, resource, wait_until,
};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(5);

fn spec(name: &str, ageing_ms: Option<u64>) -> TopicSpec {
    TopicSpec {
        name: name.into(),
        queues: None,
        message_type: "PRIORITY".into(),
        ageing_ms,
    }
}

async fn send_all(service: &Service, messages: Vec<Message>) -> Code {
    let request = SendMessageRequest { messages };
    let sent = service.send_message(&caller(), request).await;
    code(&sent.status)
}

fn letter(topic: &str, id: &str, priority: i32) -> Message {
    let mut message = message(topic, id);
    let properties = message.system_properties.as_mut().unwrap();
    properties.priority = Some(priority);
    properties.message_type = MessageType::Priority as i32;
    message
}

async fn send(service: &Service, topic: &str, id: &str, priority: i32) {
    assert_eq!(
        send_all(service, vec![letter(topic, id, priority)]).await,
        Code::Ok
    );
}

fn ids(messages: &[Message]) -> Vec<&str> {
    let ids = messages.iter().map(|it| properties(it).message_id.as_str());
    ids.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn larger_priorities_come_first_from_any_node_and_after_a_leader_died() {
    let mut cluster = Cluster::start_telling(3).await;
    cluster.service(1).create_topic(spec("jobs", None)).await.unwrap();
    let sent = [
        ("a", 3),
        ("b", -4),
        ("c", 9),
        ("d", 3),
        ("e", i32::MAX),
        ("f", 0),
        ("g", i32::MIN),
    ];
    for (at, (id, priority)) in sent.into_iter().enumerate() {
        send(cluster.service(1 + at as u32 % 3), "jobs", id, priority).await;
    }
    let (_, first) = receive(cluster.service(2), "jobs", "workers", LONG).await;
    assert_eq!(
        ids(&first),
        ["e", "c", "a", "d", "f", "b", "g"],
        "lanes, and in a lane as they came"
    );
    assert_eq!(properties(&first[5]).priority, Some(-4));
    assert_eq!(properties(&first[5]).message_type, MessageType::Priority as i32);
    for message in &first[..5] {
        assert_eq!(
            ack(cluster.service(3), "jobs", "workers", message).await,
            Code::Ok
        );
    }
    let topic = cluster.service(1).node().meta().topic("jobs").unwrap();
    let home = topic.queue_shards[0];
    assert!(topic.queue_shards.iter().all(|&shard| shard == home), "one home");
    let leader = cluster.service(1).node().leader(home).unwrap();
    cluster.kill(leader).await;
    cluster.wait_ready().await;
    let alive = if leader == 1 { 2 } else { 1 };
    send(cluster.service(alive), "jobs", "late", 1).await;
    let (_, more) = receive(cluster.service(alive), "jobs", "workers", LONG).await;
    assert_eq!(ids(&more), ["late"], "what is leased stays so");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_see_one_queue_which_stands_for_all_lanes() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    service.create_topic(spec("jobs", None)).await.unwrap();
    let route = QueryRouteRequest {
        topic: Some(resource("jobs")),
        ..Default::default()
    };
    let route = service.query_route(&caller(), route).await;
    let queues: Vec<i32> = route.message_queues.iter().map(|queue| queue.id).collect();
    assert_eq!(queues, [0]);
    let takes = &route.message_queues[0].accept_message_types;
    assert_eq!(takes, &[MessageType::Priority as i32]);
    let assignment = QueryAssignmentRequest {
        topic: Some(resource("jobs")),
        group: Some(resource("workers")),
        ..Default::default()
    };
    let assignment = service.query_assignment(&caller(), assignment).await;
    assert_eq!(assignment.assignments.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_receive_gets_what_it_had_of_all_lanes() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    service.create_topic(spec("jobs", None)).await.unwrap();
    for (id, priority) in [("a", 1), ("b", 2), ("c", 3)] {
        send(service, "jobs", id, priority).await;
    }
    let asking = || ReceiveMessageRequest {
        attempt_id: Some("first".into()),
        batch_size: 2,
        ..receive_request("jobs", "workers", SHORT)
    };
    let (_, first) = ask(service, asking()).await;
    assert_eq!(ids(&first), ["c", "b"]);
    send(service, "jobs", "d", 9).await;
    let (_, again) = ask(service, asking()).await;
    assert_eq!(ids(&again), ["c", "b"], "the same, whatever came since");
    for message in &again {
        assert_eq!(properties(message).delivery_attempt, Some(1));
        assert_eq!(ack(service, "jobs", "workers", message).await, Code::Ok);
    }
    let (_, rest) = receive(service, "jobs", "workers", SHORT).await;
    assert_eq!(ids(&rest), ["d", "a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_one_request_have_priorities_of_their_own() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    service.create_topic(spec("jobs", None)).await.unwrap();
    let all = vec![
        letter("jobs", "a", 1),
        letter("jobs", "b", 7),
        letter("jobs", "c", -1),
    ];
    assert_eq!(send_all(service, all.clone()).await, Code::Ok);
    assert_eq!(send_all(service, all).await, Code::Ok, "once more: stored once");
    let (_, came) = receive(service, "jobs", "workers", SHORT).await;
    assert_eq!(ids(&came), ["b", "a", "c"]);
    let lag = service.describe_group("workers").await.unwrap();
    let leased: Vec<_> = lag
        .queues
        .iter()
        .filter(|queue| queue.lag.leased > 0)
        .map(|queue| queue.lane.clone().unwrap())
        .collect();
    assert_eq!(leased, ["below 0", "1", "7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_looks_through_a_lane_before_a_lower_one() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    service.create_topic(spec("jobs", None)).await.unwrap();
    for number in 0..600 {
        let mut other = letter("jobs", &format!("other-{number}"), 5);
        other.system_properties.as_mut().unwrap().tag = Some("grey".into());
        assert_eq!(send_all(service, vec![other]).await, Code::Ok);
    }
    for (id, priority) in [("low", 1), ("high", 5)] {
        let mut wanted = letter("jobs", id, priority);
        wanted.system_properties.as_mut().unwrap().tag = Some("red".into());
        assert_eq!(send_all(service, vec![wanted]).await, Code::Ok);
    }
    let (_, came) = ask(service, red()).await;
    assert_eq!(ids(&came), ["high"]);
    let (_, came) = ask(service, red()).await;
    assert_eq!(ids(&came), ["low"]);
}

/// A receive of what is red.
fn red() -> ReceiveMessageRequest {
    ReceiveMessageRequest {
        filter_expression: Some(flotilla_proto::rocketmq::FilterExpression {
            r#type: flotilla_proto::rocketmq::FilterType::Tag as i32,
            expression: "red".into(),
        }),
        ..receive_request("jobs", "workers", LONG)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_filter_found_does_not_wait_for_a_look_at_lower_lanes() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    service.create_topic(spec("jobs", None)).await.unwrap();
    let tagged = |id: &str, priority, tag: &str| {
        let mut message = letter("jobs", id, priority);
        message.system_properties.as_mut().unwrap().tag = Some(tag.into());
        vec![message]
    };
    for number in 0..100 {
        let other = tagged(&format!("other-{number}"), 2, "grey");
        assert_eq!(send_all(service, other).await, Code::Ok);
    }
    for (id, priority) in [("low", 2), ("high", 9)] {
        assert_eq!(send_all(service, tagged(id, priority, "red")).await, Code::Ok);
    }
    let (_, came) = ask(service, red()).await;
    assert_eq!(ids(&came), ["high"], "nobody has looked for the other one yet");
    let (_, came) = ask(service, red()).await;
    assert_eq!(ids(&came), ["low"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_ageing_what_is_least_urgent_comes_too() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    service.create_topic(spec("jobs", Some(1))).await.unwrap();
    send(service, "jobs", "old", -1).await;
    // Fifteen lanes weigh 15 ms here.
    let begun = service.node().clock().steady_ms();
    wait_until("it to be old", async || {
        service.node().clock().steady_ms() > begun + 30
    })
    .await;
    send(service, "jobs", "urgent", i32::MAX).await;
    let one = ReceiveMessageRequest {
        batch_size: 1,
        ..receive_request("jobs", "workers", SHORT)
    };
    let (_, came) = ask(service, one).await;
    assert_eq!(ids(&came), ["old"]);
    let shown = service.describe_topic("jobs").await.unwrap();
    assert_eq!(shown.topic.ageing_ms, Some(1));
    assert_eq!(shown.queue_list[15].lane.as_deref(), Some("from 100000 on"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_go_with_a_priority_is_refused_with_the_reason() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    service.create_topic(spec("jobs", None)).await.unwrap();
    let plain = |name: &str, message_type: &str| TopicSpec {
        name: name.into(),
        message_type: message_type.into(),
        ..Default::default()
    };
    for (name, kind) in [("plain", "NORMAL"), ("mixed", "MIXED"), ("dated", "DELAY")] {
        service.create_topic(plain(name, kind)).await.unwrap();
        let conflict = Code::MessagePropertyConflictWithType;
        assert_eq!(
            send_all(service, vec![letter(name, "a", 1)]).await,
            conflict,
            "{name}"
        );
    }
    let mut dated = letter("dated", "a", 1);
    dated.system_properties.as_mut().unwrap().delivery_timestamp = Some(Timestamp { seconds: 1, nanos: 0 });
    let conflict = Code::MessagePropertyConflictWithType;
    assert_eq!(send_all(service, vec![dated]).await, conflict);
    assert_eq!(
        send_all(service, vec![message("jobs", "a")]).await,
        conflict,
        "none"
    );
    let wrong = [
        TopicSpec {
            queues: Some(4),
            ..spec("a", None)
        },
        spec("b", Some(u64::MAX)),
        TopicSpec {
            ageing_ms: Some(5),
            ..plain("c", "NORMAL")
        },
    ];
    for wrong in wrong {
        let refused = service.create_topic(wrong).await.unwrap_err();
        assert_eq!(refused.kind, AdminErrorKind::Invalid, "{refused}");
    }
    let ordered = GroupSpec {
        name: "ordered".into(),
        fifo: true,
        ..Default::default()
    };
    service.create_group(ordered).await.unwrap();
    let (status, _) = receive(service, "jobs", "ordered", SHORT).await;
    assert_eq!(status, Code::IllegalConsumerGroup);
}
