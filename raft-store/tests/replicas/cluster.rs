//! Nodes that can be killed, cut off and brought back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use flotilla_proto::peer::{RaftRequest, RaftResponse, raft_request};
use futures::StreamExt;
use raft_store::{
    Machine, MemoryEngine, ProposeError, RaftOptions, Replica, ReplicaOptions, Store, StoreError,
    StoreOptions, Transport, TransportError,
    disk::{SimDisk, sim::Loss},
};

use crate::ledger::{Ledger, entries};

pub(crate) const SHARD: u32 = 7;
/// Long enough for two busy cores; what is waited for comes much sooner.
const PATIENCE: Duration = Duration::from_secs(60);

/// Replica id of a node's first incarnation.
pub(crate) fn replica_id(node: u32) -> u64 {
    u64::from(node) << 16 | 1
}

/// Who can reach whom.
#[derive(Default)]
struct Net {
    replicas: BTreeMap<u64, Replica>,
    cut: BTreeSet<u64>,
    /// Calls that went nowhere, by caller.
    lost: BTreeMap<u64, u64>,
    /// Bytes of snapshots sent to each replica, and how many may be: then the way breaks.
    snapshots: BTreeMap<u64, u64>,
    snapshot_limit: Option<u64>,
}

#[derive(Clone)]
struct Wire {
    from: u64,
    net: Arc<Mutex<Net>>,
}

#[async_trait]
impl Transport for Wire {
    async fn raft(
        &self,
        to: u64,
        request: RaftRequest,
        ttl: Duration,
    ) -> Result<RaftResponse, TransportError> {
        let answer = {
            let mut net = self.net.lock().unwrap();
            if net.cut.contains(&to) || net.cut.contains(&self.from) {
                *net.lost.entry(self.from).or_default() += 1;
                return Err(TransportError::Unreachable("cut off".into()));
            }
            if let Some(raft_request::Body::Snapshot(chunk)) = &request.body {
                let limit = net.snapshot_limit.unwrap_or(u64::MAX);
                let sent = net.snapshots.entry(to).or_default();
                if *sent + chunk.data.len() as u64 > limit {
                    return Err(TransportError::Unreachable("that much and no more".into()));
                }
                *sent += chunk.data.len() as u64;
            }
            match net.replicas.get(&to) {
                None => return Err(TransportError::Unreachable("not running".into())),
                Some(replica) => replica.handle(request),
            }
        };
        let response = tokio::time::timeout(ttl, answer)
            .await
            .map_err(|_| TransportError::TimedOut)?;
        let net = self.net.lock().unwrap();
        if net.cut.contains(&to) || net.cut.contains(&self.from) {
            return Err(TransportError::TimedOut);
        }
        Ok(response)
    }

    fn replicas(&self) -> Vec<u64> {
        let net = self.net.lock().unwrap();
        net.replicas
            .keys()
            .copied()
            .filter(|id| *id != self.from)
            .collect()
    }
}

/// One node: what survives it, and what runs.
pub(crate) struct Node {
    pub(crate) id: u32,
    pub(crate) disk: SimDisk,
    pub(crate) engine: MemoryEngine,
    pub(crate) running: Option<Running>,
    options: StoreOptions,
    net: Arc<Mutex<Net>>,
}

/// A node that is up.
pub(crate) struct Running {
    pub(crate) store: Store,
    pub(crate) replica: Replica,
    pub(crate) machine: Arc<Ledger>,
}

impl Node {
    pub(crate) fn replica(&self) -> &Replica {
        &self.running.as_ref().expect("the node is up").replica
    }

    pub(crate) fn store(&self) -> &Store {
        &self.running.as_ref().expect("the node is up").store
    }

    pub(crate) async fn open_store(&self) -> Result<Store, StoreError> {
        Store::open(self.disk.mount(), self.engine.mount(), self.options.clone()).await
    }

    pub(crate) fn replica_options(&self, machine: Arc<dyn Machine>) -> ReplicaOptions {
        ReplicaOptions {
            shard: SHARD,
            replica: replica_id(self.id),
            machine,
            transport: Arc::new(Wire {
                from: replica_id(self.id),
                net: self.net.clone(),
            }),
            raft: RaftOptions::default(),
        }
    }

    pub(crate) async fn try_start(&mut self) -> Result<(), StoreError> {
        let store = self.open_store().await?;
        let machine = Arc::new(Ledger::default());
        let replica = store.open_replica(self.replica_options(machine.clone())).await?;
        self.net
            .lock()
            .unwrap()
            .replicas
            .insert(replica.id(), replica.clone());
        self.running = Some(Running {
            store,
            replica,
            machine,
        });
        Ok(())
    }

    pub(crate) async fn start(&mut self) {
        self.try_start().await.expect("the node starts");
    }

    /// Power loss: what was not synced or flushed is gone, in part or altogether.
    pub(crate) async fn crash(&mut self, seed: u64) {
        self.net.lock().unwrap().replicas.remove(&replica_id(self.id));
        self.disk.crash(Loss::Random(seed));
        self.disk.clear_faults();
        let unflushed = self.engine.unflushed();
        self.engine.crash(if unflushed == 0 {
            0
        } else {
            seed as usize % unflushed
        });
        if let Some(running) = self.running.take() {
            running.replica.shutdown().await;
        }
    }

    pub(crate) async fn stop(&mut self) {
        self.net.lock().unwrap().replicas.remove(&replica_id(self.id));
        let running = self.running.take().expect("the node is up");
        running.store.close().await.expect("the store closes");
    }
}

pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<u32, Node>,
    net: Arc<Mutex<Net>>,
    options: fn(u32) -> StoreOptions,
}

/// Options for tests: small segments, no flush unless asked for.
pub(crate) fn options(node: u32) -> StoreOptions {
    StoreOptions {
        segment_bytes: 1 << 20,
        keep_free_bytes: 0,
        flush_every_bytes: u64::MAX,
        flush_every: Duration::from_secs(3600),
        ..StoreOptions::new(1000 + u64::from(node))
    }
}

impl Cluster {
    /// Nodes `1..=count`, started, voters of one shard that has a leader.
    pub(crate) async fn start(count: u32) -> Self {
        Self::start_with(count, options).await
    }

    pub(crate) async fn start_with(count: u32, options: fn(u32) -> StoreOptions) -> Self {
        let mut cluster = Self {
            nodes: BTreeMap::new(),
            net: Arc::default(),
            options,
        };
        for id in 1..=count {
            cluster.add_node(id).await;
        }
        let members = |id: u32| (replica_id(id), id);
        for node in cluster.nodes.values() {
            node.replica()
                .initialize((1..=count).map(members).collect())
                .await
                .expect("the shard is founded");
        }
        cluster.leader().await;
        cluster
    }

    /// A node that takes no part in the shard yet.
    pub(crate) async fn add_node(&mut self, id: u32) {
        let mut node = Node {
            id,
            disk: SimDisk::new(u64::from(id)),
            engine: MemoryEngine::new(),
            running: None,
            options: (self.options)(id),
            net: self.net.clone(),
        };
        node.start().await;
        self.nodes.insert(id, node);
    }

    pub(crate) fn node(&mut self, id: u32) -> &mut Node {
        self.nodes.get_mut(&id).expect("there is such a node")
    }

    fn up(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.running.is_some())
    }

    pub(crate) fn cut(&self, node: u32) {
        self.net.lock().unwrap().cut.insert(replica_id(node));
    }

    /// How many calls of a node went nowhere because it, or the other side, was cut off.
    pub(crate) fn lost_calls(&self, node: u32) -> u64 {
        self.net
            .lock()
            .unwrap()
            .lost
            .get(&replica_id(node))
            .copied()
            .unwrap_or(0)
    }

    /// From now on no replica gets more than so many bytes of snapshots.
    pub(crate) fn limit_snapshots(&self, bytes: Option<u64>) {
        self.net.lock().unwrap().snapshot_limit = bytes;
    }

    /// Bytes of snapshots that were sent to a node.
    pub(crate) fn snapshot_bytes(&self, node: u32) -> u64 {
        let net = self.net.lock().unwrap();
        net.snapshots.get(&replica_id(node)).copied().unwrap_or(0)
    }

    pub(crate) fn heal(&self) {
        self.net.lock().unwrap().cut.clear();
    }

    /// The node whose replica leads and can prove it.
    pub(crate) async fn leader(&self) -> u32 {
        eventually("a leader", || async {
            for node in self.up() {
                if node.replica().status().is_leader && node.replica().barrier().await.is_ok() {
                    return Some(node.id);
                }
            }
            None
        })
        .await
    }

    pub(crate) async fn leader_replica(&self) -> Replica {
        self.nodes[&self.leader().await].replica().clone()
    }

    /// Proposes to whoever leads until it is done. Answers the entry's number.
    pub(crate) async fn put(&self, what: &str) -> u64 {
        let payload = Bytes::from(format!("put {what}"));
        let answer = eventually("a put", || async {
            for node in self.up() {
                match node.replica().propose(payload.clone()).await {
                    Ok(applied) => return Some(applied.take::<u64>().expect("a number")),
                    Err(ProposeError::NotLeader { .. } | ProposeError::Unknown { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            None
        });
        answer.await
    }

    /// Puts `count` entries with 64 under way, through whatever happens to the leader. Every one of them is
    /// acknowledged at least once; their payloads are `put {tag}-{i}`.
    pub(crate) async fn put_many(&self, tag: &str, count: u64) {
        let puts = (0..count).map(|i| async move { self.put(&format!("{tag}-{i}")).await });
        futures::stream::iter(puts)
            .buffer_unordered(64)
            .for_each(|_| async {})
            .await;
    }

    pub(crate) async fn trim(&self, below: u64) {
        let payload = Bytes::from(format!("trim {below}"));
        self.leader_replica()
            .await
            .propose(payload)
            .await
            .expect("the leader stays");
    }

    /// Waits until all running replicas have applied the same, and checks that their states are the same.
    pub(crate) async fn agree(&self) {
        let reached = eventually("agreement", || async {
            let mut applied: Vec<_> = self.up().map(|node| node.replica().status().applied).collect();
            let last: Vec<_> = self.up().map(|node| node.replica().status().last_log).collect();
            applied.dedup();
            (applied.len() == 1 && last.iter().all(|last| *last == applied[0].map(|id| id.index)))
                .then_some(())
        });
        reached.await;
        let mut states: Vec<_> = self.up().map(|node| (node.id, dump(node.replica()))).collect();
        let (first, state) = states.remove(0);
        for (other, theirs) in states {
            assert!(
                theirs == state,
                "nodes {first} and {other} differ: {} and {} pairs",
                state.len(),
                theirs.len()
            );
        }
    }

    /// Every payload of `put_many(tag, count)` is there, on every running node.
    pub(crate) fn check_all_there(&self, tag: &str, count: u64) {
        for node in self.up() {
            let found = payloads(node.replica());
            for i in 0..count {
                assert!(
                    found.contains(&format!("put {tag}-{i}")),
                    "node {} lost {tag}-{i}",
                    node.id
                );
            }
        }
    }
}

/// All keys and values of a replica's machine.
pub(crate) fn dump(replica: &Replica) -> Vec<(Bytes, Bytes)> {
    replica
        .read_state(|state| state.scan(&[], &[], usize::MAX))
        .expect("the state can be read")
}

/// The payloads of all entries a replica's state refers to, read from its log.
pub(crate) fn payloads(replica: &Replica) -> BTreeSet<String> {
    let read = |(number, index)| {
        let payload = replica.read_payload(index);
        let payload = payload.unwrap_or_else(|e| panic!("entry {number} of {}: {e}", replica.id()));
        String::from_utf8(payload.to_vec()).expect("text")
    };
    replica.read_state(entries).into_iter().map(read).collect()
}

/// Waits for something to come true.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut check: impl FnMut() -> F,
) -> T {
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}
