//! Which answers count as written out.

use super::*;

pub(super) const RECEIVE: &str = "/apache.rocketmq.v2.MessagingService/ReceiveMessage";

pub(super) fn receive_of(auto_renew: bool) -> mq::ReceiveMessageRequest {
    let named = |name: &str| {
        Some(mq::Resource {
            name: name.to_owned(),
            ..Default::default()
        })
    };
    let duration = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    mq::ReceiveMessageRequest {
        group: named("readers"),
        message_queue: Some(mq::MessageQueue {
            topic: named("orders"),
            ..Default::default()
        }),
        batch_size: 1,
        auto_renew,
        invisible_duration: duration(30),
        long_polling_timeout: duration(5),
        ..Default::default()
    }
}

/// One message comes to a client whose deadline is this one.
async fn received(server: &Server, auto_renew: bool, deadline: &str) -> Client {
    let mut client = Client::plain(&server.address).await;
    let sent: mq::SendMessageResponse = client.call(SEND, &send_of(100)).await.message();
    assert_eq!(sent.status.unwrap().code, mq::Code::Ok as i32);
    let headers = [("x-mq-client-id", "test"), ("grpc-timeout", deadline)];
    let body = framed(&receive_of(auto_renew));
    let reply = client.raw(RECEIVE, &headers, body).await.unwrap();
    assert_eq!(
        (reply.grpc, reply.messages.len()),
        (Some(0), 3),
        "status, message, time"
    );
    client
}

fn written(server: &Server) -> usize {
    server.node.service.node().written().leases()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_push_consumer_got_is_written_out_and_to_be_reported() {
    let server = Server::start().await;
    let _client = received(&server, true, "10S").await;
    until(|| written(&server) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn simple_consumers_renew_their_leases_themselves() {
    let server = Server::start().await;
    let _client = received(&server, false, "10S").await;
    assert_eq!(written(&server), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_left_when_the_client_had_given_up_was_not_received() {
    let server = Server::start().await;
    let _client = received(&server, true, "400m").await;
    assert_eq!(written(&server), 0);
}
