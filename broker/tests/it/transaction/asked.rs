//! Producers that are asked how a transaction ended, and operators who end one.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_on_any_node_is_asked_with_the_whole_message_and_its_answer_decides() {
    let cluster = Cluster::start(3).await;
    make_topic(cluster.service(1), "orders", "TRANSACTION").await;
    let mut other = producer(cluster.service(1), "other", "others").await;
    for (node, answer) in [(1, true), (2, true), (3, false)] {
        let service = cluster.service(node);
        let mut session = producer(service, "asked", "orders").await;
        let message_id = format!("from-{node}");
        let id = begin(cluster.service(1), &message_id).await;
        cluster.pass(FIRST_CHECK);
        let asked = question(&mut session).await;
        assert_eq!(asked.transaction_id, id);
        let message = asked.message.expect("the half message");
        assert_eq!(
            (&message.topic, &message.body[..]),
            (
                &Some(resource("orders")),
                format!("body of {message_id}").as_bytes()
            )
        );
        let all = properties(&message);
        assert_eq!(
            (&all.message_id, all.message_type),
            (&message_id, MessageType::Transaction as i32)
        );
        assert!(all.body_digest.is_some() && all.born_timestamp.is_some() && all.store_timestamp.is_some());
        assert_eq!((all.body_encoding, &all.receipt_handle), (1, &None));
        let ended = if answer {
            commit(service, &id).await
        } else {
            roll_back(service, &id).await
        };
        assert_eq!(ended, Code::Ok);
        cluster.pass(CHECK_EVERY);
        is_not_asked(&mut session).await;
    }
    is_not_asked(&mut other).await;
    let came: Vec<String> = take(cluster.service(2), 2).await.into_keys().collect();
    assert_eq!(came, ["from-1", "from-2"]);
    nothing_comes(cluster.service(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_asked_at_its_time_and_whoever_has_sent_is_asked_though_it_named_no_topic() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    make_topic(service, "orders", "TRANSACTION").await;
    // As SDKs whose users name no topics beforehand. The caller of these tests has this id.
    let mut session = producer(service, "test@1", "nothing-yet").await;
    let mut late = half("late");
    late.system_properties
        .as_mut()
        .unwrap()
        .orphaned_transaction_recovery_duration = Some(prost_types::Duration {
        seconds: 20,
        nanos: 0,
    });
    assert_eq!(code(&send_message(service, late).await.status), Code::Ok);
    cluster.pass(Duration::from_secs(18));
    is_not_asked(&mut session).await;
    cluster.pass(Duration::from_secs(2));
    let asked = question(&mut session).await;
    cluster.pass(CHECK_EVERY - Duration::from_secs(3));
    is_not_asked(&mut session).await;
    cluster.pass(Duration::from_secs(3));
    assert_eq!(
        question(&mut session).await.transaction_id,
        asked.transaction_id,
        "again"
    );
    // Another producer is asked when this one is gone.
    drop(session);
    let mut session = producer(service, "another", "orders").await;
    cluster.pass(CHECK_EVERY);
    assert_eq!(question(&mut session).await.transaction_id, asked.transaction_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_about_in_vain_is_given_up_listed_and_ended_by_an_operator() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    make_topic(service, "orders", "TRANSACTION").await;
    let mut session = producer(service, "asked", "orders").await;
    let (first, second) = (begin(service, "a").await, begin(service, "b").await);
    let list = async |only_given_up| {
        let query = TransactionQuery {
            only_given_up,
            ..Default::default()
        };
        let page = service.list_transactions("orders", query).await.unwrap();
        assert_eq!(page.next, None);
        page.transactions
    };
    let open = list(false).await;
    assert_eq!((open.len(), open[0].checks, open[0].given_up), (2, 0, false));
    assert!(
        open[0]
            .next_check_in_ms
            .is_some_and(|ms| ms <= FIRST_CHECK.as_millis() as u64)
    );
    assert_eq!(list(true).await, []);
    cluster.pass(FIRST_CHECK);
    for _ in 0..MAX_CHECKS {
        let asked = [question(&mut session).await, question(&mut session).await];
        assert!(asked.iter().any(|asked| asked.transaction_id == first));
        cluster.pass(CHECK_EVERY);
    }
    wait_until("them to be given up", async || list(true).await.len() == 2).await;
    is_not_asked(&mut session).await;
    let metrics = service.metrics_text();
    for name in ["rocketmq_half_messages", "flotilla_given_up_transactions"] {
        let row = metrics
            .lines()
            .find(|line| line.starts_with(&format!("{name}{{")));
        assert!(
            row.is_some_and(|row| row.ends_with("topic=\"orders\"} 2")),
            "{row:?}"
        );
    }
    let given_up = list(true).await;
    assert_eq!(
        (given_up[0].checks, given_up[0].next_check_in_ms),
        (MAX_CHECKS, None)
    );
    assert_eq!(given_up[0].tag.as_deref(), Some("paid"));
    nothing_comes(service).await;

    let resolve = async |id: &str, resolution| {
        let transaction_id = id.to_owned();
        let spec = ResolveSpec {
            transaction_id,
            resolution,
        };
        service.resolve_transaction("orders", spec).await
    };
    let done = resolve(&first, Resolution::Commit).await.unwrap();
    assert_eq!(
        (done.message_id.as_str(), done.resolution),
        ("a", Resolution::Commit)
    );
    resolve(&second, Resolution::Rollback).await.unwrap();
    assert_eq!(list(false).await, []);
    // Who comes late is told what counts.
    assert_eq!(roll_back(service, &first).await, Code::InvalidTransactionId);
    assert_eq!(commit(service, &first).await, Code::Ok);
    let refused = resolve(&second, Resolution::Commit).await.unwrap_err();
    assert_eq!(refused.kind, AdminErrorKind::Invalid);
    assert!(
        refused.message.contains("rolled back before"),
        "{}",
        refused.message
    );
    assert_eq!(
        resolve("x", Resolution::Commit).await.unwrap_err().kind,
        AdminErrorKind::Invalid
    );
    let came: Vec<String> = take(service, 1).await.into_keys().collect();
    assert_eq!(came, ["a"]);
    nothing_comes(service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_answer_keeps_no_question_from_the_others() {
    let cluster = Cluster::start(3).await;
    make_topic(cluster.service(1), "orders", "TRANSACTION").await;
    cluster.fail("flotilla.CheckBack", Fault::Hang);
    let id = begin(cluster.service(1), "a").await;
    let leader = cluster
        .service(1)
        .node()
        .leader(shard_of(&id))
        .expect("it has one");
    let mut session = producer(cluster.service(leader), "asked", "orders").await;
    cluster.pass(FIRST_CHECK);
    assert_eq!(
        question_in_the_end(&cluster, &mut session).await.transaction_id,
        id
    );
}
