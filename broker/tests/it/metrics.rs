//! Figures with RocketMQ's names: each counts its event once, in every way that it happens, under RocketMQ's labels.

use std::{collections::BTreeMap, time::Duration};

use broker::{service::Service, views::GroupSpec};
use flotilla_proto::rocketmq::{
    ChangeInvisibleDurationRequest, ClientType, Code, ForwardMessageToDeadLetterQueueRequest, Language,
    Message, Publishing, ReceiveMessageRequest, SendMessageRequest, Settings, Subscription, TelemetryCommand,
    Ua, receive_message_response::Content, settings::PubSub, telemetry_command::Command,
};

use crate::cluster::{
    Cluster, PATIENCE, ack, caller, code, message, properties, receive, receive_request, resource, send,
};

const LONG: Duration = Duration::from_secs(5);

/// Sum over all nodes of the rows that have these labels.
fn sum(cluster: &Cluster, name: &str, labels: &[&str]) -> u64 {
    let texts = cluster
        .running()
        .into_iter()
        .map(|id| (id, cluster.service(id).metrics_text()));
    let mut sum = 0;
    for (id, text) in texts {
        assert!(text.contains(&format!("\n# TYPE {name} ")), "{name} has no head");
        let rows = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')));
        for row in rows {
            let common = ["cluster=\"", "node_type=\"broker\"", &format!("node_id=\"{id}\"")];
            assert!(common.iter().all(|label| row.contains(label)), "{row}");
            if labels.iter().all(|label| row.contains(label)) {
                sum += row.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
            }
        }
    }
    sum
}

/// Of a figure of our own, without labels.
fn own(cluster: &Cluster, name: &str) -> u64 {
    let value = |text: String| {
        let row = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} ")).map(str::to_owned));
        row.expect("it is shown").parse::<u64>().unwrap()
    };
    cluster
        .running()
        .into_iter()
        .map(|id| value(cluster.service(id).metrics_text()))
        .sum()
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let poll = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, poll)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

/// Three nodes of which two lead, and a message of each of these ids sent to each in turn.
async fn sent(ids: &[&str]) -> Cluster {
    let cluster = Cluster::start(3).await;
    cluster.two_leaders().await;
    for (id, node) in ids.iter().zip((1..=3).cycle()) {
        assert_eq!(
            code(&send(cluster.service(node), "orders", id).await.status),
            Code::Ok
        );
    }
    cluster
}

const IDS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

/// All messages, received at the nodes in turn: each node leads some queues and asks others for the rest.
async fn received(
    cluster: &Cluster,
    group: &str,
    auto_renew: bool,
    count: usize,
) -> BTreeMap<String, Message> {
    let mut messages = BTreeMap::new();
    for node in (1..=3).cycle() {
        if messages.len() >= count {
            break;
        }
        let request = ReceiveMessageRequest {
            batch_size: 2,
            auto_renew,
            ..receive_request("orders", group, LONG)
        };
        let answers = cluster.service(node).receive_message(&caller(), request).await;
        for answer in answers {
            if let Some(Content::Message(message)) = answer.content {
                messages.insert(properties(&message).message_id.clone(), message);
            }
        }
    }
    messages
}

fn handle(message: &Message) -> String {
    properties(message).receipt_handle.clone().expect("a handle")
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_messages_and_their_bytes_count_once_direct_forwarded_in_batches_and_repeated() {
    let cluster = sent(&IDS).await;
    for (id, node) in IDS.iter().zip((1..=3).cycle().skip(1)) {
        assert_eq!(
            code(&send(cluster.service(node), "orders", id).await.status),
            Code::Ok,
            "repeated"
        );
    }
    for node in 1..=3 {
        let batch = ["1", "2", "3"].map(|id| message("orders", &format!("{node}-{id}")));
        let request = SendMessageRequest {
            messages: batch.to_vec(),
        };
        assert_eq!(
            code(
                &cluster
                    .service(node)
                    .send_message(&caller(), request)
                    .await
                    .status
            ),
            Code::Ok
        );
    }
    let refused = send(cluster.service(1), "orders", " ").await;
    assert_eq!(code(&refused.status), Code::IllegalMessageId);
    let labels = [
        "topic=\"orders\"",
        "message_type=\"normal\"",
        "is_system=\"false\"",
    ];
    assert_eq!(sum(&cluster, "rocketmq_messages_in_total", &labels), 21);
    assert_eq!(
        sum(&cluster, "rocketmq_messages_in_total", &[]),
        21,
        "nothing else"
    );
    let bytes = sum(&cluster, "rocketmq_throughput_in_total", &labels);
    received(&cluster, "readers", false, 21).await;
    assert_eq!(
        bytes,
        sum(&cluster, "rocketmq_throughput_out_total", &["topic=\"orders\""])
    );
    assert!(bytes > 21 * 10, "{bytes}");
    assert!(sum(&cluster, "rocketmq_storage_size", &[]) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_count_once_by_consumer_group_and_again_when_they_are_repeated() {
    let cluster = sent(&IDS).await;
    for group in ["readers", "writers"] {
        received(&cluster, group, group == "writers", IDS.len()).await;
        let of_group = format!("consumer_group=\"{group}\"");
        let labels = [
            "topic=\"orders\"",
            &of_group,
            "is_system=\"false\"",
            "is_retry=\"false\"",
        ];
        assert_eq!(
            sum(&cluster, "rocketmq_messages_out_total", &labels),
            12,
            "{group}"
        );
    }
    assert_eq!(
        sum(&cluster, "rocketmq_messages_out_total", &["is_retry=\"true\""]),
        0
    );
    cluster.pass(Duration::from_secs(30));
    received(&cluster, "readers", false, IDS.len()).await;
    let again = [
        "topic=\"orders\"",
        "consumer_group=\"readers\"",
        "is_retry=\"true\"",
    ];
    assert_eq!(sum(&cluster, "rocketmq_messages_out_total", &again), 12);
    assert_eq!(sum(&cluster, "rocketmq_messages_out_total", &[]), 36);
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_count_once_direct_forwarded_and_by_push_consumers() {
    let cluster = sent(&IDS).await;
    for (group, auto_renew, count) in [("readers", false, 12), ("writers", true, 24)] {
        let messages = received(&cluster, group, auto_renew, IDS.len()).await;
        for (message, node) in messages.values().zip((1..=3).cycle()) {
            assert_eq!(
                ack(cluster.service(node), "orders", group, message).await,
                Code::Ok
            );
            let twice = ack(cluster.service(node), "orders", group, message).await;
            assert_eq!(twice, Code::InvalidReceiptHandle);
        }
        assert_eq!(own(&cluster, "flotilla_acknowledged_messages_total"), count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_count_once_by_request_direct_and_forwarded_and_when_attempts_are_used_up() {
    let cluster = sent(&IDS).await;
    let spec = GroupSpec {
        name: "readers".into(),
        max_attempts: Some(1),
        ..GroupSpec::default()
    };
    cluster.service(1).create_group(spec).await.unwrap();
    let messages = received(&cluster, "readers", false, IDS.len()).await;
    for (message, node) in messages.values().take(6).zip((1..=3).cycle()) {
        let request = ForwardMessageToDeadLetterQueueRequest {
            group: Some(resource("readers")),
            topic: Some(resource("orders")),
            receipt_handle: handle(message),
            ..Default::default()
        };
        let service = cluster.service(node);
        let given_up = service
            .forward_message_to_dead_letter_queue(&caller(), request.clone())
            .await;
        assert_eq!(code(&given_up.status), Code::Ok);
        service
            .forward_message_to_dead_letter_queue(&caller(), request)
            .await;
    }
    let (name, labels) = (
        "rocketmq_send_to_dlq_messages_total",
        [
            "topic=\"orders\"",
            "consumer_group=\"readers\"",
            "is_system=\"false\"",
        ],
    );
    assert_eq!(sum(&cluster, name, &labels), 6);
    // A nack after the last attempt, and leases that end.
    let nacked = messages.values().nth(6).unwrap();
    let request = ChangeInvisibleDurationRequest {
        group: Some(resource("readers")),
        topic: Some(resource("orders")),
        receipt_handle: handle(nacked),
        invisible_duration: Some(prost_types::Duration::default()),
        ..Default::default()
    };
    cluster
        .service(1)
        .change_invisible_duration(&caller(), request)
        .await;
    cluster.pass(Duration::from_secs(30));
    until("all of them to be given up", || {
        sum(&cluster, name, &labels) >= 12
    })
    .await;
    assert_eq!(sum(&cluster, name, &[]), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_counted_by_what_they_are_while_their_streams_are_open() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    let subscription = |group: &str| {
        PubSub::Subscription(Subscription {
            group: Some(resource(group)),
            ..Default::default()
        })
    };
    let wide = "w".repeat(1000);
    let consumer = "rocketmq_consumer_connections";
    let producer = "rocketmq_producer_connections";
    let clients = [
        (
            ClientType::Producer,
            PubSub::Publishing(Publishing::default()),
            producer,
            "version=\"5.0.7\"",
        ),
        (
            ClientType::PushConsumer,
            subscription("readers"),
            consumer,
            "consume_mode=\"push\"",
        ),
        (
            ClientType::SimpleConsumer,
            subscription("readers"),
            consumer,
            "consume_mode=\"pull\"",
        ),
        (
            ClientType::SimpleConsumer,
            subscription(&wide),
            consumer,
            "consumer_group=\"\"",
        ),
    ];
    let mut sessions = Vec::new();
    for (client_type, kind, name, label) in clients {
        let labels = ["language=\"golang\"", "version=\"5.0.7\"", label];
        assert_eq!(sum(&cluster, name, &labels), 0, "{label}");
        let command = settings(client_type, kind);
        let mut session = service.open_session(&caller());
        // Settings are sent again every five minutes.
        for _ in 0..2 {
            session.handle(command.clone()).await;
            assert_eq!(sum(&cluster, name, &labels), 1, "{label}");
        }
        sessions.push(session);
    }
    let both = ["consumer_group=\"readers\"", "is_system=\"false\""];
    assert_eq!(sum(&cluster, consumer, &both), 2);
    assert_eq!(sum(&cluster, producer, &[]), 1);
    drop(sessions);
    assert_eq!(sum(&cluster, consumer, &[]) + sum(&cluster, producer, &[]), 0);
}

fn settings(client_type: ClientType, kind: PubSub) -> TelemetryCommand {
    let settings = Settings {
        client_type: Some(client_type as i32),
        pub_sub: Some(kind),
        user_agent: Some(Ua {
            language: Language::Golang as i32,
            version: "5.0.7".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    TelemetryCommand {
        command: Some(Command::Settings(settings)),
        ..Default::default()
    }
}

/// Lag, ready and in flight.
fn lag(cluster: &Cluster) -> [u64; 3] {
    let labels = [
        "consumer_group=\"readers\"",
        "topic=\"orders\"",
        "is_retry=\"false\"",
        "is_system=\"false\"",
    ];
    ["lag", "ready", "inflight"]
        .map(|what| sum(cluster, &format!("rocketmq_consumer_{what}_messages"), &labels))
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_is_what_is_ready_in_flight_or_waits_for_its_retry() {
    let cluster = Cluster::start(1).await;
    let service: &Service = cluster.service(1);
    for id in IDS {
        send(service, "orders", id).await;
    }
    let mut seen = Vec::new();
    while seen.len() < IDS.len() {
        seen.extend(receive(service, "orders", "readers", LONG).await.1);
    }
    assert_eq!(lag(&cluster), [12, 0, 12]);
    for done in &seen[..4] {
        assert_eq!(ack(service, "orders", "readers", done).await, Code::Ok);
    }
    assert_eq!(lag(&cluster), [8, 0, 8]);
    for id in ["m", "n", "o"] {
        send(service, "orders", id).await;
    }
    assert_eq!(lag(&cluster), [11, 3, 8]);
    let request = ChangeInvisibleDurationRequest {
        group: Some(resource("readers")),
        topic: Some(resource("orders")),
        receipt_handle: handle(&seen[5]),
        invisible_duration: Some(prost_types::Duration {
            seconds: 30,
            nanos: 0,
        }),
        ..Default::default()
    };
    service.change_invisible_duration(&caller(), request).await;
    let [all, ready, in_flight] = lag(&cluster);
    assert_eq!((all, ready), (11, 3));
    assert!(
        in_flight == 8,
        "a lease that lasts longer is in flight: {in_flight}"
    );
}
