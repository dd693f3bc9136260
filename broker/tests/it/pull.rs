//! Readers that keep their own place: PullMessage, and the offsets of queues and consumer groups.

use std::{collections::BTreeMap, time::Duration};

use broker::{limits::MAX_UNREAD_BYTES_PER_READER, service::Service, unread::Unread};
use flotilla_proto::rocketmq::{
    Code, FilterExpression, FilterType, GetOffsetRequest, Message, MessageQueue, PullMessageRequest,
    QueryOffsetPolicy, QueryOffsetRequest, SendMessageRequest, Status, UpdateOffsetRequest,
    pull_message_response::Content,
};

use crate::cluster::{
    Cluster, ack, caller, code, message, properties, receive, resource, send, wait_for, wait_until,
};

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(8);

fn queue_of(number: i32) -> Option<MessageQueue> {
    Some(MessageQueue {
        topic: Some(resource("orders")),
        id: number,
        ..Default::default()
    })
}

fn asking(number: i32, offset: i64, wait: Duration) -> PullMessageRequest {
    PullMessageRequest {
        group: Some(resource("pullers")),
        message_queue: queue_of(number),
        offset,
        batch_size: 32,
        filter_expression: None,
        long_polling_timeout: Some(prost_types::Duration {
            seconds: wait.as_secs() as i64,
            nanos: wait.subsec_nanos() as i32,
        }),
    }
}

/// Status, messages, and where to go on.
async fn pull(service: &Service, request: PullMessageRequest) -> (Status, Vec<Message>, Option<i64>) {
    let responses = service.pull_message(&caller(), request).await;
    let mut contents = responses
        .into_iter()
        .map(|each| each.content.expect("no empty elements"));
    let Some(Content::Status(status)) = contents.next() else {
        panic!("the status comes first")
    };
    let (mut messages, mut next) = (Vec::new(), None);
    for content in contents {
        assert!(next.is_none(), "the offset to go on from comes last");
        match content {
            Content::Message(message) => messages.push(message),
            Content::NextOffset(offset) => next = Some(offset),
            Content::Status(_) => panic!("a second status"),
        }
    }
    (status, messages, next)
}

/// All messages of a queue from an offset on, in batches of so many, by any node.
async fn pull_all(cluster: &Cluster, number: i32, mut offset: i64, batch: i32) -> Vec<String> {
    let mut ids = Vec::new();
    for node in cluster.running().into_iter().cycle() {
        let request = PullMessageRequest {
            batch_size: batch,
            ..asking(number, offset, Duration::ZERO)
        };
        let (status, messages, next) = pull(cluster.service(node), request).await;
        let next = next.expect("an offset to go on from");
        if status.code() == Code::MessageNotFound {
            assert_eq!((messages.len(), next), (0, offset));
            break;
        }
        assert_eq!(status.code(), Code::Ok);
        assert!((1..=batch as usize).contains(&messages.len()));
        for (message, expected) in messages.iter().zip(offset..) {
            let all = properties(message);
            assert_eq!((all.queue_id, all.queue_offset), (number, Some(expected)));
            assert_eq!((&all.receipt_handle, all.delivery_attempt), (&None, None));
            ids.push(all.message_id.clone());
        }
        offset += messages.len() as i64;
        assert_eq!(next, offset);
    }
    ids
}

async fn send_some(service: &Service, count: usize) {
    for number in 0..count {
        let sent = send(service, "orders", &format!("id-{number:03}")).await;
        assert_eq!(code(&sent.status), Code::Ok);
    }
}

async fn query(service: &Service, number: i32, policy: QueryOffsetPolicy, at_ms: Option<u64>) -> (Code, i64) {
    let request = QueryOffsetRequest {
        message_queue: queue_of(number),
        query_offset_policy: policy.into(),
        timestamp: at_ms.map(broker::service::stored::to_timestamp),
    };
    let answer = service.query_offset(&caller(), request).await;
    (code(&answer.status), answer.offset)
}

async fn get(service: &Service, group: &str, number: i32) -> (Code, i64) {
    let request = GetOffsetRequest {
        group: Some(resource(group)),
        message_queue: queue_of(number),
    };
    let answer = service.get_offset(&caller(), request).await;
    (code(&answer.status), answer.offset)
}

async fn update(service: &Service, group: &str, number: i32, offset: i64) -> Status {
    let request = UpdateOffsetRequest {
        group: Some(resource(group)),
        message_queue: queue_of(number),
        offset,
    };
    let answer = service.update_offset(&caller(), request).await;
    answer.status.expect("a status")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_queue_is_read_in_order_and_without_a_gap_by_any_node() {
    for size in [1, 3] {
        let cluster = Cluster::start(size).await;
        send_some(cluster.service(1), 60).await;
        let mut all = Vec::new();
        for number in 0..4 {
            let whole = pull_all(&cluster, number, 0, 32).await;
            assert_eq!(pull_all(&cluster, number, 0, 3).await, whole);
            let (_, end) = query(cluster.service(size), number, QueryOffsetPolicy::End, None).await;
            assert_eq!(end, whole.len() as i64);
            if end > 2 {
                assert_eq!(pull_all(&cluster, number, 2, 32).await, whole[2..]);
            }
            all.extend(whole);
        }
        all.sort();
        let expected: Vec<String> = (0..60).map(|number| format!("id-{number:03}")).collect();
        assert_eq!(all, expected);
        // Nothing was changed by it.
        assert!(cluster.service(1).describe_group("pullers").await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_waits_at_any_node_has_what_comes_and_takes_no_hint_from_a_receive() {
    let cluster = Cluster::start(3).await;
    // The topic comes into being.
    receive(cluster.service(1), "orders", "readers", SHORT).await;
    for node in 1..=3 {
        let waiting: Vec<_> = (0..4)
            .flat_map(|number| [number, number])
            .map(|number| {
                let service = cluster.service(node).clone();
                tokio::spawn(async move {
                    let (_, end) = query(&service, number, QueryOffsetPolicy::End, None).await;
                    pull(&service, asking(number, end, LONG)).await
                })
            })
            .collect();
        let service = cluster.service(node).clone();
        let received = tokio::spawn(async move { receive(&service, "orders", "readers", LONG).await });
        let node_here = cluster.service(node).node();
        wait_for("all to wait", || {
            node_here.hub().tails().waiting() == 8 && node_here.hub().waiting() == 1
        })
        .await;
        let sent = send(cluster.service(1), "orders", &format!("id-{node}")).await;
        assert_eq!(code(&sent.status), Code::Ok);
        let (status, messages) = received.await.unwrap();
        assert_eq!((status, messages.len()), (Code::Ok, 1));
        let number = properties(&messages[0]).queue_id;
        ack(cluster.service(1), "orders", "readers", &messages[0]).await;
        for (at, waiting) in waiting.into_iter().enumerate() {
            // The others would wait for long.
            if at as i32 / 2 == number {
                let (status, messages, next) = waiting.await.unwrap();
                assert_eq!((status.code(), messages.len()), (Code::Ok, 1));
                assert_eq!(
                    next,
                    properties(&messages[0]).queue_offset.map(|offset| offset + 1)
                );
            } else {
                waiting.abort();
            }
        }
        wait_for("their places to be free", || {
            node_here.hub().tails().waiting() == 0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_filter_does_not_let_through_is_behind_the_next_offset() {
    let cluster = Cluster::start(3).await;
    for number in 0..80 {
        let mut message = message("orders", &format!("id-{number:03}"));
        let tag = if number % 10 == 0 { "red" } else { "blue" };
        message.system_properties.as_mut().expect("it has some").tag = Some(tag.into());
        message.user_properties.insert("size".into(), number.to_string());
        let request = SendMessageRequest {
            messages: vec![message],
        };
        let sent = cluster.service(1).send_message(&caller(), request).await;
        assert_eq!(code(&sent.status), Code::Ok);
    }
    let filters = [
        (FilterType::Tag, "red"),
        (FilterType::Sql, "TAGS = 'red' AND size >= 0"),
    ];
    for (kind, expression) in filters {
        let mut came = Vec::new();
        for number in 0..4 {
            let (_, end) = query(cluster.service(2), number, QueryOffsetPolicy::End, None).await;
            let mut offset = 0;
            while offset < end {
                let request = PullMessageRequest {
                    batch_size: 2,
                    filter_expression: Some(FilterExpression {
                        r#type: kind.into(),
                        expression: expression.into(),
                    }),
                    ..asking(number, offset, Duration::ZERO)
                };
                let (_, messages, next) = pull(cluster.service(1 + number as u32 % 3), request).await;
                came.extend(messages.iter().map(|each| properties(each).message_id.clone()));
                let next = next.expect("an offset to go on from");
                assert!(next > offset);
                offset = next;
            }
        }
        came.sort();
        let red: Vec<String> = (0..80)
            .step_by(10)
            .map(|number| format!("id-{number:03}"))
            .collect();
        assert_eq!(came, red, "{expression}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_and_the_nearest_offset_told() {
    let cluster = Cluster::start(3).await;
    send_some(cluster.service(1), 20).await;
    for node in 1..=3 {
        let service = cluster.service(node);
        let (_, end) = query(service, 0, QueryOffsetPolicy::End, None).await;
        let (status, _, next) = pull(service, asking(0, end + 1, LONG)).await;
        assert_eq!((status.code(), next), (Code::IllegalOffset, Some(end)));
        assert!(
            status.message.contains(&format!("{end} is the next")),
            "{}",
            status.message
        );
        let (status, _, next) = pull(service, asking(0, -1, LONG)).await;
        assert_eq!((status.code(), next), (Code::IllegalOffset, None));
        for number in [-1, 4, i32::MAX, i32::MIN] {
            let (status, ..) = pull(service, asking(number, 0, LONG)).await;
            assert_eq!(status.code(), Code::BadRequest, "{number}");
            assert_eq!(get(service, "pullers", number).await.0, Code::BadRequest);
        }
        let mut other = asking(0, 0, LONG);
        other.message_queue = Some(MessageQueue {
            topic: Some(resource("nothing")),
            ..Default::default()
        });
        assert_eq!(pull(service, other).await.0.code(), Code::TopicNotFound);
        let (found, _) = query(service, 0, QueryOffsetPolicy::Timestamp, None).await;
        assert_eq!(found, Code::BadRequest);
        for offset in [-1, end + 1, i64::MAX] {
            let status = update(service, "pullers", 0, offset).await;
            assert_eq!(status.code(), Code::IllegalOffset, "{offset}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_groups_place_is_kept_and_goes_on_and_is_put_elsewhere_at_any_node() {
    let mut cluster = Cluster::start(3).await;
    send_some(cluster.service(1), 30).await;
    let (_, end) = query(cluster.service(1), 1, QueryOffsetPolicy::End, None).await;
    assert!(end >= 3);
    for node in 1..=3 {
        assert_eq!(
            get(cluster.service(node), "pullers", 1).await.0,
            Code::OffsetNotFound
        );
    }
    for (node, offset) in [(1, end), (2, 0), (3, 2)] {
        assert_eq!(
            update(cluster.service(node), "pullers", 1, offset).await.code(),
            Code::Ok
        );
        for asked in 1..=3 {
            assert_eq!(
                get(cluster.service(asked), "pullers", 1).await,
                (Code::Ok, offset)
            );
        }
    }
    // Consumers of the group begin there.
    let mut came: BTreeMap<i32, i64> = BTreeMap::new();
    loop {
        let (_, messages) = receive(cluster.service(1), "orders", "pullers", SHORT).await;
        if messages.is_empty() {
            break;
        }
        for message in &messages {
            let all = properties(message);
            let first = came.entry(all.queue_id).or_insert(i64::MAX);
            *first = all.queue_offset.expect("an offset").min(*first);
            ack(cluster.service(1), "orders", "pullers", message).await;
        }
    }
    assert_eq!(came[&1], 2);
    assert_eq!(get(cluster.service(2), "pullers", 1).await, (Code::Ok, end));
    let leader = cluster.service(1).node().leader(1).expect("a leader");
    cluster.kill(leader).await;
    let asked = cluster.running()[0];
    wait_until("another leader to say where it is", async || {
        get(cluster.service(asked), "pullers", 1).await == (Code::Ok, end)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_date_is_the_first_message_that_was_stored_then_or_later() {
    let cluster = Cluster::start(3).await;
    for number in 0..20 {
        send_some(cluster.service(1), number + 1).await;
        let clock = cluster.service(1).node().clock();
        let before = clock.wall_ms();
        wait_for("the clock to go on", || clock.wall_ms() > before).await;
    }
    for number in 0..4 {
        let (status, messages, _) = pull(cluster.service(2), asking(number, 0, Duration::ZERO)).await;
        if status.code() != Code::Ok {
            continue;
        }
        let dates: Vec<u64> = messages
            .iter()
            .map(|message| {
                broker::service::stored::to_ms(properties(message).store_timestamp.as_ref().expect("a date"))
            })
            .collect();
        for &date in &dates {
            let first = dates.iter().position(|&other| other >= date).expect("itself") as i64;
            let found = query(
                cluster.service(3),
                number,
                QueryOffsetPolicy::Timestamp,
                Some(date),
            );
            assert_eq!(found.await, (Code::Ok, first));
        }
        let later = query(
            cluster.service(3),
            number,
            QueryOffsetPolicy::Timestamp,
            Some(u64::MAX / 2_000),
        );
        assert_eq!(later.await, (Code::Ok, dates.len() as i64));
        assert_eq!(
            query(cluster.service(3), number, QueryOffsetPolicy::Beginning, None).await,
            (Code::Ok, 0)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_that_nobody_reads_leave_room_for_receives() {
    let cluster = Cluster::start(1).await;
    for number in 0..9 {
        let mut large = message("orders", &format!("id-{number}"));
        large.body = vec![b'.'; 4_000_000].into();
        let request = SendMessageRequest {
            messages: vec![large],
        };
        let sent = cluster.service(1).send_message(&caller(), request).await;
        assert_eq!(code(&sent.status), Code::Ok);
    }
    let service = cluster.service(1);
    let reader = Unread::new(MAX_UNREAD_BYTES_PER_READER, MAX_UNREAD_BYTES_PER_READER).reader();
    let (mut rooms, mut refused) = (Vec::new(), false);
    for number in (0..4).cycle().take(40) {
        let mut room = reader.room();
        let answer = service
            .pull_within(&caller(), asking(number, 0, Duration::ZERO), &mut room)
            .await;
        let Some(Content::Status(status)) = &answer[0].content else {
            panic!("the status comes first")
        };
        match status.code() {
            Code::Ok => rooms.push(room),
            Code::MessageNotFound => {}
            other => {
                assert_eq!(other, Code::TooManyRequests);
                refused = true;
                break;
            }
        }
    }
    assert!(refused && !rooms.is_empty());
    // A quarter is left.
    let mut room = reader.room();
    assert!(room.grow(MAX_UNREAD_BYTES_PER_READER / 5));
}
