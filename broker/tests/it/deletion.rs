//! Topics and consumer groups that come and go: nothing of them stays, and nobody waits for it.

use std::time::Duration;

use broker::{
    service::Service,
    views::{GroupSpec, StartAt, TopicSpec},
};
use flotilla_proto::rocketmq::{Code, ForwardMessageToDeadLetterQueueRequest, SendMessageRequest};
use queue_core::QueueId;
use tokio::time::Instant;

use crate::cluster::{Cluster, ack, caller, code, message, properties, receive, resource, send, wait_for};

const LONG: Duration = Duration::from_secs(5);

fn topic(name: &str) -> TopicSpec {
    TopicSpec {
        name: name.into(),
        queues: Some(4),
        message_type: "NORMAL".into(),
        ageing_ms: None,
    }
}

fn group(name: &str) -> GroupSpec {
    GroupSpec {
        name: name.into(),
        max_attempts: None,
        backoff: None,
        fifo: false,
        start_at: StartAt::First,
        ..GroupSpec::default()
    }
}

fn topic_id(service: &Service, name: &str) -> u32 {
    service.node().meta().topic(name).expect("it exists").id
}

/// Queues of a topic that anything is stored of, here.
fn queues_of(service: &Service, topic: u32) -> Vec<QueueId> {
    let shards = service.node().shards();
    let each = shards
        .iter()
        .map(|shard| shard.machine.read(|core| core.queues_of(topic)));
    each.flat_map(|queues| queues.into_keys()).collect()
}

/// The catalogue has forgotten it, and no shard has anything of it.
fn nothing_is_left(service: &Service, topic: u32) -> bool {
    service.node().meta().topic_by_id(topic).is_none() && queues_of(service, topic).is_empty()
}

async fn send_many(service: &Service, topic: &str, count: usize) {
    let ids: Vec<String> = (0..count).map(|number| format!("{topic}-{number}")).collect();
    for ids in ids.chunks(128) {
        let messages = ids.iter().map(|id| message(topic, id)).collect();
        let sent = service
            .send_message(&caller(), SendMessageRequest { messages })
            .await;
        assert_eq!(code(&sent.status), Code::Ok);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topic_is_forgotten_while_its_successor_of_the_same_name_is_in_use() {
    let cluster = Cluster::start(3).await;
    let service = cluster.service(1);
    send_many(service, "orders", 300).await;
    let (_, received) = receive(service, "orders", "readers", LONG).await;
    assert!(!received.is_empty());
    let old = topic_id(service, "orders");
    service.delete_topic("orders").await.unwrap();
    service.create_topic(topic("orders")).await.unwrap();
    let new = topic_id(service, "orders");
    assert_eq!(code(&send(service, "orders", "new").await.status), Code::Ok);
    for node in 1..=3 {
        let service = cluster.service(node);
        wait_for("the old topic to be forgotten", || nothing_is_left(service, old)).await;
    }
    assert_eq!(topic_id(service, "orders"), new);
    let (status, received) = receive(service, "orders", "readers", LONG).await;
    assert_eq!(status, Code::Ok);
    let ids: Vec<_> = received
        .iter()
        .map(|message| &properties(message).message_id)
        .collect();
    assert_eq!(ids, ["new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_down_drops_what_was_forgotten_meanwhile() {
    let mut cluster = Cluster::start(3).await;
    send_many(cluster.service(1), "orders", 100).await;
    let old = topic_id(cluster.service(1), "orders");
    wait_for("node 3 to have them", || {
        !queues_of(cluster.service(3), old).is_empty()
    })
    .await;
    cluster.kill(3).await;
    // Until the others have agreed on leaders, nobody knows whether it took effect.
    while cluster.service(1).node().meta().topic("orders").is_some() {
        let _ = cluster.service(1).delete_topic("orders").await;
    }
    wait_for("the topic to be forgotten", || {
        nothing_is_left(cluster.service(1), old)
    })
    .await;
    cluster.boot(3).await;
    wait_for("node 3 to drop it", || nothing_is_left(cluster.service(3), old)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_groups_that_come_and_go_leave_nothing_but_dead_letters() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    send_many(service, "orders", 40).await;
    for number in 0..20 {
        let name = format!("group-{number}");
        service.create_group(group(&name)).await.unwrap();
        let (_, received) = receive(service, "orders", &name, LONG).await;
        if number == 7 {
            let handle = properties(&received[0]).receipt_handle.clone();
            let request = ForwardMessageToDeadLetterQueueRequest {
                group: Some(resource(&name)),
                topic: Some(resource("orders")),
                receipt_handle: handle.expect("a handle"),
                message_id: properties(&received[0]).message_id.clone(),
                ..Default::default()
            };
            let given_up = service
                .forward_message_to_dead_letter_queue(&caller(), request)
                .await;
            assert_eq!(code(&given_up.status), Code::Ok);
        }
        service.delete_group(&name).await.unwrap();
    }
    wait_for("all but the dead letters to be gone", || {
        let meta = service.node().meta();
        let topics: Vec<_> = meta.topics().map(|topic| topic.name.clone()).collect();
        let groups = meta.groups().count() + meta.deleted_groups_from(0).count();
        topics == ["%DLQ%group-7", "orders"] && groups == 0 && meta.deleted_topics_from(0).count() == 0
    })
    .await;
    for shard in service.node().shards() {
        assert_eq!(shard.machine.read(|core| core.subscriptions().count()), 0);
    }
}

/// A shard whose leader's catalogue was behind has taken a message for a topic that is forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn what_turns_up_of_something_forgotten_is_dropped() {
    use flotilla_proto::record::{Append, Command, command};

    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    send_many(service, "orders", 10).await;
    let old = topic_id(service, "orders");
    service.delete_topic("orders").await.unwrap();
    wait_for("the topic to be forgotten", || nothing_is_left(service, old)).await;
    let shard = service.node().shard(1).expect("it is here");
    let late = |topic| {
        let append = Append {
            queue: QueueId::new(topic, 0).0,
            message_id: format!("late-{topic}"),
            ..Default::default()
        };
        shard.proposer.submit(Command {
            command: Some(command::Command::Append(append)),
        })
    };
    late(old).await.unwrap();
    // The catalogue here does not know this topic yet, as far as the shard can tell.
    let unborn = old + 1;
    late(unborn).await.unwrap();
    wait_for("the late message to be dropped", || nothing_is_left(service, old)).await;
    assert_eq!(queues_of(service, unborn), [QueueId::new(unborn, 0)]);
}

/// Found by reading: the keeper that lets time pass dropped topics itself, and did nothing else until it was through.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_in_time_while_a_large_topic_is_being_deleted() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    send_many(service, "large", 60_000).await;
    assert_eq!(code(&send(service, "small", "one").await.status), Code::Ok);
    let (_, first) = receive(service, "small", "readers", LONG).await;
    let leased = Instant::now();
    assert_eq!(first.len(), 1);
    let large = topic_id(service, "large");
    let left = || -> u64 {
        let shards = service.node().shards();
        let rows = |shard: &std::sync::Arc<broker::node::shard::DataShard>| {
            let queues = queues_of(service, large);
            shard
                .machine
                .read(|core| queues.iter().map(|&queue| core.rows_of(queue)).sum::<u64>())
        };
        shards.iter().map(rows).sum()
    };
    service.delete_topic("large").await.unwrap();
    wait_for("the deletion to begin", || left() < 60_000).await;
    // Others have their turn between the steps: this send is through before the topic is gone.
    assert_eq!(code(&send(service, "small", "two").await.status), Code::Ok);
    assert!(left() > 0, "the topic was dropped in one go");
    wait_for("the large topic to be forgotten", || {
        nothing_is_left(service, large)
    })
    .await;
    let again = loop {
        let (_, received) = receive(service, "small", "readers", LONG).await;
        if let Some(again) = received
            .into_iter()
            .find(|message| properties(message).message_id == "one")
        {
            break again;
        }
    };
    assert_eq!(properties(&again).delivery_attempt, Some(2));
    assert!(
        leased.elapsed() < Duration::from_secs(15),
        "a lease of 10 s ended late"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receive_that_waits_while_its_consumer_group_is_deleted_does_not_begin_anew() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    assert_eq!(code(&send(service, "orders", "one").await.status), Code::Ok);
    let (_, received) = receive(service, "orders", "readers", LONG).await;
    assert_eq!(ack(service, "orders", "readers", &received[0]).await, Code::Ok);
    let delete = async {
        wait_for("the receive to wait", || service.node().hub().waiting() == 1).await;
        service.delete_group("readers").await.unwrap();
    };
    let (again, ()) = tokio::join!(receive(service, "orders", "readers", LONG), delete);
    assert_eq!((again.0, again.1.len()), (Code::MessageNotFound, 0));
}
