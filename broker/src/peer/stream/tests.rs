//! Two ends and a real socket between them.

use std::{
    net::{SocketAddr, TcpListener},
    sync::atomic::{AtomicU64, Ordering},
};

use flotilla_proto::peer::{
    Caller, ForwardRequest, ForwardResponse, Frame, Hello, RaftRequest, RaftResponse, StatusRequest,
    StatusResponse, Stranger, peer_client::PeerClient,
};
use futures::{FutureExt, future::BoxFuture, future::join_all, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Semaphore, oneshot},
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::*;
use crate::peer::{Greeter, PROTOCOL_VERSION, PeerHandler, Seat, limits};

mod slow;
mod strangers;

const TTL: Duration = Duration::from_secs(20);

/// Notes what arrives in which order. Status requests are answered at once, Raft requests echo their
/// shard, forwarded ones wait until `gate` lets them.
struct Recorder {
    arrived: Mutex<Vec<u32>>,
    from: AtomicU64,
    gate: Arc<Semaphore>,
}

impl Recorder {
    fn new(open: usize) -> Arc<Self> {
        Arc::new(Recorder {
            arrived: Mutex::default(),
            from: AtomicU64::new(0),
            gate: Arc::new(Semaphore::new(open)),
        })
    }

    fn arrived(&self) -> Vec<u32> {
        self.arrived.lock().unwrap().clone()
    }
}

impl PeerHandler for Recorder {
    fn handle(&self, from: &Hello, body: Body) -> BoxFuture<'static, Body> {
        self.from.store(from.node.into(), Ordering::SeqCst);
        match body {
            Body::Raft(request) => {
                self.arrived.lock().unwrap().push(request.shard);
                async { Body::RaftAnswer(RaftResponse::default()) }.boxed()
            }
            Body::Forward(request) => {
                self.arrived.lock().unwrap().push(request.shard);
                let gate = self.gate.clone();
                async move {
                    gate.acquire().await.unwrap().forget();
                    Body::ForwardAnswer(ForwardResponse {
                        responses: vec![request.request],
                        ..Default::default()
                    })
                }
                .boxed()
            }
            _ => async {
                Body::StatusAnswer(StatusResponse {
                    fresh: true,
                    ..Default::default()
                })
            }
            .boxed(),
        }
    }
}

fn hello(node: u32) -> Hello {
    Hello {
        version: PROTOCOL_VERSION,
        node,
        directory: 7,
        ..Hello::default()
    }
}

fn source(node: u32) -> HelloSource {
    Arc::new(move || hello(node))
}

/// A served peer port; stops when told, or with the test.
struct Served {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Served {
    fn start(node: u32, handler: Arc<Recorder>) -> Self {
        Self::on("127.0.0.1:0".parse().unwrap(), node, handler)
    }

    fn on(address: SocketAddr, node: u32, handler: Arc<Recorder>) -> Self {
        Self::greeting(address, source(node), handler)
    }

    fn greeting(address: SocketAddr, me: HelloSource, handler: Arc<Recorder>) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve_peers(listener, me, handler, stopped.map(|_| ())));
        Served { address, stop, task }
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        timeout(TTL, self.task)
            .await
            .expect("stops in time")
            .unwrap()
            .unwrap();
    }
}

fn transport(peers: &[(u32, SocketAddr)]) -> Arc<StreamTransport> {
    let transport = StreamTransport::new(source(1));
    transport.set_peers(
        peers
            .iter()
            .map(|(node, address)| (*node, address.to_string()))
            .collect(),
    );
    transport
}

fn status() -> Body {
    Body::Status(StatusRequest::default())
}

fn raft(shard: u32) -> Body {
    Body::Raft(RaftRequest {
        shard,
        ..Default::default()
    })
}

fn forward(shard: u32) -> Body {
    Body::Forward(ForwardRequest {
        shard,
        caller: Some(Caller::default()),
        request: vec![1, 2, 3].into(),
        ..Default::default()
    })
}

/// Calls until the outcome is the one waited for.
async fn until(transport: &StreamTransport, node: u32, good: fn(&Result<Body, PeerError>) -> bool) {
    let calls = async {
        while !good(&transport.call(node, status(), TTL).await) {
            tokio::task::yield_now().await;
        }
    };
    timeout(TTL, calls).await.expect("the outcome came");
}

#[tokio::test]
async fn calls_arrive_in_the_order_they_were_made() {
    let handler = Recorder::new(10_000);
    let served = Served::start(2, handler.clone());
    let transport = transport(&[(2, served.address)]);
    let calls = (0..5_000_u32).map(|number| {
        let body = if number % 3 == 0 {
            forward(number)
        } else {
            raft(number)
        };
        transport.call(2, body, TTL)
    });
    for answer in join_all(calls).await {
        answer.unwrap();
    }
    let arrived = handler.arrived();
    assert_eq!(arrived.len(), 5_000);
    // Of each kind: what clients ask and what Raft says have lanes of their own.
    for forwarded in [true, false] {
        let kind = |number: &u32| number.is_multiple_of(3) == forwarded;
        let arrived = arrived.iter().copied().filter(kind);
        assert!(arrived.eq((0..5_000).filter(kind)));
    }
    assert_eq!(handler.from.load(Ordering::SeqCst), 1);
    served.stop().await;
}

#[tokio::test]
async fn a_slow_answer_holds_up_no_other() {
    let handler = Recorder::new(0);
    let served = Served::start(2, handler.clone());
    let transport = transport(&[(2, served.address)]);
    let slow = tokio::spawn({
        let transport = transport.clone();
        async move { transport.call(2, forward(1), TTL).await }
    });
    transport.call(2, status(), TTL).await.unwrap();
    assert!(!slow.is_finished());
    handler.gate.add_permits(1);
    let Body::ForwardAnswer(answer) = slow.await.unwrap().unwrap() else {
        panic!("no answer to a forward")
    };
    assert_eq!(answer.responses[0], vec![1, 2, 3]);
    served.stop().await;
}

#[tokio::test]
async fn a_call_never_outlives_its_time() {
    let served = Served::start(2, Recorder::new(0));
    let transport = transport(&[(2, served.address)]);
    let answer = transport.call(2, forward(1), Duration::from_millis(50)).await;
    assert_eq!(answer, Err(PeerError::Timeout));
    transport.call(2, status(), TTL).await.unwrap();
    served.stop().await;
}

#[tokio::test]
async fn the_peers_death_fails_what_is_under_way_and_its_return_is_found() {
    let handler = Recorder::new(0);
    let served = Served::start(2, handler.clone());
    let address = served.address;
    let transport = transport(&[(2, address)]);
    transport.call(2, status(), TTL).await.unwrap();
    let pending = tokio::spawn({
        let transport = transport.clone();
        async move { transport.call(2, forward(1), Duration::from_secs(3600)).await }
    });
    let arrives = async {
        while handler.arrived().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(TTL, arrives).await.unwrap();
    served.stop().await;
    assert_eq!(
        timeout(TTL, pending).await.unwrap().unwrap(),
        Err(PeerError::Unreachable)
    );
    until(&transport, 2, |answer| *answer == Err(PeerError::NotConnected)).await;
    let served = Served::on(address, 2, handler);
    until(&transport, 2, Result::is_ok).await;
    served.stop().await;
}

#[tokio::test]
async fn calls_to_a_node_known_to_be_dead_fail_at_once() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let transport = transport(&[(2, address)]);
    until(&transport, 2, |answer| *answer == Err(PeerError::NotConnected)).await;
    let started = Instant::now();
    for _ in 0..100 {
        assert_eq!(
            transport.call(2, status(), TTL).await,
            Err(PeerError::NotConnected)
        );
    }
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_peer_that_accepts_and_says_nothing_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let transport = transport(&[(2, listener.local_addr().unwrap())]);
    assert_eq!(
        transport.call(2, status(), TTL).await,
        Err(PeerError::NotConnected)
    );
}

#[tokio::test]
async fn another_nodes_address_is_not_talked_to() {
    let handler = Recorder::new(0);
    let served = Served::start(3, handler.clone());
    let transport = transport(&[(2, served.address)]);
    assert_eq!(
        transport.call(2, raft(5), TTL).await,
        Err(PeerError::NotConnected)
    );
    assert!(handler.arrived().is_empty());
    served.stop().await;
}

#[tokio::test]
async fn unknown_nodes_and_oneself_are_unreachable() {
    let transport = transport(&[(1, "127.0.0.1:1".parse().unwrap())]);
    assert_eq!(
        transport.call(1, status(), TTL).await,
        Err(PeerError::NotConnected)
    );
    assert_eq!(
        transport.call(9, status(), TTL).await,
        Err(PeerError::NotConnected)
    );
}

#[tokio::test]
async fn a_node_that_moved_is_found_at_its_new_address() {
    let (old, new) = (
        Served::start(2, Recorder::new(0)),
        Served::start(2, Recorder::new(0)),
    );
    let transport = transport(&[(2, old.address)]);
    transport.call(2, status(), TTL).await.unwrap();
    transport.set_peers(BTreeMap::from([(2, new.address.to_string())]));
    old.stop().await;
    transport.call(2, status(), TTL).await.unwrap();
    transport.set_peers(BTreeMap::new());
    assert_eq!(
        transport.call(2, status(), TTL).await,
        Err(PeerError::NotConnected)
    );
    new.stop().await;
}

#[tokio::test]
async fn what_is_under_way_is_bounded_and_clients_do_not_crowd_out_raft() {
    let handler = Recorder::new(0);
    let served = Served::start(2, handler.clone());
    let transport = transport(&[(2, served.address)]);
    transport.call(2, status(), TTL).await.unwrap();
    let calls: Vec<_> = (0..limits::MAX_FORWARD_CALLS as u32)
        .map(|number| Box::pin(transport.call(2, forward(number), TTL)))
        .collect();
    let mut waiting = join_all(calls);
    assert!((&mut waiting).now_or_never().is_none());
    assert_eq!(
        transport.call(2, forward(0), TTL).await,
        Err(PeerError::Overloaded)
    );
    transport.call(2, raft(0), TTL).await.unwrap();
    handler.gate.add_permits(limits::MAX_FORWARD_CALLS + 1);
    assert!(waiting.await.iter().all(Result::is_ok));
    transport.call(2, forward(0), TTL).await.unwrap();
    served.stop().await;
}

#[tokio::test]
async fn large_requests_are_bounded_by_their_bytes() {
    let served = Served::start(2, Recorder::new(0));
    let transport = transport(&[(2, served.address)]);
    transport.call(2, status(), TTL).await.unwrap();
    let large = |size: usize| {
        let request = vec![0; size].into();
        Body::Forward(ForwardRequest {
            request,
            ..Default::default()
        })
    };
    assert_eq!(
        transport.call(2, large(limits::MAX_FRAME_BYTES), TTL).await,
        Err(PeerError::Malformed)
    );
    let size = 8 << 20;
    let mut under_way = Vec::new();
    for _ in 1..limits::MAX_FORWARD_BYTES / size {
        let mut call = Box::pin(transport.call(2, large(size), TTL));
        assert!((&mut call).now_or_never().is_none());
        under_way.push(call);
    }
    // With their envelopes one fewer fits than without.
    assert_eq!(
        transport.call(2, large(size), TTL).await,
        Err(PeerError::Overloaded)
    );
    transport.call(2, raft(0), TTL).await.unwrap();
    drop(under_way);
    served.stop().await;
}

/// A stream opened without any of our own care; the answers are read to their end.
async fn raw(address: SocketAddr, frames: Vec<Frame>) -> Result<Vec<Frame>, tonic::Status> {
    let mut client = PeerClient::connect(format!("http://{address}")).await.unwrap();
    let outgoing = stream::StreamExt::chain(stream::iter(frames), stream::pending());
    let mut answers = client.exchange(outgoing).await?.into_inner();
    let mut seen = Vec::new();
    while let Some(frame) = answers.message().await? {
        seen.push(frame);
    }
    Ok(seen)
}

fn frame(id: u64, body: Body) -> Frame {
    Frame { id, body: Some(body) }
}

#[tokio::test]
async fn whoever_breaks_the_protocol_is_disconnected_and_nobody_else() {
    let handler = Recorder::new(0);
    let served = Served::start(2, handler.clone());
    let transport = transport(&[(2, served.address)]);
    transport.call(2, status(), TTL).await.unwrap();
    let me = || frame(0, Body::Hello(hello(3)));
    let oversized = ForwardRequest {
        request: vec![0; limits::MAX_FRAME_BYTES + 1].into(),
        ..Default::default()
    };
    let old = Hello {
        version: 99,
        ..hello(3)
    };
    for frames in [
        vec![frame(1, status())],
        vec![frame(0, Body::Hello(old))],
        vec![frame(0, Body::Hello(hello(0)))],
        vec![Frame { id: 0, body: None }],
        vec![me(), me()],
        vec![me(), Frame { id: 5, body: None }],
        vec![me(), frame(6, Body::RaftAnswer(RaftResponse::default()))],
        vec![me(), frame(7, Body::Forward(oversized))],
    ] {
        let _ = timeout(TTL, raw(served.address, frames))
            .await
            .expect("the stream ends");
    }
    transport.call(2, status(), TTL).await.unwrap();
    assert!(handler.arrived().is_empty(), "nothing of all that was handled");
    served.stop().await;
}

#[tokio::test]
async fn garbage_and_silence_on_the_peer_port_are_disconnected() {
    let served = Served::start(2, Recorder::new(0));
    for bytes in [
        vec![0x16, 3, 1, 0, 200],
        vec![0xff; 100_000],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![],
    ] {
        let mut socket = TcpStream::connect(served.address).await.unwrap();
        let _ = socket.write_all(&bytes).await;
        let mut rest = Vec::new();
        let _ = timeout(TTL, socket.read_to_end(&mut rest))
            .await
            .expect("the connection is closed");
    }
    let transport = transport(&[(2, served.address)]);
    transport.call(2, status(), TTL).await.unwrap();
    served.stop().await;
}
