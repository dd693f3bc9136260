//! Nodes in one process, connected by function calls, that can be killed and started again.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use broker::{
    clock::{Clock, SystemClock},
    limits::Bounds,
    node::{Node, NodeError, NodeOptions, StopReason},
    peer::{Body, PeerError, PeerHandler, PeerTransport},
    service::{Caller, Service},
};
use flotilla_proto::rocketmq::{
    AckMessageEntry, AckMessageRequest, Code, FilterExpression, FilterType, Message, MessageQueue,
    ReceiveMessageRequest, Resource, SendMessageRequest, SendMessageResponse, SystemProperties,
    receive_message_response::Content,
};
use raft_store::{MemoryEngine, RaftOptions, StoreOptions, disk::SimDisk, disk::sim::Loss};

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What becomes of requests that nodes pass on.
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    /// Nobody answers.
    Hang,
    /// Too much is on its way already.
    Full,
}

/// Connects the nodes of a test, and counts what they pass on to each other.
#[derive(Default)]
pub(crate) struct Wires {
    nodes: Mutex<BTreeMap<u32, Node>>,
    forwarded: Mutex<BTreeMap<String, usize>>,
    faults: Mutex<BTreeMap<String, Fault>>,
    /// How often each node asked the others who they are, and what they have.
    asked: Mutex<BTreeMap<u32, usize>>,
}

impl Wires {
    fn fault(&self, body: &Body) -> Option<Fault> {
        let Body::Forward(request) = body else { return None };
        self.faults.lock().unwrap().get(&request.rpc).copied()
    }
}

/// The system's clocks, moved on for all nodes at once.
#[derive(Default)]
struct MovedClock {
    system: SystemClock,
    by_ms: Arc<AtomicU64>,
}

impl Clock for MovedClock {
    fn wall_ms(&self) -> u64 {
        self.system.wall_ms()
    }

    fn steady_ms(&self) -> u64 {
        self.system.steady_ms() + self.by_ms.load(Ordering::Relaxed)
    }

    fn random_u64(&self) -> u64 {
        self.system.random_u64()
    }
}

struct Wire {
    from: u32,
    wires: Arc<Wires>,
}

#[async_trait]
impl PeerTransport for Wire {
    async fn call(&self, node: u32, body: Body, ttl: Duration) -> Result<Body, PeerError> {
        let both = {
            let nodes = self.wires.nodes.lock().unwrap();
            nodes.get(&self.from).cloned().zip(nodes.get(&node).cloned())
        };
        let Some((from, to)) = both else {
            return Err(PeerError::Unreachable);
        };
        if let Body::Forward(request) = &body {
            let mut forwarded = self.wires.forwarded.lock().unwrap();
            *forwarded.entry(request.rpc.clone()).or_default() += 1;
        }
        if let Body::Status(question) = &body
            && question.fresh
        {
            *self.wires.asked.lock().unwrap().entry(self.from).or_default() += 1;
        }
        match self.wires.fault(&body) {
            Some(Fault::Full) => return Err(PeerError::Overloaded),
            Some(Fault::Hang) => {
                tokio::time::sleep(ttl).await;
                return Err(PeerError::Timeout);
            }
            None => {}
        }
        let answer = to.handle(&from.hello(), body);
        tokio::time::timeout(ttl, answer)
            .await
            .map_err(|_| PeerError::Timeout)
    }

    fn set_peers(&self, _: BTreeMap<u32, String>) {}
}

/// One node's disk and state, which outlive its process.
pub(crate) struct Machine {
    pub(crate) disk: SimDisk,
    pub(crate) engine: MemoryEngine,
    pub(crate) service: Option<Service>,
}

impl Machine {
    /// With nothing on it.
    pub(crate) fn empty(seed: u64) -> Machine {
        Machine {
            disk: SimDisk::new(seed),
            engine: MemoryEngine::new(),
            service: None,
        }
    }

    /// Another one with the same on it.
    pub(crate) fn copy(&self) -> Machine {
        Machine {
            disk: self.disk.fork(),
            engine: self.engine.fork(),
            service: None,
        }
    }
}

pub(crate) struct Cluster {
    wires: Arc<Wires>,
    pub(crate) machines: BTreeMap<u32, Machine>,
    size: u32,
    moved_ms: Arc<AtomicU64>,
    retention_bytes: u64,
    bounds: Bounds,
}

impl Cluster {
    pub(crate) async fn start(size: u32) -> Self {
        Self::start_with(size, u64::MAX, Bounds::default()).await
    }

    /// With so many bytes of log on each node; a segment has 4 MiB.
    pub(crate) async fn start_retaining(size: u32, retention_bytes: u64) -> Self {
        Self::start_with(size, retention_bytes, Bounds::default()).await
    }

    /// With no room for receives that wait.
    pub(crate) async fn start_with_full_rooms(size: u32) -> Self {
        let bounds = Bounds {
            waiting_receives: 0,
            ..Bounds::default()
        };
        Self::start_with(size, u64::MAX, bounds).await
    }

    /// Whatever a filter does not let through is told to the log at once.
    pub(crate) async fn start_telling(size: u32) -> Self {
        let bounds = Bounds {
            pass_over_after_ms: 0,
            ..Bounds::default()
        };
        Self::start_with(size, u64::MAX, bounds).await
    }

    async fn start_with(size: u32, retention_bytes: u64, bounds: Bounds) -> Self {
        let machines = (1..=size).map(|id| (id, Machine::empty(u64::from(id)))).collect();
        let mut cluster = Self {
            wires: Arc::default(),
            machines,
            size,
            moved_ms: Arc::default(),
            retention_bytes,
            bounds,
        };
        for id in 1..=size {
            cluster.boot(id).await;
        }
        cluster.wait_ready().await;
        cluster
    }

    fn options(&self, id: u32) -> NodeOptions {
        let initial_cluster = match self.size {
            1 => BTreeMap::new(),
            size => (1..=size).map(|id| (id, format!("node-{id}:8083"))).collect(),
        };
        let mut store = StoreOptions::new(1);
        store.segment_bytes = 4 * 1024 * 1024;
        store.keep_free_bytes = 0;
        NodeOptions {
            node_id: id,
            initial_cluster,
            data_shards: Some(2),
            peer_addr: format!("node-{id}:8083"),
            client_addr: format!("node-{id}:8081"),
            http_addr: format!("node-{id}:8082"),
            auto_create_topics: true,
            auto_create_groups: true,
            default_queues: 4,
            retention: Duration::from_secs(3600),
            retention_bytes: self.retention_bytes,
            max_delay: broker::limits::MAX_DELAY,
            transactions: Default::default(),
            renew_at_most: broker::limits::RENEW_AT_MOST,
            raft: RaftOptions::default(),
            store,
            bounds: self.bounds,
        }
    }

    pub(crate) async fn boot(&mut self, id: u32) {
        self.try_boot(id).await.expect("the node starts");
    }

    /// Starts a node on what its machine has, if that can be.
    pub(crate) async fn try_boot(&mut self, id: u32) -> Result<(), NodeError> {
        let options = self.options(id);
        let transport = Arc::new(Wire {
            from: id,
            wires: Arc::clone(&self.wires),
        });
        let machine = self.machines.get_mut(&id).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(MovedClock {
            by_ms: Arc::clone(&self.moved_ms),
            ..Default::default()
        });
        let node = Node::start(
            options,
            machine.disk.mount(),
            machine.engine.mount(),
            transport,
            clock,
        )
        .await?;
        self.wires.nodes.lock().unwrap().insert(id, node.clone());
        machine.service = Some(Service::new(node));
        Ok(())
    }

    /// The process is gone, and what was not synced with it.
    pub(crate) async fn kill(&mut self, id: u32) {
        let node = self
            .wires
            .nodes
            .lock()
            .unwrap()
            .remove(&id)
            .expect("the node runs");
        let machine = self.machines.get_mut(&id).unwrap();
        machine.service = None;
        machine.disk.crash(Loss::All);
        machine.engine.crash(0);
        node.stop(StopReason::Shutdown);
        for shard in node.shards() {
            shard.replica.shutdown().await;
        }
        if let Some(meta) = node.meta_replica() {
            meta.shutdown().await;
        }
    }

    /// Puts another machine into a node's place while it does not run; the one that was there.
    pub(crate) fn replace(&mut self, id: u32, machine: Machine) -> Machine {
        let before = self.machines.insert(id, machine).expect("a node has a machine");
        assert!(before.service.is_none(), "it does not run");
        before
    }

    pub(crate) fn service(&self, id: u32) -> &Service {
        self.machines[&id].service.as_ref().expect("the node runs")
    }

    /// So much time passes on all nodes.
    pub(crate) fn pass(&self, time: Duration) {
        self.moved_ms
            .fetch_add(time.as_millis() as u64, Ordering::Relaxed);
    }

    /// From now on this becomes of what nodes pass on under this name.
    pub(crate) fn fail(&self, rpc: &str, fault: Fault) {
        self.wires.faults.lock().unwrap().insert(rpc.to_owned(), fault);
    }

    /// From now on what nodes pass on under this name arrives.
    pub(crate) fn heal(&self, rpc: &str) {
        self.wires.faults.lock().unwrap().remove(rpc);
    }

    /// How often nodes passed on requests of this name.
    pub(crate) fn forwarded(&self, rpc: &str) -> usize {
        let forwarded = self.wires.forwarded.lock().unwrap();
        forwarded.get(rpc).copied().unwrap_or_default()
    }

    /// How often a node asked another one who it is, and what it has.
    pub(crate) fn asked(&self, node: u32) -> usize {
        let asked = self.wires.asked.lock().unwrap();
        asked.get(&node).copied().unwrap_or_default()
    }

    /// The nodes that lead the two data shards, once these are two.
    pub(crate) async fn two_leaders(&self) -> (u32, u32) {
        let node = self.service(1).node();
        wait_for("two leaders", || {
            node.leader(1).is_some() && node.leader(2).is_some() && node.leader(1) != node.leader(2)
        })
        .await;
        (node.leader(1).unwrap(), node.leader(2).unwrap())
    }

    /// Waits until every replica has applied what its leader has.
    pub(crate) async fn wait_level(&self) {
        wait_for("every replica to have everything", || {
            [0, 1, 2].iter().all(|&shard| {
                let nodes = self.running().into_iter().map(|id| self.service(id).node());
                let statuses = nodes.map(|node| node.statuses().into_iter().find(|(id, _)| *id == shard));
                let mut applied = statuses.map(|status| status.and_then(|(_, status)| status.applied));
                let first = applied.next();
                applied.all(|other| Some(other) == first)
            })
        })
        .await;
    }

    pub(crate) fn running(&self) -> Vec<u32> {
        self.machines
            .iter()
            .filter(|(_, machine)| machine.service.is_some())
            .map(|(&id, _)| id)
            .collect()
    }

    pub(crate) async fn wait_ready(&self) {
        wait_for("every shard to have a leader", || {
            self.running().iter().all(|&id| self.service(id).ready().is_ok())
        })
        .await;
    }
}

/// Waits until `seen`, or fails the test.
pub(crate) async fn wait_for(what: &str, seen: impl Fn() -> bool) {
    wait_until(what, async || seen()).await;
}

/// The same where it takes a request to see it.
pub(crate) async fn wait_until(what: &str, mut seen: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !seen().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

pub(crate) fn caller() -> Caller {
    Caller {
        client_id: "test@1".into(),
        language: "JAVA".into(),
        deadline: Some(Duration::from_secs(10)),
        ..Caller::default()
    }
}

pub(crate) fn resource(name: &str) -> Resource {
    Resource {
        resource_namespace: String::new(),
        name: name.into(),
    }
}

pub(crate) fn message(topic: &str, id: &str) -> Message {
    let system_properties = SystemProperties {
        message_id: id.into(),
        ..Default::default()
    };
    Message {
        topic: Some(resource(topic)),
        system_properties: Some(system_properties),
        body: format!("body of {id}").into(),
        ..Default::default()
    }
}

pub(crate) async fn send(service: &Service, topic: &str, id: &str) -> SendMessageResponse {
    let request = SendMessageRequest {
        messages: vec![message(topic, id)],
    };
    service.send_message(&caller(), request).await
}

/// Sends a message with half a mebibyte.
pub(crate) async fn send_large(service: &Service, topic: &str, id: &str) -> SendMessageResponse {
    let mut large = message(topic, id);
    large.body = vec![b'.'; 512 << 10].into();
    let request = SendMessageRequest {
        messages: vec![large],
    };
    service.send_message(&caller(), request).await
}

pub(crate) fn code(status: &Option<flotilla_proto::rocketmq::Status>) -> Code {
    Code::try_from(status.as_ref().expect("a status").code).expect("a known code")
}

pub(crate) fn receive_request(topic: &str, group: &str, wait: Duration) -> ReceiveMessageRequest {
    ReceiveMessageRequest {
        group: Some(resource(group)),
        message_queue: Some(MessageQueue {
            topic: Some(resource(topic)),
            ..Default::default()
        }),
        filter_expression: Some(FilterExpression {
            r#type: FilterType::Tag as i32,
            expression: "*".into(),
        }),
        batch_size: 32,
        invisible_duration: Some(prost_types::Duration {
            seconds: 10,
            nanos: 0,
        }),
        long_polling_timeout: Some(prost_types::Duration {
            seconds: wait.as_secs() as i64,
            nanos: wait.subsec_nanos() as i32,
        }),
        ..Default::default()
    }
}

pub(crate) async fn receive(
    service: &Service,
    topic: &str,
    group: &str,
    wait: Duration,
) -> (Code, Vec<Message>) {
    let (status, messages) = ask(service, receive_request(topic, group, wait)).await;
    (code(&status), messages)
}

/// What a receive is answered.
pub(crate) async fn ask(
    service: &Service,
    request: ReceiveMessageRequest,
) -> (Option<flotilla_proto::rocketmq::Status>, Vec<Message>) {
    let responses = service.receive_message(&caller(), request).await;
    let mut status = None;
    let mut messages = Vec::new();
    for response in responses {
        match response.content.expect("no empty elements") {
            Content::Status(found) => status = Some(found),
            Content::Message(found) => messages.push(found),
            Content::DeliveryTimestamp(_) => {}
        }
    }
    (status, messages)
}

pub(crate) fn properties(message: &Message) -> &SystemProperties {
    message
        .system_properties
        .as_ref()
        .expect("delivered messages have them")
}

pub(crate) async fn ack(service: &Service, topic: &str, group: &str, message: &Message) -> Code {
    let entry = AckMessageEntry {
        message_id: properties(message).message_id.clone(),
        receipt_handle: properties(message).receipt_handle.clone().expect("a handle"),
        lite_topic: None,
    };
    let request = AckMessageRequest {
        group: Some(resource(group)),
        topic: Some(resource(topic)),
        entries: vec![entry],
    };
    let response = service.ack_message(&caller(), request).await;
    assert_eq!(response.entries.len(), 1, "one result for each entry");
    code(&response.status)
}
