//! One shard's state, as openraft sees it: applies entries in batches, hands out and takes in snapshots.

use std::{io, sync::Arc};

use futures::{FutureExt, Stream, StreamExt};
use openraft::{
    OptionalSend,
    storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot},
};
use tokio::sync::mpsc;

use super::Synced;
use crate::{
    engine::EngineError,
    health::Health,
    limits::{MAX_APPLY_BYTES, MAX_APPLY_ENTRIES},
    log::NodeLog,
    machine::{Applied, Machine, StateWrite},
    runtime::now,
    snapshot::{SnapshotData, Snapshots, StateImage},
    state::{ShardState, ShardView, Standing},
    types::{Entry, Member, Payload, RaftLogId, SnapshotMeta, StoredMembership, TypeConfig, convert},
};

/// Feeds one shard's machine.
pub(crate) struct StateMachine {
    pub(crate) state: Arc<ShardState>,
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) log: NodeLog,
    pub(crate) synced: Arc<Synced>,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) health: Health,
    /// Gone with this: what openraft's worker does it does to its end, also when nobody waits for the worker any more.
    pub(crate) _at_work: mpsc::Sender<()>,
}

type Batch = Vec<EntryResponder<TypeConfig>>;
type OurSnapshot = Snapshot<crate::types::LeaderId, u64, Member, SnapshotData>;

impl StateMachine {
    /// Applies a batch and answers its proposers, in order, once it is committed to the engine.
    fn apply_batch(&self, batch: Batch) -> Result<(), EngineError> {
        let (entries, responders): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let answers = self.state.with_write(|state, standing| {
            entries
                .iter()
                .map(|entry| apply_entry(&*self.machine, entry, state, standing))
                .collect::<Result<Vec<_>, _>>()
        })?;
        for (responder, answer) in responders.into_iter().zip(answers) {
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }

    /// The state as it is now, to be sent or purged up to.
    fn image(&self) -> io::Result<StateImage> {
        self.try_image().map_err(|e| self.health.engine(e))
    }

    fn try_image(&self) -> Result<StateImage, EngineError> {
        let (view, section, standing) = self.state.view()?;
        let shard = self.state.shard();
        let oldest = self
            .machine
            .oldest_live_index(&ShardView::new(shard, section, &*view))?;
        Ok(StateImage {
            shard,
            view,
            section,
            standing,
            oldest,
            log: self.log.clone(),
            taken: now(),
        })
    }
}

fn apply_entry(
    machine: &dyn Machine,
    entry: &Entry,
    state: &mut dyn StateWrite,
    standing: &mut Standing,
) -> Result<Applied, EngineError> {
    let id = entry.id();
    assert!(
        standing.applied < Some(id),
        "an entry is applied once, after those before it"
    );
    standing.applied = Some(id);
    match entry.payload() {
        Payload::Blank => Ok(Applied::none()),
        Payload::Membership(membership) => {
            standing.membership = StoredMembership::new(Some(id), membership.clone());
            Ok(Applied::none())
        }
        Payload::Normal(data) => machine.apply(convert::from_raft(&id), &data.0, state),
    }
}

/// The next entries that are ready, at least one unless the stream is over.
async fn gather<S>(entries: &mut S) -> io::Result<Batch>
where
    S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin,
{
    let Some(first) = entries.next().await else {
        return Ok(Batch::new());
    };
    let first = first?;
    let mut bytes = first.0.bytes();
    let mut batch = vec![first];
    while batch.len() < MAX_APPLY_ENTRIES && bytes < MAX_APPLY_BYTES {
        let Some(Some(next)) = entries.next().now_or_never() else {
            break;
        };
        let next = next?;
        bytes += next.0.bytes();
        batch.push(next);
    }
    Ok(batch)
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, StoredMembership)> {
        let standing = self.state.standing();
        Ok((standing.applied, standing.membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        loop {
            let batch = gather(&mut entries).await?;
            let Some((last, _)) = batch.last() else {
                return Ok(());
            };
            plant!(AppliedBeforeSync => (), else self.synced.wait(last.id().index).await?);
            self.apply_batch(batch).map_err(|e| self.health.engine(e))?;
            tokio::task::yield_now().await;
        }
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(Some(self.image()))
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> io::Result<()> {
        let standing = Standing {
            applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
        };
        self.snapshots.install(standing, data, &self.machine).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<OurSnapshot>> {
        // What is being sent already is good as long as the log goes on from it.
        if let Some(image) = self.snapshots.reusable(self.log.shard(self.state.shard()).purged) {
            return Ok(Some(snapshot_of(image)));
        }
        let image = self.image()?;
        Ok(image
            .standing
            .applied
            .is_some()
            .then(|| snapshot_of(Arc::new(image))))
    }
}

fn snapshot_of(image: Arc<StateImage>) -> OurSnapshot {
    Snapshot {
        meta: image.meta(),
        snapshot: SnapshotData::Image(image),
    }
}

/// "Builds" a snapshot: the state is on disk anyway, so the snapshot is the state as of now.
pub(crate) struct Builder(Option<io::Result<StateImage>>);

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<OurSnapshot> {
        let image = self
            .0
            .take()
            .ok_or_else(|| io::Error::other("this snapshot was taken already"))?;
        image.map(|image| snapshot_of(Arc::new(image)))
    }
}
