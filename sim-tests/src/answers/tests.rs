//! Both sides of each rule about receives and messages.

use queue_core::QueueId;

use super::*;

fn request(most: i32, topic: &str) -> mq::ReceiveMessageRequest {
    mq::ReceiveMessageRequest {
        batch_size: most,
        message_queue: Some(mq::MessageQueue {
            topic: Some(mq::Resource {
                name: topic.into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        invisible_duration: Some(prost_types::Duration {
            seconds: 10,
            nanos: 0,
        }),
        ..Default::default()
    }
}

fn stamp(ms: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: ms / 1_000,
        nanos: (ms % 1_000) as i32 * 1_000_000,
    }
}

/// Of a message that says when it was born.
fn id() -> String {
    let ids = (0..).map(|number| format!("t/{number}"));
    ids.into_iter()
        .find(|id| says_its_birth(id))
        .expect("one of many")
}

fn message(topic: &str, offset: i64, attempt: i32) -> mq::Message {
    let handle = Handle {
        shard: 1,
        queue: QueueId::new(7, 1),
        group: 2,
        offset: offset as u64,
        nonce: 3,
    };
    let body = bytes::Bytes::from_static(b"123456789");
    let properties = mq::SystemProperties {
        message_id: id(),
        body_digest: Some(mq::Digest {
            r#type: mq::DigestType::Md5.into(),
            checksum: "25F9E794323B453885F5181F1B624D0B".into(),
        }),
        body_encoding: mq::Encoding::Gzip.into(),
        message_type: mq::MessageType::Normal.into(),
        born_timestamp: Some(stamp(5_000)),
        born_host: "h".into(),
        store_timestamp: Some(stamp(6_000)),
        store_host: "10.0.0.1:8081".into(),
        receipt_handle: Some(handle.encode()),
        queue_id: 1,
        queue_offset: Some(offset),
        delivery_attempt: Some(attempt),
        dead_letter_queue: topic.starts_with(DEAD_LETTERS).then(|| mq::DeadLetterQueue {
            topic: "t".into(),
            message_id: id(),
        }),
        ..Default::default()
    };
    mq::Message {
        topic: Some(mq::Resource {
            name: topic.into(),
            ..Default::default()
        }),
        system_properties: Some(properties),
        body,
        ..Default::default()
    }
}

fn element(content: Content) -> mq::ReceiveMessageResponse {
    mq::ReceiveMessageResponse {
        content: Some(content),
    }
}

fn status(code: mq::Code) -> mq::ReceiveMessageResponse {
    element(Content::Status(mq::Status {
        code: code.into(),
        message: String::new(),
    }))
}

fn comes(offset: i64, attempt: i32) -> mq::ReceiveMessageResponse {
    element(Content::Message(message("t", offset, attempt)))
}

fn at(ms: i64) -> mq::ReceiveMessageResponse {
    element(Content::DeliveryTimestamp(stamp(ms)))
}

fn judged(answers: &[mq::ReceiveMessageResponse]) -> usize {
    of_receive(&request(2, "t"), Some(&(9_000..=11_000)), answers).len()
}

#[test]
fn a_receive_is_answered_with_a_status_its_messages_and_the_time() {
    let (ok, none, busy) = (
        status(mq::Code::Ok),
        status(mq::Code::MessageNotFound),
        status(mq::Code::TooManyRequests),
    );
    let (one, two, now) = (comes(1, 1), comes(2, 1), at(10_000));
    let good = [
        vec![ok.clone(), one.clone(), two.clone(), now.clone()],
        vec![ok.clone(), two.clone(), comes(1, 2), now.clone()],
        vec![none.clone(), now.clone()],
        vec![busy.clone()],
    ];
    for answers in good {
        assert_eq!(judged(&answers), 0, "{answers:?}");
    }
    let empty = mq::ReceiveMessageResponse { content: None };
    let bad = [
        vec![ok.clone(), now.clone()],
        vec![none.clone(), one.clone(), now.clone()],
        vec![ok.clone(), one.clone(), two.clone(), comes(3, 1), now.clone()],
        vec![ok.clone(), one.clone()],
        vec![none.clone()],
        vec![busy, now.clone()],
        vec![none.clone(), now.clone(), now.clone()],
        vec![ok.clone(), ok.clone(), one.clone(), now.clone()],
        vec![ok.clone(), one.clone(), empty, now.clone()],
        vec![none.clone(), at(8_999)],
        vec![none, at(11_001)],
        vec![ok.clone(), one.clone(), one.clone(), now.clone()],
        vec![ok, two, one, now],
    ];
    for answers in bad {
        assert_eq!(judged(&answers), 1, "{answers:?}");
    }
    assert!(judged(&[at(10_000)]) > 0, "no status");
    assert!(judged(&[]) > 0);
}

fn wrong(topic: &str, change: impl Fn(&mut mq::Message, &mut mq::SystemProperties)) -> usize {
    let mut it = message(topic, 4, 1);
    let mut all = it.system_properties.take().expect("it has some");
    change(&mut it, &mut all);
    it.system_properties = Some(all);
    let hosts = ["10.0.0.1:8081".to_owned()];
    of_message(&request(2, topic), &hosts, Some(&(5_500..=7_000)), &it).len()
}

#[test]
fn a_message_with_everything_that_it_has_is_good() {
    assert_eq!(wrong("t", |_, _| {}), 0);
    assert_eq!(wrong("%DLQ%g", |_, _| {}), 0);
    let asked = prost_types::Duration {
        seconds: 10,
        nanos: 0,
    };
    assert_eq!(wrong("t", |_, all| all.invisible_duration = Some(asked)), 0);
}

#[test]
fn each_property_that_is_not_what_it_must_be_is_found() {
    let changes: [fn(&mut mq::Message, &mut mq::SystemProperties); 21] = [
        |it, _| it.topic = None,
        |it, _| it.body = bytes::Bytes::from_static(b"12345678"),
        |_, all| all.body_digest = None,
        |_, all| all.body_encoding = 0,
        |_, all| all.message_type = mq::MessageType::Fifo.into(),
        |_, all| all.message_group = Some("g".into()),
        |_, all| all.delivery_timestamp = Some(stamp(1)),
        |_, all| all.priority = Some(1),
        |_, all| all.born_timestamp = None,
        |_, all| all.born_host.clear(),
        |_, all| all.store_timestamp = None,
        |_, all| all.store_timestamp = Some(stamp(5_499)),
        |_, all| all.store_timestamp = Some(stamp(7_001)),
        |_, all| all.store_host = "10.0.0.2:8081".into(),
        |_, all| all.receipt_handle = None,
        |_, all| all.queue_id = 2,
        |_, all| all.queue_offset = Some(5),
        |_, all| all.delivery_attempt = Some(0),
        |_, all| all.invisible_duration = Some(prost_types::Duration { seconds: 9, nanos: 0 }),
        |_, all| all.dead_letter_queue = Some(mq::DeadLetterQueue::default()),
        |_, all| all.message_id.clear(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        assert_eq!(wrong("t", change), 1, "change {number}");
    }
    assert_eq!(wrong("%DLQ%g", |_, all| all.dead_letter_queue = None), 1);
}

#[test]
fn who_does_not_say_when_it_was_born_was_born_when_it_was_sent() {
    let unborn = (0..).map(|number| format!("t/{number}"));
    let unborn = unborn
        .into_iter()
        .find(|id| !says_its_birth(id))
        .expect("one of many");
    let judged = |ms| {
        wrong("t", |_, all| {
            all.message_id.clone_from(&unborn);
            all.born_timestamp = Some(stamp(ms));
        })
    };
    assert_eq!(
        (judged(5_499), judged(5_500), judged(7_000), judged(7_001)),
        (1, 0, 0, 1)
    );
}
