//! Names, texts and sizes at and over their bounds.

use flotilla_proto::rocketmq::{Digest, DigestType};

use super::*;

fn message() -> Message {
    Message {
        body: "x".into(),
        system_properties: Some(SystemProperties {
            message_id: "01".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn code(message: &Message) -> Code {
    check_message(message).map_or_else(|refused| refused.code, |()| Code::Ok)
}

#[test]
fn topic_names_are_held_to_the_rules() {
    assert!(check_topic("orders_1-%|").is_ok());
    assert!(check_topic(&"a".repeat(127)).is_ok());
    for bad in ["", "a b", "TBW102", "rmq_sys_x", "tür", &"a".repeat(128)] {
        assert_eq!(check_topic(bad).unwrap_err().code, Code::IllegalTopic, "{bad}");
    }
    assert!(check_topic(&format!("%DLQ%{}", "g".repeat(120))).is_ok());
}

#[test]
fn bodies_are_bounded_on_both_sides() {
    let mut large = message();
    large.body = vec![0; MAX_BODY_BYTES].into();
    assert_eq!(code(&large), Code::Ok);
    large.body = vec![0; MAX_BODY_BYTES + 1].into();
    assert_eq!(code(&large), Code::MessageBodyTooLarge);
    large.body = Default::default();
    assert_eq!(code(&large), Code::MessageBodyEmpty);
}

#[test]
fn what_a_producer_says_of_the_origin_is_bounded_on_both_sides() {
    let with = |change: &dyn Fn(&mut SystemProperties)| {
        let mut message = message();
        change(message.system_properties.as_mut().expect("it has some"));
        code(&message)
    };
    let host = |length: usize| with(&|properties| properties.born_host = "h".repeat(length));
    assert_eq!(
        (host(MAX_BORN_HOST_BYTES), host(MAX_BORN_HOST_BYTES + 1)),
        (Code::Ok, Code::BadRequest)
    );
    let trace = |length: usize| with(&|properties| properties.trace_context = Some("t".repeat(length)));
    assert_eq!(trace(MAX_TRACE_CONTEXT_BYTES), Code::Ok);
    assert_eq!(
        trace(MAX_TRACE_CONTEXT_BYTES + 1),
        Code::MessagePropertiesTooLarge
    );
    let keys = |count: usize| with(&|properties| properties.keys = vec!["k".into(); count]);
    assert_eq!(
        (keys(MAX_KEYS), keys(MAX_KEYS + 1)),
        (Code::Ok, Code::IllegalMessageKey)
    );
    assert_eq!(
        with(&|properties| properties.born_host = "a\nb".into()),
        Code::BadRequest
    );
    let born =
        |seconds, nanos| with(&|properties| properties.born_timestamp = Some(Timestamp { seconds, nanos }));
    assert_eq!(born(MAX_TIMESTAMP_SECONDS, 999_999_999), Code::Ok);
    for (seconds, nanos) in [
        (MAX_TIMESTAMP_SECONDS + 1, 0),
        (i64::MAX, 0),
        (i64::MIN, 0),
        (-1, 0),
        (0, -1),
        (0, 1_000_000_000),
        (0, i32::MIN),
    ] {
        assert_eq!(born(seconds, nanos), Code::BadRequest, "{seconds} {nanos}");
    }
    assert_eq!(with(&|properties| properties.message_type = 99), Code::BadRequest);
}

#[test]
fn a_body_that_is_not_what_its_sender_says_is_refused() {
    let with = |checksum: &str, encoding| {
        let mut message = message();
        let properties = message.system_properties.as_mut().expect("it has some");
        properties.body_encoding = encoding;
        properties.body_digest = Some(Digest {
            r#type: DigestType::Crc32 as i32,
            checksum: checksum.into(),
        });
        code(&message)
    };
    assert_eq!(with("8CDC1683", Encoding::Gzip as i32), Code::Ok);
    assert_eq!(
        with("8CDC1684", Encoding::Identity as i32),
        Code::MessageCorrupted
    );
    assert_eq!(with("8CDC1683", 7), Code::MessageCorrupted);
}

#[test]
fn a_client_id_is_bounded() {
    let caller = |length| Caller {
        client_id: "c".repeat(length),
        ..Default::default()
    };
    assert!(check_caller(&caller(MAX_CLIENT_ID_BYTES)).is_ok());
    let refused = check_caller(&caller(MAX_CLIENT_ID_BYTES + 1)).expect_err("too long");
    assert_eq!(refused.code, Code::BadRequest);
}

#[test]
fn a_reason_shows_only_the_beginning_of_what_is_wrong() {
    let mut bad = message();
    bad.user_properties.insert("\u{1}é".repeat(1 << 20), "x".into());
    assert!(check_message(&bad).expect_err("too long").message.len() < 1024);
    let mut bad = message();
    let properties = bad.system_properties.as_mut().expect("it has some");
    properties.body_digest = Some(Digest {
        r#type: DigestType::Md5 as i32,
        checksum: "é".repeat(1 << 20),
    });
    assert!(check_message(&bad).expect_err("not it").message.len() < 1024);
}

#[test]
fn reserved_properties_are_refused() {
    let mut bad = message();
    bad.user_properties.insert("UNIQ_KEY".into(), "x".into());
    assert_eq!(code(&bad), Code::IllegalMessagePropertyKey);
}

#[test]
fn too_many_properties_are_refused() {
    let mut bad = message();
    for i in 0..=MAX_PROPERTIES {
        bad.user_properties.insert(format!("k{i}"), "x".into());
    }
    assert_eq!(code(&bad), Code::MessagePropertiesTooLarge);
}

#[test]
fn a_message_is_what_it_carries() {
    let mut properties = SystemProperties::default();
    assert_eq!(kind(&properties), MessageType::Normal);
    properties.message_group = Some("g".into());
    assert_eq!(kind(&properties), MessageType::Fifo);
    properties.delivery_timestamp = Some(Default::default());
    assert_eq!(kind(&properties), MessageType::Delay);
    assert!(accepts(0, MessageType::Fifo) && !accepts(1, MessageType::Fifo));
}

#[test]
fn the_header_namespace_fills_in() {
    let caller = Caller {
        namespace: "ns".into(),
        ..Default::default()
    };
    let resource = Resource {
        name: "t".into(),
        ..Default::default()
    };
    assert_eq!(full_name(&caller, Some(&resource)), "ns%t");
    assert_eq!(full_name(&Caller::default(), Some(&resource)), "t");
    let dead = Resource {
        name: "%DLQ%g".into(),
        ..Default::default()
    };
    assert_eq!(full_name(&caller, Some(&dead)), "%DLQ%ns%g");
}
