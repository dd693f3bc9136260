//! Damage is repaired where it is: the record is fetched from another replica, checked, and written once more at its place.
//!
//! A record's log id (leader's term, leader, index) stands in the index of the log, with a checksum of its own. What has
//! the same log id is the same entry everywhere, and its bytes are the same: so any replica may give it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flotilla_proto::{
    peer::{RaftRequest, RecordRequest, RecordResponse, raft_request, raft_response},
    record,
};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};

use crate::{
    blocking::{Work, blocking},
    health::Health,
    limits::REPAIR_EVERY_MS,
    log::{NodeLog, ReadError, RepairError},
    log_id::LogId,
    record::RecordHead,
    transport::Transport,
};

/// An attempt to repair a record, for all who wait for it.
type Trial = Shared<BoxFuture<'static, bool>>;

/// Repairs the records of one shard.
pub(crate) struct Repairs {
    shard: u32,
    log: NodeLog,
    health: Health,
    transport: Arc<dyn Transport>,
    /// How long another replica may take to answer.
    ttl: Duration,
    closing: AtomicBool,
    /// The records whose repair is tried now, by index.
    trials: Mutex<BTreeMap<u64, Trial>>,
}

impl Repairs {
    pub(crate) fn new(
        shard: u32,
        log: NodeLog,
        health: Health,
        transport: Arc<dyn Transport>,
        ttl: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            shard,
            log,
            health,
            transport,
            ttl,
            closing: AtomicBool::new(false),
            trials: Mutex::default(),
        })
    }

    fn trials(&self) -> MutexGuard<'_, BTreeMap<u64, Trial>> {
        self.trials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody waits for a repair from now on.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    /// Waits until the record can be read again: tried now, and again after each pause.
    ///
    /// # Errors
    ///
    /// The damage, when the replica stops first.
    pub(crate) async fn wait_for(self: &Arc<Self>, damage: ReadError) -> std::io::Result<()> {
        let ReadError::Corrupt { index, .. } = damage else {
            return Err(self.health.read(damage));
        };
        self.health.damages.note(&damage);
        while !self.mend(index).await {
            if self.closing.load(Ordering::SeqCst) || self.health.ends() {
                return Err(std::io::Error::other(damage));
            }
            tokio::time::sleep(Duration::from_millis(REPAIR_EVERY_MS)).await;
        }
        Ok(())
    }

    /// Tries to repair the record at `index`. Whether it can be read now, or is not here any more. However many ask for a
    /// record, and give up waiting, one attempt is under way.
    pub(crate) async fn mend(self: &Arc<Self>, index: u64) -> bool {
        let trial = self
            .trials()
            .entry(index)
            .or_insert_with(|| self.try_by_itself(index))
            .clone();
        trial.await
    }

    /// Not by who asks: a caller that is not polled for a while must not keep the turn from the others meanwhile.
    fn try_by_itself(self: &Arc<Self>, index: u64) -> Trial {
        let repairs = self.clone();
        let trial = tokio::spawn(async move {
            let mended = repairs.mend_in_turn(index).await;
            repairs.trials().remove(&index);
            mended
        });
        trial.map(|ended| ended.unwrap_or(false)).boxed().shared()
    }

    async fn mend_in_turn(&self, index: u64) -> bool {
        let _turn = self.health.damages.turn.lock().await;
        match self.try_mend(index).await {
            Ok(true) => {
                self.health.damages.gone(self.shard, index);
                true
            }
            Ok(false) => false,
            // What ended the store was said.
            Err(_) if self.health.stopped().is_some() => false,
            Err(error) => {
                tracing::error!(shard = self.shard, index, %error, "a damaged record could not be repaired");
                false
            }
        }
    }

    async fn try_mend(&self, index: u64) -> Result<bool, RepairError> {
        let (log, shard) = (self.log.clone(), self.shard);
        for id in blocking(Work::Read, move || log.damaged(shard, index)).await? {
            let Some(record) = self.ask(id).await else {
                return Ok(false);
            };
            let (log, bytes) = (self.log.clone(), record.clone());
            match blocking(Work::Repair, move || log.rewrite(shard, &bytes)).await {
                // As long as the log goes on it has other places, for what was agreed: what was imported is never cut off.
                Err(RepairError::Disk { .. }) if self.is_committed(index) => {
                    self.log.import(shard, vec![record]).await?;
                }
                rewritten => rewritten?,
            }
            self.health.damages.repaired();
            tracing::warn!(shard, index, "a damaged record was repaired with another node's");
        }
        Ok(true)
    }

    fn is_committed(&self, index: u64) -> bool {
        let committed = self.log.shard(self.shard).committed;
        committed.is_some_and(|at| index <= at.index)
    }

    /// The record, from whichever replica has it.
    async fn ask(&self, id: LogId) -> Option<Bytes> {
        let wanted = record::LogId {
            term: id.term,
            node: id.node,
            index: id.index,
        };
        for to in self.transport.replicas() {
            let request = RaftRequest {
                shard: self.shard,
                to,
                body: Some(raft_request::Body::Record(RecordRequest { id: Some(wanted) })),
                ..RaftRequest::default()
            };
            let answer = self.transport.raft(to, request, self.ttl).await;
            if let Ok(Some(raft_response::Body::Record(answer))) = answer.map(|answer| answer.body)
                && !answer.record.is_empty()
            {
                return Some(answer.record);
            }
        }
        None
    }

    /// What another replica asks for, if it is here and whole.
    pub(super) async fn give(&self, request: RecordRequest) -> RecordResponse {
        let Some(id) = request.id.map(|id| LogId::at(id.term, id.node, id.index)) else {
            return RecordResponse::default();
        };
        let (log, shard) = (self.log.clone(), self.shard);
        plant!(AnothersDamageIsAnError => tracing::error!(shard, "another node has damaged records"));
        let read = blocking(Work::Read, move || log.read_record(shard, id.index)).await;
        let record = match read {
            Ok(record) if RecordHead::parse(&record).is_ok_and(|head| head.log_id == id) => record,
            Err(error) => {
                self.health.damages.note(&error);
                Bytes::new()
            }
            _ => Bytes::new(),
        };
        RecordResponse { record }
    }
}
