//! Queues that other nodes lead than the one that a consumer asks.

use std::{collections::BTreeSet, time::Duration};

use broker::service::Service;
use flotilla_proto::rocketmq::{Code, Message, ReceiveMessageRequest, receive_message_response::Content};
use tokio::task::JoinHandle;

use crate::cluster::{
    Cluster, Fault, PATIENCE, ack, caller, code, properties, receive, receive_request, send, wait_for,
};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(8);

const LOOKS: &str = "ReceiveMessage";
const HINTS: &str = "flotilla.Hints";

fn wait_at(service: &Service, group: &'static str, wait: Duration) -> JoinHandle<(Code, Vec<Message>)> {
    let service = service.clone();
    tokio::spawn(async move { receive(&service, "orders", group, wait).await })
}

async fn receive_one(service: &Service) -> Vec<Message> {
    let request = ReceiveMessageRequest {
        batch_size: 1,
        ..receive_request("orders", "readers", SHORT)
    };
    let responses = service.receive_message(&caller(), request).await;
    let messages = responses.into_iter().filter_map(|each| match each.content {
        Some(Content::Message(message)) => Some(message),
        _ => None,
    });
    messages.collect()
}

/// Messages stored in the queues of one shard.
fn stored(service: &Service, shard: u32) -> u64 {
    let shard = service.node().shard(shard).expect("every node has all shards");
    shard
        .machine
        .read(|core| core.queues().map(|(_, ends)| ends.next).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receive_that_waits_at_any_node_is_told_of_a_message_at_another() {
    let cluster = Cluster::start(3).await;
    let (first, second) = cluster.two_leaders().await;
    let third = 6 - first - second;
    // The topic and the consumer group come into being.
    receive(cluster.service(third), "orders", "readers", SHORT).await;
    for i in 0..10 {
        let waiting = wait_at(cluster.service(third), "readers", LONG);
        wait_for("the receive to wait", || {
            cluster.service(third).node().hub().waiting() == 1
        })
        .await;
        let sent = send(cluster.service(first), "orders", &format!("id-{i}")).await;
        assert_eq!(code(&sent.status), Code::Ok);
        let (status, messages) = waiting.await.unwrap();
        assert_eq!((status, messages.len()), (Code::Ok, 1));
        assert_eq!(
            ack(cluster.service(third), "orders", "readers", &messages[0]).await,
            Code::Ok
        );
    }
    assert!(
        cluster.forwarded(HINTS) >= 5,
        "most receives were told, and did not look by chance"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_here_does_not_wait_for_a_node_that_does_not_answer() {
    let cluster = Cluster::start(3).await;
    let (here, _) = cluster.two_leaders().await;
    let service = cluster.service(here);
    receive(service, "orders", "readers", SHORT).await;
    cluster.fail(LOOKS, Fault::Hang);
    let looks = cluster.forwarded(LOOKS);
    let waiting = wait_at(service, "readers", LONG);
    wait_for("a look at another node", || cluster.forwarded(LOOKS) > looks).await;
    let before = stored(service, 1);
    for i in 0.. {
        assert_eq!(
            code(&send(service, "orders", &format!("id-{i}")).await.status),
            Code::Ok
        );
        if stored(service, 1) > before {
            break;
        }
    }
    let (status, messages) = tokio::time::timeout(LONG / 2, waiting)
        .await
        .expect("it comes while the poll lasts")
        .unwrap();
    assert_eq!((status, messages.len()), (Code::Ok, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn receives_that_wait_at_all_nodes_do_not_wake_each_other() {
    let cluster = Cluster::start(3).await;
    cluster.two_leaders().await;
    for at in 1..=3 {
        receive(cluster.service(at), "orders", "readers", SHORT).await;
    }
    let (looks, hints) = (cluster.forwarded(LOOKS), cluster.forwarded(HINTS));
    let wait = Duration::from_secs(4);
    let waiting: Vec<_> = (0..30)
        .map(|i| wait_at(cluster.service(1 + i % 3), "readers", wait))
        .collect();
    wait_for("all to wait", || {
        (1..=3).all(|at| cluster.service(at).node().hub().waiting() == 10)
    })
    .await;
    let sent = send(cluster.service(1), "orders", "one").await;
    assert_eq!(code(&sent.status), Code::Ok);
    let mut received = 0;
    for waiting in waiting {
        received += waiting.await.unwrap().1.len();
    }
    assert_eq!(received, 1);
    // Each of three nodes has at most two others to look at, once at the start and about once a second.
    let (looks, hints) = (cluster.forwarded(LOOKS) - looks, cluster.forwarded(HINTS) - hints);
    assert!(looks <= 3 * 2 * 8, "{looks} looks of 30 waiting receives");
    assert!(hints <= 3, "{hints} hints for one message");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_knows_one_node_gets_what_others_lead_though_its_own_has_plenty() {
    let cluster = Cluster::start(3).await;
    let (known, other) = cluster.two_leaders().await;
    // Leaders moved long ago.
    cluster.pass(Duration::from_secs(60));
    for i in 0..120 {
        let sent = send(cluster.service(known), "orders", &format!("id-{i}")).await;
        assert_eq!(code(&sent.status), Code::Ok);
    }
    let service = cluster.service(known);
    let there = service.node().leader(2).expect("a leader");
    assert_eq!(there, other);
    let (here, elsewhere) = (stored(service, 1), stored(service, 2));
    assert!(
        here > 30 && elsewhere > 30,
        "{here} here and {elsewhere} elsewhere"
    );
    let topic = service.node().meta().topic("orders").expect("it exists");
    let mut from = [0, 0];
    for _ in 0..40 {
        for message in receive_one(service).await {
            let shard = topic.queue_shards[properties(&message).queue_id as usize];
            from[shard as usize - 1] += 1;
        }
    }
    assert!(
        from[0] >= 10 && from[1] >= 10,
        "{from:?} from here and from elsewhere"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_at_every_node_take_what_their_node_leads() {
    let cluster = Cluster::start(3).await;
    let (first, second) = cluster.two_leaders().await;
    for i in 0..400 {
        let sent = send(cluster.service(first), "orders", &format!("id-{i}")).await;
        assert_eq!(code(&sent.status), Code::Ok);
    }
    let looks = cluster.forwarded(LOOKS);
    let mut received = BTreeSet::new();
    for _ in 0..60 {
        for at in [first, second] {
            for message in receive_one(cluster.service(at)).await {
                received.insert(properties(&message).message_id.clone());
            }
        }
    }
    assert_eq!(received.len(), 120);
    let looks = cluster.forwarded(LOOKS) - looks;
    assert!(
        looks <= 60,
        "{looks} looks elsewhere of 120 receives that had enough here"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receive_with_a_dead_node_beside_it_does_not_wait_for_it() {
    let mut cluster = Cluster::start(3).await;
    let (first, second) = cluster.two_leaders().await;
    let third = 6 - first - second;
    for i in 0..20 {
        let sent = send(cluster.service(first), "orders", &format!("id-{i}")).await;
        assert_eq!(code(&sent.status), Code::Ok);
    }
    cluster.kill(second).await;
    let mut received = BTreeSet::new();
    let all = async {
        while received.len() < 20 {
            for message in receive(cluster.service(third), "orders", "readers", SHORT)
                .await
                .1
            {
                received.insert(properties(&message).message_id.clone());
            }
        }
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .expect("what the dead node led has another leader soon");
}
