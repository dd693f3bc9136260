//! ChangeInvisibleDuration, ForwardMessageToDeadLetterQueue: a lease ends otherwise than by an acknowledgement. The rule for
//! receipts stands in `ack.rs`.

use std::time::Duration;

use flotilla_proto::{
    record::{self, Command, command, release},
    rocketmq::{
        ChangeInvisibleDurationRequest, ChangeInvisibleDurationResponse, Code,
        ForwardMessageToDeadLetterQueueRequest, ForwardMessageToDeadLetterQueueResponse, Resource, Status,
    },
};
use prost::Message;
use queue_core::{GroupId, ReleaseResult, Reply};

use super::{
    Caller, Service,
    ack::{is_over, stale},
    answer::{self, Refused},
    at_leader::{At, Try, undecodable},
    handle::Handle,
    names,
};
use crate::{
    limits::{DEAD_LETTERS_LOOKED_AT, MAX_INVISIBLE, MAX_SMALL_REQUEST_BYTES},
    node::{
        kv::{Reading, stop_reason},
        proposer::SubmitError,
        shard::DataShard,
    },
};

impl Service {
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
                            // The first try may have been the last attempt, and made a dead letter of it. Where a time was asked
                            // for only a lease that was renewed ends so, and of one that is over nobody knows whether it was.
                            Try::Done(ReleaseResult::Stale) if retried && is_over(&shard, &handle) => {
                                if !asked.is_zero() {
                                    return Err(unknown());
                                }
                                self.check_dead_letter(&shard, &handle)?;
                                Try::Done(ReleaseResult::DeadLettered)
                            }
                            // Only a nack parks: a lease that was to be longer, and stands as it was, was not made longer.
                            Try::Done(ReleaseResult::Stale)
                                if retried && nack && is_parked(&shard, &handle) =>
                            {
                                Try::Done(ReleaseResult::Parked)
                            }
                            other => other,
                        },
                    )
                },
            )
            .await?;
        match done {
            At::Here(ReleaseResult::Done | ReleaseResult::DeadLettered | ReleaseResult::Parked) => {
                Ok(new.encode())
            }
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
                        self.check_dead_letter(&shard, &handle)?;
                        Try::Done(ReleaseResult::Done)
                    }
                    Try::Done(ReleaseResult::Stale) if retried && is_parked(&shard, &handle) => {
                        Try::Done(ReleaseResult::Parked)
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

    /// Of a message that is over, for a request of which an earlier try may have made a dead letter of it. If it is none, or none
    /// that is found, the outcome is not known: a later delivery may have been acknowledged. Not what `unsure` says, as nobody
    /// would learn more by asking again.
    fn check_dead_letter(&self, shard: &DataShard, handle: &Handle) -> Result<(), Refused> {
        plant!(RetriedBurialCountsAsDone => return Ok(()));
        let message = (GroupId(handle.group), handle.queue, handle.offset);
        let found = shard.replica.read_state(|state| {
            shard
                .machine
                .read(|core| core.is_dead_letter(&Reading(state), message, DEAD_LETTERS_LOOKED_AT))
        });
        match found {
            Ok(true) => Ok(()),
            Ok(false) => Err(unknown()),
            Err(fault) => {
                let refused = Refused::new(Code::InternalServerError, fault.to_string());
                self.node().stop(stop_reason(fault));
                Err(refused)
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
}

/// True if the message is parked since the delivery that a receipt is of: an earlier try of the request has done it.
fn is_parked(shard: &DataShard, handle: &Handle) -> bool {
    let group = GroupId(handle.group);
    let is_parked =
        |core: &queue_core::Core| core.is_parked(group, handle.queue, handle.offset, handle.nonce);
    shard.machine.read(is_parked)
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

/// Of a request that was tried before, about a message that is over by now.
fn unknown() -> Refused {
    Refused::new(
        Code::HaNotAvailable,
        "an earlier try of this request may have been carried out; the message is not delivered again",
    )
}

fn pass_on(status: Option<Status>) -> Result<(), Refused> {
    let status = status.unwrap_or_default();
    if status.code == Code::Ok as i32 {
        return Ok(());
    }
    let code = Code::try_from(status.code).unwrap_or(Code::InternalServerError);
    Err(Refused::new(code, status.message))
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
}
