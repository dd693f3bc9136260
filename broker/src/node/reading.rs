//! Reading stored messages: from memory, from the disk, and from another node what the disk has lost.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_proto::record::{self, command};
use prost::Message;
use queue_core::{Fault, Position, QueueId, frame};
use raft_store::{
    PayloadError, Replica,
    blocking::{Work, blocking},
};

use super::{
    kv::Reading,
    shard::{DataShard, DeliverError},
};

/// A receive waits so long for the repair of a message that it has leased.
const REPAIR_PATIENCE: Duration = Duration::from_millis(300);

impl DataShard {
    /// Reads messages of a queue by offset and place, each with its offset. What was copied forward since it was looked up is
    /// read where it stands by now, and what is forgotten is left out: one message must not keep the others from whom they are
    /// leased to; so is what cannot be read now unless that is all: it comes again when its lease is over. An entry that the
    /// state points at and that is not there is damage.
    pub(super) async fn read_at(
        &self,
        queue: QueueId,
        mut places: Vec<(u64, Position)>,
    ) -> Result<Vec<(u64, record::StoredMessage)>, DeliverError> {
        loop {
            let positions = places.iter().map(|&(_, at)| at).collect();
            let missing = match self.read_messages(positions).await {
                Err(PayloadError::NotFound(index)) => index,
                Err(PayloadError::Damaged(index)) if places.iter().any(|(_, at)| at.index != index) => {
                    places.retain(|(_, at)| at.index != index);
                    continue;
                }
                read => {
                    let offsets = places.into_iter().map(|(offset, _)| offset);
                    return Ok(offsets.zip(read?).collect());
                }
            };
            places = self.places_now(queue, places)?;
            if places.iter().any(|(_, at)| at.index == missing) {
                let what = format!(
                    "entry {missing} of shard {} has a message and is not there",
                    self.id
                );
                return Err(PayloadError::Corrupt(what).into());
            }
        }
    }

    /// Where messages stand by now, without those that are forgotten.
    pub(super) fn places_now(
        &self,
        queue: QueueId,
        places: Vec<(u64, Position)>,
    ) -> Result<Vec<(u64, Position)>, Fault> {
        self.replica.read_state(|state| {
            self.machine.read(|core| {
                let stored = places.into_iter().map(|(offset, _)| {
                    let stored = core.locate(&Reading(state), queue, offset)?;
                    Ok(stored.map(|stored| (offset, stored.position)))
                });
                stored.filter_map(Result::transpose).collect()
            })
        })
    }

    /// Whether a damaged record is repaired before its readers' patience ends: it must not keep what is whole from them. What
    /// takes longer, or cannot be given now, is tried again without them.
    async fn repaired_soon(&self, index: u64) -> bool {
        let repair = self.replica.repair(index);
        tokio::time::timeout(REPAIR_PATIENCE, repair)
            .await
            .unwrap_or(false)
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
            match blocking(Work::Read, move || read_all(&replica, &places)).await {
                Err(PayloadError::Damaged(index)) if self.repaired_soon(index).await => {}
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
        Some(command::Command::Retime(retime)) => retime.message,
        other => panic!("the state points at something that is no message: {other:?}"),
    };
    record::StoredMessage::decode(bytes).expect("a stored message decodes")
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_that_was_moved_or_forgotten_meanwhile_does_not_keep_the_others_from_being_read() {
        let node = crate::testing::OneNode::start().await;
        let shard = node.service.node().shard(1).expect("it is here");
        let queue = QueueId::new(1, 0);
        for id in ["a", "b"] {
            let stored = record::StoredMessage {
                message_id: id.into(),
                ..Default::default()
            };
            let append = record::Append {
                queue: queue.0,
                message_id: id.into(),
                message: stored.encode_to_vec().into(),
                ..Default::default()
            };
            let command = Some(command::Command::Append(append));
            shard.proposer.submit(record::Command { command }).await.unwrap();
        }
        let gone = Position {
            index: 1 << 40,
            ..Position::default()
        };
        let places = shard.places_now(queue, vec![(1, gone)]).unwrap();
        let places = [vec![(0, gone), (7, gone)], places].concat();
        let read = shard.read_at(queue, places).await.unwrap();
        let read: Vec<(u64, &str)> = read
            .iter()
            .map(|(offset, message)| (*offset, message.message_id.as_str()))
            .collect();
        assert_eq!(read, [(0, "a"), (1, "b")]);
    }
}
