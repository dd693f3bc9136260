//! Damaged stored data: found at the start of a node, and while it runs.

use std::{collections::BTreeSet, time::Duration};

use broker::node::{Node, NodeError, StopReason};
use bytes::Bytes;
use flotilla_proto::rocketmq::{Code, FilterExpression, FilterType};
use raft_store::{
    MemoryEngine, StoreError,
    engine::{Change, WriteBatch},
};

use crate::cluster::{
    Cluster, Machine, PATIENCE, ack, ask, code, properties, receive, receive_request, send, send_large,
    wait_for,
};

/// Shard 1, section of raft-store, its row about the membership.
const MEMBERSHIP: &[u8] = b"\0\0\0\x01\0membership";

#[tokio::test(flavor = "multi_thread")]
async fn damaged_state_found_at_the_start_condemns_the_data_directory() {
    let mut cluster = Cluster::start(3).await;
    assert_eq!(
        code(&send(cluster.service(1), "orders", "one").await.status),
        Code::Ok
    );
    cluster.kill(2).await;
    let engine = cluster.machines[&2].engine.mount();
    let garbage = Change::Put(Bytes::from_static(MEMBERSHIP), Bytes::from_static(b"\xff\xff"));
    engine
        .write(WriteBatch {
            changes: vec![garbage],
        })
        .unwrap();
    engine.flush().unwrap();
    cluster.boot(2).await;
    let node = cluster.service(2).node().clone();
    let reason = tokio::time::timeout(PATIENCE, node.wait_stopped())
        .await
        .expect("the node stops");
    assert!(matches!(reason, StopReason::Condemned(_)), "{reason:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_segment_is_gone_condemns_the_data_directory() {
    let mut cluster = Cluster::start(1).await;
    for id in 0..8 {
        let sent = send_large(cluster.service(1), "orders", &format!("m{id}")).await;
        assert_eq!(code(&sent.status), Code::Ok);
    }
    // Nothing is in memory any more.
    cluster.kill(1).await;
    cluster.boot(1).await;
    cluster.wait_ready().await;
    let node = cluster.service(1).node().clone();
    let log = node.store().log();
    let mut closed = log.segments().into_iter().filter(|segment| !segment.open);
    let newest = closed.next_back().expect("there are closed segments").sequence;
    log.recycle_through(newest)
        .await
        .expect("the log gives them up when told to");
    let (status, _) = receive(cluster.service(1), "orders", "readers", PATIENCE).await;
    assert_eq!(status, Code::InternalServerError);
    let reason = tokio::time::timeout(PATIENCE, node.wait_stopped())
        .await
        .expect("the node stops");
    assert!(matches!(reason, StopReason::Condemned(_)), "{reason:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_kept_its_name_and_lost_its_log_is_damaged() {
    let mut cluster = Cluster::start(3).await;
    cluster.kill(2).await;
    let machine = cluster.machines.get_mut(&2).unwrap();
    let log = machine.disk.files();
    for name in log.iter().filter(|name| name.starts_with("log/")) {
        machine.disk.delete_file(name);
    }
    // With the state, and without.
    for _ in 0..2 {
        let started = cluster.try_boot(2).await;
        assert!(
            matches!(&started, Err(NodeError::Store(StoreError::Corrupt(what))) if what.contains("lost its log")),
            "{started:?}"
        );
        cluster.machines.get_mut(&2).unwrap().engine = MemoryEngine::new();
    }
}

/// Flips a bit in the body of each of these messages, wherever a closed segment of the machine has it; how many.
fn flip_bodies(machine: &Machine, ids: &[String]) -> usize {
    let mut segments = machine.disk.files();
    segments.retain(|name| name.ends_with(".seg"));
    let open = segments.iter().max().cloned();
    let mut flipped = 0;
    for name in segments.iter().filter(|name| Some(*name) != open.as_ref()) {
        let bytes = machine.disk.read_file(name).unwrap();
        for id in ids {
            let found = bytes.windows(id.len()).position(|window| window == id.as_bytes());
            if let Some(at) = found {
                machine.disk.flip_bit(name, at as u64, 1);
                flipped += 1;
            }
        }
    }
    flipped
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_damaged_records_repairs_them_and_feeds_one_that_lost_its_disk() {
    let mut cluster = Cluster::start(3).await;
    let ids: Vec<String> = (0..48).map(|number| format!("<message-{number:03}>")).collect();
    for id in &ids {
        let sent = send_large(cluster.service(1), "orders", id).await;
        assert_eq!(code(&sent.status), Code::Ok);
    }
    for id in 1..=3 {
        cluster.kill(id).await;
    }
    let directory = cluster.machines[&2].disk.read_file("IDENTITY");
    let some = [ids[3].clone(), ids[10].clone(), ids[11].clone()];
    assert_eq!(flip_bodies(&cluster.machines[&2], &some), 3);
    cluster.machines.insert(3, Machine::empty(33));
    for id in 1..=3 {
        cluster.boot(id).await;
    }
    let node = |id| cluster.service(id).node().clone();
    wait_for("node 3 to be whole again", || {
        let members = node(1).shard_views();
        members.len() == 3
            && members.iter().all(|shard| {
                shard.replicas.len() == 3
                    && shard.replicas.iter().all(|replica| replica.voter)
                    && shard
                        .replicas
                        .iter()
                        .any(|replica| replica.replica == (3 << 16 | 2))
            })
    })
    .await;
    let mut missing: BTreeSet<_> = ids.into_iter().collect();
    while !missing.is_empty() {
        let (status, messages) = receive(cluster.service(2), "orders", "readers", PATIENCE).await;
        assert_eq!(status, Code::Ok, "{missing:?}");
        for message in &messages {
            missing.remove(&properties(message).message_id);
            assert_eq!(
                ack(cluster.service(2), "orders", "readers", message).await,
                Code::Ok
            );
        }
    }
    assert_eq!(cluster.machines[&2].disk.read_file("IDENTITY"), directory);
    assert!(!node(2).stopping());
    // It has read all of them, when it applied its log again.
    assert_eq!(node(2).store().repairs(), 3);
    assert_eq!(node(2).store().damages(), []);
}

/// A cluster with large messages of these ids, which was stopped with everything in its state.
async fn filled(ids: &[String]) -> Cluster {
    let mut cluster = Cluster::start(3).await;
    for id in ids {
        let sent = send_large(cluster.service(1), "orders", id).await;
        assert_eq!(code(&sent.status), Code::Ok);
    }
    cluster.wait_level().await;
    for id in 1..=3 {
        cluster.service(id).node().store().flush().await.unwrap();
        cluster.kill(id).await;
    }
    cluster
}

/// Receives until these are left, from a node that answers.
async fn receive_all_but(cluster: &Cluster, node: u32, ids: &[String], left: &[String]) {
    receive_all_as(cluster, node, "readers", (ids, left)).await;
}

/// The same for a consumer group: `choosy` has a condition that lets all of them through.
async fn receive_all_as(cluster: &Cluster, node: u32, group: &str, (ids, left): (&[String], &[String])) {
    let mut missing: BTreeSet<String> = ids.iter().cloned().collect();
    let left: BTreeSet<String> = left.iter().cloned().collect();
    let read = async {
        while missing != left {
            let mut request = receive_request("orders", group, Duration::from_secs(1));
            if group == "choosy" {
                request.filter_expression = Some(FilterExpression {
                    r#type: FilterType::Sql.into(),
                    expression: "TAGS IS NULL".into(),
                });
            }
            let (_, messages) = ask(cluster.service(node), request).await;
            for message in &messages {
                missing.remove(&properties(message).message_id);
                ack(cluster.service(node), "orders", group, message).await;
            }
        }
    };
    let read = tokio::time::timeout(3 * PATIENCE, read).await;
    read.unwrap_or_else(|_| panic!("missing are {missing:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_node_serves_what_is_whole_and_is_not_given_up_while_another_is_dead() {
    let ids: Vec<String> = (0..48).map(|number| format!("<message-{number:03}>")).collect();
    let mut cluster = filled(&ids).await;
    let bad = [ids[5].clone()];
    for id in [1, 2] {
        assert_eq!(flip_bodies(&cluster.machines[&id], &bad), 1);
        cluster.boot(id).await;
    }
    cluster.wait_ready().await;
    receive_all_but(&cluster, 1, &ids, &bad).await;
    // Nor does it keep from a consumer group with a condition what is behind it.
    receive_all_as(&cluster, 1, "choosy", (&ids, &bad)).await;
    wait_for("somebody to find the damage", || {
        [1, 2].iter().any(|&id| cluster.service(id).damage().is_some())
    })
    .await;
    let damaged = [1, 2]
        .into_iter()
        .find(|&id| cluster.service(id).damage().is_some());
    let damaged = damaged.expect("just seen");
    let node = cluster.service(damaged).node().clone();
    // However long it lasts, and however often it asks.
    for times in [0, 1, 2] {
        let before = cluster.asked(damaged);
        wait_for("the others to be asked whether they can do without it", || {
            cluster.pass(Duration::from_secs(1));
            cluster.asked(damaged) > before
        })
        .await;
        assert!(!node.stopping(), "{times}");
    }
    // Somebody comes back who has it.
    cluster.boot(3).await;
    wait_for("the record to be repaired", || node.store().damages().is_empty()).await;
    cluster.wait_ready().await;
    receive_all_but(&cluster, 1, &bad, &[]).await;
    assert!(!node.stopping());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_repaired_is_given_up_once_the_others_can_do_without_it() {
    let ids: Vec<String> = (0..48).map(|number| format!("<message-{number:03}>")).collect();
    let mut cluster = filled(&ids).await;
    let machine = &cluster.machines[&2];
    // A segment with a bad record and a bad index: nobody can say what stood there.
    flip_bodies(machine, &ids[3..4]);
    for name in machine.disk.files().iter().filter(|name| name.ends_with(".idx")) {
        let index = machine.disk.read_file(name).unwrap();
        let positions = u64::from_le_bytes(index[40..48].try_into().unwrap());
        for position in 0..positions {
            machine.disk.flip_bit(name, 64 + position * 32, 0);
        }
    }
    for id in 1..=3 {
        cluster.boot(id).await;
    }
    let node = cluster.service(2).node().clone();
    // Found when the shard is opened, or by whoever reads it.
    wait_for("the damage to be found", || {
        for shard in node.shards() {
            for index in 0..shard.replica.status().last_log.unwrap_or(0) {
                let _ = shard.replica.read_payload(index);
            }
        }
        !node.store().damages().is_empty()
    })
    .await;
    wait_for("the node to be given up", || {
        cluster.pass(Duration::from_millis(20));
        node.stopping()
    })
    .await;
    assert!(matches!(node.wait_stopped().await, StopReason::GivenUp(_)));
    // If it has to come back after all, it knows what is damaged before anybody reads that, and is not given up at once.
    let known = |node: &Node| -> Vec<_> {
        let damages = node.store().damages();
        let places = damages.iter().map(|damage| (damage.shard, damage.index));
        places.collect()
    };
    let before = known(&node);
    cluster.kill(2).await;
    cluster.boot(2).await;
    let node = cluster.service(2).node().clone();
    wait_for("the damage to be known again", || known(&node) == before).await;
    cluster.pass(Duration::from_secs(60));
    assert!(!node.stopping());
}
