//! Clients that do not read their answers.

use std::collections::BTreeSet;

use hyper::body::Incoming;

use super::{
    client::read,
    written::{RECEIVE, receive_of},
    *,
};
use crate::views::TopicSpec;

const BODY: usize = 100_000;
const MESSAGES: usize = 40;
/// For one client, in these tests.
const MOST: u64 = 1 << 20;

/// A server whose topic `orders` has messages enough for several clients to be full of.
async fn server() -> Server {
    let server = Server::over(OneNode::with(Unread::new(4 * MOST, MOST)).await, |_| {}).await;
    let mut client = Client::plain(&server.address).await;
    for number in 0..MESSAGES {
        let mut send = send_of(BODY);
        let properties = send.messages[0].system_properties.as_mut().unwrap();
        properties.message_id = format!("message-{number}");
        let sent: mq::SendMessageResponse = client.call(SEND, &send).await.message();
        assert_eq!(sent.status.unwrap().code, mq::Code::Ok as i32);
    }
    server
}

fn held(server: &Server) -> u64 {
    server.node.service.unread().held()
}

fn ids_and_code(messages: &[Bytes]) -> (Vec<String>, i32) {
    use mq::receive_message_response::Content;
    let (mut ids, mut code) = (Vec::new(), 0);
    for each in messages {
        match mq::ReceiveMessageResponse::decode(each.clone()).unwrap().content {
            Some(Content::Message(message)) => ids.push(message.system_properties.unwrap().message_id),
            Some(Content::Status(status)) => code = status.code,
            _ => {}
        }
    }
    (ids, code)
}

/// Asks for messages until that is refused, and reads none of them: the answers to be read, the refusal's code, and the most
/// bytes that were held.
async fn fill(server: &Server, client: &mut Client) -> (Vec<http::Response<Incoming>>, i32, u64) {
    let (mut unread, mut most) = (Vec::new(), 0);
    loop {
        let answer = client.ask(RECEIVE, &receive_of(false)).await.unwrap();
        let before = held(server);
        most = most.max(before);
        if answer.headers().contains_key("grpc-status") || unread.len() == MESSAGES {
            panic!("no refusal of the protocol after {} answers", unread.len());
        }
        // An answer with a message stays on its way; a refusal is small enough to be here.
        let first = time::timeout(LIMIT, first_status(answer)).await.unwrap();
        match first {
            (code, None) => return (unread, code, most),
            (_, Some(answer)) => unread.push(answer),
        }
    }
}

/// The status that an answer begins with, and the rest of it if there is any that is not read.
async fn first_status(answer: http::Response<Incoming>) -> (i32, Option<http::Response<Incoming>>) {
    let (parts, mut body) = answer.into_parts();
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let length = u32::from_be_bytes(frame[1..5].try_into().unwrap()) as usize;
    let first = frame.slice(5..5 + length);
    let (_, code) = ids_and_code(&[first]);
    if code == mq::Code::Ok as i32 {
        return (code, Some(http::Response::from_parts(parts, body)));
    }
    (code, None)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_nothing_is_refused_before_anything_is_leased_and_nobody_else_notices() {
    let server = server().await;
    let mut slow = Client::with_window(&server.address, 1 << 10).await;
    let (unread, code, most) = fill(&server, &mut slow).await;
    assert_eq!(code, mq::Code::TooManyRequests as i32);
    assert!(most <= MOST && most >= MOST - 2 * BODY as u64, "{most}");
    assert!(server.node.service.unread().refused() >= 1);
    // Others get everything else, for the first time.
    let mut seen = BTreeSet::new();
    let mut other = Client::plain(&server.address).await;
    while seen.len() < MESSAGES - unread.len() {
        let (ids, code) = ids_and_code(&other.call(RECEIVE, &receive_of(false)).await.messages);
        assert_eq!(code, mq::Code::Ok as i32, "{} of {}", seen.len(), unread.len());
        assert!(ids.into_iter().all(|id| seen.insert(id)), "a message came twice");
    }
    assert!(held(&server) <= MOST);
    drop((unread, slow));
    until(|| held(&server) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_after_all_is_served_again() {
    let server = server().await;
    let mut slow = Client::with_window(&server.address, 1 << 10).await;
    let (unread, ..) = fill(&server, &mut slow).await;
    for mut answer in unread {
        while let Some(frame) = time::timeout(LIMIT, answer.frame()).await.unwrap() {
            frame.unwrap();
        }
    }
    until(|| held(&server) == 0).await;
    let answer = slow.ask(RECEIVE, &receive_of(false)).await.unwrap();
    let (ids, code) = ids_and_code(&read(answer).await.unwrap().messages);
    assert_eq!((ids.len(), code), (1, mq::Code::Ok as i32));
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_read_nothing_give_way_when_most_of_the_room_is_used() {
    let server = server().await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut client = Client::with_window(&server.address, 1 << 10).await;
        let mut unread = Vec::new();
        for _ in 0..MOST / BODY as u64 {
            // Who reads nothing may have to go before there is more.
            unread.push(client.ask(RECEIVE, &receive_of(false)).await);
        }
        slow.push((client, unread));
    }
    until(|| server.node.service.unread().gave_way() >= 1 && held(&server) <= 2 * MOST).await;
    server.answers().await;
    assert!(slow.iter().any(|(client, _)| client.ended.is_finished()));
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_that_nobody_reads_are_bounded_too() {
    let server = server().await;
    let spec = TopicSpec {
        name: "wide".to_owned(),
        queues: Some(1024),
        message_type: "NORMAL".to_owned(),
        ageing_ms: None,
    };
    server.node.service.create_topic(spec).await.unwrap();
    let mut slow = Client::with_window(&server.address, 1 << 10).await;
    let (mut unread, mut refused) = (Vec::new(), false);
    while !refused {
        let answer = slow.ask(ROUTE, &route_of("wide")).await.unwrap();
        let status = answer.headers().get("grpc-status");
        refused = status.is_some_and(|status| status == &RESOURCE_EXHAUSTED.to_string());
        unread.push(answer);
        assert!(held(&server) <= MOST && unread.len() < 1000);
    }
    server.answers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_telemetry_stream_that_nobody_reads_ends() {
    let server = Server::over(OneNode::with(Unread::new(MOST, 64 << 10)).await, |_| {}).await;
    let mut slow = Client::with_window(&server.address, 1 << 10).await;
    let mut open = Vec::new();
    let mut large = settings();
    let Some(mq::telemetry_command::Command::Settings(settings)) = &mut large.command else {
        panic!("settings")
    };
    settings.user_agent = Some(mq::Ua {
        hostname: "h".repeat(30 << 10),
        ..Default::default()
    });
    for _ in 0..3 {
        let (said, answers) = slow.open(TELEMETRY).await;
        said.unbounded_send(framed(&large)).unwrap();
        open.push((said, answers));
    }
    until(|| server.node.service.unread().refused() >= 1).await;
    assert!(held(&server) <= 64 << 10);
    server.answers().await;
}
