//! What requests bring counts for as long as it is here.

use super::{
    written::{RECEIVE, receive_of},
    *,
};

const ACK: &str = "/apache.rocketmq.v2.MessagingService/AckMessage";

/// Who leads cannot be reached: requests wait for another leader.
fn without_leader(server: &Server) {
    for shard in server.node.service.node().shards() {
        shard.leadership().hear(9, u64::MAX, 0);
    }
}

#[tokio::test]
async fn a_send_counts_until_it_is_answered_and_other_requests_have_room_of_their_own() {
    let server = Server::with(|options| options.limits.max_inbound_size = Size(64 << 10)).await;
    let mut client = Client::plain(&server.address).await;
    assert_eq!(client.call(SEND, &send_of(1)).await.grpc, Some(0));
    without_leader(&server);
    let mut other = Client::plain(&server.address).await;
    let waiting = tokio::spawn(async move {
        let headers = [("x-mq-client-id", "test"), ("grpc-timeout", "60S")];
        let _ = other.raw(SEND, &headers, framed(&send_of(40 << 10))).await;
    });
    until(|| server.stats.inbound_send_bytes.load(Relaxed) > 40 << 10).await;
    let reply = client.raw(SEND, &[], framed(&send_of(40 << 10))).await.unwrap();
    assert_eq!(reply.grpc, Some(RESOURCE_EXHAUSTED));
    let reply = client.call(HEARTBEAT, &mq::HeartbeatRequest::default()).await;
    assert_eq!(reply.grpc, Some(0));
    waiting.abort();
    until(|| server.stats.inbound_send_bytes.load(Relaxed) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_counts_until_it_is_answered() {
    const ENTRIES: usize = 1_000;
    let server = Server::start().await;
    let mut client = Client::plain(&server.address).await;
    assert_eq!(client.call(SEND, &send_of(1)).await.grpc, Some(0));
    let answers = client.call(RECEIVE, &receive_of(false)).await.messages;
    let handle = answers
        .iter()
        .find_map(|answer| {
            match mq::ReceiveMessageResponse::decode(answer.clone())
                .unwrap()
                .content
            {
                Some(mq::receive_message_response::Content::Message(message)) => {
                    message.system_properties.unwrap().receipt_handle
                }
                _ => None,
            }
        })
        .expect("there is a message");
    let receive = receive_of(false);
    let ack = mq::AckMessageRequest {
        group: receive.group,
        topic: receive.message_queue.unwrap().topic,
        entries: vec![
            mq::AckMessageEntry {
                message_id: "1".into(),
                receipt_handle: handle,
                ..Default::default()
            };
            ENTRIES
        ],
    };
    let bytes = ack.encoded_len() as u64;
    without_leader(&server);
    let waiting = tokio::spawn(async move {
        let headers = [("x-mq-client-id", "test"), ("grpc-timeout", "60S")];
        let _ = client.raw(ACK, &headers, framed(&ack)).await;
    });
    let held = || server.stats.inbound_bytes.load(Relaxed);
    until(|| held() >= bytes).await;
    // It has been read whole, and is still here after many others were answered.
    let mut other = Client::plain(&server.address).await;
    for _ in 0..50 {
        let reply = other.call(HEARTBEAT, &mq::HeartbeatRequest::default()).await;
        assert_eq!(reply.grpc, Some(0));
        assert!(held() >= bytes, "{} of {bytes} bytes count", held());
    }
    waiting.abort();
    until(|| held() == 0).await;
}
