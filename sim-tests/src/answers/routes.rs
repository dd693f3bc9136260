//! Answers to QueryRoute and QueryAssignment: queues, and where they are.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::rocketmq as mq;

use super::broken;
use crate::host::client_addr;

/// "Any queue of this broker".
const ANY: i32 = -1;

/// The queues of a topic of messages of one kind: numbered from 0 at each node, each once, no more of them than there are.
#[must_use]
pub fn of_route(
    (topic, queues, takes): (&mq::Resource, u32, mq::MessageType),
    nodes: u32,
    answer: &mq::QueryRouteResponse,
) -> Vec<String> {
    let all: Vec<_> = answer.message_queues.iter().collect();
    if !is_ok(answer.status.as_ref()) {
        return refused(all.len(), || format!("{answer:?}"));
    }
    let mut numbers: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    for queue in &all {
        numbers.entry(broker(queue).name).or_default().insert(queue.id);
    }
    let count: usize = numbers.values().map(BTreeSet::len).sum();
    let is_whole = |ids: &BTreeSet<i32>| (0..).zip(ids).all(|(number, id)| number == *id);
    let takes_it = |queue: &&mq::MessageQueue| queue.accept_message_types == [i32::from(takes)];
    let rules = [
        (
            (1..=queues as usize).contains(&all.len()),
            "no queues, or too many",
        ),
        (
            count == all.len() && numbers.values().all(is_whole),
            "queues are not numbered from 0",
        ),
        (
            all.iter().all(takes_it),
            "a queue does not take what its topic does",
        ),
        (
            all.iter().all(|queue| is_at(queue, topic, nodes)),
            "a queue is nowhere",
        ),
    ];
    broken(rules, || format!("{answer:?}"))
}

/// What a consumer reads: any queue of each node that has some.
#[must_use]
pub fn of_assignment(topic: &mq::Resource, nodes: u32, answer: &mq::QueryAssignmentResponse) -> Vec<String> {
    let all: Vec<_> = answer
        .assignments
        .iter()
        .filter_map(|it| it.message_queue.as_ref())
        .collect();
    if !is_ok(answer.status.as_ref()) {
        return refused(answer.assignments.len(), || format!("{answer:?}"));
    }
    let brokers: BTreeSet<String> = all.iter().map(|queue| broker(queue).name).collect();
    let rules = [
        (
            !all.is_empty() && all.len() == answer.assignments.len(),
            "nothing is assigned",
        ),
        (brokers.len() == all.len(), "a node is assigned twice"),
        (
            all.iter().all(|queue| queue.id == ANY),
            "it is one queue, not any",
        ),
        (
            all.iter().all(|queue| is_at(queue, topic, nodes)),
            "a queue is nowhere",
        ),
    ];
    broken(rules, || format!("{answer:?}"))
}

/// It is one of the topic, at a node of the cluster, as clients have to have it told.
fn is_at(queue: &mq::MessageQueue, topic: &mq::Resource, nodes: u32) -> bool {
    let broker = broker(queue);
    let node = broker
        .name
        .strip_prefix("node-")
        .and_then(|node| node.parse().ok());
    let Some(node) = node.filter(|node| (1..=nodes).contains(node)) else {
        return false;
    };
    let address = client_addr(node);
    let here = mq::Endpoints {
        scheme: mq::AddressScheme::IPv4.into(),
        addresses: vec![mq::Address {
            host: address.ip().to_string(),
            port: address.port().into(),
        }],
    };
    queue.topic.as_ref() == Some(topic)
        && queue.permission() == mq::Permission::ReadWrite
        && broker.id == 0
        && broker.endpoints == Some(here)
}

fn broker(queue: &mq::MessageQueue) -> mq::Broker {
    queue.broker.clone().unwrap_or_default()
}

fn is_ok(status: Option<&mq::Status>) -> bool {
    status.is_some_and(|status| status.code() == mq::Code::Ok)
}

fn refused(count: usize, answer: impl Fn() -> String) -> Vec<String> {
    broken([(count == 0, "a refusal names queues")], answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> mq::Resource {
        mq::Resource {
            name: "t".into(),
            ..Default::default()
        }
    }

    fn queue(node: u32, id: i32) -> mq::MessageQueue {
        mq::MessageQueue {
            topic: Some(topic()),
            id,
            permission: mq::Permission::ReadWrite.into(),
            broker: Some(mq::Broker {
                name: format!("node-{node}"),
                id: 0,
                endpoints: Some(mq::Endpoints {
                    scheme: mq::AddressScheme::IPv4.into(),
                    addresses: vec![mq::Address {
                        host: format!("10.0.0.{node}"),
                        port: 8081,
                    }],
                }),
            }),
            accept_message_types: vec![mq::MessageType::Normal.into()],
        }
    }

    fn status(code: mq::Code) -> Option<mq::Status> {
        Some(mq::Status {
            code: code.into(),
            message: String::new(),
        })
    }

    fn routed(code: mq::Code, message_queues: Vec<mq::MessageQueue>) -> usize {
        let answer = mq::QueryRouteResponse {
            status: status(code),
            message_queues,
        };
        of_route((&topic(), 3, mq::MessageType::Normal), 2, &answer).len()
    }

    #[test]
    fn a_route_has_each_queue_once_at_a_node_that_is_there() {
        let (first, second, other) = (queue(1, 0), queue(1, 1), queue(2, 0));
        let ok = mq::Code::Ok;
        assert_eq!(routed(ok, vec![first.clone(), other.clone(), second.clone()]), 0);
        assert_eq!(routed(mq::Code::HaNotAvailable, vec![]), 0);
        assert_eq!(routed(ok, vec![]), 1);
        assert_eq!(routed(mq::Code::HaNotAvailable, vec![first.clone()]), 1);
        assert_eq!(routed(ok, vec![first.clone(), first.clone()]), 1);
        assert_eq!(routed(ok, vec![second.clone()]), 1);
        let four = vec![first.clone(), second, queue(1, 2), other];
        assert_eq!(routed(ok, four), 1);
        assert_eq!(routed(ok, vec![queue(3, 0)]), 1, "there are two");
        let changes: [fn(&mut mq::MessageQueue); 6] = [
            |queue| queue.permission = mq::Permission::Unspecified.into(),
            |queue| queue.topic = None,
            |queue| queue.broker = None,
            |queue| queue.broker.as_mut().expect("one").id = 1,
            |queue| queue.broker.as_mut().expect("one").endpoints = None,
            |queue| queue.accept_message_types.push(mq::MessageType::Fifo.into()),
        ];
        for change in changes {
            let mut changed = first.clone();
            change(&mut changed);
            assert_eq!(routed(ok, vec![changed]), 1);
        }
    }

    #[test]
    fn an_assignment_is_any_queue_of_each_node_once() {
        let judged = |queues: &[mq::MessageQueue]| {
            let assignment = |queue: &mq::MessageQueue| mq::Assignment {
                message_queue: Some(queue.clone()),
            };
            let answer = mq::QueryAssignmentResponse {
                status: status(mq::Code::Ok),
                assignments: queues.iter().map(assignment).collect(),
            };
            of_assignment(&topic(), 2, &answer).len()
        };
        assert_eq!(judged(&[queue(1, ANY), queue(2, ANY)]), 0);
        assert_eq!(judged(&[]), 1);
        assert_eq!(judged(&[queue(1, ANY), queue(1, ANY)]), 1);
        assert_eq!(judged(&[queue(1, 0)]), 1);
        assert_eq!(judged(&[queue(9, ANY)]), 1);
    }
}
