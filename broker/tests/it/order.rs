//! Messages of one message group come in order, and requests that are repeated get what they had.

use std::{collections::BTreeMap, time::Duration};

use broker::{
    service::Service,
    views::{GroupSpec, TopicSpec},
};
use flotilla_proto::rocketmq::{Code, Message, MessageType, ReceiveMessageRequest, SendMessageRequest};

use crate::cluster::{
    Cluster, ack, ask, caller, code, message, properties, receive, receive_request, wait_until,
};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(5);

async fn prepare(service: &Service) {
    let topic = TopicSpec {
        name: "orders".into(),
        queues: Some(4),
        message_type: "FIFO".into(),
        ageing_ms: None,
    };
    service.create_topic(topic).await.expect("it is new");
    let group = GroupSpec {
        name: "readers".into(),
        fifo: true,
        max_attempts: Some(2),
        ..Default::default()
    };
    service.create_group(group).await.expect("it is new");
}

fn letter(group: &str, number: usize) -> Message {
    let mut message = message("orders", &format!("{group}-{number:03}"));
    let properties = message.system_properties.as_mut().expect("it has some");
    properties.message_group = Some(group.into());
    properties.message_type = MessageType::Fifo as i32;
    message
}

async fn send(service: &Service, group: &str, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let messages = vec![letter(group, number)];
        let sent = service
            .send_message(&caller(), SendMessageRequest { messages })
            .await;
        assert_eq!(code(&sent.status), Code::Ok);
    }
}

/// Message group and number.
fn place(message: &Message) -> (String, usize) {
    let (group, number) = properties(message).message_id.rsplit_once('-').expect("its id");
    (group.to_owned(), number.parse().expect("a number"))
}

fn attempts(messages: &[Message]) -> Vec<(usize, i32)> {
    let each = messages.iter().map(|message| {
        let attempt = properties(message).delivery_attempt.expect("delivered");
        (place(message).1, attempt)
    });
    each.collect()
}

fn asking(attempt: &str) -> ReceiveMessageRequest {
    ReceiveMessageRequest {
        attempt_id: Some(attempt.into()),
        ..receive_request("orders", "readers", SHORT)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn message_groups_are_in_order_while_one_of_them_hangs_and_a_leader_dies() {
    let mut cluster = Cluster::start_telling(3).await;
    prepare(cluster.service(1)).await;
    for group in ["stuck", "a", "b", "c", "d"] {
        // From every node: none of them chooses another queue.
        for third in 0..3 {
            send(
                cluster.service(1 + third as u32),
                group,
                third * 10..(third + 1) * 10,
            )
            .await;
        }
    }
    let mut next: BTreeMap<String, usize> = BTreeMap::new();
    let mut done = 0;
    let mut hangs = Vec::new();
    while done < 4 * 30 {
        let asked = if done < 60 { 1 } else { 2 };
        let (_, messages) = receive(cluster.service(asked), "orders", "readers", SHORT).await;
        for message in messages {
            let (group, number) = place(&message);
            assert_eq!(
                properties(&message).message_group.as_deref(),
                Some(group.as_str())
            );
            if group == "stuck" {
                hangs.push(number);
                continue;
            }
            let expected = next.entry(group.clone()).or_default();
            assert_eq!(number, *expected, "{group}");
            *expected += 1;
            let acked = ack(cluster.service(asked), "orders", "readers", &message).await;
            assert_eq!(acked, Code::Ok);
            done += 1;
        }
        if done >= 60 && cluster.running().contains(&1) {
            cluster.kill(1).await;
            cluster.wait_ready().await;
        }
    }
    assert!(hangs.is_sorted() && hangs[0] == 0, "{hangs:?}");
    wait_until("every replica to know", async || {
        let view = cluster.service(2).describe_group("readers").await;
        let total = view.expect("it exists").total;
        total.leased + total.blocked + total.ready + total.waiting == 30
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_poison_message_comes_when_it_is_dead() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    prepare(service).await;
    send(service, "a", 0..3).await;
    let (_, first) = receive(service, "orders", "readers", LONG).await;
    assert_eq!(attempts(&first), [(0, 1), (1, 1), (2, 1)]);
    for expected in [[(0, 2)], [(1, 2)]] {
        let mut again = Vec::new();
        cluster.pass(Duration::from_secs(11));
        wait_until("it to come again", async || {
            // Also past its backoff.
            cluster.pass(Duration::from_secs(5));
            again = receive(service, "orders", "readers", SHORT).await.1;
            !again.is_empty()
        })
        .await;
        assert_eq!(attempts(&again), expected);
        if expected == [(1, 2)] {
            assert_eq!(ack(service, "orders", "readers", &again[0]).await, Code::Ok);
        }
    }
    let (_, last) = receive(service, "orders", "readers", LONG).await;
    assert_eq!(attempts(&last), [(2, 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_receive_gets_its_own_batch_again_from_whichever_node_it_asks() {
    let cluster = Cluster::start_telling(3).await;
    prepare(cluster.service(1)).await;
    for asked in [1, 2, 3] {
        for group in ["a", "b", "c", "d", "e", "f"] {
            send(cluster.service(1), &format!("{group}{asked}"), 0..2).await;
        }
        let name = format!("attempt-{asked}");
        let (_, lost) = ask(cluster.service(asked), asking(&name)).await;
        assert!(!lost.is_empty());
        let (_, others) = ask(cluster.service(asked), asking("other")).await;
        let others: Vec<_> = others.iter().map(place).collect();
        assert!(lost.iter().all(|message| !others.contains(&place(message))));
        for again in [2, 3, 1] {
            wait_until("every replica to know", async || {
                let (_, messages) = ask(cluster.service(again), asking(&name)).await;
                let same = |message: &Message| {
                    let properties = properties(message);
                    (properties.receipt_handle.clone(), properties.delivery_attempt)
                };
                messages.iter().map(same).eq(lost.iter().map(same))
            })
            .await;
        }
        for message in &lost {
            assert_eq!(
                ack(cluster.service(1), "orders", "readers", message).await,
                Code::Ok
            );
        }
        let (_, rest) = ask(cluster.service(asked), asking(&name)).await;
        assert!(
            rest.iter()
                .all(|message| !lost.iter().any(|it| place(it) == place(message)))
        );
        for message in &rest {
            ack(cluster.service(1), "orders", "readers", message).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_place_in_an_order_is_refused() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    prepare(service).await;
    let ungrouped = message("orders", "none");
    for (messages, why) in [
        (vec![ungrouped], Code::MessagePropertyConflictWithType),
        (vec![letter("a", 1), letter("b", 1)], Code::BadRequest),
        (vec![letter(&"x".repeat(64), 1)], Code::IllegalMessageGroup),
    ] {
        let sent = service
            .send_message(&caller(), SendMessageRequest { messages })
            .await;
        assert_eq!(code(&sent.status), why);
    }
}
