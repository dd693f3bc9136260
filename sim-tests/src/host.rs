//! One machine of the world: hardware that lasts, and a broker process that can be killed.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use broker::{
    node::{Node, NodeError, NodeOptions, StopReason, meeting::Greeting},
    peer::{Body, HelloSource, PROTOCOL_VERSION, PeerHandler, PeerTransport},
    service::{Caller, Service, written::Carried},
};
use flotilla_proto::{
    peer::{ForwardRequest, ForwardResponse, Hello, RaftRequest, RaftResponse, raft_request, raft_response},
    rocketmq as mq,
};
use futures::future::{BoxFuture, FutureExt};
use madsim::{
    rand::{Rng, thread_rng},
    runtime::{Handle, NodeHandle},
    task::NodeId,
};
use prost::Message;
use raft_store::{
    RaftOptions, StoreError, StoreOptions,
    blocking::sim::set_machine,
    disk::sim::{Loss, SimDisk},
    engine::memory::MemoryEngine,
};
use tokio::time::sleep;
use tracing::debug;

use crate::{
    clock::{SimClock, WallClock},
    coverage::Coverage,
    disk::{PoweredEngine, TracedDisk},
    history::History,
    machine::{MayFail, Outage, Power, SlowMachine},
    oracle::votes::Votes,
    peers::{Disorder, Serve, SimTransport, serve},
    plan::Plan,
    trace::Trace,
};

/// How long a supervisor waits before it starts a process again that has exited.
const SUPERVISOR_WAITS: Duration = Duration::from_millis(500);
/// What a node says that found no space to start in.
const NO_ROOM: &str = "disk is full";
const PEER_PORT: u16 = 8083;
const CLIENT_PORT: u16 = 8081;

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
    /// How long its disk takes.
    slow: Arc<SlowMachine>,
    process: Process,
    /// Started, and not killed since.
    up: AtomicBool,
}

impl Host {
    /// Builds the machine and starts its broker.
    #[must_use]
    pub fn start(
        id: u32,
        plan: &Plan,
        history: &History,
        coverage: &Coverage,
        disorder: &Disorder,
        trace: &Trace,
    ) -> Host {
        let process = Process {
            id,
            power: Arc::default(),
            power_may_fail: Arc::default(),
            lost_power: Arc::default(),
            coverage: coverage.clone(),
            plan: plan.clone(),
            hardware: Arc::new(Mutex::new(Hardware::new(plan))),
            running: Arc::default(),
            wall: WallClock::ahead(thread_rng().gen_range(-plan.skew_ms..=plan.skew_ms)),
            may_stop: Arc::default(),
            damaged: Arc::default(),
            condemned: Arc::default(),
            exited: Arc::default(),
            votes: Votes::default(),
            history: history.clone(),
            disorder: disorder.clone(),
            trace: trace.clone(),
        };
        let life = process.clone();
        let machine = Handle::current()
            .create_node()
            .name(format!("node-{id}"))
            .ip(ip(id))
            .init(move || life.clone().run())
            .build();
        let slow = Arc::new(SlowMachine::new(
            plan.slowness,
            process.power.clone(),
            process.clone().power_may_fail_now(),
            process.clone().outage(machine.id()),
        ));
        set_machine(machine.id(), slow.clone());
        Host {
            id,
            machine,
            slow,
            process,
            up: AtomicBool::new(true),
        }
    }

    /// The running node, once it has started.
    #[must_use]
    pub fn node(&self) -> Option<Node> {
        self.service().map(|service| service.node().clone())
    }

    /// Its service, for administration.
    #[must_use]
    pub fn service(&self) -> Option<Arc<Service>> {
        lock(&self.process.running).clone()
    }

    /// The machine, for faults of its network.
    #[must_use]
    pub fn machine(&self) -> NodeId {
        self.machine.id()
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> SimDisk {
        lock(&self.process.hardware).disk.clone()
    }

    /// Kills the process and cuts the power: what was not synced is lost, torn or kept, as chance has it.
    pub fn crash(&self) {
        self.trace("crash");
        self.end();
        self.process.forget_unsynced();
    }

    /// From now on the power may fail in the middle of work, or no longer.
    pub fn power_may_fail(&self, may: bool) {
        self.process.power_may_fail.store(may, Ordering::SeqCst);
    }

    /// Whether the power has failed in the middle of work, and nobody has started the process since.
    #[must_use]
    pub fn lost_power(&self) -> bool {
        self.process.lost_power.load(Ordering::SeqCst)
    }

    /// Kills the process; the machine goes on, and what was written stays.
    pub fn kill(&self) {
        self.trace("kill");
        self.end();
        // Flushed or not, the state engine's own log is off: what it had in memory is gone.
        let hardware = lock(&self.process.hardware);
        hardware.engine.crash(0);
    }

    fn end(&self) {
        self.up.store(false, Ordering::SeqCst);
        *lock(&self.process.running) = None;
        Handle::current().kill(self.machine.id());
        for what in self.slow.interrupted() {
            self.process.coverage.count(&what);
        }
    }

    /// Takes away everything that is stored. Only while nothing runs.
    pub fn wipe(&self) {
        self.trace("wipe");
        self.process.damaged.store(false, Ordering::SeqCst);
        *lock(&self.process.hardware) = Hardware::new(&self.process.plan);
    }

    /// Starts the process again on what its disk kept. One that somebody else has started since it died is killed first.
    pub fn restart(&self) {
        if self.up.swap(true, Ordering::SeqCst) {
            self.kill();
            self.up.store(true, Ordering::SeqCst);
        }
        self.trace("restart");
        self.process.lost_power.store(false, Ordering::SeqCst);
        self.process.may_stop.store(false, Ordering::SeqCst);
        self.process.condemned.store(false, Ordering::SeqCst);
        self.process.exited.store(false, Ordering::SeqCst);
        *lock(&self.process.running) = None;
        Handle::current().restart(self.machine.id());
    }

    /// Stops the process until [`Self::resume`].
    pub fn pause(&self) {
        self.trace("pause");
        Handle::current().pause(self.machine.id());
    }

    /// Lets a paused process go on.
    pub fn resume(&self) {
        self.trace("resume");
        Handle::current().resume(self.machine.id());
    }

    /// From now until its next start the node may stop by itself: its disk is about to fail.
    pub fn may_stop(&self) {
        self.process.may_stop.store(true, Ordering::SeqCst);
    }

    /// What is stored here is no longer what was written. The node may find out at any time until everything is taken
    /// away from it.
    pub fn damage(&self) {
        self.trace("damage");
        self.process.damaged.store(true, Ordering::SeqCst);
    }

    /// Whether the stored data is damaged and the node has not found out.
    #[must_use]
    pub fn damaged(&self) -> bool {
        self.process.damaged.load(Ordering::SeqCst)
    }

    /// Whether the process has ended because what it has stored is damaged.
    #[must_use]
    pub fn condemned(&self) -> bool {
        self.process.condemned.load(Ordering::SeqCst)
    }

    /// Its wall clock.
    #[must_use]
    pub fn wall_clock(&self) -> &WallClock {
        &self.process.wall
    }

    /// Whether the process has ended by itself.
    #[must_use]
    pub fn exited(&self) -> bool {
        self.process.exited.load(Ordering::SeqCst)
    }

    fn trace(&self, what: &str) {
        self.process.trace.event(what, &[self.id.into()], &[]);
    }
}

/// What lasts when a process dies.
struct Hardware {
    disk: SimDisk,
    engine: MemoryEngine,
}

impl Hardware {
    fn new(plan: &Plan) -> Hardware {
        let disk = SimDisk::new(thread_rng().r#gen());
        disk.set_sync_delay(Some(Duration::from_micros(plan.sync_us)));
        Hardware {
            disk,
            engine: MemoryEngine::new(),
        }
    }
}

/// What a life of the broker process is made of.
#[derive(Clone)]
struct Process {
    id: u32,
    plan: Plan,
    power: Arc<Power>,
    power_may_fail: Arc<AtomicBool>,
    lost_power: Arc<AtomicBool>,
    coverage: Coverage,
    hardware: Arc<Mutex<Hardware>>,
    running: Arc<Mutex<Option<Arc<Service>>>>,
    wall: WallClock,
    may_stop: Arc<AtomicBool>,
    damaged: Arc<AtomicBool>,
    condemned: Arc<AtomicBool>,
    exited: Arc<AtomicBool>,
    /// Given by its replicas, in all lives.
    votes: Votes,
    history: History,
    disorder: Disorder,
    trace: Trace,
}

/// Why a life ended by itself.
enum End {
    /// It found out that its data is damaged.
    Damage(String),
    /// Anything else.
    Failure(String),
}

impl Process {
    /// What was not synced is lost, torn or kept, as chance has it.
    fn forget_unsynced(&self) {
        let hardware = lock(&self.hardware);
        hardware.disk.crash(Loss::Random(thread_rng().r#gen()));
        let unflushed = hardware.engine.unflushed();
        hardware.engine.crash(thread_rng().gen_range(0..=unflushed));
    }

    /// While faults come. Where data is damaged, or the disk is about to fail, that fault decides when the machine stops: what
    /// is written wrong just before the power fails cannot be told from what was being written.
    fn power_may_fail_now(self) -> MayFail {
        Box::new(move || {
            let others = [&self.damaged, &self.may_stop];
            self.power_may_fail.load(Ordering::Relaxed)
                && !others.iter().any(|fault| fault.load(Ordering::Relaxed))
        })
    }

    /// Ends the process when its machine loses power in the middle of work.
    fn outage(self, machine: NodeId) -> Outage {
        Box::new(move |work| {
            self.trace
                .event("power fails", &[self.id.into()], work.as_bytes());
            debug!(node = self.id, work, "power fails");
            self.coverage.count(&format!("power failed during {work}"));
            *lock(&self.running) = None;
            Handle::current().kill(machine);
            self.forget_unsynced();
            self.lost_power.store(true, Ordering::SeqCst);
        })
    }

    async fn run(self) {
        let (why, excused) = match self.live().await {
            Ok(()) => (String::new(), true),
            Err(End::Failure(why)) => (why, self.may_stop.load(Ordering::SeqCst)),
            Err(End::Damage(why)) => {
                self.condemned.store(true, Ordering::SeqCst);
                (why, self.damaged.load(Ordering::SeqCst))
            }
        };
        debug!(node = self.id, why, excused, "stopped by itself");
        if !excused {
            self.history
                .broken(format!("P11: node {} stopped by itself: {why}", self.id));
        }
        *lock(&self.running) = None;
        self.exited.store(true, Ordering::SeqCst);
    }

    /// A node, or nothing if there is no space to start in.
    async fn start(&self, hello: HelloSource) -> Result<Option<Node>, End> {
        let transport = SimTransport::new(hello, self.disorder.clone(), self.trace.clone());
        let (disk, engine) = {
            let hardware = lock(&self.hardware);
            (hardware.disk.mount(), hardware.engine.mount())
        };
        self.power.back();
        let disk = TracedDisk::new(disk, self.id.into(), self.power.clone(), self.trace.clone());
        let engine = Arc::new(PoweredEngine::new(engine, self.power.clone()));
        let started = Node::start(
            self.options(),
            Arc::new(disk),
            engine,
            transport as Arc<dyn PeerTransport>,
            Arc::new(SimClock::new(
                self.id.into(),
                self.wall.clone(),
                self.trace.clone(),
            )),
        );
        match started.await {
            Ok(node) => Ok(Some(node)),
            Err(NodeError::Store(StoreError::Corrupt(what)) | NodeError::Refused(what)) => {
                Err(End::Damage(what))
            }
            Err(NodeError::Identity(error)) if error.kind() == io::ErrorKind::InvalidData => {
                Err(End::Damage(error.to_string()))
            }
            Err(error) if error.to_string().contains(NO_ROOM) => Ok(None),
            Err(error) => Err(End::Failure(format!("it cannot start: {error}"))),
        }
    }

    async fn live(&self) -> Result<(), End> {
        let me = Greeting::new(self.id);
        let hello: HelloSource = me.clone();
        // A node that cannot start for want of space exits, and its supervisor starts it again.
        let node = loop {
            match self.start(hello.clone()).await? {
                Some(node) => break node,
                None => sleep(SUPERVISOR_WAITS).await,
            }
        };
        me.is(&node);
        self.votes.new_life();
        let service = Arc::new(Service::new(node.clone()));
        let trace = &self.trace;
        tokio::spawn(serve(
            peer_addr(self.id),
            hello.clone(),
            Arc::new(Witness {
                node: node.clone(),
                votes: self.votes.clone(),
                history: self.history.clone(),
            }),
            trace.clone(),
        ));
        // Clients have no cluster, and are talked to by whoever is there.
        let id = self.id;
        tokio::spawn(serve(
            client_addr(self.id),
            Arc::new(move || Hello {
                version: PROTOCOL_VERSION,
                node: id,
                ..Hello::default()
            }),
            Arc::new(Front {
                service: service.clone(),
            }),
            trace.clone(),
        ));
        *lock(&self.running) = Some(service);
        match node.wait_stopped().await {
            StopReason::Shutdown => Ok(()),
            // Its disk has lost something: peers have seen more of it.
            StopReason::Condemned(what) | StopReason::GivenUp(what) | StopReason::Refused(what) => {
                Err(End::Damage(what))
            }
            StopReason::Fatal(what) | StopReason::Newer(what) => Err(End::Failure(what)),
        }
    }

    fn options(&self) -> NodeOptions {
        let plan = &self.plan;
        let initial_cluster: BTreeMap<u32, String> = (1..=plan.nodes)
            .map(|node| (node, peer_addr(node).to_string()))
            .collect();
        NodeOptions {
            node_id: self.id,
            initial_cluster,
            data_shards: Some(plan.shards),
            peer_addr: peer_addr(self.id).to_string(),
            client_addr: client_addr(self.id).to_string(),
            http_addr: String::new(),
            auto_create_topics: true,
            auto_create_groups: true,
            default_queues: plan.queues,
            retention: Duration::from_secs(24 * 3600),
            retention_bytes: 1 << 40,
            raft: RaftOptions::default(),
            store: StoreOptions {
                // Small, so that segments roll over and the state is flushed within a short run.
                segment_bytes: plan.segment_bytes,
                cache_bytes: 64 * 1024,
                flush_every_bytes: plan.flush_bytes,
                ..StoreOptions::new(thread_rng().gen_range(1..=u64::MAX))
            },
        }
    }
}

/// The peer port: hears which votes the node gives.
struct Witness {
    node: Node,
    votes: Votes,
    history: History,
}

impl Serve for Witness {
    fn steady_ms(&self) -> u64 {
        self.node.clock().steady_ms()
    }

    fn serve(&self, from: &Hello, body: Body) -> BoxFuture<'static, (Body, Option<Carried>)> {
        self.handle(from, body).map(|answer| (answer, None)).boxed()
    }
}

impl Witness {
    fn handle(&self, from: &Hello, body: Body) -> BoxFuture<'static, Body> {
        let voter = match &body {
            Body::Raft(RaftRequest {
                shard,
                to,
                body: Some(raft_request::Body::Vote(_)),
                ..
            }) => Some((*shard, *to)),
            _ => None,
        };
        let answer = self.node.handle(from, body);
        let Some((shard, replica)) = voter else {
            return answer;
        };
        let (votes, history) = (self.votes.clone(), self.history.clone());
        async move {
            let answer = answer.await;
            if let Body::RaftAnswer(RaftResponse {
                body: Some(raft_response::Body::Vote(vote)),
                ..
            }) = &answer
                && vote.granted
                && let Some(to) = &vote.vote
                && let Some(wrong) = votes.give(shard, replica, (to.term, to.node))
            {
                history.broken(wrong);
            }
            answer
        }
        .boxed()
    }
}

/// The client port: what tonic is to a real broker, thinner.
struct Front {
    service: Arc<Service>,
}

impl Serve for Front {
    fn steady_ms(&self) -> u64 {
        self.service.node().clock().steady_ms()
    }

    fn serve(&self, from: &Hello, body: Body) -> BoxFuture<'static, (Body, Option<Carried>)> {
        let Body::Forward(request) = body else {
            panic!("a client sends requests only")
        };
        let service = self.service.clone();
        let remote_host = format!("client-{}", from.node);
        async move {
            let (answer, carried) = answer(&service, remote_host, request).await;
            (Body::ForwardAnswer(answer), carried)
        }
        .boxed()
    }
}

async fn answer(
    service: &Service,
    remote_host: String,
    request: ForwardRequest,
) -> (ForwardResponse, Option<Carried>) {
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
    let mut carried = None;
    let responses = match request.rpc.as_str() {
        "QueryRoute" => one(&service.query_route(&caller, decode(body)).await),
        "SendMessage" => one(&service.send_message(&caller, decode(body)).await),
        "ReceiveMessage" => {
            let responses: Vec<mq::ReceiveMessageResponse>;
            (responses, carried) = service.receive_to_write(&caller, decode(body)).await;
            responses
                .iter()
                .map(|response| response.encode_to_vec().into())
                .collect()
        }
        "NotifyClientTermination" => one(&service.notify_client_termination(&caller, decode(body)).await),
        "AckMessage" => one(&service.ack_message(&caller, decode(body)).await),
        "ChangeInvisibleDuration" => one(&service.change_invisible_duration(&caller, decode(body)).await),
        "ForwardMessageToDeadLetterQueue" => one(&service
            .forward_message_to_dead_letter_queue(&caller, decode(body))
            .await),
        other => panic!("no client of the simulator sends {other}"),
    };
    let answer = ForwardResponse {
        responses,
        ..ForwardResponse::default()
    };
    (answer, carried)
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
