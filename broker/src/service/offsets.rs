//! QueryOffset, GetOffset and UpdateOffset: the offsets of one queue, and a consumer group's place in it.
//!
//! A queue is named by its number in the topic, as messages carry it (`queue_id`), at whatever node (docs/adr/0020). What is
//! answered is what its leader has applied, after a majority has said that it still leads: an answer is never behind another
//! one that was given before it was asked for.

use std::sync::Arc;

use flotilla_proto::{
    peer::{SeekAnswer, SeekQueue, seek_queue::To},
    record,
    rocketmq::{
        Code, GetOffsetRequest, GetOffsetResponse, MessageQueue, QueryOffsetPolicy, QueryOffsetRequest,
        QueryOffsetResponse, Resource, Status, UpdateOffsetRequest, UpdateOffsetResponse,
    },
};
use queue_core::QueueId;

use super::{
    Caller, Service,
    answer::{self, Refused},
    names,
    stored::to_ms,
};
use crate::limits::MAX_SMALL_REQUEST_BYTES;

/// A queue that a client has named.
pub(super) struct Place {
    pub(super) topic: Arc<record::Topic>,
    pub(super) resource: Resource,
    pub(super) full_name: String,
    pub(super) queue: QueueId,
    /// Where it is.
    pub(super) shard: u32,
}

impl Service {
    /// An offset of a queue: its first, that of its next message, or that of the first message that was stored at some time or
    /// later.
    pub async fn query_offset(&self, caller: &Caller, request: QueryOffsetRequest) -> QueryOffsetResponse {
        self.heard(caller);
        match self.try_query(caller, &request).await {
            Ok(offset) => QueryOffsetResponse {
                status: answer::ok(),
                offset: offset as i64,
            },
            Err(refused) => QueryOffsetResponse {
                status: refused.status(),
                ..Default::default()
            },
        }
    }

    /// The offset that comes next for a consumer group.
    pub async fn get_offset(&self, caller: &Caller, request: GetOffsetRequest) -> GetOffsetResponse {
        self.heard(caller);
        match self.try_get(caller, &request).await {
            Ok(offset) => GetOffsetResponse {
                status: answer::ok(),
                offset: offset as i64,
            },
            Err(refused) => GetOffsetResponse {
                status: refused.status(),
                ..Default::default()
            },
        }
    }

    /// Lets a consumer group go on from an offset: a seek of one queue. What it has in flight there is over.
    pub async fn update_offset(&self, caller: &Caller, request: UpdateOffsetRequest) -> UpdateOffsetResponse {
        self.heard(caller);
        let status: Option<Status> = match self.try_update(caller, &request).await {
            Ok(()) => answer::ok(),
            Err(refused) => refused.status(),
        };
        UpdateOffsetResponse { status }
    }

    async fn try_query(&self, caller: &Caller, request: &QueryOffsetRequest) -> Result<u64, Refused> {
        names::check_size(request, MAX_SMALL_REQUEST_BYTES)?;
        let to = match (
            QueryOffsetPolicy::try_from(request.query_offset_policy),
            &request.timestamp,
        ) {
            (Ok(QueryOffsetPolicy::Beginning), _) => To::First(true),
            (Ok(QueryOffsetPolicy::End), _) => To::Last(true),
            (Ok(QueryOffsetPolicy::Timestamp), Some(stamp)) => To::AtMs(to_ms(stamp)),
            (Ok(QueryOffsetPolicy::Timestamp), None) => {
                return Err(Refused::new(
                    Code::BadRequest,
                    "the policy TIMESTAMP needs a timestamp",
                ));
            }
            (Err(_), _) => {
                let policy = request.query_offset_policy;
                let unknown = format!("the policy {policy} is not known; use BEGINNING, END or TIMESTAMP");
                return Err(Refused::new(Code::BadRequest, unknown));
            }
        };
        let place = self.named_queue(caller, request.message_queue.as_ref()).await?;
        Ok(self.look_at(caller, &place, 0, to).await?.after)
    }

    async fn try_get(&self, caller: &Caller, request: &GetOffsetRequest) -> Result<u64, Refused> {
        names::check_size(request, MAX_SMALL_REQUEST_BYTES)?;
        let name = names::full_name(caller, request.group.as_ref());
        names::check_group(&name)?;
        let place = self.named_queue(caller, request.message_queue.as_ref()).await?;
        let not_found = || {
            let number = place.queue.number();
            let none = format!(
                "consumer group {name} has not begun on queue {number} of {}",
                place.full_name
            );
            Refused::new(Code::OffsetNotFound, none)
        };
        let group = self.existing_group(&name).await?.ok_or_else(not_found)?;
        let looked = self.look_at(caller, &place, group.id, To::First(true)).await?;
        looked.begun.then_some(looked.before).ok_or_else(not_found)
    }

    async fn try_update(&self, caller: &Caller, request: &UpdateOffsetRequest) -> Result<(), Refused> {
        names::check_size(request, MAX_SMALL_REQUEST_BYTES)?;
        let name = names::full_name(caller, request.group.as_ref());
        names::check_group(&name)?;
        let place = self.named_queue(caller, request.message_queue.as_ref()).await?;
        let offset = to_offset(request.offset)?;
        // Before the consumer group comes into being for nothing.
        self.check_offset(caller, &place, offset).await?;
        let group = self.group(&name).await?;
        let looked = self.look_at(caller, &place, group.id, To::Offset(offset)).await?;
        let seek = SeekQueue {
            group: group.id,
            queue: place.queue.0,
            to: Some(To::Offset(offset)),
            only_look: false,
            // What was done by somebody else meanwhile is not undone by a request that comes late.
            epoch: looked.epoch,
            id: (self.node().clock().random_u64() >> 11).max(1),
        };
        let done = self.seek_for(caller, place.shard, seek).await?;
        match done.refused.is_empty() {
            true => Ok(()),
            false => Err(Refused::new(Code::HaNotAvailable, done.refused)),
        }
    }

    async fn check_offset(&self, caller: &Caller, place: &Place, offset: u64) -> Result<(), Refused> {
        let first = self.look_at(caller, place, 0, To::First(true)).await?.after;
        let next = self.look_at(caller, place, 0, To::Last(true)).await?.after;
        let is_there = plant!(AnyOffsetIsTaken => true, else (first..=next).contains(&offset));
        is_there
            .then_some(())
            .ok_or_else(|| outside(place, offset, (first, next)))
    }

    /// What a queue's leader says, and changes nothing for.
    async fn look_at(
        &self,
        caller: &Caller,
        place: &Place,
        group: u32,
        to: To,
    ) -> Result<SeekAnswer, Refused> {
        let look = SeekQueue {
            group,
            queue: place.queue.0,
            to: Some(to),
            only_look: true,
            ..SeekQueue::default()
        };
        let looked = self.seek_for(caller, place.shard, look).await?;
        match looked.refused.is_empty() {
            true => Ok(looked),
            false => Err(Refused::new(Code::HaNotAvailable, looked.refused)),
        }
    }

    /// The queue that a request names, of a topic that exists.
    pub(super) async fn named_queue(
        &self,
        caller: &Caller,
        queue: Option<&MessageQueue>,
    ) -> Result<Place, Refused> {
        names::check_caller(caller)?;
        let resource = queue.and_then(|queue| queue.topic.clone()).unwrap_or_default();
        let full_name = names::full_name(caller, Some(&resource));
        names::check_topic(&full_name)?;
        let topic = self
            .existing_topic(&full_name)
            .await?
            .ok_or_else(|| Refused::new(Code::TopicNotFound, format!("topic {full_name} does not exist")))?;
        let count = topic.queue_shards.len();
        let number = queue.map_or(0, |queue| queue.id);
        let at = usize::try_from(number)
            .ok()
            .filter(|&at| at < count)
            .ok_or_else(|| {
                let none = format!("topic {full_name} has queues 0 to {}, not {number}", count - 1);
                Refused::new(Code::BadRequest, none)
            })?;
        Ok(Place {
            queue: QueueId::new(topic.id, at as u32),
            shard: topic.queue_shards[at],
            topic,
            resource,
            full_name,
        })
    }
}

/// An offset that a client has named.
pub(super) fn to_offset(offset: i64) -> Result<u64, Refused> {
    u64::try_from(offset).map_err(|_| {
        Refused::new(
            Code::IllegalOffset,
            format!("an offset is 0 or more, and not {offset}"),
        )
    })
}

/// The refusal of an offset that is not in the queue, with what is.
pub(super) fn outside(place: &Place, offset: u64, (first, next): (u64, u64)) -> Refused {
    let number = place.queue.number();
    let ends = format!(
        "queue {number} of {} has offsets from {first} on, and {next} is the next; {offset} is outside",
        place.full_name
    );
    Refused::new(Code::IllegalOffset, ends)
}
