//! QueryRoute, QueryAssignment, Heartbeat, NotifyClientTermination: where queues are
//! and who is there.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use flotilla_proto::{
    record,
    rocketmq::{
        Address, AddressScheme, Assignment, Broker, Code, Endpoints, HeartbeatRequest, HeartbeatResponse,
        MessageQueue, MessageType, NotifyClientTerminationRequest, NotifyClientTerminationResponse,
        Permission, QueryAssignmentRequest, QueryAssignmentResponse, QueryRouteRequest, QueryRouteResponse,
        Resource,
    },
};
use tokio::time::Instant;

use super::{
    Caller, Service,
    answer::{self, Refused},
    names,
};
use crate::limits::{LEADER_WAIT, MAX_SMALL_REQUEST_BYTES};

/// "Any queue of this broker": what a push consumer is told to read.
const ANY_QUEUE: i32 = -1;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Service {
    /// The queues of a topic and the nodes that lead them.
    pub async fn query_route(&self, caller: &Caller, request: QueryRouteRequest) -> QueryRouteResponse {
        self.heard(caller);
        let found = async {
            names::check_size(&request, MAX_SMALL_REQUEST_BYTES)?;
            self.route(caller, request.topic.as_ref()).await
        };
        match found.await {
            Ok(queues) => QueryRouteResponse {
                status: answer::ok(),
                message_queues: queues,
            },
            Err(refused) => QueryRouteResponse {
                status: refused.status(),
                message_queues: Vec::new(),
            },
        }
    }

    /// The queues a push consumer reads: for each node that leads some, "any of its queues".
    pub async fn query_assignment(
        &self,
        caller: &Caller,
        request: QueryAssignmentRequest,
    ) -> QueryAssignmentResponse {
        self.heard(caller);
        let assigned = async {
            names::check_size(&request, MAX_SMALL_REQUEST_BYTES)?;
            names::check_group(&names::full_name(caller, request.group.as_ref()))?;
            self.route(caller, request.topic.as_ref()).await
        };
        match assigned.await {
            Ok(queues) => {
                let first_of_each = queues.into_iter().filter(|queue| queue.id == 0);
                let assignments = first_of_each
                    .map(|queue| MessageQueue {
                        id: ANY_QUEUE,
                        accept_message_types: Vec::new(),
                        ..queue
                    })
                    .map(|queue| Assignment {
                        message_queue: Some(queue),
                    })
                    .collect();
                QueryAssignmentResponse {
                    status: answer::ok(),
                    assignments,
                }
            }
            Err(refused) => QueryAssignmentResponse {
                status: refused.status(),
                assignments: Vec::new(),
            },
        }
    }

    /// A sign of life. A client this node never heard of is as welcome as any.
    pub async fn heartbeat(&self, caller: &Caller, _: HeartbeatRequest) -> HeartbeatResponse {
        plant!(HeartbeatIsNoSign => return HeartbeatResponse { status: answer::ok() });
        self.saw(caller);
        HeartbeatResponse { status: answer::ok() }
    }

    /// A client says good-bye. Others soon get the messages whose leases the server renewed for it; leases with a time
    /// that it chose itself run to their end. SDKs tell every node, so each leader hears it.
    pub async fn notify_client_termination(
        &self,
        caller: &Caller,
        _: NotifyClientTerminationRequest,
    ) -> NotifyClientTerminationResponse {
        let node = self.node();
        node.clients().left(caller.who(), node.clock().steady_ms());
        NotifyClientTerminationResponse { status: answer::ok() }
    }

    async fn route(&self, caller: &Caller, topic: Option<&Resource>) -> Result<Vec<MessageQueue>, Refused> {
        names::check_caller(caller)?;
        let name = names::full_name(caller, topic);
        names::check_topic(&name)?;
        let topic_record = self.topic(&name).await?;
        let deadline = Instant::now() + caller.patience().min(LEADER_WAIT);
        loop {
            let queues = self.led_queues(topic.cloned().unwrap_or_default(), &topic_record);
            if !queues.is_empty() {
                return Ok(queues);
            }
            if Instant::now() >= deadline {
                return Err(Refused::new(
                    Code::HaNotAvailable,
                    "no queue of the topic has a leader; a majority of the nodes must run",
                ));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Queues with a leader, numbered from 0 for each node, because SDKs look for queue 0 of every broker.
    fn led_queues(&self, resource: Resource, topic: &record::Topic) -> Vec<MessageQueue> {
        let meta = self.node().meta();
        let mut next_id: BTreeMap<u32, i32> = BTreeMap::new();
        let mut queues = Vec::with_capacity(topic.queue_shards.len());
        // Lanes are no queues to a client: whichever it asks for, all of them are looked at.
        let shown = if names::is_by_priority(topic) {
            1
        } else {
            usize::MAX
        };
        for &shard in topic.queue_shards.iter().take(shown) {
            let Some(node) = self
                .node()
                .leader(shard)
                .and_then(|leader| meta.nodes().get(&leader))
            else {
                continue;
            };
            let id = next_id
                .entry(plant!(RouteNumbersGoOn => 0, else node.id))
                .or_default();
            queues.push(MessageQueue {
                topic: Some(resource.clone()),
                id: *id,
                permission: Permission::ReadWrite as i32,
                broker: Some(Broker {
                    name: format!("node-{}", node.id),
                    id: 0,
                    endpoints: Some(endpoints(&node.client_addr)),
                }),
                accept_message_types: accepted_types(topic.message_type),
            });
            *id += 1;
        }
        queues
    }
}

fn accepted_types(topic_type: i32) -> Vec<i32> {
    let all = [
        MessageType::Normal,
        MessageType::Fifo,
        MessageType::Delay,
        MessageType::Transaction,
        MessageType::Lite,
        MessageType::Priority,
    ];
    all.into_iter()
        .filter(|&kind| names::accepts(topic_type, kind))
        .map(|kind| kind as i32)
        .collect()
}

/// `host:port` as SDKs want it.
fn endpoints(address: &str) -> Endpoints {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "8081"));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let scheme = if host.parse::<Ipv4Addr>().is_ok() {
        AddressScheme::IPv4
    } else if host.parse::<Ipv6Addr>().is_ok() {
        AddressScheme::IPv6
    } else {
        AddressScheme::DomainName
    };
    let address = Address {
        host: host.to_owned(),
        port: port.parse().unwrap_or(8081),
    };
    Endpoints {
        scheme: scheme as i32,
        addresses: vec![address],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_their_scheme() {
        let scheme = |address: &str| endpoints(address).scheme;
        assert_eq!(scheme("127.0.0.1:8081"), AddressScheme::IPv4 as i32);
        assert_eq!(scheme("[::1]:8081"), AddressScheme::IPv6 as i32);
        assert_eq!(scheme("broker.example:8081"), AddressScheme::DomainName as i32);
        assert_eq!(
            endpoints("[::1]:9").addresses[0],
            Address {
                host: "::1".into(),
                port: 9
            }
        );
    }

    #[test]
    fn a_mixed_topic_takes_what_the_protocol_says() {
        assert_eq!(accepted_types(0), [1, 2, 3, 4]);
        assert_eq!(accepted_types(1), [1]);
    }
}
