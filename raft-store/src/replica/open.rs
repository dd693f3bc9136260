//! Opening a replica: checks what is stored, finishes what a crash has cut short, starts openraft.

use std::sync::{Arc, Mutex};

use openraft::{Config, SnapshotPolicy, async_runtime::WatchReceiver};
use tokio::sync::mpsc;

use super::{Inner, Raft, RaftOptions, Repairs, Replica, ReplicaOptions, inbound};
use crate::{
    blocking::{Work, blocking},
    engine::Engine,
    health::{Health, StoreStopped},
    limits::MAX_INBOUND_APPENDS,
    log::NodeLog,
    snapshot::{Snapshots, Traffic},
    state::ShardState,
    storage::{LogStore, StateMachine, Synced},
    store::{StoreError, WeakStore},
    transport::Network,
    types::convert,
};

/// What a store lends its replicas.
pub(crate) struct Shared {
    pub(crate) log: NodeLog,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) health: Health,
    pub(crate) store: WeakStore,
    pub(crate) traffic: Traffic,
}

/// Opens a replica over what the store has of its shard.
pub(crate) async fn open(shared: Shared, options: ReplicaOptions) -> Result<Replica, StoreError> {
    let Shared {
        log,
        engine,
        health,
        store,
        traffic,
    } = shared;
    let ReplicaOptions {
        shard,
        replica,
        machine,
        transport,
        raft: times,
    } = options;
    let state = Arc::new(ShardState::open(shard, engine)?);
    own(&state, replica).await?;
    let repairs = Repairs::new(
        shard,
        log.clone(),
        health.clone(),
        transport.clone(),
        times.append_ttl,
    );
    let snapshots = Arc::new(Snapshots::new(
        state.clone(),
        log.clone(),
        health.clone(),
        traffic,
        repairs.clone(),
    ));
    snapshots
        .resume(&machine)
        .await
        .map_err(|e| match (health.stopped(), e.kind()) {
            (Some(StoreStopped::Newer(what)), _) => StoreError::Newer(what),
            (Some(StoreStopped::Corrupt(what)), _) => StoreError::Corrupt(what),
            (None, std::io::ErrorKind::InvalidData) => StoreError::Corrupt(e.to_string()),
            _ => StoreError::Failed(e.to_string()),
        })?;
    check(&log, &state)?;
    plant!(UncommittedTailDropped => crate::planted::drop_uncommitted(&log, shard, &state).await?);
    state.with_read(|read, _| machine.restore(read))?;

    let stored = log.shard(shard);
    let synced = Arc::new(Synced::new(stored.last.map_or(0, |last| last.index + 1)));
    let log_store = LogStore::new(
        shard,
        log.clone(),
        synced.clone(),
        health.clone(),
        repairs.clone(),
    );
    let (at_work, work) = mpsc::channel(1);
    let state_machine = StateMachine {
        state: state.clone(),
        machine: machine.clone(),
        log: log.clone(),
        synced,
        snapshots: snapshots.clone(),
        health: health.clone(),
        _at_work: at_work,
    };
    let network = Network {
        shard,
        replica,
        transport,
        snapshots: snapshots.clone(),
        append_ttl: times.append_ttl,
    };
    // Whatever is stored now was read from disk.
    let flushed = state.applied();
    let raft = Raft::new(replica, config(shard, &times)?, network, log_store, state_machine)
        .await
        .map_err(|fatal| match health.stopped() {
            Some(StoreStopped::Corrupt(what)) => StoreError::Corrupt(what),
            Some(StoreStopped::Newer(what)) => StoreError::Newer(what),
            _ => StoreError::Failed(fatal.to_string()),
        })?;
    let (appends, queue) = mpsc::channel(MAX_INBOUND_APPENDS);
    tokio::spawn(inbound::pump(raft.clone(), queue));
    stand_alone(&raft, replica).await;
    let inbox = tokio::sync::Mutex::new(snapshots.inbox());
    let flushed = Mutex::new(flushed);
    let inner = Inner {
        shard,
        replica,
        options: times,
        raft,
        state,
        machine,
        log,
        health,
        store,
        appends,
        inbox,
        snapshots,
        repairs,
        flushed,
        work: tokio::sync::Mutex::new(work),
    };
    Ok(Replica {
        inner: Arc::new(inner),
    })
}

/// Makes sure that the shard's data is this replica's, or nobody's yet.
async fn own(state: &Arc<ShardState>, replica: u64) -> Result<(), StoreError> {
    match state.replica()? {
        Some(stored) if stored == replica => Ok(()),
        Some(stored) => Err(StoreError::WrongReplica {
            shard: state.shard(),
            stored,
            asked: replica,
        }),
        None => {
            // Durable before the first vote: a log without an owner could be taken for another replica's.
            let state = state.clone();
            let owned = blocking(Work::Flush, move || {
                state.set_replica(replica)?;
                state.engine().flush()
            });
            Ok(owned.await?)
        }
    }
}

/// Log and state must fit: neither may be older than the other allows, or of another history. Otherwise a part of the directory was lost or
/// replaced, and this replica might have forgotten votes or entries it has answered for.
fn check(log: &NodeLog, state: &ShardState) -> Result<(), StoreError> {
    let stored = log.shard(state.shard());
    let applied = state.applied().map(|id| id.index);
    let corrupt = |what: &str| {
        let positions = format!(
            "applied {applied:?}, log {:?} to {:?}",
            stored.purged, stored.last
        );
        Err(StoreError::Corrupt(format!(
            "shard {}: {what} ({positions})",
            state.shard()
        )))
    };
    if plant!(StateOlderThanPurgeAccepted => false, else applied < stored.purged.map(|id| id.index)) {
        return corrupt("the state is older than the log reaches back");
    }
    if applied > stored.last.map(|id| id.index) {
        return corrupt("the state is ahead of the log");
    }
    if applied.is_some() && stored.vote.is_none() {
        return corrupt("the vote is missing");
    }
    // A place of which nothing can be read says nothing: that is found out, and repaired, by who needs it.
    let here = applied.and_then(|index| log.log_id(state.shard(), index).ok().flatten());
    if here.is_some() && here != state.applied().as_ref().map(convert::from_raft) {
        return corrupt("the state was made by entries that the log does not have");
    }
    Ok(())
}

/// A shard's only voter need not wait for the silence of a leader that cannot be.
async fn stand_alone(raft: &Raft, replica: u64) {
    let alone = {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.voter_ids().eq([replica])
    };
    if alone {
        let _ = raft.trigger().elect(false).await;
    }
}

fn config(shard: u32, times: &RaftOptions) -> Result<Arc<Config>, StoreError> {
    let millis = |duration: std::time::Duration| duration.as_millis() as u64;
    let config = Config {
        cluster_name: format!("shard {shard}"),
        heartbeat_interval: millis(times.heartbeat),
        // What carries entries needs no heartbeat beside it.
        heartbeat_min_interval: Some(millis(times.heartbeat)),
        election_timeout_min: millis(times.election_min),
        election_timeout_max: millis(times.election_max),
        install_snapshot_timeout: millis(times.snapshot_ttl),
        max_payload_entries: times.append_entries,
        max_append_entries: Some(times.append_entries),
        // Snapshots are made when a replica needs one, and purging is the retention's decision alone.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // Without it a replica that was away deposes a healthy leader when it comes back.
        enable_pre_vote: Some(true),
        // A leader that restarts cannot know whether others have moved on; an election finds out.
        enable_leader_restore: Some(false),
        backoff: "50ms 100ms 200ms ..500ms".to_owned(),
        ..Config::default()
    };
    let config = config
        .validate()
        .map_err(|e| StoreError::Failed(format!("bad raft options: {e}")))?;
    Ok(Arc::new(config))
}
