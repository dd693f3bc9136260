//! Replicas that lag behind the log.

use std::collections::BTreeSet;

use raft_store::disk::sim::{Fault, Operation};

use crate::cluster::{Cluster, eventually, payloads, replica_id};

/// Three nodes whose log starts late: entries below 700 are purged, payloads from 500 on are still referred to.
async fn with_purged_log() -> Cluster {
    let cluster = Cluster::start(3).await;
    cluster.put_many("a", 1000).await;
    cluster.trim(500).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        node.replica().purge_to(700).await.unwrap();
    }
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_learner_catches_up_by_snapshot_and_becomes_a_voter() {
    let mut cluster = with_purged_log().await;
    cluster.add_node(4).await;
    let leader = cluster.leader_replica().await;
    leader.add_learner(replica_id(4), 4).await.unwrap();
    cluster.put_many("b", 200).await;
    cluster.agree().await;
    assert_eq!(payloads(cluster.nodes[&4].replica()), payloads(&leader));
    assert!(cluster.nodes[&4].replica().status().purged.map(|id| id.index) >= Some(700));

    let voters: BTreeSet<u64> = [1, 2, 3, 4]
        .into_iter()
        .filter(|id| *id != gone(&cluster))
        .map(replica_id)
        .collect();
    leader.change_voters(voters.clone()).await.unwrap();
    let status = leader.status();
    assert_eq!((status.voters, status.learners.len()), (vec![voters], 0));
    cluster.put_many("c", 100).await;
    let removed = gone(&cluster);
    cluster.node(removed).crash(1).await;
    cluster.agree().await;

    // What came with the snapshot is there after a power loss, too.
    cluster.node(4).crash(3).await;
    cluster.node(4).start().await;
    cluster.agree().await;
    assert_eq!(
        payloads(cluster.nodes[&4].replica()),
        payloads(&cluster.leader_replica().await)
    );
}

/// Long payloads: a thousand of them make four parts of a snapshot.
fn long(tag: &str) -> String {
    format!("{tag}{}", "x".repeat(4_000))
}

/// Three nodes with a thousand long entries, all of which the state refers to, and none of which is in the Raft log.
async fn with_long_entries() -> Cluster {
    let cluster = Cluster::start(3).await;
    cluster.put_many(&long("a"), 1000).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        let applied = node.replica().status().applied.unwrap().index;
        node.replica().purge_to(applied).await.unwrap();
    }
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_room_rebuilds_another_node() {
    let mut cluster = with_long_entries().await;
    cluster.add_node(4).await;
    let leader = cluster.leader().await;
    cluster.nodes[&leader].disk.set_capacity(0);
    let replica = cluster.nodes[&leader].replica().clone();
    replica.add_learner(replica_id(4), 4).await.unwrap();
    eventually("the learner", || async {
        (cluster.nodes[&4].replica().status().applied >= replica.status().applied).then_some(())
    })
    .await;
    assert_eq!(payloads(cluster.nodes[&4].replica()), payloads(&replica));
    let files = cluster.nodes[&leader].disk.files();
    let others = files.iter().filter(|name| !name.starts_with("log/"));
    assert_eq!(others.collect::<Vec<_>>(), ["IDENTITY"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_arrived_is_not_sent_again_whoever_crashes() {
    const MIB: u64 = 1 << 20;
    let mut cluster = with_long_entries().await;
    cluster.add_node(4).await;
    let leader = cluster.leader_replica().await;
    cluster.limit_snapshots(Some(3 * MIB / 2));
    leader.add_learner(replica_id(4), 4).await.unwrap();
    let some = |cluster: &Cluster, bytes: u64| (cluster.snapshot_bytes(4) >= bytes).then_some(());
    eventually("the first part", || async { some(&cluster, MIB) }).await;
    cluster.node(4).crash(1).await;
    cluster.node(4).start().await;
    cluster.limit_snapshots(Some(5 * MIB / 2));
    eventually("the second part", || async { some(&cluster, 2 * MIB) }).await;
    let first = cluster.leader().await;
    cluster.node(first).crash(2).await;
    cluster.limit_snapshots(None);
    cluster.leader().await;
    cluster.agree().await;
    cluster.check_all_there(&long("a"), 1000);
    // All there is, and a part for each crash at most.
    let (sent, all) = (cluster.snapshot_bytes(4), 1000 * 4_050);
    assert!(sent < all + 5 * MIB / 4, "{sent} bytes were sent, {all} would do");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_too_small_to_be_rebuilt_costs_the_others_nothing_and_is_rebuilt_once_it_has_room() {
    let mut cluster = with_long_entries().await;
    cluster.add_node(4).await;
    cluster.nodes[&4].disk.set_capacity(3 << 20);
    let leader = cluster.leader_replica().await;
    leader.add_learner(replica_id(4), 4).await.unwrap();
    let full = || async { (!cluster.nodes[&4].store().log().has_room()).then_some(()) };
    eventually("a full disk", full).await;
    cluster.put_many("b", 200).await;
    assert!(leader.barrier().await.is_ok());
    let sent = cluster.snapshot_bytes(4);
    cluster.nodes[&4].disk.set_capacity(u64::MAX);
    cluster.agree().await;
    cluster.check_all_there(&long("a"), 1000);
    // What it took, and a part that was on its way.
    assert!(sent < 5 << 20, "{sent} bytes");
}

/// The follower with the lowest id makes room for node 4.
fn gone(cluster: &Cluster) -> u32 {
    let leader = cluster
        .nodes
        .values()
        .find_map(|node| node.running.as_ref()?.replica.status().leader);
    (1..=3).find(|id| Some(replica_id(*id)) != leader).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_too_long_catches_up_by_snapshot() {
    let mut cluster = Cluster::start(3).await;
    cluster.put_many("a", 100).await;
    let away = cluster.leader().await % 3 + 1;
    cluster.node(away).crash(1).await;
    cluster.put_many("b", 1000).await;
    for node in cluster.nodes.values().filter(|node| node.id != away) {
        let applied = node.replica().status().applied.unwrap().index;
        node.replica().purge_to(applied - 50).await.unwrap();
    }
    cluster.node(away).start().await;
    cluster.put_many("c", 100).await;
    cluster.agree().await;
    for (tag, count) in [("a", 100), ("b", 1000), ("c", 100)] {
        cluster.check_all_there(tag, count);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_loss_anywhere_in_an_installation_is_made_good() {
    let mut cluster = with_purged_log().await;
    let leader = cluster.leader_replica().await;
    let expected = payloads(&leader);
    for n in 1.. {
        let id = 10 + n;
        cluster.add_node(id).await;
        let node = cluster.node(id);
        node.disk
            .inject(Operation::Change, u64::from(n), Fault::PowerLoss);
        leader.add_learner(replica_id(id), id).await.unwrap();
        let done = eventually("the learner, or its end", || async {
            let node = &cluster.nodes[&id];
            // Not reckoned by changes: the log makes some of its own, also while the fault is put in.
            let dead = || node.disk.faults_waiting() == 0;
            if dead() {
                return Some(false);
            }
            let caught_up = node.replica().status().applied >= leader.status().applied;
            caught_up.then(|| {
                // Too late to lose power: the log writes when it is idle, too.
                let dead = dead();
                node.disk.clear_faults();
                !dead
            })
        })
        .await;
        if !done {
            cluster.node(id).crash(u64::from(n)).await;
            cluster.node(id).start().await;
            eventually("the learner", || async {
                (cluster.nodes[&id].replica().status().applied >= leader.status().applied).then_some(())
            })
            .await;
        }
        assert_eq!(
            payloads(cluster.nodes[&id].replica()),
            expected,
            "after a crash at operation {n}"
        );
        leader.remove_learners([replica_id(id)].into()).await.unwrap();
        cluster.node(id).crash(0).await;
        cluster.nodes.remove(&id);
        if done {
            assert!(n > 10, "an installation takes more than {n} operations");
            break;
        }
    }
}
