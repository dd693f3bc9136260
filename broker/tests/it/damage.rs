//! Damaged stored data, found at the start of a node.

use broker::node::StopReason;
use bytes::Bytes;
use flotilla_proto::rocketmq::Code;
use raft_store::engine::{Change, WriteBatch};

use crate::cluster::{Cluster, PATIENCE, code, send};

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
