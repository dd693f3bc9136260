//! Three nodes: any of them serves, one of them may die.

use std::{collections::BTreeSet, time::Duration};

use broker::limits::MAX_FULL_WAY;
use flotilla_proto::rocketmq::{AckMessageEntry, AckMessageRequest, Code};
use futures::future::join_all;
use tokio::time::Instant;

use crate::cluster::{
    Cluster, Fault, PATIENCE, ack, caller, code, properties, receive, resource, send, send_large, wait_for,
};

const LONG: Duration = Duration::from_secs(5);

async fn send_until_ok(cluster: &Cluster, at: u32, topic: &str, id: &str) {
    let mut last = Code::Ok;
    for _ in 0..10 {
        last = code(&send(cluster.service(at), topic, id).await.status);
        if last == Code::Ok {
            return;
        }
    }
    panic!("sending {id} to node {at} failed: {last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_serves_any_queue() {
    let cluster = Cluster::start(3).await;
    for i in 0..30 {
        send_until_ok(&cluster, 1 + i % 3, "orders", &format!("id-{i}")).await;
    }
    let mut seen = BTreeSet::new();
    for at in (1..=3).cycle() {
        if seen.len() == 30 {
            break;
        }
        let (status, messages) =
            receive(cluster.service(at), "orders", "readers", Duration::from_secs(1)).await;
        assert!(matches!(status, Code::Ok | Code::MessageNotFound), "{status:?}");
        for message in messages {
            // Acknowledged at another node than the one it came from.
            assert_eq!(
                ack(cluster.service(1 + at % 3), "orders", "readers", &message).await,
                Code::Ok
            );
            assert!(
                seen.insert(properties(&message).message_id.clone()),
                "delivered twice"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_leaders_moved_a_consumer_with_an_old_route_gets_everything() {
    let cluster = Cluster::start(3).await;
    wait_for("two leaders", || {
        let node = cluster.service(1).node();
        node.leader(1).is_some() && node.leader(2).is_some() && node.leader(1) != node.leader(2)
    })
    .await;
    for i in 0..30 {
        send_until_ok(&cluster, 1 + i % 3, "orders", &format!("id-{i}")).await;
    }
    // All it knows is one of the leaders.
    let known = cluster.service(1).node().leader(1).unwrap();
    let mut seen = BTreeSet::new();
    let all = async {
        while seen.len() < 30 {
            let (_, messages) = receive(
                cluster.service(known),
                "orders",
                "readers",
                Duration::from_secs(1),
            )
            .await;
            seen.extend(
                messages
                    .iter()
                    .map(|message| properties(message).message_id.clone()),
            );
        }
    };
    tokio::time::timeout(LONG, all)
        .await
        .expect("messages of queues that moved are not kept back");
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_survive_the_death_of_their_leader() {
    let mut cluster = Cluster::start(3).await;
    for i in 0..20 {
        send_until_ok(&cluster, 1, "orders", &format!("id-{i}")).await;
    }
    let mut leased = Vec::new();
    for at in (1..=3).cycle() {
        if leased.len() == 20 {
            break;
        }
        leased.extend(
            receive(cluster.service(at), "orders", "readers", Duration::from_secs(1))
                .await
                .1,
        );
    }
    let leader = cluster.service(1).node().leader(1).expect("a leader");
    cluster.kill(leader).await;
    cluster_leads_elsewhere(&cluster, leader).await;
    let survivor = cluster.running()[0];
    for message in &leased {
        assert_eq!(
            ack(cluster.service(survivor), "orders", "readers", message).await,
            Code::Ok
        );
    }
    let (status, again) = receive(
        cluster.service(survivor),
        "orders",
        "readers",
        Duration::from_secs(1),
    )
    .await;
    assert_eq!((status, again.len()), (Code::MessageNotFound, 0));
}

async fn cluster_leads_elsewhere(cluster: &Cluster, dead: u32) {
    wait_for("other leaders", || {
        cluster.running().iter().all(|&id| {
            let node = cluster.service(id).node();
            (0..=2).all(|shard| node.leader(shard).is_some_and(|leader| leader != dead))
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_nodes_die_in_turn() {
    let mut cluster = Cluster::start(3).await;
    let mut sent = BTreeSet::new();
    for round in 0..3u32 {
        let victim = 1 + round % 3;
        for i in 0..20 {
            let id = format!("{round}-{i}");
            send_until_ok(&cluster, 1 + (victim + i) % 3, "orders", &id).await;
            sent.insert(id);
        }
        cluster.kill(victim).await;
        cluster_leads_elsewhere(&cluster, victim).await;
        for i in 0..10 {
            let id = format!("{round}-without-{victim}-{i}");
            send_until_ok(&cluster, cluster.running()[i % 2], "orders", &id).await;
            sent.insert(id);
        }
        cluster.boot(victim).await;
        cluster.wait_ready().await;
    }
    let mut seen = BTreeSet::new();
    for at in (1..=3).cycle() {
        if seen.len() == sent.len() {
            break;
        }
        let (_, messages) = receive(cluster.service(at), "orders", "readers", Duration::from_secs(1)).await;
        for message in messages {
            assert_eq!(
                ack(cluster.service(at), "orders", "readers", &message).await,
                Code::Ok
            );
            seen.insert(properties(&message).message_id.clone());
        }
    }
    assert_eq!(seen, sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_an_empty_disk_comes_back_as_another_replica() {
    let mut cluster = Cluster::start(3).await;
    for i in 0..20 {
        send_until_ok(&cluster, 1, "orders", &format!("id-{i}")).await;
    }
    cluster.kill(2).await;
    let machine = cluster.machines.get_mut(&2).unwrap();
    machine.disk = raft_store::disk::SimDisk::new(99);
    machine.engine = raft_store::MemoryEngine::new();
    cluster.boot(2).await;
    wait_for("the new replica to be a voter everywhere", || {
        let view = cluster.service(1).cluster();
        view.shards.iter().all(|shard| {
            shard.replicas.len() == 3
                && shard.replicas.iter().all(|replica| replica.voter)
                && shard
                    .replicas
                    .iter()
                    .any(|replica| replica.replica == (2 << 16 | 2))
        })
    })
    .await;
    // The rebuilt node counts: with it and one other the cluster goes on.
    cluster.kill(3).await;
    cluster_leads_elsewhere(&cluster, 3).await;
    let mut seen = BTreeSet::new();
    while seen.len() < 20 {
        for at in [1, 2] {
            let (_, messages) = receive(cluster.service(at), "orders", "readers", LONG).await;
            seen.extend(
                messages
                    .iter()
                    .map(|message| properties(message).message_id.clone()),
            );
        }
    }
}

/// Gives the lead of the catalogue to a node.
async fn lead_catalogue(cluster: &Cluster, to: u32) {
    let target = cluster.service(to).node().meta_replica().unwrap();
    let mut status = target.subscribe();
    let led = async {
        while !status.current().is_leader {
            for at in cluster.running() {
                let replica = cluster.service(at).node().meta_replica().unwrap();
                if replica.status().is_leader {
                    replica.transfer_leader(target.id()).await.unwrap();
                }
            }
            assert!(status.changed().await, "the replica stopped");
        }
    };
    tokio::time::timeout(PATIENCE, led)
        .await
        .expect("the catalogue's leader moves");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_room_waits_for_it_while_the_others_serve() {
    let cluster = Cluster::start(3).await;
    cluster.machines[&2].disk.set_capacity(18 << 20);
    let node = cluster.service(2).node().clone();
    // It still leads the catalogue when its disk gets full, and cannot take down that another node does.
    lead_catalogue(&cluster, 2).await;
    let mut sent = 0;
    while !node.store().log().is_stuck() {
        assert!(sent < 200, "node 2 finds room beyond its disk");
        // Through every node: also a client of the full one is served.
        let id = format!("large-{sent}");
        let status = send_large(cluster.service(1 + sent % 3), "orders", &id)
            .await
            .status;
        assert_eq!(code(&status), Code::Ok, "{status:?}");
        sent += 1;
    }
    for i in 0..6 {
        send_until_ok(&cluster, 1 + i % 3, "orders", &format!("more-{i}")).await;
    }
    wait_for("the full node to lead nothing", || {
        (0..=2).all(|shard| !node.leads(shard))
    })
    .await;
    assert!(node.store().log().stopped().is_none());
    cluster.machines[&2].disk.set_capacity(u64::MAX);
    cluster.wait_ready().await;
    wait_for("node 2 to have everything", || {
        // A shard's leader knows what the others have.
        (1..=3).all(|id| {
            let view = cluster.service(id).cluster();
            let mut led = view.shards.iter().filter(|shard| shard.leader == Some(id));
            led.all(|shard| shard.replicas.iter().all(|replica| replica.lag == Some(0)))
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_catalogue_is_behind_does_not_say_that_something_does_not_exist() {
    let mut cluster = Cluster::start(3).await;
    cluster.kill(3).await;
    cluster_leads_elsewhere(&cluster, 3).await;
    let sent = send(cluster.service(1), "news", "one").await;
    assert_eq!(code(&sent.status), Code::Ok);
    let (_, messages) = receive(cluster.service(1), "news", "latecomers", LONG).await;
    let [message] = messages.as_slice() else {
        panic!("one message, not {}", messages.len())
    };
    cluster.boot(3).await;
    let late = cluster.service(3);
    // It may know no leader yet, and says so; what it never says is that there is no such consumer group.
    let answer = loop {
        match ack(late, "news", "latecomers", message).await {
            Code::HaNotAvailable => {}
            other => break other,
        }
    };
    assert_eq!(answer, Code::Ok);
    assert!(late.describe_topic("news").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_whose_way_to_the_leader_is_full_is_refused_for_that() {
    let cluster = Cluster::start(3).await;
    let (here, _) = cluster.two_leaders().await;
    let service = cluster.service(here);
    send_until_ok(&cluster, here, "orders", "the topic comes into being").await;
    cluster.fail("SendMessage", Fault::Full);
    let ids: Vec<String> = (0..16).map(|i| format!("id-{i}")).collect();
    let sent = join_all(ids.iter().map(|id| send(service, "orders", id))).await;
    let codes: BTreeSet<Code> = sent.iter().map(|sent| code(&sent.status)).collect();
    assert_eq!(codes, [Code::Ok, Code::TooManyRequests].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_do_not_wait_for_another_shards_leader() {
    let cluster = Cluster::start(1).await;
    let service = cluster.service(1);
    for i in 0..16 {
        send_until_ok(&cluster, 1, "orders", &format!("id-{i}")).await;
    }
    let mut entries = Vec::new();
    while entries.len() < 16 {
        for message in receive(service, "orders", "readers", LONG).await.1 {
            entries.push(AckMessageEntry {
                message_id: properties(&message).message_id.clone(),
                receipt_handle: properties(&message).receipt_handle.clone().expect("a handle"),
                lite_topic: None,
            });
        }
    }
    // Who is said to lead the first shard now cannot be reached.
    let shard = |id| service.node().shard(id).expect("it is here");
    shard(1).leadership().hear(9, u64::MAX, 0);
    let request = AckMessageRequest {
        group: Some(resource("readers")),
        topic: Some(resource("orders")),
        entries,
    };
    let (service, request) = (service.clone(), request.clone());
    let mut patient = caller();
    patient.deadline = Some(3 * PATIENCE);
    let waiting = tokio::spawn(async move { service.ack_message(&patient, request).await });
    let acked = || {
        let second = cluster.service(1).node().shard(2).expect("it is here");
        second
            .machine
            .read(|core| core.subscriptions().map(|(.., known)| known.acked).sum::<u64>())
    };
    wait_for("acknowledgements of the second shard", || acked() > 0).await;
    assert!(!waiting.is_finished());
    waiting.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_with_a_full_way_is_refused_and_not_repeated_for_ever() {
    let cluster = Cluster::start(3).await;
    let (one, other) = cluster.two_leaders().await;
    send_until_ok(&cluster, 1, "orders", "id-1").await;
    let mut received = Vec::new();
    for leader in [one, other] {
        received.extend(
            receive(cluster.service(leader), "orders", "readers", LONG)
                .await
                .1,
        );
        if !received.is_empty() {
            break;
        }
    }
    let third = cluster.service(6 - one - other);
    cluster.fail("AckMessage", Fault::Full);
    let begun = Instant::now();
    assert_eq!(
        ack(third, "orders", "readers", &received[0]).await,
        Code::TooManyRequests
    );
    assert!(begun.elapsed() >= MAX_FULL_WAY, "it is tried for a while");
    assert!(cluster.forwarded("AckMessage") > 1);
    cluster.heal("AckMessage");
    assert_eq!(ack(third, "orders", "readers", &received[0]).await, Code::Ok);
}
