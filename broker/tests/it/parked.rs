//! Message groups that stop at a message that cannot be consumed, until an operator decides.

use std::time::Duration;

use broker::{
    service::{Caller, Service},
    views::{
        AdminErrorKind, GroupSpec, LettersQuery, NoteKind, OnPoison, ParkedQuery, ParkedView, TopicSpec,
        UnparkSpec,
    },
};
use flotilla_proto::rocketmq::{ChangeInvisibleDurationRequest, Code, MessageType, SendMessageRequest};

use crate::{
    cluster::{Cluster, ack, caller, code, message, properties, receive, resource, wait_until},
    dead_letters::{bury, nack},
};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(5);

async fn prepare(service: &Service, on_poison: OnPoison) {
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
        on_poison,
        ..Default::default()
    };
    service.create_group(group).await.expect("it is new");
    for number in 0..3 {
        for group in ["poisoned", "fine"] {
            let mut message = message("orders", &format!("{group}-{number}"));
            let properties = message.system_properties.as_mut().expect("it has some");
            properties.message_group = Some(group.into());
            properties.message_type = MessageType::Fifo as i32;
            let messages = vec![message];
            let sent = service
                .send_message(&caller(), SendMessageRequest { messages })
                .await;
            assert_eq!(code(&sent.status), Code::Ok);
        }
    }
}

async fn parked(service: &Service) -> Vec<ParkedView> {
    let page = service.list_parked("readers", ParkedQuery::default()).await;
    page.expect("every shard answers").messages
}

/// Refuses the first of one message group as often as it comes, and acknowledges all else, until a message is parked or dead.
async fn consume(service: &Service) -> Vec<String> {
    let mut done = Vec::new();
    wait_until("the poison to be given up", async || {
        let (_, messages) = receive(service, "orders", "readers", SHORT).await;
        for message in messages {
            let id = properties(&message).message_id.clone();
            if id == "poisoned-0" {
                assert_eq!(nack(service, "orders", "readers", &message).await, Code::Ok);
            } else if ack(service, "orders", "readers", &message).await == Code::Ok {
                done.push(id);
            }
        }
        let letters = service.list_letters("readers", LettersQuery::default()).await;
        let given_up = !parked(service).await.is_empty() || !letters.unwrap().letters.is_empty();
        given_up && done.iter().filter(|id| id.starts_with("fine")).count() == 3
    })
    .await;
    done
}

fn spec(view: &ParkedView) -> UnparkSpec {
    UnparkSpec {
        handle: view.handle.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_group_stops_at_its_poison_over_failovers_until_it_is_skipped() {
    let mut cluster = Cluster::start(3).await;
    prepare(cluster.service(1), OnPoison::Park).await;
    consume(cluster.service(1)).await;
    let home = parked(cluster.service(2)).await[0].handle.clone();
    let shard: u32 = home.split('-').next().unwrap().parse().unwrap();
    let leader = cluster.service(1).node().leader(shard).expect("a leader");
    cluster.kill(leader).await;
    cluster.wait_ready().await;
    let service = cluster.service(cluster.running()[0]);
    let found = parked(service).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].handle, home);
    assert_eq!(found[0].message_id.as_deref(), Some("poisoned-0"));
    assert_eq!(found[0].message_group.as_deref(), Some("poisoned"));
    assert_eq!(found[0].attempts, 2);
    let history: Vec<_> = found[0].history.iter().map(|note| note.what).collect();
    assert_eq!(history, [NoteKind::Refused, NoteKind::Refused]);
    assert_eq!(service.describe_group("readers").await.unwrap().total.parked, 1);
    let skipped = service.unpark("readers", spec(&found[0]), true).await;
    skipped.expect("it is parked");
    let again = service.unpark("readers", spec(&found[0]), true).await;
    assert_eq!(again.unwrap_err().kind, AdminErrorKind::NotFound);
    let page = service.list_letters("readers", LettersQuery::default()).await;
    let letters = page.unwrap().letters;
    let history: Vec<_> = letters[0].history.iter().map(|note| note.what).collect();
    assert_eq!(history, [NoteKind::Refused, NoteKind::Refused, NoteKind::Skipped]);
    let mut rest = Vec::new();
    wait_until("the message group to go on", async || {
        let (_, messages) = receive(service, "orders", "readers", SHORT).await;
        for message in messages {
            if ack(service, "orders", "readers", &message).await == Code::Ok {
                rest.push(properties(&message).message_id.clone());
            }
        }
        rest.contains(&"poisoned-2".to_owned()) || rest.is_empty() && letters_after(service).await
    })
    .await;
}

/// Nothing of the consumer group is open.
async fn letters_after(service: &Service) -> bool {
    let total = service.describe_group("readers").await.unwrap().total;
    total.ready + total.leased + total.waiting + total.blocked == 0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_message_gets_all_its_attempts_once_more() {
    let cluster = Cluster::start(3).await;
    prepare(cluster.service(1), OnPoison::Park).await;
    consume(cluster.service(1)).await;
    let service = cluster.service(3);
    let found = parked(service).await;
    service
        .unpark("readers", spec(&found[0]), false)
        .await
        .expect("it is parked");
    let (_, messages) = receive(service, "orders", "readers", LONG).await;
    assert_eq!(properties(&messages[0]).message_id, "poisoned-0");
    assert_eq!(properties(&messages[0]).delivery_attempt, Some(1));
    // What its consumer gives up is parked as well; whoever decided on the stop before does not decide on this one.
    assert_eq!(bury(service, "orders", "readers", &messages[0]).await, Code::Ok);
    let late = service.unpark("readers", spec(&found[0]), true).await;
    assert_eq!(late.unwrap_err().kind, AdminErrorKind::NotFound);
    assert_eq!(parked(cluster.service(2)).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_can_be_changed_and_needs_order() {
    let cluster = Cluster::start(3).await;
    let service = cluster.service(1);
    prepare(service, OnPoison::Park).await;
    let view = cluster
        .service(2)
        .set_poison("readers", OnPoison::DeadLetter)
        .await;
    assert_eq!(view.unwrap().on_poison, OnPoison::DeadLetter);
    consume(service).await;
    assert!(parked(service).await.is_empty());
    assert_eq!(
        service
            .list_letters("readers", LettersQuery::default())
            .await
            .unwrap()
            .letters
            .len(),
        1
    );
    let plain = GroupSpec {
        name: "plain".into(),
        ..Default::default()
    };
    service.create_group(plain).await.unwrap();
    let refused = service.set_poison("plain", OnPoison::Park).await;
    assert_eq!(refused.unwrap_err().kind, AdminErrorKind::Invalid);
    let odd = GroupSpec {
        name: "odd".into(),
        on_poison: OnPoison::Park,
        ..Default::default()
    };
    assert_eq!(
        service.create_group(odd).await.unwrap_err().kind,
        AdminErrorKind::Invalid
    );
    for handle in ["", "1-2-3", "99-0-0-0"] {
        let spec = UnparkSpec {
            handle: handle.into(),
        };
        let refused = service.unpark("readers", spec, true).await;
        assert_eq!(refused.unwrap_err().kind, AdminErrorKind::Invalid, "{handle}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_change_of_what_is_parked_meanwhile_was_not_done() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    prepare(service, OnPoison::Park).await;
    let (_, messages) = receive(service, "orders", "readers", LONG).await;
    let message = &messages[0];
    assert_eq!(bury(service, "orders", "readers", message).await, Code::Ok);
    assert_eq!(parked(service).await.len(), 1);
    let change = |seconds| {
        let request = ChangeInvisibleDurationRequest {
            group: Some(resource("readers")),
            topic: Some(resource("orders")),
            receipt_handle: properties(message).receipt_handle.clone().expect("delivered"),
            invisible_duration: Some(prost_types::Duration { seconds, nanos: 0 }),
            ..Default::default()
        };
        let retried = Caller {
            retried: true,
            ..caller()
        };
        async move { code(&service.change_invisible_duration(&retried, request).await.status) }
    };
    assert_eq!(change(30).await, Code::InvalidReceiptHandle);
    // "Again, at once", of the last attempt, parks it.
    assert_eq!(change(0).await, Code::Ok);
}
