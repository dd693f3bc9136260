//! Dead letters: where each comes from, what became of it, and how it goes back to the consumer group that it died in.

use std::{collections::BTreeSet, time::Duration};

use broker::{
    service::Service,
    views::{GroupSpec, LetterView, LettersQuery, NoteKind, RedriveOutcome, RedriveSpec},
};
use flotilla_proto::rocketmq::{
    ChangeInvisibleDurationRequest, Code, ForwardMessageToDeadLetterQueueRequest, Message,
};

use crate::cluster::{Cluster, ack, caller, code, properties, receive, resource, send, wait_until};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(5);

pub(crate) async fn bury(service: &Service, topic: &str, group: &str, message: &Message) -> Code {
    let request = ForwardMessageToDeadLetterQueueRequest {
        group: Some(resource(group)),
        topic: Some(resource(topic)),
        receipt_handle: properties(message).receipt_handle.clone().expect("delivered"),
        message_id: properties(message).message_id.clone(),
        delivery_attempt: 1,
        max_delivery_attempts: 1,
        ..Default::default()
    };
    let caller = caller();
    let buried = service.forward_message_to_dead_letter_queue(&caller, request);
    code(&buried.await.status)
}

pub(crate) async fn nack(service: &Service, topic: &str, group: &str, message: &Message) -> Code {
    let request = ChangeInvisibleDurationRequest {
        group: Some(resource(group)),
        topic: Some(resource(topic)),
        receipt_handle: properties(message).receipt_handle.clone().expect("delivered"),
        invisible_duration: Some(prost_types::Duration::default()),
        ..Default::default()
    };
    let caller = caller();
    let nacked = service.change_invisible_duration(&caller, request);
    code(&nacked.await.status)
}

/// Has so many messages of `orders` die in `readers`.
async fn have_die(service: &Service, count: usize) {
    let group = GroupSpec {
        name: "readers".into(),
        max_attempts: Some(3),
        ..Default::default()
    };
    service.create_group(group).await.expect("it is new");
    for number in 0..count {
        let sent = send(service, "orders", &format!("id-{number}")).await;
        assert_eq!(code(&sent.status), Code::Ok);
    }
    let mut died = 0;
    while died < count {
        let (_, messages) = receive(service, "orders", "readers", LONG).await;
        for message in messages {
            // The first is given back once before.
            let first = properties(&message).message_id == "id-0";
            let is_new = properties(&message).delivery_attempt == Some(1);
            if first && is_new {
                assert_eq!(nack(service, "orders", "readers", &message).await, Code::Ok);
            } else {
                assert_eq!(bury(service, "orders", "readers", &message).await, Code::Ok);
                died += 1;
            }
        }
    }
}

/// All, however many pages that takes.
async fn letters(service: &Service, query: LettersQuery) -> Vec<LetterView> {
    let (mut found, mut query) = (Vec::new(), query);
    loop {
        let page = service.list_letters("readers", query.clone()).await;
        let page = page.expect("every shard answers");
        found.extend(page.letters);
        match page.next {
            Some(next) => query.from = Some(next),
            None => return found,
        }
    }
}

async fn redrive(service: &Service, spec: RedriveSpec) -> Vec<(String, RedriveOutcome)> {
    let (mut outcomes, mut spec) = (Vec::new(), spec);
    loop {
        let step = service.redrive_letters("readers", spec.clone()).await;
        let step = step.expect("every shard answers");
        for redriven in step.letters {
            outcomes.push((
                redriven.letter.message_id.expect("it can be read"),
                redriven.outcome,
            ));
        }
        match step.next {
            Some(next) => (spec.which.from, spec.id) = (Some(next), Some(step.id)),
            None => return outcomes,
        }
    }
}

fn all_are(outcomes: &[(String, RedriveOutcome)], outcome: RedriveOutcome, count: usize) {
    assert_eq!(outcomes.len(), count);
    assert!(outcomes.iter().all(|(_, it)| *it == outcome), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_says_where_it_comes_from_and_what_became_of_it() {
    let cluster = Cluster::start(3).await;
    have_die(cluster.service(1), 5).await;
    for node in 1..=3 {
        let query = LettersQuery {
            limit: Some(2),
            ..Default::default()
        };
        let found = letters(cluster.service(node), query).await;
        assert_eq!(found.len(), 5);
        let first = found
            .iter()
            .find(|letter| letter.message_id.as_deref() == Some("id-0"));
        let first = first.expect("it died");
        assert_eq!(first.topic.as_deref(), Some("orders"));
        assert_eq!(first.consumer_group.as_deref(), Some("readers"));
        assert!(first.redriven_ms.is_none() && first.died_ms >= first.stored_ms);
        let history: Vec<_> = first
            .history
            .iter()
            .map(|note| (note.attempt, note.what))
            .collect();
        assert_eq!(history, [(1, NoteKind::Refused), (2, NoteKind::GivenUp)]);
        assert!(
            first
                .history
                .iter()
                .all(|note| note.client.is_some() && note.at_ms > 0)
        );
    }
    let other = |query| letters(cluster.service(1), query);
    let tagged = LettersQuery {
        tag: Some("no such tag".into()),
        ..Default::default()
    };
    assert!(other(tagged).await.is_empty());
    let later = LettersQuery {
        since_ms: Some(u64::MAX),
        ..Default::default()
    };
    assert!(other(later).await.is_empty());
    let before = LettersQuery {
        before_ms: Some(1),
        ..Default::default()
    };
    assert!(other(before).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_go_back_once_to_the_consumer_group_that_they_died_in_also_when_leaders_die() {
    let mut cluster = Cluster::start(3).await;
    have_die(cluster.service(1), 20).await;
    // Others have read them, and get them no more.
    let mut read = 0;
    while read < 20 {
        let (_, messages) = receive(cluster.service(1), "orders", "others", LONG).await;
        for message in messages {
            assert_eq!(
                ack(cluster.service(1), "orders", "others", &message).await,
                Code::Ok
            );
            read += 1;
        }
    }
    let dry = RedriveSpec {
        dry_run: true,
        ..Default::default()
    };
    all_are(
        &redrive(cluster.service(2), dry).await,
        RedriveOutcome::Redriven,
        20,
    );
    let spec = RedriveSpec {
        id: Some(7),
        ..Default::default()
    };
    let first = cluster.service(1).redrive_letters("readers", spec.clone()).await;
    assert!(first.is_ok());
    let leader = cluster.service(1).node().leader(1).expect("a leader");
    cluster.kill(leader).await;
    cluster.wait_ready().await;
    let at = cluster.running()[0];
    // The same request once more tells what it did before as done; another one that somebody else was first.
    all_are(
        &redrive(cluster.service(at), spec).await,
        RedriveOutcome::Redriven,
        20,
    );
    let another = redrive(cluster.service(at), RedriveSpec::default()).await;
    all_are(&another, RedriveOutcome::Already, 20);
    let mut ids = BTreeSet::new();
    wait_until("all to come back", async || {
        let (_, messages) = receive(cluster.service(at), "orders", "readers", SHORT).await;
        for message in messages {
            assert_eq!(properties(&message).delivery_attempt, Some(1));
            assert!(ids.insert(properties(&message).message_id.clone()), "twice");
            assert_eq!(
                ack(cluster.service(at), "orders", "readers", &message).await,
                Code::Ok
            );
        }
        ids.len() == 20
    })
    .await;
    let (_, messages) = receive(cluster.service(at), "orders", "others", SHORT).await;
    assert!(messages.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_fails_again_is_a_dead_letter_again_with_its_whole_history() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    have_die(service, 1).await;
    let redriven = redrive(service, RedriveSpec::default()).await;
    all_are(&redriven, RedriveOutcome::Redriven, 1);
    let (_, messages) = receive(service, "orders", "readers", LONG).await;
    assert_eq!(bury(service, "orders", "readers", &messages[0]).await, Code::Ok);
    let found = letters(service, LettersQuery::default()).await;
    assert_eq!(found.len(), 2);
    assert!(found[0].redriven_ms.is_some() && found[1].redriven_ms.is_none());
    let history: Vec<_> = found[1].history.iter().map(|note| note.what).collect();
    let expected = [
        NoteKind::Refused,
        NoteKind::GivenUp,
        NoteKind::Redriven,
        NoteKind::GivenUp,
    ];
    assert_eq!(history, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_cannot_be_given_back() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    assert!(
        service
            .redrive_letters("nobody", RedriveSpec::default())
            .await
            .is_err()
    );
    have_die(service, 1).await;
    for from in ["", "x", "99/0", "0/0/0"] {
        let which = LettersQuery {
            from: Some(from.into()),
            ..Default::default()
        };
        let spec = RedriveSpec {
            which: which.clone(),
            ..Default::default()
        };
        assert!(service.redrive_letters("readers", spec).await.is_err(), "{from}");
        assert!(service.list_letters("readers", which).await.is_err(), "{from}");
    }
    service.delete_group("readers").await.expect("it exists");
    assert_eq!(letters(service, LettersQuery::default()).await.len(), 1);
    assert!(
        service
            .redrive_letters("readers", RedriveSpec::default())
            .await
            .is_err()
    );
    // Its successor is another one.
    let group = GroupSpec {
        name: "readers".into(),
        ..Default::default()
    };
    service.create_group(group).await.expect("the name is free");
    let outcomes = redrive(service, RedriveSpec::default()).await;
    all_are(&outcomes, RedriveOutcome::AnotherGroup, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_is_not_told_that_there_is_nothing_to_do_by_a_leader_without_a_quorum() {
    let mut cluster = Cluster::start(3).await;
    have_die(cluster.service(1), 1).await;
    let found = letters(cluster.service(1), LettersQuery::default()).await;
    // Where the letter is not: its leader would find nothing, and need no entry to say so.
    let topic = cluster.service(1).node().meta().topic("%DLQ%readers");
    let shards = &topic.expect("it has letters").queue_shards;
    let queue = (found[0].dead_letter_queue as usize + 1) % shards.len();
    let shard = shards[queue];
    let leader = cluster.service(1).node().leader(shard).expect("a leader");
    for other in (1..=3).filter(|node| *node != leader) {
        cluster.kill(other).await;
    }
    let spec = RedriveSpec {
        which: LettersQuery {
            from: Some(format!("{queue}/0")),
            ..Default::default()
        },
        ..Default::default()
    };
    let service = cluster.service(leader);
    assert!(service.redrive_letters("readers", spec).await.is_err());
}
