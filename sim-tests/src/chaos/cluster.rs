//! The cluster as its administration shows it: who is ready, who leads, whether it is whole, what is left to consume.

use std::{collections::BTreeSet, time::Duration};

use broker::views::{ClusterView, GroupDetail};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{http, node::Node};

/// Entries that a replica may be behind while clients are idle: what is on its way.
const LAG: u64 = 50;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The node that leads most shards, as any node tells.
pub(super) async fn leading_most(nodes: &[Node]) -> Option<u32> {
    for node in nodes {
        if let Ok(view) = view(node).await {
            return view
                .nodes
                .iter()
                .max_by_key(|node| node.leads)
                .map(|node| node.id);
        }
    }
    None
}

/// Whether one of these nodes sees that node alive.
pub(super) async fn any_sees_alive(nodes: &[&Node], id: u32) -> bool {
    let looks = nodes.iter().map(|node| view(node));
    let views = join_all(looks).await;
    let mut seen = views.iter().flatten().flat_map(|view| &view.nodes);
    seen.any(|node| node.id == id && node.alive)
}

async fn view(node: &Node) -> Result<ClusterView, String> {
    let text = http::get(&node.http(), "/v1/cluster").await?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

/// What keeps the cluster from being whole: everybody ready and alive, every shard led, with all nodes as voters that have
/// caught up.
pub(super) async fn ailments(nodes: &[Node]) -> Vec<String> {
    let everybody: BTreeSet<u32> = nodes.iter().map(|node| node.id).collect();
    let looks = nodes.iter().map(|node| async {
        let ready = http::get(&node.http(), "/healthz/ready").await;
        let view = match ready {
            Ok(_) => view(node).await,
            Err(why) => Err(why),
        };
        match view {
            Ok(view) => ailments_of(node.id, &view, &everybody),
            Err(why) => vec![format!("node {}: {why}", node.id)],
        }
    });
    join_all(looks).await.into_iter().flatten().collect()
}

fn ailments_of(node: u32, view: &ClusterView, everybody: &BTreeSet<u32>) -> Vec<String> {
    let mut found = Vec::new();
    let alive: BTreeSet<u32> = view
        .nodes
        .iter()
        .filter(|node| node.alive)
        .map(|node| node.id)
        .collect();
    if alive != *everybody {
        found.push(format!("node {node} sees only {alive:?} alive"));
    }
    if view.shards.is_empty() {
        found.push(format!("node {node} has no shards"));
    }
    for shard in &view.shards {
        let id = shard.id;
        if shard.leader.is_none() {
            found.push(format!("node {node} knows no leader of shard {id}"));
        }
        if shard.leader != Some(node) {
            continue;
        }
        let voters: BTreeSet<u32> = shard
            .replicas
            .iter()
            .filter(|it| it.voter)
            .map(|it| it.node)
            .collect();
        if voters != *everybody || shard.replicas.len() != everybody.len() {
            found.push(format!("shard {id} is replicated as {:?}", shard.replicas));
        }
        let behind = shard
            .replicas
            .iter()
            .filter(|it| it.lag.is_none_or(|lag| lag > LAG));
        found.extend(behind.map(|it| format!("shard {id}: node {} is behind by {:?}", it.node, it.lag)));
    }
    found
}

/// Waits until the cluster is whole; otherwise what ails it.
pub(super) async fn whole(nodes: &[Node], patience: Duration) -> Result<(), Vec<String>> {
    let end = Instant::now() + patience;
    loop {
        let ailments = ailments(nodes).await;
        if ailments.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(ailments);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Makes a topic or a consumer group, at any node, until it is there.
async fn make(nodes: &[Node], path: &str, spec: &Value, patience: Duration) -> Result<(), String> {
    let end = Instant::now() + patience;
    let name = spec["name"].as_str().expect("everything has a name");
    let there = format!("{path}/{name}");
    for node in nodes.iter().cycle() {
        let made = http::post(&node.http(), path, spec).await;
        let Err(why) = made else { return Ok(()) };
        // The answer to an earlier try may have been lost.
        if http::get(&node.http(), &there).await.is_ok() {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(format!("{name} cannot be made: {why}"));
        }
        sleep(LOOK_EVERY).await;
    }
    Err("there are no nodes".into())
}

pub(super) async fn make_topic(
    nodes: &[Node],
    name: &str,
    queues: u32,
    patience: Duration,
) -> Result<(), String> {
    let spec = json!({ "name": name, "queues": queues });
    make(nodes, "/v1/topics", &spec, patience).await
}

pub(super) async fn make_group(
    nodes: &[Node],
    name: &str,
    max_attempts: u32,
    backoff_ms: u64,
    patience: Duration,
) -> Result<(), String> {
    let backoff = json!({ "customized": { "next_ms": [backoff_ms] } });
    let spec = json!({ "name": name, "max_attempts": max_attempts, "backoff": backoff, "start_at": "first" });
    make(nodes, "/v1/consumer-groups", &spec, patience).await
}

/// Messages that a consumer group is not done with, as any node tells; an error while not every shard can tell.
pub(super) async fn left_over(nodes: &[Node], group: &str) -> Result<u64, String> {
    let mut why = "there are no nodes".to_owned();
    for node in nodes {
        let text = http::get(&node.http(), &format!("/v1/consumer-groups/{group}")).await;
        match text.and_then(|text| count(&text)) {
            Ok(left) => return Ok(left),
            Err(error) => why = error,
        }
    }
    Err(why)
}

fn count(text: &str) -> Result<u64, String> {
    let detail: GroupDetail = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if detail.unreachable_shards.is_empty() {
        let total = detail.total;
        Ok(total.ready + total.leased + total.waiting + total.blocked)
    } else {
        Err(format!("shards {:?} do not answer", detail.unreachable_shards))
    }
}

#[cfg(test)]
mod tests {
    use broker::views::{NodeView, ReplicaView, ShardView};

    use super::*;

    fn view() -> ClusterView {
        let node = |id| NodeView {
            id,
            alive: true,
            ..NodeView::default()
        };
        let replica = |node| ReplicaView {
            node,
            voter: true,
            lag: Some(0),
            ..ReplicaView::default()
        };
        let shard = ShardView {
            leader: Some(1),
            replicas: vec![replica(1), replica(2)],
            ..ShardView::default()
        };
        ClusterView {
            node: 1,
            nodes: vec![node(1), node(2)],
            shards: vec![shard],
            ..ClusterView::default()
        }
    }

    #[test]
    fn what_ails_a_cluster_is_found() {
        let ails = |change: fn(&mut ClusterView)| {
            let mut view = view();
            change(&mut view);
            ailments_of(1, &view, &BTreeSet::from([1, 2])).len()
        };
        assert_eq!(ails(|_| {}), 0);
        assert_eq!(ails(|view| view.nodes[1].alive = false), 1);
        assert_eq!(ails(|view| view.shards[0].leader = None), 1);
        assert_eq!(ails(|view| view.shards[0].replicas[1].voter = false), 1);
        assert_eq!(ails(|view| view.shards[0].replicas[1].lag = None), 1);
        assert_eq!(ails(|view| view.shards.clear()), 1);
    }
}
