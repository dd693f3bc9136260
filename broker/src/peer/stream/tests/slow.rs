//! A connection between two nodes that carries little.

use flotilla_proto::peer::{SnapshotChunk, raft_request};
use tokio::net::{
    TcpSocket,
    tcp::{OwnedReadHalf, OwnedWriteHalf},
};

use super::*;

/// What the way carries in a step, and how long that takes: 4 MiB a second, in each direction and of all connections together.
const STEP_BYTES: usize = 16 << 10;
const STEP: Duration = Duration::from_millis(4);
/// What is under way at a time, in each direction of a connection. The system's own buffers grow to several megabytes, behind which
/// the peers' signs of life would come too late.
const UNDER_WAY: u32 = 64 << 10;
/// What is large takes some 6 s on such a way, and a multiple on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(120);

/// Carries bytes in one direction; whoever has some waits for its turn.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, turn: Arc<tokio::sync::Mutex<()>>) {
    let mut bytes = vec![0; STEP_BYTES];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let turn = turn.lock().await;
        tokio::time::sleep(STEP).await;
        drop(turn);
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

/// A slow way to `address`.
async fn slow(address: SocketAddr) -> SocketAddr {
    let socket = || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(UNDER_WAY).unwrap();
        socket.set_send_buffer_size(UNDER_WAY).unwrap();
        socket
    };
    let listening = socket();
    listening.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = listening.listen(16).unwrap();
    let here = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (there, back) = (Arc::default(), Arc::default());
        while let Ok((accepted, _)) = listener.accept().await {
            let other = socket().connect(address).await.unwrap();
            let ((from, answers), (other_from, other_to)) = (accepted.into_split(), other.into_split());
            tokio::spawn(carry(from, other_to, Arc::clone(&there)));
            tokio::spawn(carry(other_from, answers, Arc::clone(&back)));
        }
    });
    here
}

fn heartbeat() -> Body {
    Body::Raft(RaftRequest {
        urgent: true,
        ..Default::default()
    })
}

fn records(bytes: usize) -> Body {
    let chunk = SnapshotChunk {
        data: vec![0; bytes].into(),
        ..Default::default()
    };
    Body::Raft(RaftRequest {
        body: Some(raft_request::Body::Snapshot(chunk)),
        ..Default::default()
    })
}

#[tokio::test]
async fn heartbeats_do_not_wait_behind_records_and_messages_on_a_slow_way() {
    let served = Served::start(2, Recorder::new(100));
    let transport = transport(&[(2, slow(served.address).await)]);
    for first in [heartbeat(), raft(1), forward(1)] {
        transport.call(2, first, TTL).await.unwrap();
    }
    let messages = || {
        Body::Forward(ForwardRequest {
            request: vec![0; 4 << 20].into(),
            ..Default::default()
        })
    };
    let mut large = Vec::new();
    for body in [records(8 << 20), messages(), records(8 << 20)] {
        let transport = transport.clone();
        large.push(tokio::spawn(
            async move { transport.call(2, body, PATIENCE).await },
        ));
    }
    // Queued before what follows.
    tokio::task::yield_now().await;
    for _ in 0..20 {
        transport.call(2, heartbeat(), TTL).await.unwrap();
        transport.call(2, status(), TTL).await.unwrap();
    }
    assert!(large.iter().all(|call| !call.is_finished()));
    for call in large {
        call.await.unwrap().unwrap();
    }
    served.stop().await;
}

#[tokio::test]
async fn acknowledgements_do_not_wait_behind_messages_on_a_slow_way() {
    let served = Served::start(2, Recorder::new(100));
    let transport = transport(&[(2, slow(served.address).await)]);
    let call = |rpc: &str, bytes: usize| {
        let body = Body::Forward(ForwardRequest {
            rpc: rpc.to_owned(),
            request: vec![0; bytes].into(),
            ..Default::default()
        });
        let transport = transport.clone();
        async move { transport.call(2, body, PATIENCE).await }
    };
    let large = ["SendMessage", "ReceiveMessage"];
    for first in [large[0], large[1], "AckMessage"] {
        call(first, 1).await.unwrap();
    }
    // What is answered has as many bytes. No more than that: the system's send buffers hold all of it, and signs of life come after.
    let messages: Vec<_> = large
        .iter()
        .flat_map(|rpc| [call(rpc, 1 << 20), call(rpc, 1 << 20)])
        .map(tokio::spawn)
        .collect();
    tokio::task::yield_now().await;
    for _ in 0..20 {
        call("AckMessage", 100).await.unwrap();
    }
    assert!(messages.iter().all(|call| !call.is_finished()));
    for call in messages {
        call.await.unwrap().unwrap();
    }
    served.stop().await;
}
