//! AckMessage: done with messages.
//!
//! The receipt handle names shard, queue, offset and lease, so any node can serve the
//! request, before and after any failover.
//!
//! One rule for all that is asked with a receipt (`release.rs` has the rest): a receipt counts as long as its lease lasts,
//! as the shard's log has it. After that (its time was over, it was given back, acknowledged, or replaced by the handle of a
//! change) it is INVALID_RECEIPT_HANDLE. A request that took effect and is repeated inside the cluster, because its outcome
//! was unknown, is still OK.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use flotilla_proto::{
    record::{self, Command, command},
    rocketmq::{
        AckMessageEntry, AckMessageRequest, AckMessageResponse, AckMessageResultEntry, Code, Resource, Status,
    },
};
use futures::future::join_all;
use prost::Message;
use queue_core::{AckResult, GroupId, Reply};

use super::{
    Caller, Service,
    answer::{self, Refused},
    at_leader::{At, Try, may_stand, undecodable},
    handle::Handle,
    names,
    send::certain,
};
use crate::{
    limits::{MAX_ACK_ENTRIES, MAX_ACK_REQUEST_BYTES},
    node::{proposer::SubmitError, shard::DataShard},
};

impl Service {
    /// Done with messages.
    pub async fn ack_message(&self, caller: &Caller, request: AckMessageRequest) -> AckMessageResponse {
        self.heard(caller);
        // What is too large is not repeated entry by entry.
        if let Err(refused) = names::check_size(&request, MAX_ACK_REQUEST_BYTES) {
            return refuse_ack(&[], &refused);
        }
        let group = match self.check_ack(caller, &request).await {
            Ok(group) => group,
            Err(refused) => return refuse_ack(&request.entries, &refused),
        };
        // Entries in the order of the request, grouped by the shard that holds them.
        let mut results: Vec<Option<Status>> = vec![invalid(); request.entries.len()];
        let mut by_shard: BTreeMap<u32, Vec<(usize, Handle)>> = BTreeMap::new();
        for (at, entry) in request.entries.iter().enumerate() {
            if let Some(handle) = self.handle(&entry.receipt_handle, group) {
                by_shard.entry(handle.shard).or_default().push((at, handle));
            }
        }
        // At the same time: a shard without a leader holds up only its own.
        let parts = by_shard
            .iter()
            .map(|(&shard, handles)| self.ack_in(caller, &request, shard, handles));
        let parts = join_all(parts).await;
        for (handles, statuses) in by_shard.values().zip(parts) {
            for (&(at, _), status) in handles.iter().zip(statuses) {
                results[at] = status;
            }
        }
        plant!(BatchAnswersShifted => results.rotate_left(1));
        AckMessageResponse {
            status: answer::summary(&results),
            entries: result_entries(request.entries, results),
        }
    }

    /// Acknowledges what one shard holds of a request: each entry by its number there, with its handle.
    async fn ack_in(
        &self,
        caller: &Caller,
        request: &AckMessageRequest,
        shard: u32,
        handles: &[(usize, Handle)],
    ) -> Vec<Option<Status>> {
        let entries = handles.iter().map(|&(at, _)| request.entries[at].clone());
        let part = AckMessageRequest {
            group: request.group.clone(),
            topic: request.topic.clone(),
            entries: entries.collect(),
        };
        let leases: Vec<Handle> = handles.iter().map(|&(_, handle)| handle).collect();
        let statuses = self
            .at_leader(caller, shard, "AckMessage", &part, |shard, retried| {
                ack_here(shard, &leases, retried)
            })
            .await;
        match statuses {
            Ok(At::Here(statuses)) => statuses,
            Ok(At::There(bytes)) => statuses_of(bytes, handles.len()),
            Err(refused) => vec![refused.status(); handles.len()],
        }
    }

    async fn check_ack(&self, caller: &Caller, request: &AckMessageRequest) -> Result<u32, Refused> {
        if request.entries.is_empty() || request.entries.len() > MAX_ACK_ENTRIES {
            return Err(Refused::new(
                Code::BadRequest,
                format!("an acknowledgement has 1 to {MAX_ACK_ENTRIES} entries"),
            ));
        }
        self.known_group(caller, request.topic.as_ref(), request.group.as_ref())
            .await
    }

    /// The id of an existing consumer group. A lost cause is told as an invalid handle, because
    /// push consumers repeat anything else for ever.
    pub(super) async fn known_group(
        &self,
        caller: &Caller,
        topic: Option<&Resource>,
        group: Option<&Resource>,
    ) -> Result<u32, Refused> {
        names::check_caller(caller)?;
        names::check_topic(&names::full_name(caller, topic))?;
        let name = names::full_name(caller, group);
        names::check_group(&name)?;
        let known = self.existing_group(&name).await?;
        known.map(|group| group.id).ok_or_else(|| {
            Refused::new(
                Code::InvalidReceiptHandle,
                format!("consumer group {name} does not exist (any more)"),
            )
        })
    }

    /// A handle of this consumer group whose shard exists; nobody leads any other, however long one waits.
    pub(super) fn handle(&self, text: &str, group: u32) -> Option<Handle> {
        let shards = 1..=self.node().meta().data_shards();
        let is_of_group =
            |handle: &Handle| plant!(AnyGroupsReceiptCounts => true, else handle.group == group);
        Handle::decode(text).filter(|handle| is_of_group(handle) && shards.contains(&handle.shard))
    }
}

async fn ack_here(
    shard: Arc<DataShard>,
    handles: &[Handle],
    retried: bool,
) -> Result<Try<Vec<Option<Status>>>, Refused> {
    plant!(AckAnsweredBeforeCommit => if let Some(done) = super::planted::acked_unseen(&shard, handles) { return Ok(Try::Done(done)) });
    plant!(AckOnLeaderOnly => return Ok(Try::Done(super::planted::acked_in_memory(&shard, handles))));
    let mut waiting = Vec::with_capacity(handles.len());
    for handle in handles {
        let ack = record::Ack {
            group: handle.group,
            queue: handle.queue.0,
            leases: vec![record::LeaseRef {
                offset: handle.offset,
                nonce: handle.nonce,
            }],
        };
        waiting.push(shard.proposer.submit(Command {
            command: Some(command::Command::Ack(ack)),
        }));
    }
    let replies = join_all(waiting).await;
    if let Some(unsure) = elsewhere(&replies) {
        return Ok(Try::Elsewhere { unsure });
    }
    let mut statuses = Vec::with_capacity(handles.len());
    for (reply, handle) in replies.into_iter().zip(handles) {
        match reply {
            Ok(Reply::Acked { results }) if results.first() == Some(&AckResult::Done) => {
                statuses.push(answer::ok())
            }
            Ok(_) if retried && is_over(&shard, handle) => statuses.push(answer::ok()),
            Ok(_) => statuses.push(plant!(LateAckAnsweredOk => answer::ok(), else invalid())),
            Err(error) => statuses.push(certain(retried, error.into()).status()),
        }
    }
    Ok(Try::Done(statuses))
}

/// Whether all of it is to be tried elsewhere, and if so, whether some of it took effect here or may yet: the commands of
/// one request may be in several entries of the log, and leadership be lost between them.
fn elsewhere(replies: &[Result<Reply, SubmitError>]) -> Option<bool> {
    let is_elsewhere = |reply: &Result<_, _>| matches!(reply, Err(SubmitError::NotLeader { .. }));
    let is_any_elsewhere = replies.iter().any(is_elsewhere);
    let any_stands = || plant!(PartialAckRepeatedAsNew => false, else replies.iter().any(may_stand));
    is_any_elsewhere.then(any_stands)
}

/// True if the consumer group is done with the message.
pub(super) fn is_over(shard: &DataShard, handle: &Handle) -> bool {
    let group = GroupId(handle.group);
    shard.machine.read(|core| {
        core.cursor(group, handle.queue)
            .is_some_and(|cursor| handle.offset < cursor)
            && core.in_flight(group, handle.queue, handle.offset).is_none()
    })
}

fn invalid() -> Option<Status> {
    stale().status()
}

pub(super) fn stale() -> Refused {
    Refused::new(
        Code::InvalidReceiptHandle,
        "the receipt handle is malformed, or its lease is over; the message was or will be delivered again",
    )
}

fn statuses_of(bytes: Bytes, count: usize) -> Vec<Option<Status>> {
    match AckMessageResponse::decode(bytes) {
        Ok(response) if response.entries.len() == count => {
            response.entries.into_iter().map(|entry| entry.status).collect()
        }
        _ => vec![undecodable().status(); count],
    }
}

fn refuse_ack(entries: &[AckMessageEntry], refused: &Refused) -> AckMessageResponse {
    let statuses = vec![refused.status(); entries.len()];
    AckMessageResponse {
        status: refused.status(),
        entries: result_entries(entries.to_vec(), statuses),
    }
}

fn result_entries(
    entries: Vec<AckMessageEntry>,
    statuses: Vec<Option<Status>>,
) -> Vec<AckMessageResultEntry> {
    entries
        .into_iter()
        .zip(statuses)
        .map(|(entry, status)| AckMessageResultEntry {
            message_id: entry.message_id,
            receipt_handle: entry.receipt_handle,
            status,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_that_took_effect_in_part_are_tried_elsewhere_as_repeated() {
        let done = || {
            Ok(Reply::Acked {
                results: vec![AckResult::Done],
            })
        };
        let not_leader = |unsure| Err(SubmitError::NotLeader { leader: None, unsure });
        assert_eq!(elsewhere(&[done(), done()]), None);
        assert_eq!(elsewhere(&[done(), Err(SubmitError::Overloaded)]), None);
        assert_eq!(elsewhere(&[not_leader(false), not_leader(false)]), Some(false));
        assert_eq!(elsewhere(&[not_leader(false), not_leader(true)]), Some(true));
        assert_eq!(elsewhere(&[done(), not_leader(false)]), Some(true));
        assert_eq!(elsewhere(&[not_leader(false), done()]), Some(true));
    }
}
