//! What a node remembers, and when it refuses to go on.

use std::sync::atomic::Ordering;

use raft_store::{Store, StoreError, disk::sim::Loss};

use crate::cluster::{Cluster, options, payloads};

#[tokio::test]
async fn a_crash_takes_nothing_that_was_acknowledged() {
    let mut cluster = Cluster::start(1).await;
    for round in 0..20 {
        cluster.put_many(&format!("round{round}"), 50).await;
        if round % 3 == 0 {
            cluster.nodes[&1].store().flush().await.unwrap();
        }
        cluster.node(1).crash(round).await;
        cluster.node(1).start().await;
        cluster.leader().await;
    }
    for round in 0..20 {
        cluster.check_all_there(&format!("round{round}"), 50);
    }
}

#[tokio::test]
async fn an_orderly_stop_leaves_nothing_to_replay() {
    let mut cluster = Cluster::start(1).await;
    cluster.put_many("a", 100).await;
    cluster.node(1).stop().await;
    assert_eq!(cluster.nodes[&1].engine.unflushed(), 0);
    cluster.node(1).start().await;
    assert_eq!(
        cluster.nodes[&1]
            .running
            .as_ref()
            .unwrap()
            .machine
            .restored
            .load(Ordering::Relaxed),
        1
    );
    assert_eq!(payloads(cluster.nodes[&1].replica()).len(), 100);
}

#[tokio::test]
async fn all_nodes_at_once_may_lose_power() {
    let mut cluster = Cluster::start(3).await;
    for round in 0..3 {
        cluster.put_many(&format!("round{round}"), 300).await;
        for id in 1..=3 {
            cluster.node(id).crash(round * 3 + u64::from(id)).await;
        }
        for id in 1..=3 {
            cluster.node(id).start().await;
        }
        cluster.leader().await;
    }
    cluster.agree().await;
    for round in 0..3 {
        cluster.check_all_there(&format!("round{round}"), 300);
    }
}

#[tokio::test]
async fn the_identity_stays_and_a_directory_without_it_is_refused() {
    let mut cluster = Cluster::start(1).await;
    cluster.put("a").await;
    let node = cluster.node(1);
    assert!(node.store().fresh());
    let identity = node.store().identity();
    node.crash(1).await;
    node.start().await;
    assert_eq!((node.store().identity(), node.store().fresh()), (identity, false));
    node.crash(2).await;
    node.disk.delete_file("IDENTITY");
    assert!(matches!(node.try_start().await, Err(StoreError::Corrupt(_))));
    node.disk.write_file("IDENTITY", b"something else, 24 bytes");
    assert!(matches!(node.try_start().await, Err(StoreError::Corrupt(_))));
}

#[tokio::test]
async fn a_node_that_lost_its_log_or_its_state_does_not_vote() {
    let mut cluster = Cluster::start(1).await;
    cluster.put_many("a", 10).await;
    cluster.nodes[&1].store().flush().await.unwrap();
    let node = cluster.node(1);
    node.crash(1).await;
    let whole = node.disk.fork();
    for name in node
        .disk
        .files()
        .into_iter()
        .filter(|name| name.starts_with("log/"))
    {
        node.disk.delete_file(&name);
    }
    assert!(matches!(node.try_start().await, Err(StoreError::Corrupt(_))));
    node.disk = whole;
    node.start().await;
    // A state that is lost can be replayed as long as the log goes back to its start, and no longer.
    node.store().flush().await.unwrap();
    node.replica().purge_to(5).await.unwrap();
    node.crash(2).await;
    node.engine = raft_store::MemoryEngine::new();
    assert!(matches!(node.try_start().await, Err(StoreError::Corrupt(_))));
}

#[tokio::test]
async fn the_data_of_one_replica_is_not_anothers() {
    let mut cluster = Cluster::start(1).await;
    cluster.put("a").await;
    let node = cluster.node(1);
    node.crash(1).await;
    node.id = 9;
    assert!(matches!(
        node.try_start().await,
        Err(StoreError::WrongReplica { .. })
    ));
    let store = Store::open(node.disk.mount(), node.engine.mount(), options(1))
        .await
        .unwrap();
    store.drop_replica(crate::cluster::SHARD).await.unwrap();
    assert_eq!(store.shards().unwrap(), []);
    drop(store);
    node.try_start().await.unwrap();
    assert_eq!(node.replica().status().last_log, None);
    node.disk.crash(Loss::All);
}
