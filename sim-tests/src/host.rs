//! One machine of the world: hardware that lasts, and a broker process that can be killed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use broker::{
    node::{Node, NodeOptions, StopReason},
    peer::{Body, HelloSource, PROTOCOL_VERSION, PeerHandler, PeerTransport},
    service::{Caller, Service},
};
use flotilla_proto::{
    peer::{ForwardRequest, ForwardResponse, Hello},
    rocketmq as mq,
};
use futures::future::{BoxFuture, FutureExt};
use madsim::{
    rand::{Rng, thread_rng},
    runtime::{Handle, NodeHandle},
};
use prost::Message;
use raft_store::{
    RaftOptions, StoreOptions,
    disk::sim::{Loss, SimDisk},
    engine::memory::MemoryEngine,
};

use crate::{
    clock::SimClock,
    disk::TracedDisk,
    peers::{SimTransport, serve},
    trace::Trace,
};

const PEER_PORT: u16 = 8083;
const CLIENT_PORT: u16 = 8081;

/// A sync of the simulated disk takes this long.
const SYNC_DELAY: Duration = Duration::from_millis(1);

/// Where a node's peer port is.
#[must_use]
pub fn peer_addr(node: u32) -> SocketAddr {
    (ip(node), PEER_PORT).into()
}

/// Where a node's client port is.
#[must_use]
pub fn client_addr(node: u32) -> SocketAddr {
    (ip(node), CLIENT_PORT).into()
}

fn ip(node: u32) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, u8::try_from(node).expect("a small world")).into()
}

/// One machine.
pub struct Host {
    /// The number of its node.
    pub id: u32,
    machine: NodeHandle,
    disk: SimDisk,
    engine: MemoryEngine,
    running: Arc<Mutex<Option<Node>>>,
    trace: Trace,
}

impl Host {
    /// Builds the machine and starts its broker, one of `nodes`.
    #[must_use]
    pub fn start(id: u32, nodes: u32, trace: Trace) -> Host {
        let disk = SimDisk::new(thread_rng().r#gen());
        disk.set_sync_delay(Some(SYNC_DELAY));
        let engine = MemoryEngine::new();
        let running = Arc::default();
        let process = Process {
            id,
            nodes,
            disk: disk.clone(),
            engine: engine.clone(),
            running: Arc::clone(&running),
            trace: trace.clone(),
        };
        let machine = Handle::current()
            .create_node()
            .name(format!("node-{id}"))
            .ip(ip(id))
            .init(move || process.clone().run())
            .build();
        Host {
            id,
            machine,
            disk,
            engine,
            running,
            trace,
        }
    }

    /// The running node, once it has started.
    #[must_use]
    pub fn node(&self) -> Option<Node> {
        lock(&self.running).clone()
    }

    /// Kills the process and cuts the power: what was not synced is lost, torn or kept, as chance has it.
    pub fn crash(&self) {
        self.trace.event("crash", &[self.id.into()], &[]);
        *lock(&self.running) = None;
        Handle::current().kill(self.machine.id());
        self.disk.crash(Loss::Random(thread_rng().r#gen()));
        let unflushed = self.engine.unflushed();
        self.engine.crash(thread_rng().gen_range(0..=unflushed));
    }

    /// Starts the process again on what its disk kept.
    pub fn restart(&self) {
        self.trace.event("restart", &[self.id.into()], &[]);
        Handle::current().restart(self.machine.id());
    }
}

/// What a life of the broker process is made of.
#[derive(Clone)]
struct Process {
    id: u32,
    nodes: u32,
    disk: SimDisk,
    engine: MemoryEngine,
    running: Arc<Mutex<Option<Node>>>,
    trace: Trace,
}

impl Process {
    async fn run(self) {
        let me: Arc<OnceLock<Node>> = Arc::default();
        let hello = greeting(self.id, Arc::clone(&me));
        let transport = SimTransport::new(hello.clone(), self.trace.clone());
        let disk = TracedDisk::new(self.disk.mount(), self.id.into(), self.trace.clone());
        let node = Node::start(
            self.options(),
            Arc::new(disk),
            self.engine.mount(),
            transport as Arc<dyn PeerTransport>,
            Arc::new(SimClock::new(self.id.into(), self.trace.clone())),
        )
        .await
        .unwrap_or_else(|error| panic!("node {} cannot start: {error}", self.id));
        assert!(me.set(node.clone()).is_ok(), "a life starts once");
        let service = Service::new(node.clone());
        let trace = &self.trace;
        tokio::spawn(serve(
            peer_addr(self.id),
            hello.clone(),
            Arc::new(node.clone()),
            trace.clone(),
        ));
        tokio::spawn(serve(
            client_addr(self.id),
            hello,
            Arc::new(Front { service }),
            trace.clone(),
        ));
        *lock(&self.running) = Some(node.clone());
        match node.wait_stopped().await {
            StopReason::Shutdown => {}
            reason => panic!("node {} stopped: {reason:?}", self.id),
        }
    }

    fn options(&self) -> NodeOptions {
        let initial_cluster: BTreeMap<u32, String> = (1..=self.nodes)
            .map(|node| (node, peer_addr(node).to_string()))
            .collect();
        NodeOptions {
            node_id: self.id,
            initial_cluster,
            data_shards: Some(self.nodes),
            peer_addr: peer_addr(self.id).to_string(),
            client_addr: client_addr(self.id).to_string(),
            http_addr: String::new(),
            auto_create_topics: true,
            auto_create_groups: true,
            default_queues: 4,
            retention: Duration::from_secs(24 * 3600),
            retention_bytes: 1 << 40,
            raft: RaftOptions::default(),
            store: StoreOptions {
                // Small, so that segments roll over and the state is flushed within a short run.
                segment_bytes: 256 * 1024,
                cache_bytes: 64 * 1024,
                flush_every_bytes: 128 * 1024,
                ..StoreOptions::new(thread_rng().gen_range(1..=u64::MAX))
            },
        }
    }
}

/// How a node greets; before it has opened its directory it has only its number.
fn greeting(id: u32, node: Arc<OnceLock<Node>>) -> HelloSource {
    Arc::new(move || match node.get() {
        Some(node) => node.hello(),
        None => Hello {
            version: PROTOCOL_VERSION,
            node: id,
            ..Hello::default()
        },
    })
}

/// The client port: what tonic is to a real broker, thinner.
struct Front {
    service: Service,
}

impl PeerHandler for Front {
    fn handle(&self, from: &Hello, body: Body) -> BoxFuture<'static, Body> {
        let Body::Forward(request) = body else {
            panic!("a client sends requests only")
        };
        let service = self.service.clone();
        let remote_host = format!("client-{}", from.node);
        async move { Body::ForwardAnswer(answer(&service, remote_host, request).await) }.boxed()
    }
}

async fn answer(service: &Service, remote_host: String, request: ForwardRequest) -> ForwardResponse {
    let wire = request.caller.unwrap_or_default();
    let caller = Caller {
        client_id: wire.client_id,
        language: wire.language,
        client_version: wire.client_version,
        namespace: wire.namespace,
        remote_host,
        deadline: Some(Duration::from_millis(request.deadline_ms)),
        forwarded: false,
        retried: false,
    };
    let body = request.request;
    let responses = match request.rpc.as_str() {
        "QueryRoute" => one(&service.query_route(&caller, decode(body)).await),
        "SendMessage" => one(&service.send_message(&caller, decode(body)).await),
        "ReceiveMessage" => {
            let responses: Vec<mq::ReceiveMessageResponse> =
                service.receive_message(&caller, decode(body)).await;
            responses
                .iter()
                .map(|response| response.encode_to_vec().into())
                .collect()
        }
        "AckMessage" => one(&service.ack_message(&caller, decode(body)).await),
        other => panic!("no client of the simulator sends {other}"),
    };
    ForwardResponse {
        responses,
        ..ForwardResponse::default()
    }
}

fn decode<M: Message + Default>(bytes: bytes::Bytes) -> M {
    M::decode(bytes).expect("simulated clients encode what they send")
}

fn one(response: &impl Message) -> Vec<bytes::Bytes> {
    vec![response.encode_to_vec().into()]
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
