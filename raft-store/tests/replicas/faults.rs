//! Disks that fail or lie.

use bytes::Bytes;
use flotilla_proto::{
    peer::{self, raft_request, raft_response},
    record,
};
use raft_store::{
    PayloadError, ProposeError, StoreOptions, StoreStopped,
    disk::sim::{Fault, Operation},
};

use crate::cluster::{Cluster, SHARD, options, replica_id};

#[tokio::test]
async fn a_failed_sync_ends_the_store_and_acknowledges_nothing_more() {
    let cluster = Cluster::start(1).await;
    cluster.put("a").await;
    let node = &cluster.nodes[&1];
    node.disk.inject(Operation::Sync, 1, Fault::Error);
    let calls = (0..10).map(|i| node.replica().propose(Bytes::from(format!("put {i}"))));
    for answer in futures::future::join_all(calls).await {
        assert!(
            matches!(
                answer,
                Err(ProposeError::Stopped(_) | ProposeError::Unknown { .. })
            ),
            "{answer:?}"
        );
    }
    assert!(matches!(
        node.store().wait_stopped().await,
        StoreStopped::Failed(_)
    ));
    assert!(matches!(
        node.replica().propose("put b".into()).await,
        Err(ProposeError::Stopped(_))
    ));
    assert!(node.replica().status().stopped.is_some());
}

#[tokio::test]
async fn a_state_engine_that_fails_ends_the_store() {
    let cluster = Cluster::start(1).await;
    cluster.put("a").await;
    let node = &cluster.nodes[&1];
    node.engine.fail(true);
    let answer = node.replica().propose("put b".into()).await;
    assert!(
        matches!(
            answer,
            Err(ProposeError::Stopped(_) | ProposeError::Unknown { .. })
        ),
        "{answer:?}"
    );
    assert!(matches!(
        node.store().wait_stopped().await,
        StoreStopped::Failed(_)
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_take_over_from_a_leader_whose_disk_fails() {
    let mut cluster = Cluster::start(3).await;
    cluster.put_many("before", 100).await;
    let leader = cluster.leader().await;
    cluster.nodes[&leader]
        .disk
        .inject(Operation::Write, 1, Fault::Error);
    let _ = cluster.nodes[&leader].replica().propose("put x".into()).await;
    cluster.node(leader).crash(1).await;
    cluster.put_many("after", 100).await;
    cluster.node(leader).start().await;
    cluster.agree().await;
    cluster.check_all_there("before", 100);
    cluster.check_all_there("after", 100);
}

#[tokio::test]
async fn a_flipped_bit_in_an_old_entry_is_reported_and_never_served() {
    let small = |node| StoreOptions {
        cache_bytes: 1,
        segment_bytes: 64 << 10,
        ..options(node)
    };
    let cluster = Cluster::start_with(1, small).await;
    let filler = "x".repeat(1000);
    cluster.put_many(&filler, 200).await;
    let node = &cluster.nodes[&1];
    let bytes = node.disk.read_file("log/00000001.seg").unwrap();
    let wanted = format!("put {filler}-3");
    let at = bytes
        .windows(wanted.len())
        .position(|window| window == wanted.as_bytes())
        .unwrap();
    node.disk.flip_bit("log/00000001.seg", at as u64 + 7, 3);
    let found: Vec<_> = (0..60)
        .filter_map(|index| node.replica().read_payload(index).err())
        .collect();
    let corrupt = found
        .iter()
        .filter(|error| matches!(error, PayloadError::Damaged(_)))
        .count();
    assert_eq!(corrupt, 1, "{found:?}");
    assert_eq!(node.store().damages().len(), 1);
    // There is nobody who has it; what is whole is served on.
    let damaged = node.store().damages()[0].index;
    assert!(!node.replica().repair(damaged).await);
    cluster.put("b").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lost_everything_comes_back_under_a_new_id() {
    let mut cluster = Cluster::start(3).await;
    cluster.put_many("a", 300).await;
    let lost = cluster.leader().await % 3 + 1;
    cluster.node(lost).crash(1).await;
    cluster.nodes.remove(&lost);
    cluster.put_many("b", 300).await;
    // Another node stands for the new incarnation; the dead replica counts until it is replaced.
    cluster.add_node(9).await;
    let leader = cluster.leader_replica().await;
    leader.add_learner(replica_id(9), 9).await.unwrap();
    let voters = cluster.nodes.keys().map(|id| replica_id(*id)).collect();
    leader.change_voters(voters).await.unwrap();
    cluster.agree().await;
    cluster.check_all_there("a", 300);
    cluster.check_all_there("b", 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_leader_would_send_is_refused_and_ends_nothing() {
    let cluster = Cluster::start(1).await;
    cluster.put_many("a", 10).await;
    let replica = cluster.nodes[&1].replica();
    let term = 99;
    let other = replica_id(2);
    let vote = |node, committed| {
        Some(record::Vote {
            term,
            node,
            committed,
        })
    };
    let at = |term, node, index| Some(record::LogId { term, node, index });
    let append = |vote, previous| {
        raft_request::Body::Append(peer::AppendRequest {
            vote,
            previous,
            ..peer::AppendRequest::default()
        })
    };
    let snapshot = |vote, applied| {
        let membership = Some(record::StoredMembership {
            log_id: None,
            membership: Some(record::Membership::default()),
        });
        let head = record::SnapshotHead {
            shard: SHARD,
            applied,
            membership,
            oldest: 1_001,
        };
        raft_request::Body::Snapshot(peer::SnapshotChunk {
            vote,
            id: "a".into(),
            head: Some(head),
            ..peer::SnapshotChunk::default()
        })
    };
    for body in [
        append(vote(replica.id(), true), None),
        append(vote(other, false), None),
        append(vote(other, true), at(term, other, u64::MAX)),
        snapshot(vote(replica.id(), true), at(1, other, 1_000)),
        snapshot(vote(other, false), at(1, other, 1_000)),
        snapshot(vote(other, true), at(term + 1, other, 1_000)),
        snapshot(vote(other, true), at(term, other + 1, 1_000)),
        snapshot(vote(other, true), at(term, other, u64::MAX)),
        // Another entry than the one that is committed there.
        snapshot(vote(other, true), at(term, other, 3)),
    ] {
        let request = peer::RaftRequest {
            shard: SHARD,
            to: replica.id(),
            body: Some(body.clone()),
            ..peer::RaftRequest::default()
        };
        let answer = replica.handle(request).await.body;
        let Some(raft_response::Body::Refusal(refusal)) = answer else {
            panic!("{answer:?} to {body:?}")
        };
        assert_eq!(refusal.reason(), peer::refusal::Reason::Malformed, "{body:?}");
    }
    cluster.put_many("b", 10).await;
}
