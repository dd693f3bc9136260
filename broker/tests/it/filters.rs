//! Consumers that do not want every message of a topic.

use std::{collections::BTreeSet, time::Duration};

use broker::service::{Caller, Service};
use flotilla_proto::rocketmq::{
    Code, FilterExpression, FilterType, ReceiveMessageRequest, SendMessageRequest,
};

use crate::cluster::{Cluster, ack, ask, caller, code, message, properties, receive_request, wait_until};

const SHORT: Duration = Duration::from_millis(300);

/// A message with a tag and a size.
async fn send_tagged(service: &Service, id: &str, tag: &str, size: usize) {
    let mut message = message("orders", id);
    message.system_properties.as_mut().expect("it has some").tag = Some(tag.into());
    message.user_properties.insert("size".into(), size.to_string());
    let request = SendMessageRequest {
        messages: vec![message],
    };
    let sent = service.send_message(&caller(), request).await;
    assert_eq!(code(&sent.status), Code::Ok);
}

/// `count` messages of one topic: `red` or `blue` by turns, of growing size.
async fn send_coloured(service: &Service, count: usize) {
    for number in 0..count {
        let tag = if number % 2 == 0 { "red" } else { "blue" };
        send_tagged(service, &format!("id-{number:04}"), tag, number).await;
    }
}

fn asking(group: &str, kind: FilterType, expression: &str) -> ReceiveMessageRequest {
    ReceiveMessageRequest {
        filter_expression: Some(FilterExpression {
            r#type: kind.into(),
            expression: expression.into(),
        }),
        ..receive_request("orders", group, SHORT)
    }
}

/// Receives and acknowledges until nothing comes; the numbers of what came.
async fn drain(service: &Service, group: &str, kind: FilterType, expression: &str) -> BTreeSet<usize> {
    let mut came = BTreeSet::new();
    loop {
        let (_, messages) = ask(service, asking(group, kind, expression)).await;
        if messages.is_empty() {
            return came;
        }
        for message in &messages {
            let id = &properties(message).message_id;
            let number = id.strip_prefix("id-").expect("its id").parse().expect("a number");
            assert!(came.insert(number), "{id} came twice");
            assert_eq!(ack(service, "orders", group, message).await, Code::Ok);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_groups_get_what_they_want_and_nothing_of_it_is_left() {
    let cluster = Cluster::start_telling(3).await;
    send_coloured(cluster.service(1), 200).await;
    let even = |from: usize| {
        (from..200)
            .filter(|number| number % 2 == 0)
            .collect::<BTreeSet<_>>()
    };
    let cases = [
        ("all", FilterType::Tag, "*", (0..200).collect()),
        ("red", FilterType::Tag, "red || green", even(0)),
        ("big", FilterType::Sql, "size >= 150 AND TAGS = 'red'", even(150)),
        ("none", FilterType::Tag, "green", BTreeSet::new()),
        (
            "odd",
            FilterType::Sql,
            "colour IS NULL AND size IN ('7', '9')",
            BTreeSet::from([7, 9]),
        ),
    ];
    for (number, (group, kind, expression, expected)) in cases.into_iter().enumerate() {
        let service = cluster.service(1 + number as u32 % 3);
        assert_eq!(
            drain(service, group, kind, expression).await,
            expected,
            "{expression}"
        );
        // What nobody wants is passed over, so nothing is left.
        wait_until("nothing to be left", async || {
            ask(service, asking(group, kind, expression)).await;
            let view = service.describe_group(group).await.expect("it exists");
            view.total.ready == 0 && view.queues.iter().map(|queue| queue.cursor).sum::<u64>() == 200
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expression_that_makes_no_sense_is_refused_with_what_is_wrong() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    for (kind, expression, why) in [
        (FilterType::Sql as i32, "size >", "expected"),
        (FilterType::Sql as i32, "size > 5 and", "expected"),
        (FilterType::Sql as i32, "size > 5 size", "column 10"),
        (FilterType::Tag as i32, "||", "tag"),
        (9, "*", "TAG or SQL"),
    ] {
        let mut asking = asking("readers", FilterType::Tag, expression);
        asking.filter_expression.as_mut().expect("it has one").r#type = kind;
        let (status, messages) = ask(service, asking).await;
        assert_eq!(code(&status), Code::IllegalFilterExpression, "{expression}");
        let message = status.expect("a status").message;
        assert!(message.contains(why), "{expression}: {message}");
        assert!(messages.is_empty());
    }
    let long = "a".repeat(9_000);
    let (status, _) = ask(service, asking("readers", FilterType::Tag, &long)).await;
    assert_eq!(code(&status), Code::IllegalFilterExpression);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_expression_holds_for_what_was_not_looked_at_yet() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    send_coloured(service, 40).await;
    let red = drain(service, "readers", FilterType::Tag, "red").await;
    assert_eq!(red.len(), 20);
    assert_eq!(
        drain(service, "readers", FilterType::Tag, "blue").await,
        BTreeSet::new()
    );
    send_tagged(service, "id-9999", "blue", 0).await;
    assert_eq!(
        drain(service, "readers", FilterType::Tag, "blue").await,
        BTreeSet::from([9_999])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_is_not_kept_back_by_what_is_behind_it() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    send_coloured(service, 1).await;
    for number in (1..400).filter(|number| number % 2 == 1) {
        send_tagged(service, &format!("blue-{number:04}"), "blue", number).await;
    }
    let began = tokio::time::Instant::now();
    let asking = ReceiveMessageRequest {
        long_polling_timeout: Some(prost_types::Duration {
            seconds: 15,
            nanos: 0,
        }),
        ..asking("readers", FilterType::Sql, "TAGS = 'red'")
    };
    let (_, messages) = ask(service, asking).await;
    assert_eq!(messages.len(), 1);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "it does not wait for a full answer"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_wants_costs_no_entry_of_its_own() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    send_coloured(service, 1).await;
    assert_eq!(drain(service, "readers", FilterType::Tag, "red").await.len(), 1);
    let entries = || -> u64 {
        let shards = service.node().shards();
        let applied = shards.iter().filter_map(|shard| shard.replica.status().applied);
        applied.map(|at| at.index).sum()
    };
    let before = entries();
    let waits = ReceiveMessageRequest {
        long_polling_timeout: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
        ..asking("readers", FilterType::Sql, "TAGS = 'green'")
    };
    let caller = caller();
    let waiting = service.receive_message(&caller, waits);
    let sending = async {
        for number in 0..20 {
            send_tagged(service, &format!("blue-{number}"), "blue", number).await;
        }
    };
    futures::join!(waiting, sending);
    let written = entries() - before;
    assert!((20..24).contains(&written), "{written} entries for 20 messages");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_leased_for_who_has_given_up() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    send_coloured(service, 3).await;
    drain(service, "readers", FilterType::Tag, "green").await;
    let hasty = Caller {
        deadline: Some(Duration::ZERO),
        ..caller()
    };
    for kind in [FilterType::Tag, FilterType::Sql] {
        let expression = if kind == FilterType::Tag {
            "red"
        } else {
            "TAGS = 'red'"
        };
        let asking = asking("hasty", kind, expression);
        let responses = service.receive_message(&hasty, asking).await;
        assert!(responses.len() <= 2, "a status and a time: {responses:?}");
    }
    let leased = service
        .describe_group("hasty")
        .await
        .map_or(0, |view| view.total.leased);
    assert_eq!(leased, 0);
    let messages = drain(service, "hasty", FilterType::Tag, "red").await;
    assert_eq!(messages.len(), 2);
}
