//! Leases of push consumers that live.

use std::{sync::Arc, time::Duration};

use broker::{
    node::written::{Line, Sign},
    service::Service,
};
use flotilla_proto::rocketmq::{Code, HeartbeatRequest, ReceiveMessageRequest};
use queue_core::InFlightView;

use crate::cluster::{Cluster, caller, code, receive_request, send, wait_for};

/// A connection on which the client is always heard.
struct Open;

impl Line for Open {
    fn sign(&self, _: u64) -> Sign {
        Sign::Heard
    }
}

/// The message that a consumer works on, as the second shard's leader has it.
fn in_work(service: &Service) -> Option<InFlightView> {
    let shard = service.node().shard(2).expect("every node has all shards");
    shard.machine.read(|core| {
        core.subscriptions().find_map(|(group, queue, known)| {
            (0..known.cursor).find_map(|offset| core.in_flight(group, queue, offset))
        })
    })
}

/// What is left of the lease, milliseconds.
fn left_ms(service: &Service) -> u64 {
    let shard = service.node().shard(2).expect("every node has all shards");
    let lease = in_work(service).filter(|lease| lease.leased && lease.written);
    lease.map_or(0, |lease| lease.at_ms.saturating_sub(shard.now_ms()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_of_a_client_that_beats_at_another_node_only_is_renewed() {
    let cluster = Cluster::start(3).await;
    let (known, leader) = cluster.two_leaders().await;
    let (known, leader) = (cluster.service(known), cluster.service(leader));
    let request = ReceiveMessageRequest {
        auto_renew: true,
        ..receive_request("orders", "readers", Duration::from_millis(100))
    };
    let mut carried = None;
    for i in 0.. {
        if in_work(leader).is_some() {
            break;
        }
        let sent = send(known, "orders", &format!("id-{i}")).await;
        assert_eq!(code(&sent.status), Code::Ok);
        carried = known.receive_to_write(&caller(), request.clone()).await.1;
    }
    let line: Arc<dyn Line> = Arc::new(Open);
    carried
        .expect("it came through the node that the client knows")
        .written(&line);
    // Late enough for the report to count, and for the lease to be marked.
    cluster.pass(Duration::from_secs(24));
    wait_for("the lease to be marked", || left_ms(leader) > 0).await;
    for _ in 0..8 {
        cluster.pass(Duration::from_secs(35));
        let beat = known.heartbeat(&caller(), HeartbeatRequest::default()).await;
        assert_eq!(code(&beat.status), Code::Ok);
        wait_for("the lease to be renewed", || left_ms(leader) > 45_000).await;
    }
    assert_eq!(in_work(leader).map(|lease| lease.attempt), Some(1));
}
