//! The log is given up from its start, and never too early.

use raft_store::{PayloadError, RetentionError, StoreOptions};

use crate::cluster::{Cluster, SHARD, options, payloads, replica_id};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_are_recycled_when_nothing_needs_them() {
    // Nothing old in memory: what is read is what the disk has.
    let cluster = Cluster::start_with(1, |node| StoreOptions {
        cache_bytes: 64 << 10,
        ..options(node)
    })
    .await;
    let filler = "x".repeat(4000);
    cluster.put_many(&filler, 1000).await;
    let store = cluster.nodes[&1].store();
    let closed = store
        .log()
        .segments()
        .into_iter()
        .filter(|segment| !segment.open)
        .collect::<Vec<_>>();
    assert!(closed.len() >= 3, "{}", closed.len());
    let last = closed[1].shards[&SHARD].1;
    let error = store.recycle_through(closed[1].sequence).await.unwrap_err();
    assert!(matches!(error, RetentionError::Needed { .. }), "{error}");

    cluster.trim(last + 1).await;
    let points = store.recycle_through(closed[1].sequence).await.unwrap();
    assert_eq!(points[&SHARD].index, last);
    let replica = cluster.nodes[&1].replica();
    assert_eq!(replica.status().purged.map(|id| id.index), Some(last));
    assert_eq!(replica.read_payload(2), Err(PayloadError::NotFound(2)));
    assert!(payloads(replica).len() < 1000);
    cluster.put("after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_purged_is_not_replayed_after_a_crash() {
    let mut cluster = Cluster::start(1).await;
    cluster.put_many("a", 1000).await;
    cluster.trim(900).await;
    cluster.nodes[&1].replica().purge_to(800).await.unwrap();
    cluster.node(1).crash(5).await;
    cluster.node(1).start().await;
    cluster.leader().await;
    assert_eq!(payloads(cluster.nodes[&1].replica()).len(), 100);
    assert_eq!(
        cluster.nodes[&1].replica().status().purged.map(|id| id.index),
        Some(800)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_nothing_needs_is_given_up_at_once() {
    let cluster = Cluster::start(1).await;
    let store = cluster.nodes[&1].store();
    let mut seen = store.log().begun();
    cluster.put_many(&"x".repeat(4000), 1000).await;
    assert!(store.log().begun() > seen, "another segment was begun");
    store.log().rolled(&mut seen).await;
    assert_eq!(seen, store.log().begun());
    let before = store.log().segments();
    assert_eq!(
        store.log().size(),
        before.iter().map(|segment| segment.bytes).sum::<u64>()
    );
    assert_eq!(store.recycle_unneeded().await.unwrap(), None);
    let through = &before[before.len() - 3];
    cluster.trim(through.shards[&SHARD].1 + 1).await;
    let given_up = store.recycle_unneeded().await.unwrap();
    assert_eq!(given_up, Some(through.sequence));
    assert_eq!(store.log().segments()[0].sequence, through.sequence + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_referred_to_stays_though_the_log_begins_later() {
    let mut cluster = Cluster::start(3).await;
    let filler = "x".repeat(4000);
    cluster.put_many(&filler, 1000).await;
    cluster.trim(500).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        node.replica().purge_to(900).await.unwrap();
        node.store().recycle_unneeded().await.unwrap();
    }
    cluster.add_node(4).await;
    let leader = cluster.leader_replica().await;
    leader.add_learner(replica_id(4), 4).await.unwrap();
    cluster.agree().await;
    // Its first segments have nothing in them but what came with the snapshot.
    cluster.nodes[&4].store().recycle_unneeded().await.unwrap();
    for node in cluster.nodes.values() {
        assert_eq!(payloads(node.replica()).len(), 500, "node {}", node.id);
    }
}
