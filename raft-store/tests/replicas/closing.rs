//! Stores that are closed while something is under way.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt;
use raft_store::{
    Applied, EngineError, LogId, Machine, ProposeError, Replica, StateRead, StateWrite, Store, StoreError,
    disk::SimDisk, limits::SETTLES_WITHIN_MS,
};
use tokio::task::JoinHandle;

use crate::{
    cluster::{Cluster, eventually},
    damage::{crash_damaged, filled},
    ledger::Ledger,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_closes_while_a_replica_that_opens_waits_for_a_record_that_nobody_gives_it() {
    let mut cluster = filled().await;
    let id = crash_damaged(&mut cluster).await;
    cluster.cut(id);
    let node = cluster.node(id);
    let store = node.open_store().await.unwrap();
    let opening = tokio::spawn({
        let (store, options) = (store.clone(), node.replica_options(Arc::new(Ledger::default())));
        async move { store.open_replica(options).await.map(|_| ()) }
    });
    eventually("damage", || async { store.damages().first().cloned() }).await;
    let bound = Duration::from_millis(SETTLES_WITHIN_MS / 2);
    let closed = tokio::time::timeout(bound, store.close()).await;
    closed.expect("in time").expect("the state is flushed");
    assert!(opening.await.unwrap().is_err());
    let again = node.replica_options(Arc::new(Ledger::default()));
    assert!(matches!(
        store.open_replica(again).await,
        Err(StoreError::Closing)
    ));
}

/// A machine that stands still in the middle of an entry.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
    inside: AtomicBool,
}

impl Gate {
    fn set(&self, closed: bool) {
        *self.closed.lock().unwrap() = closed;
        self.opened.notify_all();
    }
}

/// A test that fails does not leave a thread behind the gate.
struct Opens(Arc<Gate>);

impl Drop for Opens {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Machine for Gate {
    fn restore(&self, _: &dyn StateRead) -> Result<(), EngineError> {
        Ok(())
    }

    fn apply(&self, _: LogId, _: &Bytes, _: &mut dyn StateWrite) -> Result<Applied, EngineError> {
        let mut closed = self.closed.lock().unwrap();
        self.inside.store(*closed, Ordering::SeqCst);
        while *closed {
            closed = self.opened.wait(closed).unwrap();
        }
        self.inside.store(false, Ordering::SeqCst);
        Ok(Applied::none())
    }

    fn oldest_live_index(&self, _: &dyn StateRead) -> Result<Option<u64>, EngineError> {
        Ok(None)
    }
}

/// A store with a replica whose machine stands still, until the last value is dropped.
async fn at_a_standstill(cluster: &mut Cluster) -> (Store, Replica, JoinHandle<bool>, Opens) {
    cluster.node(1).stop().await;
    let node = cluster.node(1);
    let gate = Arc::new(Gate::default());
    let opens = Opens(gate.clone());
    let store = node.open_store().await.unwrap();
    let options = node.replica_options(gate.clone());
    let replica = store.open_replica(options).await.unwrap();
    eventually("a leader", || async { replica.status().is_leader.then_some(()) }).await;
    gate.set(true);
    let proposing = tokio::spawn({
        let replica = replica.clone();
        async move { replica.propose(Bytes::from_static(b"it")).await.is_ok() }
    });
    eventually("an entry to apply", || async {
        gate.inside.load(Ordering::SeqCst).then_some(())
    })
    .await;
    (store, replica, proposing, opens)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_closes_though_one_of_its_replicas_does_not_end() {
    let mut cluster = Cluster::start(1).await;
    let (store, _replica, _proposing, _opens) = at_a_standstill(&mut cluster).await;
    let closing = tokio::spawn(async move { store.close().await.is_ok() });
    let bound = Duration::from_millis(2 * SETTLES_WITHIN_MS);
    let closed = tokio::time::timeout(bound, closing).await;
    assert!(closed.expect("in time").unwrap(), "the state is flushed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_replica_has_stopped_when_its_machine_has() {
    let mut cluster = Cluster::start(1).await;
    let (store, replica, proposing, opens) = at_a_standstill(&mut cluster).await;
    let gate = opens.0.clone();
    let mut stopping = Box::pin(replica.shutdown());
    // The core ends at once; that it has can be seen.
    eventually("the core's end", || {
        let still = stopping.as_mut().now_or_never().is_none();
        assert!(still, "its machine is at work");
        let asked = replica.propose(Bytes::from_static(b"more")).now_or_never();
        async move { matches!(asked, Some(Err(ProposeError::Stopped(_)))).then_some(()) }
    })
    .await;
    assert_eq!(stopping.as_mut().now_or_never(), None);
    drop(opens);
    stopping.await;
    assert!(!gate.inside.load(Ordering::SeqCst));
    proposing.await.unwrap();
    store.close().await.unwrap();
}

/// The state of one cluster's node, and the log of another one's with the same places.
#[tokio::test]
async fn a_state_of_another_history_is_damage() {
    let mut cluster = Cluster::start(1).await;
    cluster.put_many("a", 20).await;
    let log: SimDisk = {
        let node = cluster.node(1);
        node.crash(1).await;
        node.disk.fork()
    };
    let mut other = Cluster::start(1).await;
    for _ in 0..3 {
        other.node(1).stop().await;
        other.node(1).start().await;
        other.leader().await;
    }
    other.put_many("b", 5).await;
    other.node(1).stop().await;
    let node = other.node(1);
    node.disk = log;
    let refused = node.try_start().await;
    assert!(
        matches!(&refused, Err(StoreError::Corrupt(what)) if what.contains("by entries that the log does not have")),
        "{refused:?}"
    );
}
