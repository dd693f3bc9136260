//! Records that go bad on the disk, and the replicas that have them still.

use futures::FutureExt;
use raft_store::{StoreOptions, disk::SimDisk};

use crate::cluster::{Cluster, SHARD, eventually, options, payloads, replica_id};

const PUTS: u64 = 200;

/// Little in memory, many closed segments.
fn small(node: u32) -> StoreOptions {
    StoreOptions {
        cache_bytes: 1,
        segment_bytes: 64 << 10,
        ..options(node)
    }
}

fn filler() -> String {
    "x".repeat(1000)
}

/// Where the entry with this number stands: the segment's file, and the byte in it.
fn place(disk: &SimDisk, number: u64) -> (String, u64) {
    let wanted = format!("put {}-{number}", filler());
    let segments = disk.files().into_iter().filter(|name| name.ends_with(".seg"));
    let mut found = segments.filter_map(|name| {
        let bytes = disk.read_file(&name)?;
        // The next byte is no digit: it is another record's.
        let at = bytes.windows(wanted.len()).enumerate().position(|(at, window)| {
            window == wanted.as_bytes() && !bytes[at + wanted.len()..][..1][0].is_ascii_digit()
        })?;
        Some((name, at as u64))
    });
    found.next_back().expect("the entry is stored")
}

fn flip(disk: &SimDisk, number: u64) {
    let (name, at) = place(disk, number);
    disk.flip_bit(&name, at + 7 + number % 900, (number % 8) as u8);
}

/// A cluster whose nodes have nothing in memory, with `PUTS` entries.
pub(crate) async fn filled() -> Cluster {
    let cluster = Cluster::start_with(3, small).await;
    cluster.put_many(&filler(), PUTS).await;
    cluster.agree().await;
    cluster
}

/// A node that loses power, and has to apply what it cannot read.
pub(crate) async fn crash_damaged(cluster: &mut Cluster) -> u32 {
    let node = cluster.leader().await % 3 + 1;
    for number in [3, 50, 120] {
        flip(&cluster.nodes[&node].disk, number);
    }
    cluster.node(node).crash(0).await;
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_record_is_rewritten_with_another_replicas() {
    let cluster = filled().await;
    let node = &cluster.nodes[&2];
    let before: Vec<_> = node
        .disk
        .files()
        .iter()
        .map(|name| node.disk.read_file(name))
        .collect();
    for number in [3, 50, 51, 120] {
        flip(&node.disk, number);
    }
    let last = node.replica().status().last_log.unwrap();
    for index in 0..=last {
        if node.replica().read_payload(index) == Err(raft_store::PayloadError::Damaged(index)) {
            assert!(node.replica().repair(index).await, "entry {index}");
        }
    }
    assert_eq!(node.store().repairs(), 4);
    assert_eq!(node.store().damages(), []);
    cluster.check_all_there(&filler(), PUTS);
    // Byte for byte as it was, on the medium.
    let after: Vec<_> = node
        .disk
        .files()
        .iter()
        .map(|name| node.disk.read_file(name))
        .collect();
    assert!(before == after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_repairs_what_it_has_to_send_to_a_replica_that_lost_everything() {
    let mut cluster = filled().await;
    let leader = cluster.leader().await;
    let lost = leader % 3 + 1;
    for number in [3, 50, 120] {
        flip(&cluster.nodes[&leader].disk, number);
    }
    cluster.node(lost).crash(1).await;
    cluster.nodes.remove(&lost);
    cluster.add_node(9).await;
    let replica = cluster.nodes[&leader].replica().clone();
    replica.add_learner(replica_id(9), 9).await.unwrap();
    let voters = cluster.nodes.keys().map(|id| replica_id(*id)).collect();
    replica.change_voters(voters).await.unwrap();
    cluster.agree().await;
    cluster.check_all_there(&filler(), PUTS);
    assert_eq!(cluster.nodes[&leader].store().repairs(), 3);
    assert!(replica.status().stopped.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_repairs_what_it_applies_again_after_a_crash() {
    let mut cluster = filled().await;
    let node = crash_damaged(&mut cluster).await;
    cluster.node(node).start().await;
    cluster.agree().await;
    cluster.check_all_there(&filler(), PUTS);
    assert!(cluster.nodes[&node].store().repairs() >= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_with_different_damage_repair_each_other() {
    let cluster = filled().await;
    flip(&cluster.nodes[&1].disk, 40);
    flip(&cluster.nodes[&2].disk, 41);
    cluster.cut(3);
    for node in [1, 2] {
        let replica = cluster.nodes[&node].replica();
        for index in 0..=replica.status().last_log.unwrap() {
            if replica.read_payload(index) == Err(raft_store::PayloadError::Damaged(index)) {
                assert!(replica.repair(index).await, "entry {index} of node {node}");
            }
        }
    }
    cluster.check_all_there(&filler(), PUTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sector_that_cannot_be_read_is_damage_and_outlived() {
    let mut cluster = filled().await;
    let node = cluster.leader().await % 3 + 1;
    for number in [3, 50] {
        let disk = &cluster.nodes[&node].disk;
        let (name, at) = place(disk, number);
        disk.break_sector(&name, at + 500);
    }
    cluster.node(node).crash(0).await;
    cluster.node(node).start().await;
    cluster.agree().await;
    // Its sector took no part of a record: it stands at another place, also for the next life.
    cluster.check_all_there(&filler(), PUTS);
    cluster.node(node).crash(0).await;
    cluster.node(node).start().await;
    cluster.agree().await;
    cluster.check_all_there(&filler(), PUTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_else_has_stops_nobody_and_is_repaired_when_somebody_comes_back() {
    let mut cluster = filled().await;
    let leader = cluster.leader().await;
    let behind = leader % 3 + 1;
    // The leader and one other have what the third lacks, and both cannot read it.
    cluster.node(behind).crash(0).await;
    for id in [1, 2, 3].into_iter().filter(|id| *id != behind) {
        flip(&cluster.nodes[&id].disk, 30);
    }
    let replica = cluster.nodes[&leader].replica().clone();
    let index = (0..=replica.status().last_log.unwrap())
        .find(|&index| replica.read_payload(index) == Err(raft_store::PayloadError::Damaged(index)))
        .expect("one is damaged");
    assert!(!replica.repair(index).await);
    assert_eq!(cluster.nodes[&leader].store().damages()[0].shard, SHARD);
    cluster.put("served on").await;
    cluster.node(behind).start().await;
    eventually("a repair", || async { replica.repair(index).await.then_some(()) }).await;
    assert_eq!(payloads(&replica).len() as u64, PUTS + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_ask_for_a_repair_and_leave_one_is_tried() {
    const ASKED: usize = 1_000;
    let cluster = filled().await;
    flip(&cluster.nodes[&2].disk, 40);
    let replica = cluster.nodes[&2].replica();
    let damaged = (0..=replica.status().last_log.unwrap())
        .find(|&index| replica.read_payload(index) == Err(raft_store::PayloadError::Damaged(index)))
        .unwrap();
    cluster.cut(1);
    cluster.cut(3);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for _ in 0..ASKED {
        let _ = replica.repair(damaged).now_or_never();
    }
    assert!(tasks() < before + ASKED / 10, "{} tasks more", tasks() - before);
    cluster.heal();
    let each = |_| async {
        // Those that joined an attempt of before were told no.
        while !replica.repair(damaged).await {
            tokio::task::yield_now().await;
        }
    };
    futures::future::join_all((0..ASKED).map(each)).await;
    assert_eq!(cluster.nodes[&2].store().repairs(), 1);
    assert!(replica.read_payload(damaged).is_ok());
}
