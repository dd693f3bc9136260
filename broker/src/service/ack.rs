//! AckMessage, ChangeInvisibleDuration, ForwardMessageToDeadLetterQueue: what becomes of a lease.
//!
//! The receipt handle names shard, queue, offset and lease, so any node can serve the
//! request, before and after any failover.
//!
//! One rule for all of them: a receipt counts as long as its lease lasts, as the shard's log has it. After that (its time
//! was over, it was given back, acknowledged, or replaced by the handle of a change) it is INVALID_RECEIPT_HANDLE. A
//! request that took effect and is repeated inside the cluster, because its outcome was unknown, is still OK.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use flotilla_proto::{
    peer as wire,
    record::{self, Command, command, release},
    rocketmq::{
        AckMessageEntry, AckMessageRequest, AckMessageResponse, AckMessageResultEntry,
        ChangeInvisibleDurationRequest, ChangeInvisibleDurationResponse, Code,
        ForwardMessageToDeadLetterQueueRequest, ForwardMessageToDeadLetterQueueResponse, Resource, Status,
    },
};
use futures::future::join_all;
use prost::Message;
use queue_core::{AckResult, GroupId, ReleaseResult, Reply};
use tokio::time::Instant;

use super::{
    Caller, Service,
    answer::{self, Refused},
    handle::Handle,
    names,
};
use crate::{
    limits::{
        MAX_ACK_ENTRIES, MAX_ACK_REQUEST_BYTES, MAX_INVISIBLE, MAX_SEND_WAIT_MS, MAX_SMALL_REQUEST_BYTES,
    },
    node::{forward::ForwardError, proposer::SubmitError, shard::DataShard},
    peer::PeerError,
};

const RETRY_AFTER: Duration = Duration::from_millis(30);

/// What one try at a shard gave.
pub(super) enum Try<T> {
    Done(T),
    /// Not the leader; `unsure` if the command may still take effect.
    Elsewhere {
        unsure: bool,
    },
}

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
    async fn known_group(
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

    /// Another end for a lease: later (still leased) for simple consumers, a retry for push consumers.
    pub async fn change_invisible_duration(
        &self,
        caller: &Caller,
        request: ChangeInvisibleDurationRequest,
    ) -> ChangeInvisibleDurationResponse {
        self.heard(caller);
        if let Err(refused) = names::check_size(&request, MAX_SMALL_REQUEST_BYTES) {
            return ChangeInvisibleDurationResponse {
                status: refused.status(),
                receipt_handle: String::new(),
            };
        }
        let old_handle = request.receipt_handle.clone();
        match self.try_change(caller, &request).await {
            Ok(receipt_handle) => ChangeInvisibleDurationResponse {
                status: answer::ok(),
                receipt_handle,
            },
            // Some SDKs take over the handle whatever the status is.
            Err(refused) => ChangeInvisibleDurationResponse {
                status: refused.status(),
                receipt_handle: old_handle,
            },
        }
    }

    async fn try_change(
        &self,
        caller: &Caller,
        request: &ChangeInvisibleDurationRequest,
    ) -> Result<String, Refused> {
        let asked = request
            .invisible_duration
            .as_ref()
            .map_or(Duration::ZERO, to_duration);
        if asked > MAX_INVISIBLE {
            return Err(Refused::new(
                Code::IllegalInvisibleTime,
                format!(
                    "the invisible duration must be 0 s to {} s",
                    MAX_INVISIBLE.as_secs()
                ),
            ));
        }
        let handle = self
            .check_handle(
                caller,
                request.topic.as_ref(),
                request.group.as_ref(),
                &request.receipt_handle,
            )
            .await?;
        let new = Handle {
            nonce: next_nonce(handle.nonce, asked),
            ..handle
        };
        let done = self
            .at_leader(
                caller,
                handle.shard,
                "ChangeInvisibleDuration",
                request,
                |shard, retried| async move {
                    let lease = shard
                        .machine
                        .read(|core| core.in_flight(GroupId(handle.group), handle.queue, handle.offset));
                    // Push consumers nack; so does everybody who asks for "at once".
                    let nack = asked.is_zero() || lease.is_some_and(|lease| lease.auto_renew);
                    let action = if nack {
                        release::Action::Retry
                    } else {
                        release::Action::Extend
                    };
                    if retried && lease.is_some_and(|lease| lease.nonce == new.nonce) {
                        return Ok(Try::Done(ReleaseResult::Done));
                    }
                    let at_ms = shard.now_ms().saturating_add(asked.as_millis() as u64);
                    Ok(
                        match release(&shard, &handle, action, Some(at_ms), new.nonce).await? {
                            // The first try may have been the last attempt, and made a dead letter of it.
                            Try::Done(ReleaseResult::Stale) if retried && is_over(&shard, &handle) => {
                                Try::Done(ReleaseResult::DeadLettered)
                            }
                            other => other,
                        },
                    )
                },
            )
            .await?;
        match done {
            At::Here(ReleaseResult::Done | ReleaseResult::DeadLettered) => Ok(new.encode()),
            At::Here(ReleaseResult::Stale) => Err(stale()),
            At::There(bytes) => {
                let response = ChangeInvisibleDurationResponse::decode(bytes).map_err(|_| undecodable())?;
                pass_on(response.status)?;
                Ok(response.receipt_handle)
            }
        }
    }

    /// Gives a message up.
    pub async fn forward_message_to_dead_letter_queue(
        &self,
        caller: &Caller,
        request: ForwardMessageToDeadLetterQueueRequest,
    ) -> ForwardMessageToDeadLetterQueueResponse {
        self.heard(caller);
        let status = match self.try_dead_letter(caller, &request).await {
            Ok(()) => answer::ok(),
            Err(refused) => refused.status(),
        };
        ForwardMessageToDeadLetterQueueResponse { status }
    }

    async fn try_dead_letter(
        &self,
        caller: &Caller,
        request: &ForwardMessageToDeadLetterQueueRequest,
    ) -> Result<(), Refused> {
        names::check_size(request, MAX_SMALL_REQUEST_BYTES)?;
        let handle = self
            .check_handle(
                caller,
                request.topic.as_ref(),
                request.group.as_ref(),
                &request.receipt_handle,
            )
            .await?;
        let rpc = "ForwardMessageToDeadLetterQueue";
        let done = self
            .at_leader(caller, handle.shard, rpc, request, |shard, retried| async move {
                let done = release(&shard, &handle, release::Action::DeadLetter, None, 0).await?;
                Ok(match done {
                    // The first try may have done it.
                    Try::Done(ReleaseResult::Stale) if retried && is_over(&shard, &handle) => {
                        Try::Done(ReleaseResult::Done)
                    }
                    other => other,
                })
            })
            .await?;
        match done {
            At::Here(ReleaseResult::Stale) => Err(stale()),
            At::Here(_) => Ok(()),
            At::There(bytes) => {
                let response =
                    ForwardMessageToDeadLetterQueueResponse::decode(bytes).map_err(|_| undecodable())?;
                pass_on(response.status)
            }
        }
    }

    async fn check_handle(
        &self,
        caller: &Caller,
        topic: Option<&Resource>,
        group: Option<&Resource>,
        handle: &str,
    ) -> Result<Handle, Refused> {
        let group = self.known_group(caller, topic, group).await?;
        self.handle(handle, group).ok_or_else(stale)
    }

    /// A handle of this consumer group whose shard exists; nobody leads any other, however long one waits.
    fn handle(&self, text: &str, group: u32) -> Option<Handle> {
        let shards = 1..=self.node().meta().data_shards();
        Handle::decode(text).filter(|handle| handle.group == group && shards.contains(&handle.shard))
    }

    /// Does `here` on the shard's leader, wherever that is, again and again until the caller's patience ends.
    async fn at_leader<T, M: Message, F: Future<Output = Result<Try<T>, Refused>>>(
        &self,
        caller: &Caller,
        shard_id: u32,
        rpc: &str,
        request: &M,
        here: impl Fn(std::sync::Arc<DataShard>, bool) -> F,
    ) -> Result<At<T>, Refused> {
        let node = self.node();
        let deadline = Instant::now() + caller.patience();
        let mut retried = caller.retried;
        // Once, however often it is tried.
        let mut encoded = None;
        let begun = Instant::now();
        loop {
            match node.leader(shard_id) {
                Some(leader) if leader == node.id() => {
                    if let Some(shard) = node.shard(shard_id) {
                        match here(shard, retried).await? {
                            Try::Done(done) => return Ok(At::Here(done)),
                            Try::Elsewhere { unsure } => retried |= unsure,
                        }
                    }
                }
                // The outcome is not known, and it is not for this node to find out.
                _ if caller.forwarded && retried => return Err(super::send::unsure()),
                _ if caller.forwarded => return Err(super::send::not_leader()),
                Some(leader) => {
                    let ttl = deadline.saturating_duration_since(Instant::now());
                    let bytes = encoded
                        .get_or_insert_with(|| Bytes::from(request.encode_to_vec()))
                        .clone();
                    let asking = wire::Caller {
                        retried,
                        ..caller.to_wire()
                    };
                    match node
                        .forward(leader, rpc, shard_id, Some(asking), bytes, ttl)
                        .await
                    {
                        Ok(responses) => {
                            return responses
                                .into_iter()
                                .next()
                                .map(At::There)
                                .ok_or_else(undecodable);
                        }
                        Err(ForwardError::NotLeader { unsure }) => retried |= unsure,
                        // The way there has been full for as long as for any send.
                        Err(ForwardError::Peer(PeerError::Overloaded))
                            if begun.elapsed() >= Duration::from_millis(MAX_SEND_WAIT_MS) =>
                        {
                            return Err(SubmitError::Overloaded.into());
                        }
                        Err(ForwardError::Peer(PeerError::Overloaded | PeerError::NotConnected)) => {}
                        Err(ForwardError::Peer(_)) => retried = true,
                    }
                }
                None => {}
            }
            if Instant::now() + RETRY_AFTER >= deadline {
                return Err(Refused::new(
                    Code::HaNotAvailable,
                    "the queue has no leader at the moment; try again",
                ));
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

/// Where a request was served.
pub(super) enum At<T> {
    Here(T),
    There(Bytes),
}

async fn ack_here(
    shard: std::sync::Arc<DataShard>,
    handles: &[Handle],
    retried: bool,
) -> Result<Try<Vec<Option<Status>>>, Refused> {
    // Planted: the state is here, so it is changed here.
    #[cfg(madsim)]
    if plant::is(plant::Bug::AckOnLeaderOnly) {
        let ack = |handle: &Handle| {
            let group = GroupId(handle.group);
            shard
                .machine
                .planted_ack(group, handle.queue, handle.offset, handle.nonce)
        };
        let status = |handle| if ack(handle) { answer::ok() } else { invalid() };
        return Ok(Try::Done(handles.iter().map(status).collect()));
    }
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
            // Planted: it is over, so what does it matter?
            #[cfg(madsim)]
            Ok(_) if plant::is(plant::Bug::LateAckAnsweredOk) => statuses.push(answer::ok()),
            Ok(_) => statuses.push(invalid()),
            Err(error) => statuses.push(Refused::from(error).status()),
        }
    }
    Ok(Try::Done(statuses))
}

/// Whether all of it is to be tried elsewhere, and if so, whether some of it took effect here or may yet: the commands of
/// one request may be in several entries of the log, and leadership be lost between them.
fn elsewhere(replies: &[Result<Reply, SubmitError>]) -> Option<bool> {
    let is_elsewhere = |reply: &Result<_, _>| matches!(reply, Err(SubmitError::NotLeader { .. }));
    let may_stand = |reply: &Result<_, _>| match reply {
        Ok(_) | Err(SubmitError::Stopped(_)) => true,
        Err(SubmitError::NotLeader { unsure, .. }) => *unsure,
        Err(_) => false,
    };
    let is_any_elsewhere = replies.iter().any(is_elsewhere);
    is_any_elsewhere.then(|| replies.iter().any(may_stand))
}

/// True if the consumer group is done with the message.
fn is_over(shard: &DataShard, handle: &Handle) -> bool {
    let group = GroupId(handle.group);
    shard.machine.read(|core| {
        core.cursor(group, handle.queue)
            .is_some_and(|cursor| handle.offset < cursor)
            && core.in_flight(group, handle.queue, handle.offset).is_none()
    })
}

async fn release(
    shard: &DataShard,
    handle: &Handle,
    action: release::Action,
    at_ms: Option<u64>,
    new_nonce: u64,
) -> Result<Try<ReleaseResult>, Refused> {
    let command = command::Command::Release(record::Release {
        group: handle.group,
        queue: handle.queue.0,
        lease: Some(record::LeaseRef {
            offset: handle.offset,
            nonce: handle.nonce,
        }),
        action: action as i32,
        at_ms,
        new_nonce,
    });
    match shard
        .proposer
        .submit(Command {
            command: Some(command),
        })
        .await
    {
        Ok(Reply::Released(result)) => Ok(Try::Done(result)),
        Ok(_) => Ok(Try::Done(ReleaseResult::Stale)),
        Err(SubmitError::NotLeader { unsure, .. }) => Ok(Try::Elsewhere { unsure }),
        Err(error) => Err(error.into()),
    }
}

/// The nonce of the lease that follows. It depends on the request alone: whoever repeats the request at another
/// leader recognises what the first try did. (SplitMix64, so that handles do not meet.)
fn next_nonce(nonce: u64, asked: Duration) -> u64 {
    let mut mixed = nonce.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ (asked.as_millis() as u64).rotate_left(32);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A protobuf duration; a negative one is zero.
pub(super) fn to_duration(duration: &prost_types::Duration) -> Duration {
    let seconds = u64::try_from(duration.seconds).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(duration.nanos).unwrap_or(0))
}

fn invalid() -> Option<Status> {
    stale().status()
}

fn stale() -> Refused {
    Refused::new(
        Code::InvalidReceiptHandle,
        "the receipt handle is malformed, or its lease is over; the message was or will be delivered again",
    )
}

fn undecodable() -> Refused {
    Refused::new(Code::InternalServerError, "the leader's answer does not decode")
}

fn pass_on(status: Option<Status>) -> Result<(), Refused> {
    let status = status.unwrap_or_default();
    if status.code == Code::Ok as i32 {
        return Ok(());
    }
    let code = Code::try_from(status.code).unwrap_or(Code::InternalServerError);
    Err(Refused::new(code, status.message))
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
    fn a_repeated_change_names_the_same_lease_and_the_next_one_another() {
        let asked = Duration::from_secs(30);
        let first = next_nonce(7, asked);
        assert_eq!(first, next_nonce(7, asked));
        assert_ne!(first, 7);
        assert_ne!(first, next_nonce(first, asked));
        assert_ne!(first, next_nonce(7, Duration::from_secs(31)));
    }

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
