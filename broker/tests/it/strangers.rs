//! Data directories at the wrong place: another cluster's, another node's, a replaced one, one put back to an older state.
//! The healthy nodes serve on, the wrong one says what it is, and with the right one back everything is there.

use broker::{
    node::{NodeError, StopReason},
    views::{ClusterView, NodeView},
};
use flotilla_proto::rocketmq::Code;

use crate::cluster::{Cluster, Machine, PATIENCE, code, receive, send, wait_for};

/// Sends to the first of the running nodes until each message is stored.
async fn store(cluster: &Cluster, ids: &[&str]) {
    let service = cluster.service(cluster.running()[0]);
    for id in ids {
        let mut last = Code::Ok;
        for _ in 0..20 {
            last = code(&send(service, "orders", id).await.status);
            if last == Code::Ok {
                break;
            }
        }
        assert_eq!(last, Code::Ok, "{id}");
    }
}

fn node_view(view: &ClusterView, id: u32) -> &NodeView {
    view.nodes.iter().find(|node| node.id == id).expect("a member")
}

/// Why `id` is refused, as `at` shows it.
fn problem(cluster: &Cluster, at: u32, id: u32) -> String {
    let view = cluster.service(at).cluster();
    node_view(&view, id).problem.clone().unwrap_or_default()
}

async fn stopped(cluster: &Cluster, id: u32) -> StopReason {
    let node = cluster.service(id).node().clone();
    tokio::time::timeout(PATIENCE, node.wait_stopped())
        .await
        .expect("the node stops")
}

async fn nobody_lags(cluster: &Cluster) {
    wait_for("nobody to lag", || {
        cluster.running().iter().all(|&id| {
            let view = cluster.service(id).cluster();
            let mut led = view.shards.iter().filter(|shard| shard.leader == Some(id));
            led.all(|shard| {
                shard.replicas.len() == 3 && shard.replicas.iter().all(|replica| replica.lag == Some(0))
            })
        })
    })
    .await;
}

/// With any one node away, the others have everything.
async fn everything_is_there(cluster: &mut Cluster, count: usize) {
    for away in 1..=3 {
        cluster.wait_ready().await;
        nobody_lags(cluster).await;
        cluster.kill(away).await;
        cluster.wait_ready().await;
        let mut seen = std::collections::BTreeSet::new();
        let group = format!("readers-without-{away}");
        let all = async {
            while seen.len() < count {
                for at in cluster.running() {
                    let (_, messages) = receive(cluster.service(at), "orders", &group, PATIENCE / 20).await;
                    seen.extend(messages.into_iter().map(|message| message.body));
                }
            }
        };
        tokio::time::timeout(PATIENCE, all)
            .await
            .expect("everything is delivered");
        cluster.boot(away).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clusters_directory_harms_nobody_and_says_what_it_is() {
    let (mut cluster, mut other) = (Cluster::start(3).await, Cluster::start(3).await);
    store(&cluster, &["a", "b", "c"]).await;
    store(&other, &["p", "q", "r", "s", "t", "u", "v", "w", "x"]).await;
    cluster.kill(3).await;
    other.kill(3).await;
    let right = cluster.replace(3, other.replace(3, Machine::empty(9)));
    cluster.boot(3).await;
    wait_for("node 1 and 2 to say why", || {
        [1, 2]
            .iter()
            .all(|&at| problem(&cluster, at, 3).contains("belongs to cluster"))
    })
    .await;
    let wrong = cluster.service(3);
    wait_for("node 3 to say what it is", || {
        wrong
            .ready()
            .is_err_and(|reason| reason.contains("belongs to cluster"))
    })
    .await;
    wait_for("node 3 to be no sign of life", || {
        !node_view(&cluster.service(1).cluster(), 3).alive
    })
    .await;
    store(&cluster, &["d", "e"]).await;
    cluster.kill(3).await;
    cluster.replace(3, right);
    cluster.boot(3).await;
    everything_is_there(&mut cluster, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_put_back_to_an_older_state_may_never_take_part_again() {
    let mut cluster = Cluster::start(3).await;
    store(&cluster, &["a"]).await;
    cluster.kill(2).await;
    let backup = cluster.machines[&2].copy();
    cluster.boot(2).await;
    cluster.wait_ready().await;
    store(&cluster, &["b", "c"]).await;
    nobody_lags(&cluster).await;
    cluster.kill(2).await;
    let right = cluster.replace(2, backup);
    cluster.boot(2).await;
    let reason = stopped(&cluster, 2).await;
    assert!(
        matches!(&reason, StopReason::Refused(why) if why.contains("put back to an older state")),
        "{reason:?}"
    );
    assert!(
        problem(&cluster, 1, 2).contains("older state") || problem(&cluster, 3, 2).contains("older state")
    );
    cluster.kill(2).await;
    let again = cluster.try_boot(2).await;
    assert!(
        matches!(&again, Err(NodeError::Refused(why)) if why.contains("older state")),
        "{again:?}"
    );
    cluster.replace(2, right);
    cluster.boot(2).await;
    everything_is_there(&mut cluster, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_state_is_known_for_one_after_a_restart_of_all_nodes() {
    let mut cluster = Cluster::start(3).await;
    store(&cluster, &["a"]).await;
    cluster.kill(2).await;
    let backup = cluster.machines[&2].copy();
    cluster.boot(2).await;
    let registered = |cluster: &Cluster| {
        let here = cluster.service(2).node().hello();
        let knows = |at: u32| {
            let meta = cluster.service(at).node().meta();
            let known = &meta.nodes()[&2];
            known.session == here.session && known.synced > here.opened
        };
        knows(1) && knows(3)
    };
    wait_for("the catalogue to know this life of node 2", || {
        registered(&cluster)
    })
    .await;
    // That it is committed is written down with what is stored next.
    for id in ["b", "c", "d"] {
        store(&cluster, &[id]).await;
        nobody_lags(&cluster).await;
    }
    for id in 1..=3 {
        cluster.kill(id).await;
    }
    let right = cluster.replace(2, backup);
    for id in 1..=3 {
        cluster.boot(id).await;
    }
    let reason = stopped(&cluster, 2).await;
    assert!(matches!(reason, StopReason::Refused(_)), "{reason:?}");
    cluster.kill(2).await;
    cluster.replace(2, right);
    cluster.boot(2).await;
    everything_is_there(&mut cluster, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_was_replaced_stays_out() {
    let mut cluster = Cluster::start(3).await;
    store(&cluster, &["a", "b"]).await;
    cluster.kill(2).await;
    let old = cluster.replace(2, Machine::empty(99));
    cluster.boot(2).await;
    let rebuilt = |cluster: &Cluster| {
        let view = cluster.service(1).cluster();
        let whole = |shard: &broker::views::ShardView| {
            let mut replicas = shard.replicas.iter();
            shard.replicas.len() == 3
                && replicas.any(|replica| replica.voter && replica.replica == (2 << 16 | 2))
        };
        view.shards.len() == 3 && view.shards.iter().all(whole)
    };
    wait_for("node 2 to be rebuilt", || rebuilt(&cluster)).await;
    cluster.kill(2).await;
    let new = cluster.replace(2, old);
    cluster.boot(2).await;
    let reason = stopped(&cluster, 2).await;
    assert!(
        matches!(&reason, StopReason::Refused(why) if why.contains("was replaced")),
        "{reason:?}"
    );
    wait_for("node 2 to be shown as it is", || {
        let view = cluster.service(1).cluster();
        let shown = node_view(&view, 2);
        let mut led = view.shards.iter().filter(|shard| shard.leader == Some(1));
        !shown.alive
            && led.all(|shard| {
                shard
                    .replicas
                    .iter()
                    .all(|replica| replica.node != 2 || replica.lag.is_none())
            })
    })
    .await;
    cluster.kill(2).await;
    cluster.replace(2, new);
    cluster.boot(2).await;
    everything_is_there(&mut cluster, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_of_two_nodes_swapped_are_not_opened() {
    let mut cluster = Cluster::start(3).await;
    store(&cluster, &["a"]).await;
    cluster.kill(2).await;
    cluster.kill(3).await;
    let two = cluster.replace(2, Machine::empty(8));
    let three = cluster.replace(3, two);
    cluster.replace(2, three);
    for (id, of) in [(2, 3), (3, 2)] {
        let error = cluster
            .try_boot(id)
            .await
            .expect_err("it is another node's")
            .to_string();
        assert!(error.contains(&format!("belongs to node {of}")), "{error}");
    }
    let three = cluster.replace(2, Machine::empty(8));
    let two = cluster.replace(3, three);
    cluster.replace(2, two);
    cluster.boot(2).await;
    cluster.boot(3).await;
    everything_is_there(&mut cluster, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_majority_says_so_within_seconds() {
    let mut cluster = Cluster::start(3).await;
    cluster.kill(2).await;
    cluster.kill(3).await;
    let lonely = cluster.service(1);
    wait_for("node 1 to know that it is alone", || {
        let view = lonely.cluster();
        let down = |shard: &broker::views::ShardView| {
            let others = shard.replicas.iter().filter(|replica| replica.node != 1);
            !shard.served
                && others.clone().count() == 2
                && others
                    .clone()
                    .all(|replica| !replica.alive && replica.lag.is_none())
        };
        view.problem.is_some() && lonely.ready().is_err() && view.shards.iter().all(down)
    })
    .await;
}
