//! Who leads, and what a leader may promise.

use std::{cell::Cell, time::Duration};

use bytes::Bytes;
use raft_store::{BarrierError, ProposeError, RaftOptions};
use tokio::time::Instant;

use crate::cluster::{Cluster, eventually, payloads, replica_id};

#[tokio::test]
async fn a_single_replica_leads_at_once_and_answers() {
    let cluster = Cluster::start(1).await;
    assert_eq!(cluster.put("a").await, 0);
    assert_eq!(cluster.put("b").await, 1);
    let replica = cluster.leader_replica().await;
    assert_eq!(
        payloads(&replica).into_iter().collect::<Vec<_>>(),
        ["put a", "put b"]
    );
    assert!(replica.status().caught_up, "it has applied what it proposed");
}

#[tokio::test]
async fn proposals_stand_in_the_log_in_the_order_of_their_calls() {
    let cluster = Cluster::start(1).await;
    let replica = cluster.leader_replica().await;
    let calls = (0..500).map(|i| replica.propose(Bytes::from(format!("put {i}"))));
    let answers = futures::future::join_all(calls).await;
    let numbers: Vec<u64> = answers
        .into_iter()
        .map(|answer| answer.unwrap().take().unwrap())
        .collect();
    assert_eq!(numbers, (0..500).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_with_the_leader() {
    let mut cluster = Cluster::start(3).await;
    cluster.put_many("before", 5000).await;
    let leader = cluster.leader().await;
    cluster.node(leader).crash(11).await;
    let killed = Instant::now();
    cluster.put("first after").await;
    println!("gap of {:?}", killed.elapsed());
    cluster.put_many("after", 5000).await;
    cluster.node(leader).start().await;
    cluster.agree().await;
    cluster.check_all_there("before", 5000);
    cluster.check_all_there("after", 5000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_where_it_is_asked_to_go() {
    let cluster = Cluster::start(3).await;
    cluster.put_many("a", 100).await;
    let from = cluster.leader().await;
    let to = from % 3 + 1;
    let asked = Instant::now();
    cluster.nodes[&from]
        .replica()
        .transfer_leader(replica_id(to))
        .await
        .unwrap();
    eventually("the transfer", || async {
        cluster.nodes[&to].replica().status().is_leader.then_some(())
    })
    .await;
    assert!(
        asked.elapsed() < Duration::from_millis(600),
        "{:?}",
        asked.elapsed()
    );
    cluster.put("b").await;
    assert_eq!(cluster.leader().await, to);
    // Where it is already, it stays.
    let leader = cluster.nodes[&to].replica();
    leader.transfer_leader(leader.id()).await.unwrap();
    leader.propose(Bytes::from("put c")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_handing_over_nobody_hears_of_is_replaced() {
    let cluster = Cluster::start(3).await;
    cluster.put("a").await;
    let from = cluster.leader().await;
    let old = cluster.nodes[&from].replica().clone();
    let term = old.status().term;
    let lost = cluster.lost_calls(from);
    cluster.cut(from);
    old.transfer_leader(replica_id(from % 3 + 1)).await.unwrap();
    eventually("word of it lost on the way to both", || async {
        (cluster.lost_calls(from) >= lost + 2).then_some(())
    })
    .await;
    cluster.heal();
    cluster.put("b").await;
    // And the old one is as good a leader as ever when its turn comes again, however long other candidates are in its way.
    let since = Cell::new((term, Instant::now()));
    eventually("a heartbeat that a quorum answers", || async {
        let status = old.status();
        if !status.is_leader || status.term == term {
            let mut others = cluster.nodes.values().filter(|node| node.id != from);
            let leader = others.find(|node| node.replica().status().caught_up)?;
            // Whoever lost it meanwhile cannot give it.
            let _ = leader.replica().transfer_leader(old.id()).await;
            return None;
        }
        if since.get().0 != status.term {
            old.propose(Bytes::from("put c")).await.ok()?;
            since.set((status.term, Instant::now()));
        }
        let idle = since.get().1.elapsed();
        let ago = Duration::from_millis(status.quorum_acked_ms_ago?);
        (idle.checked_sub(ago)? > 2 * RaftOptions::default().heartbeat).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_promises_nothing() {
    let cluster = Cluster::start(3).await;
    cluster.put("a").await;
    let old = cluster.leader().await;
    cluster.cut(old);
    let alone = cluster.nodes[&old].replica().clone();
    let promised = tokio::spawn({
        let alone = alone.clone();
        async move { alone.propose(Bytes::from("put lost")).await }
    });
    assert_eq!(alone.barrier().await, Err(BarrierError::NoQuorum));
    eventually("a promise of another leader", || async {
        for node in cluster.nodes.values().filter(|node| node.id != old) {
            if node.replica().propose(Bytes::from("put b")).await.is_ok() {
                return Some(());
            }
        }
        None
    })
    .await;
    cluster.heal();
    assert!(matches!(
        promised.await.unwrap(),
        Err(ProposeError::Unknown { .. })
    ));
    cluster.agree().await;
    let found = payloads(&alone);
    assert!(found.contains("put b") && !found.contains("put lost"));
    assert!(matches!(
        alone.propose(Bytes::from("put c")).await,
        Err(ProposeError::NotLeader { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_comes_back_does_not_depose_the_leader() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = leader % 3 + 1;
    cluster.cut(follower);
    eventually("three rounds of asking for votes in vain", || async {
        (cluster.lost_calls(follower) >= 6).then_some(())
    })
    .await;
    cluster.put_many("a", 100).await;
    // Whoever leads now had nothing to do with the one that was away.
    let leader = cluster.leader().await;
    let term = cluster.nodes[&leader].replica().status().term;
    cluster.heal();
    cluster.agree().await;
    assert_eq!(cluster.nodes[&leader].replica().status().term, term);
    assert!(cluster.nodes[&leader].replica().status().is_leader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_fits_no_record_is_refused() {
    let cluster = Cluster::start(1).await;
    let replica = cluster.leader_replica().await;
    let limit = raft_store::limits::MAX_PAYLOAD_BYTES;
    let answer = replica.propose(vec![b'x'; limit + 1].into()).await;
    assert_eq!(answer.unwrap_err(), ProposeError::TooLarge(limit + 1));
    replica.propose(vec![b'x'; limit].into()).await.unwrap();
}
