//! Damaged stored data, found at the start of a node.

use broker::node::{NodeError, StopReason};
use bytes::Bytes;
use flotilla_proto::rocketmq::Code;
use raft_store::{
    MemoryEngine, StoreError,
    engine::{Change, WriteBatch},
};

use crate::cluster::{Cluster, PATIENCE, code, receive, send, send_large};

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
