//! What an operator sees once everything is done: every node tells of a whole cluster, of every queue as far as messages came,
//! and of no consumer group that has something left to do.

use std::{collections::BTreeMap, time::Duration};

use broker::{
    service::Service,
    views::{ClusterView, Lag, QueueLag, TopicDetail},
};
use tokio::time::sleep;

use crate::{
    history::{DEAD_LETTERS, History},
    host::Host,
    plan::Plan,
    workload::UNDERTAKER,
};

/// Messages of which no producer was told that they are stored may be held for some time yet.
const PATIENCE: Duration = Duration::from_secs(300);
/// From one look to the next.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Of each queue, by topic and number: the offset after the last message that came from it, or was forgotten.
pub(crate) type Ends = BTreeMap<(String, i32), i64>;

/// Waits until all is as it should be, or says what is not.
pub(crate) async fn judge(hosts: &[Host], plan: &Plan, history: &History) -> Vec<String> {
    let looks = PATIENCE.as_millis() / LOOK_EVERY.as_millis();
    let mut wrong = Vec::new();
    for _ in 0..looks {
        wrong = look(hosts, plan, history).await;
        if wrong.is_empty() {
            break;
        }
        sleep(LOOK_EVERY).await;
    }
    wrong.truncate(5);
    wrong
}

async fn look(hosts: &[Host], plan: &Plan, history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    for host in hosts {
        let Some(service) = host.service() else {
            return vec![format!("node {} serves nobody", host.id)];
        };
        let here = look_at(&service, plan, history).await;
        wrong.extend(here.into_iter().map(|what| format!("node {}: {what}", host.id)));
    }
    wrong
}

async fn look_at(service: &Service, plan: &Plan, history: &History) -> Vec<String> {
    let ends = &history.ends();
    let mut wrong = of_cluster(&service.cluster(), plan.nodes, plan.shards);
    let groups = (0..plan.groups).map(|number| plan.group(number));
    let mut topics: Vec<String> = (0..plan.topics).map(|number| plan.topic(number)).collect();
    topics.extend(groups.clone().map(|group| format!("{DEAD_LETTERS}{group}")));
    for group in groups.chain([UNDERTAKER.to_owned()]) {
        match service.describe_group(&group).await {
            Ok(view) if view.unreachable_shards.is_empty() => {
                wrong.extend(of_group(&group, view.total, &view.queues, ends));
            }
            Ok(view) => wrong.push(format!(
                "{group}: shards {:?} are not there",
                view.unreachable_shards
            )),
            // Nobody has died yet, so nobody has looked at dead letters.
            Err(_)
                if group == UNDERTAKER && !ends.keys().any(|(topic, _)| topic.starts_with(DEAD_LETTERS)) => {}
            Err(error) => wrong.push(format!("{group}: {}", error.message)),
        }
    }
    for topic in topics {
        let known = ends.iter().filter(|((of, _), _)| *of == topic);
        let known: BTreeMap<i32, i64> = known.map(|((_, queue), end)| (*queue, *end)).collect();
        match service.describe_topic(&topic).await {
            Ok(view) => wrong.extend(of_topic(&view, &known, history.dead_of(&topic))),
            Err(_) if topic.starts_with(DEAD_LETTERS) && known.is_empty() => {}
            Err(error) => wrong.push(format!("{topic}: {}", error.message)),
        }
    }
    wrong
}

fn of_cluster(view: &ClusterView, nodes: u32, shards: u32) -> Vec<String> {
    let mut wrong: Vec<String> = view.problem.iter().cloned().collect();
    let well = view
        .nodes
        .iter()
        .filter(|node| node.alive && node.problem.is_none() && node.damaged.is_empty());
    if well.count() != nodes as usize {
        wrong.push(format!("not {nodes} nodes that are well: {:?}", view.nodes));
    }
    // With the one that the catalogue is in.
    if view.shards.len() != shards as usize + 1 {
        wrong.push(format!(
            "not {shards} shards and the catalogue: {:?}",
            view.shards
        ));
    }
    for shard in &view.shards {
        let voters = shard
            .replicas
            .iter()
            .filter(|replica| replica.voter && replica.alive)
            .count();
        if shard.leader.is_none() || voters != nodes as usize || voters != shard.replicas.len() {
            wrong.push(format!("a shard that is not whole: {shard:?}"));
        }
    }
    wrong
}

fn of_group(name: &str, total: Lag, queues: &[QueueLag], ends: &Ends) -> Vec<String> {
    let mut wrong = Vec::new();
    if total != Lag::default() {
        wrong.push(format!("{name} is not done: {total:?}"));
    }
    for queue in queues {
        let end = ends
            .get(&(queue.topic.clone(), queue.queue as i32))
            .copied()
            .unwrap_or(0);
        if (queue.cursor as i64) < end {
            wrong.push(format!("{name} stands before {end}: {queue:?}"));
        }
    }
    wrong
}

/// So many may have died with answers that were lost, and stand behind what came.
fn of_topic(view: &TopicDetail, known: &BTreeMap<i32, i64>, dead: usize) -> Vec<String> {
    let (mut wrong, mut unseen) = (Vec::new(), dead as i64);
    for (at, queue) in (0..).zip(&view.queue_list) {
        let end = known.get(&at).copied().unwrap_or(0);
        let (first, next) = (
            queue.first_offset.unwrap_or(u64::MAX),
            queue.next_offset.unwrap_or(0),
        );
        if queue.queue as i32 != at
            || queue.leader.is_none()
            || first > next
            || !(0..=unseen).contains(&(next as i64 - end))
        {
            wrong.push(format!(
                "{}: messages came up to {end}: {queue:?}",
                view.topic.name
            ));
        }
        unseen -= next as i64 - end;
    }
    if view.queue_list.len() != view.topic.queues as usize {
        wrong.push(format!(
            "{} has not the queues that it says: {view:?}",
            view.topic.name
        ));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use broker::views::{NodeView, QueueView, ReplicaView, ShardView};

    use super::*;

    fn shard(leader: Option<u32>, voters: u32) -> ShardView {
        let replica = |node| ReplicaView {
            node,
            voter: true,
            alive: true,
            ..ReplicaView::default()
        };
        ShardView {
            leader,
            replicas: (1..=voters).map(replica).collect(),
            ..ShardView::default()
        }
    }

    fn cluster(shards: Vec<ShardView>, alive: bool) -> ClusterView {
        let node = NodeView {
            alive,
            ..NodeView::default()
        };
        ClusterView {
            nodes: vec![node; 3],
            shards,
            ..ClusterView::default()
        }
    }

    #[test]
    fn a_cluster_is_whole_or_something_is_told() {
        let judged = |view: &ClusterView| of_cluster(view, 3, 1).len();
        let whole = || shard(Some(1), 3);
        assert_eq!(judged(&cluster(vec![whole(), whole()], true)), 0);
        assert_eq!(judged(&cluster(vec![whole(), whole()], false)), 1);
        assert_eq!(judged(&cluster(vec![whole()], true)), 1);
        assert_eq!(judged(&cluster(vec![whole(), shard(None, 3)], true)), 1);
        assert_eq!(judged(&cluster(vec![whole(), shard(Some(1), 2)], true)), 1);
    }

    #[test]
    fn a_queue_ends_where_messages_came_to() {
        let judged = |next, dead| {
            let queue = QueueView {
                leader: Some(1),
                first_offset: Some(2),
                next_offset: Some(next),
                ..QueueView::default()
            };
            let mut view = TopicDetail {
                queue_list: vec![queue],
                ..TopicDetail::default()
            };
            view.topic.queues = 1;
            of_topic(&view, &[(0, 5)].into(), dead).len()
        };
        assert_eq!((judged(4, 0), judged(5, 0), judged(6, 0)), (1, 0, 1));
        assert_eq!((judged(4, 1), judged(6, 1), judged(7, 1)), (1, 0, 1));
    }

    #[test]
    fn a_consumer_group_has_nothing_left_and_stands_at_the_end() {
        let ends = Ends::from([(("t".to_owned(), 0), 5)]);
        let judged = |cursor, ready| {
            let lag = Lag {
                ready,
                ..Lag::default()
            };
            let topic = "t".to_owned();
            let queues = vec![QueueLag {
                topic,
                cursor,
                lag,
                queue: 0,
                ..QueueLag::default()
            }];
            of_group("g", lag, &queues, &ends).len()
        };
        assert_eq!((judged(5, 0), judged(4, 0), judged(5, 1)), (0, 1, 1));
    }
}
