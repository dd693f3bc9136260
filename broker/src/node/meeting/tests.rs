//! What others say of themselves and of this node, when it cannot be so.

use flotilla_proto::{
    peer::{ForwardRequest, StatusRequest},
    record::{CreateTopic, MetaCommand, meta_command::Command},
};
use prost::Message;

use super::*;
use crate::{
    node::catalogue,
    peer::{Body, PeerHandler},
    testing::OneNode,
};

fn refusing(me: Hello, node: u32) -> Hello {
    let stranger = Stranger {
        kind: Kind::Twice.into(),
        message: "é".repeat(MAX_REASON_BYTES),
        ..Stranger::default()
    };
    Hello {
        node,
        refused: Some(stranger),
        ..me
    }
}

#[tokio::test]
async fn what_a_node_that_is_not_listed_says_of_this_one_is_not_remembered() {
    let one = OneNode::start().await;
    let node = one.service.node();
    for stranger in 2..1_000 {
        node.told(&refusing(node.hello(), stranger));
    }
    assert_eq!(node.refused_by_others(), None);
}

#[tokio::test]
async fn of_the_reason_why_a_node_refuses_this_one_the_beginning_is_kept() {
    let one = OneNode::start().await;
    let node = one.service.node();
    node.told(&refusing(node.hello(), 1));
    let told = node.inner.roster.refusals_of_me(node.clock().steady_ms());
    assert_eq!(told[&1].len(), MAX_REASON_BYTES);
}

#[tokio::test]
async fn a_status_in_another_nodes_name_is_a_strangers() {
    let one = OneNode::start().await;
    let node = one.service.node();
    let speaks = Hello {
        cluster: 0,
        node: 3,
        ..node.hello()
    };
    let says = |from: Hello| {
        let request = StatusRequest {
            from: Some(from),
            ..StatusRequest::default()
        };
        let answer = node.handle(&speaks, Body::Status(request));
        async {
            let Body::StatusAnswer(answer) = answer.await else {
                panic!("a status is answered with one");
            };
            let refused = answer.from.expect("an answer is signed").refused;
            refused.map(|stranger| stranger.kind())
        }
    };
    assert_eq!(says(speaks.clone()).await, None);
    let of_another = Hello {
        node: 2,
        ..speaks.clone()
    };
    assert_eq!(says(of_another).await, Some(Kind::NotAMember));
}

#[tokio::test]
async fn whoever_has_no_cluster_has_nothing_carried_out_here() {
    let one = OneNode::start().await;
    let node = one.service.node();
    let speaks = Hello {
        cluster: 0,
        node: 3,
        ..node.hello()
    };
    let create = CreateTopic {
        name: "strange".into(),
        queues: 1,
        message_type: 1,
        if_absent: true,
        ageing_ms: 0,
    };
    let create = MetaCommand {
        command: Some(Command::CreateTopic(create)),
    };
    for (rpc, from) in [
        (catalogue::RPC, Some(speaks.clone())),
        (catalogue::RPC, None),
        (catalogue::INDEX_RPC, Some(speaks.clone())),
        ("SendMessage", Some(speaks.clone())),
        ("SendMessage", None),
    ] {
        let request = ForwardRequest {
            rpc: rpc.into(),
            request: create.encode_to_vec().into(),
            from,
            ..ForwardRequest::default()
        };
        let Body::ForwardAnswer(answer) = node.handle(&speaks, Body::Forward(request)).await else {
            panic!("what is passed on is answered with an answer");
        };
        assert!(answer.not_leader && answer.responses.is_empty(), "{rpc}");
    }
    assert!(node.meta().topic("strange").is_none());
}
