//! Reading stored messages: from memory, from the disk, and from another node what the disk has lost.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_proto::record::{self, command};
use prost::Message;
use queue_core::{Lease, Position, QueueId, frame};
use raft_store::{PayloadError, Replica};

use super::{
    kv::Reading,
    shard::{DataShard, DeliverError},
};

impl DataShard {
    /// Reads what was leased, without what cannot be read now: that comes again when its lease is over.
    pub(super) async fn read_leased(
        &self,
        queue: QueueId,
        mut leases: Vec<Lease>,
    ) -> Result<(Vec<Lease>, Vec<record::StoredMessage>), DeliverError> {
        loop {
            let places = leases.iter().map(|lease| (lease.offset, lease.position));
            match self.read_at(queue, places.collect()).await {
                Err(DeliverError::Unreadable(PayloadError::Damaged(index)))
                    if leases.iter().any(|lease| lease.position.index != index) =>
                {
                    leases.retain(|lease| lease.position.index != index);
                }
                read => return Ok((leases, read?)),
            }
        }
    }

    /// Reads messages of a queue by offset and place. An entry that the state points at and that is not there is damage.
    async fn read_at(
        &self,
        queue: QueueId,
        places: Vec<(u64, Position)>,
    ) -> Result<Vec<record::StoredMessage>, DeliverError> {
        let positions = places.iter().map(|&(_, at)| at).collect();
        let missing = match self.read_messages(positions).await {
            Err(PayloadError::NotFound(index)) => index,
            read => return Ok(read?),
        };
        for (offset, at) in places.into_iter().filter(|(_, at)| at.index == missing) {
            let stands_at = self.replica.read_state(|state| {
                self.machine
                    .read(|core| core.locate(&Reading(state), queue, offset))
            })?;
            // Copied forward or forgotten since it was looked up: then it is elsewhere, or gone by right.
            if stands_at.is_some_and(|stored| stored.position == at) {
                let what = format!(
                    "entry {missing} of shard {} has a message and is not there",
                    self.id
                );
                return Err(PayloadError::Corrupt(what).into());
            }
        }
        Err(PayloadError::NotFound(missing).into())
    }

    /// Reads messages by their places: recent ones from memory, old ones where the disk holds up nobody.
    pub(super) async fn read_messages(
        &self,
        places: Vec<Position>,
    ) -> Result<Vec<record::StoredMessage>, PayloadError> {
        let recent = places.iter().all(|at| self.replica.is_recent(at.index));
        if recent {
            return read_all(&self.replica, &places);
        }
        let places = Arc::new(places);
        loop {
            let (replica, places) = (self.replica.clone(), Arc::clone(&places));
            match off_the_runtime(move || read_all(&replica, &places)).await {
                Err(PayloadError::Damaged(index)) if self.replica.repair(index).await => {}
                read => return read,
            }
        }
    }
}

/// Reads messages in order; neighbours usually share an entry, which is then read once.
fn read_all(replica: &Replica, places: &[Position]) -> Result<Vec<record::StoredMessage>, PayloadError> {
    let mut last: Option<(u64, Bytes)> = None;
    let mut messages = Vec::with_capacity(places.len());
    for at in places {
        let payload = match last {
            Some((index, payload)) if index == at.index => payload,
            _ => replica.read_payload(at.index)?,
        };
        messages.push(message_in(&payload, *at));
        last = Some((at.index, payload));
    }
    Ok(messages)
}

fn message_in(payload: &Bytes, at: Position) -> record::StoredMessage {
    let command = frame::read_frame(payload, at.frame_offset, at.frame_len)
        .expect("the state points at frames of the log");
    let bytes = match command.command {
        Some(command::Command::Append(append)) => append.message,
        Some(command::Command::CopyForward(copy)) => copy.message,
        other => panic!("the state points at something that is no message: {other:?}"),
    };
    record::StoredMessage::decode(bytes).expect("a stored message decodes")
}

/// Runs what may block on the disk; in the simulator, where nothing blocks, right here.
async fn off_the_runtime<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    #[cfg(madsim)]
    {
        call()
    }
    #[cfg(not(madsim))]
    {
        match tokio::task::spawn_blocking(call).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is being shut down, and this task with it.
            Err(_) => std::future::pending().await,
        }
    }
}
