//! Transactions: half messages, their ends, and the question how they ended.

use std::{collections::BTreeMap, time::Duration};

use broker::{
    limits::{CHECK_EVERY, FIRST_CHECK, MAX_CHECKS},
    service::{Caller, Service, Session, delay::RecallHandle},
    views::{AdminErrorKind, DelayedQuery, Resolution, ResolveSpec, TopicSpec, TransactionQuery},
};
use flotilla_proto::rocketmq::{
    Code, EndTransactionRequest, Message, MessageType, Publishing, RecallMessageRequest,
    RecoverOrphanedTransactionCommand, SendMessageRequest, SendMessageResponse, Settings, SystemProperties,
    TelemetryCommand, TransactionResolution, settings::PubSub, telemetry_command::Command,
};
use prost_types::Timestamp;
use tokio::time::{Instant, timeout};

use crate::cluster::{
    Cluster, Fault, ack, caller, code, message, properties, receive, resource, send, wait_until,
};

mod asked;

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(5);

async fn make_topic(service: &Service, name: &str, message_type: &str) {
    let spec = TopicSpec {
        name: name.into(),
        queues: Some(4),
        message_type: message_type.into(),
        ageing_ms: None,
    };
    service.create_topic(spec).await.unwrap();
}

fn half(id: &str) -> Message {
    let mut message = message("orders", id);
    let properties = message.system_properties.as_mut().unwrap();
    properties.message_type = MessageType::Transaction as i32;
    properties.tag = Some("paid".into());
    properties.keys = vec!["a key".into()];
    message
}

async fn send_message(service: &Service, message: Message) -> SendMessageResponse {
    let request = SendMessageRequest {
        messages: vec![message],
    };
    service.send_message(&caller(), request).await
}

/// Its transaction id.
async fn begin(service: &Service, id: &str) -> String {
    let sent = send_message(service, half(id)).await;
    assert_eq!(code(&sent.status), Code::Ok, "{sent:?}");
    assert_eq!(sent.entries[0].message_id, id);
    sent.entries[0].transaction_id.clone()
}

async fn end_as(
    service: &Service,
    topic: &str,
    transaction_id: &str,
    resolution: TransactionResolution,
) -> Code {
    let request = EndTransactionRequest {
        topic: Some(resource(topic)),
        // As with SDKs that make two ids: nobody looks at it.
        message_id: "another".into(),
        transaction_id: transaction_id.into(),
        resolution: resolution as i32,
        ..Default::default()
    };
    code(&service.end_transaction(&caller(), request).await.status)
}

async fn commit(service: &Service, id: &str) -> Code {
    end_as(service, "orders", id, TransactionResolution::Commit).await
}

async fn roll_back(service: &Service, id: &str) -> Code {
    end_as(service, "orders", id, TransactionResolution::Rollback).await
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

/// A producer's stream, on which it says that it sends to this topic.
async fn producer(service: &Service, client: &str, topic: &str) -> Session {
    let caller = Caller {
        client_id: client.into(),
        ..caller()
    };
    let mut session = service.open_session(&caller);
    let publishing = Publishing {
        topics: vec![resource(topic)],
        ..Default::default()
    };
    let settings = Settings {
        pub_sub: Some(PubSub::Publishing(publishing)),
        ..Default::default()
    };
    let answers = session.handle(TelemetryCommand {
        status: None,
        command: Some(Command::Settings(settings)),
    });
    assert_eq!(answers.await.len(), 1);
    session
}

async fn question(session: &mut Session) -> RecoverOrphanedTransactionCommand {
    let asked = timeout(4 * LONG, session.next_push()).await.expect("it is asked");
    match asked.command {
        Some(Command::RecoverOrphanedTransactionCommand(command)) => command,
        other => panic!("{other:?}"),
    }
}

/// Another node is asked first each time, and nobody twice: where one does not answer, the next question has to do.
async fn question_in_the_end(cluster: &Cluster, session: &mut Session) -> RecoverOrphanedTransactionCommand {
    for _ in 0..MAX_CHECKS {
        let asked = timeout(Duration::from_secs(2), session.next_push()).await;
        if let Ok(TelemetryCommand {
            command: Some(Command::RecoverOrphanedTransactionCommand(command)),
            ..
        }) = asked
        {
            return command;
        }
        cluster.pass(CHECK_EVERY);
    }
    panic!("it is not asked")
}

async fn is_not_asked(session: &mut Session) {
    let asked = timeout(Duration::from_millis(700), session.next_push()).await;
    assert!(asked.is_err(), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_message_comes_when_it_is_committed_and_never_when_it_is_rolled_back() {
    let cluster = Cluster::start(3).await;
    make_topic(cluster.service(1), "orders", "TRANSACTION").await;
    let wanted = begin(cluster.service(1), "wanted").await;
    let unwanted = begin(cluster.service(2), "unwanted").await;
    assert!(!wanted.is_empty() && wanted != unwanted);
    nothing_comes(cluster.service(1)).await;
    // Any node takes it, and the first end decides.
    assert_eq!(commit(cluster.service(3), &wanted).await, Code::Ok);
    assert_eq!(roll_back(cluster.service(2), &unwanted).await, Code::Ok);
    for node in 1..=3 {
        let service = cluster.service(node);
        assert_eq!(commit(service, &wanted).await, Code::Ok, "again");
        assert_eq!(roll_back(service, &unwanted).await, Code::Ok, "again");
        assert_eq!(roll_back(service, &wanted).await, Code::InvalidTransactionId);
        assert_eq!(commit(service, &unwanted).await, Code::InvalidTransactionId);
    }
    let came = take(cluster.service(2), 1).await;
    let all = properties(&came["wanted"]);
    assert_eq!(all.message_type, MessageType::Transaction as i32);
    assert_eq!(
        (all.tag.as_deref(), &all.keys[..]),
        (Some("paid"), &["a key".to_owned()][..])
    );
    nothing_comes(cluster.service(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_message_that_is_sent_again_has_the_transaction_id_that_it_had() {
    let cluster = Cluster::start(3).await;
    make_topic(cluster.service(1), "orders", "TRANSACTION").await;
    let id = begin(cluster.service(1), "a").await;
    assert_eq!(begin(cluster.service(2), "a").await, id);
    assert_eq!(commit(cluster.service(3), &id).await, Code::Ok);
    assert_eq!(begin(cluster.service(3), "a").await, id, "also when it has ended");
    assert_eq!(commit(cluster.service(1), &id).await, Code::Ok);
    assert_eq!(take(cluster.service(1), 1).await.len(), 1);
    nothing_comes(cluster.service(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_transaction_is_refused_with_the_reason() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    make_topic(service, "orders", "MIXED").await;
    make_topic(service, "others", "TRANSACTION").await;
    make_topic(service, "plain", "NORMAL").await;
    let id = begin(service, "a").await;
    let over = TransactionResolution::Commit;
    assert_eq!(
        end_as(service, "others", &id, over).await,
        Code::InvalidTransactionId
    );
    assert_eq!(end_as(service, "nothing", &id, over).await, Code::TopicNotFound);
    assert_eq!(end_as(service, "", &id, over).await, Code::IllegalTopic);
    for odd in ["", " ", "x", &"A".repeat(500)] {
        assert_eq!(commit(service, odd).await, Code::InvalidTransactionId, "{odd}");
    }
    assert_eq!(commit(service, &"A".repeat(1 << 20)).await, Code::BadRequest);
    let unknown = EndTransactionRequest {
        topic: Some(resource("orders")),
        transaction_id: id.clone(),
        resolution: 9,
        ..Default::default()
    };
    let answer = service.end_transaction(&caller(), unknown).await;
    assert_eq!(code(&answer.status), Code::BadRequest);
    // A producer that does not know yet: it stays open.
    let unsure = end_as(service, "orders", &id, TransactionResolution::Unspecified).await;
    assert_eq!(unsure, Code::Ok);
    nothing_comes(service).await;
    let recall = RecallMessageRequest {
        topic: Some(resource("orders")),
        recall_handle: id.clone(),
    };
    let recalled = service.recall_message(&caller(), recall).await;
    assert_eq!(code(&recalled.status), Code::BadRequest, "it is no recall handle");
    assert_eq!(commit(service, &id).await, Code::Ok);

    let conflict = Code::MessagePropertyConflictWithType;
    type Change = fn(&mut SystemProperties);
    let changes: [(Change, Code); 5] = [
        (|all| all.message_group = Some("g".into()), conflict),
        (|all| all.priority = Some(3), conflict),
        (
            |all| all.delivery_timestamp = Some(Timestamp::default()),
            conflict,
        ),
        (
            |all| {
                all.orphaned_transaction_recovery_duration = Some(prost_types::Duration {
                    seconds: 3_601,
                    nanos: 0,
                })
            },
            Code::BadRequest,
        ),
        (|all| all.message_id = String::new(), Code::IllegalMessageId),
    ];
    for (number, (change, expected)) in changes.into_iter().enumerate() {
        let mut odd = half(&format!("odd-{number}"));
        change(odd.system_properties.as_mut().unwrap());
        assert_eq!(
            code(&send_message(service, odd).await.status),
            expected,
            "{number}"
        );
    }
    let mut plain = half("b");
    plain.topic = Some(resource("plain"));
    assert_eq!(code(&send_message(service, plain).await.status), conflict);
    assert_eq!(code(&send(service, "others", "c").await.status), conflict);
    // An id that was another message's.
    assert_eq!(code(&send(service, "orders", "d").await.status), Code::Ok);
    assert_eq!(code(&send_message(service, half("d")).await.status), conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_transactions_are_listed_page_by_page_and_apart_from_what_waits_for_its_date() {
    let cluster = Cluster::start(3).await;
    make_topic(cluster.service(1), "orders", "MIXED").await;
    let mut ids = Vec::new();
    for number in 0..25 {
        ids.push(begin(cluster.service(1), &format!("half-{number:02}")).await);
    }
    let mut delayed = message("orders", "delayed");
    delayed.system_properties.as_mut().unwrap().delivery_timestamp = Some(Timestamp {
        seconds: (cluster.service(1).node().clock().wall_ms() / 1_000) as i64 + 3_600,
        nanos: 0,
    });
    assert_eq!(
        code(&send_message(cluster.service(1), delayed).await.status),
        Code::Ok
    );
    let (mut found, mut from) = (Vec::new(), None);
    loop {
        let query = TransactionQuery {
            from,
            limit: Some(7),
            ..Default::default()
        };
        let page = cluster
            .service(2)
            .list_transactions("orders", query)
            .await
            .unwrap();
        assert!(page.transactions.len() <= 7);
        found.extend(page.transactions.into_iter().map(|it| it.transaction_id));
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    found.sort();
    ids.sort();
    assert_eq!(found, ids);
    let waiting = cluster
        .service(3)
        .list_delayed("orders", DelayedQuery::default())
        .await
        .unwrap();
    let waiting: Vec<String> = waiting.messages.into_iter().map(|it| it.message_id).collect();
    assert_eq!(waiting, ["delayed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_outlives_its_leader_and_is_asked_about_by_the_next() {
    let mut cluster = Cluster::start(3).await;
    make_topic(cluster.service(1), "orders", "TRANSACTION").await;
    let (wanted, asked) = (
        begin(cluster.service(1), "wanted").await,
        begin(cluster.service(1), "asked").await,
    );
    cluster.wait_level().await;
    let leader = |cluster: &Cluster, id: &str| {
        let shard = shard_of(id);
        cluster
            .running()
            .into_iter()
            .find(|&node| cluster.service(node).node().leads(shard))
    };
    let first = leader(&cluster, &wanted).expect("it has one");
    cluster.kill(first).await;
    let alive = cluster.running()[0];
    assert_eq!(commit(cluster.service(alive), &wanted).await, Code::Ok);
    cluster.boot(first).await;
    cluster.wait_ready().await;
    let second = leader(&cluster, &asked).expect("it has one");
    cluster.kill(second).await;
    let alive = *cluster.running().last().unwrap();
    let mut session = producer(cluster.service(alive), "asked", "orders").await;
    // By the time of a shard that stood still while nobody led it.
    wait_until("a leader", async || {
        cluster
            .service(alive)
            .node()
            .leader(shard_of(&asked))
            .is_some_and(|node| node != second)
    })
    .await;
    cluster.pass(FIRST_CHECK + CHECK_EVERY);
    assert_eq!(
        question_in_the_end(&cluster, &mut session).await.transaction_id,
        asked
    );
    assert_eq!(commit(cluster.service(alive), &asked).await, Code::Ok);
    let came: Vec<String> = take(cluster.service(alive), 2).await.into_keys().collect();
    assert_eq!(came, ["asked", "wanted"]);
}

/// The shard that a transaction id names: behind its version.
fn shard_of(id: &str) -> u32 {
    let mut bytes = data_encoding::BASE64URL_NOPAD.decode(id.as_bytes()).unwrap();
    bytes[0] = 1;
    RecallHandle::decode(&data_encoding::BASE64URL_NOPAD.encode(&bytes))
        .unwrap()
        .shard
}
