//! Data directories of every released format stay readable.
//!
//! `tests/golden/v1/store` is never written again; a new format version gets a directory of its own.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use flotilla_proto::peer::{RaftRequest, RaftResponse};
use raft_store::{
    Replica, ReplicaOptions, RocksEngine, Store, StoreOptions, Transport, TransportError, disk::RealDisk,
};

use crate::{
    cluster::{SHARD, eventually, options, payloads, replica_id},
    ledger::Ledger,
};

const IDENTITY: u64 = 0xf107_111a;

/// A shard of one replica talks to nobody.
struct Nobody;

#[async_trait]
impl Transport for Nobody {
    async fn raft(
        &self,
        _: u64,
        _: RaftRequest,
        _: std::time::Duration,
    ) -> Result<RaftResponse, TransportError> {
        Err(TransportError::Unreachable("there is nobody".into()))
    }

    fn replicas(&self) -> Vec<u64> {
        Vec::new()
    }
}

fn golden(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v{version}/store"))
}

async fn open(directory: &Path) -> (Store, Replica) {
    let disk = Arc::new(RealDisk::open(directory).unwrap());
    let engine = Arc::new(RocksEngine::open(&directory.join("state")).unwrap());
    let options = StoreOptions {
        new_identity: IDENTITY,
        segment_bytes: 4 << 10,
        ..options(1)
    };
    let store = Store::open(disk, engine, options).await.unwrap();
    let replica = store
        .open_replica(ReplicaOptions {
            shard: SHARD,
            replica: replica_id(1),
            machine: Arc::new(Ledger::default()),
            transport: Arc::new(Nobody),
            raft: Default::default(),
        })
        .await
        .unwrap();
    (store, replica)
}

async fn put(replica: &Replica, what: &str) -> u64 {
    let payload = Bytes::from(format!("put {what}"));
    replica.propose(payload).await.unwrap().take().unwrap()
}

async fn lead(replica: &Replica) {
    eventually("the lead", || async {
        replica.barrier().await.is_ok().then_some(())
    })
    .await;
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn check_content(replica: &Replica) {
    let expected: Vec<_> = (20..60).map(|i| format!("put golden {i}")).collect();
    assert_eq!(payloads(replica).into_iter().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_store_of_version_1_opens_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    copy(&golden(1), directory.path());
    let (store, replica) = open(directory.path()).await;
    assert_eq!((store.identity(), store.fresh()), (IDENTITY, false));
    assert_eq!(store.shards().unwrap(), [(SHARD, replica_id(1))]);
    lead(&replica).await;
    check_content(&replica);
    assert_eq!(put(&replica, "more").await, 60);
    store.close().await.unwrap();
}

/// With `FLOTILLA_WRITE_GOLDEN=1` what is written here becomes the golden store of a new format version.
#[tokio::test]
async fn what_this_build_writes_opens_like_the_golden_store() {
    let directory = tempfile::tempdir().unwrap();
    let (store, replica) = open(directory.path()).await;
    replica
        .initialize(BTreeMap::from([(replica_id(1), 1)]))
        .await
        .unwrap();
    lead(&replica).await;
    for i in 0..40 {
        put(&replica, &format!("golden {i}")).await;
    }
    replica.propose("trim 20".into()).await.unwrap();
    replica.purge_to(10).await.unwrap();
    // What follows is not flushed: opening has to replay it.
    for i in 40..60 {
        put(&replica, &format!("golden {i}")).await;
    }
    replica.shutdown().await;
    store.log().clone().close().await;
    let written = tempfile::tempdir().unwrap();
    copy(directory.path(), written.path());
    if std::env::var_os("FLOTILLA_WRITE_GOLDEN").is_some() {
        keep(written.path());
    }
    let (store, replica) = open(written.path()).await;
    lead(&replica).await;
    check_content(&replica);
    store.close().await.unwrap();
}

fn keep(written: &Path) {
    let target = golden(1);
    assert!(!target.exists(), "a golden directory is written once");
    copy(written, &target);
    for name in ["LOCK", "state/LOCK", "state/LOG"] {
        let _ = fs::remove_file(target.join(name));
    }
}
