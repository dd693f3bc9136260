//! Parked messages: which message groups of a consumer group stopped, and what an operator decides on each; and whether they stop at
//! all, which is a rule of the consumer group.

use std::{sync::Arc, time::Duration};

use flotilla_proto::{
    peer::{ParkedFound, ParkedLook, ParkedMessage, UnparkDone, UnparkMessage},
    record::{self, SetParking, meta_command},
    rocketmq::Code,
};
use prost::Message;
use queue_core::QueueId;

use super::{
    Caller, Service,
    admin::no_group,
    answer::Refused,
    at_leader::{At, Try, undecodable},
    letters::note_view,
    names,
};
use crate::{
    limits::{LETTERS_PAGE, MAX_LETTERS_PAGE},
    node::{
        proposer::SubmitError,
        shard::{DataShard, DeliverError},
    },
    views::{
        AdminError, AdminErrorKind, GroupView, OnPoison, ParkedPage, ParkedQuery, ParkedView, UnparkReport,
        UnparkSpec,
    },
};

/// The names under which a node asks a shard's leader.
pub(super) const LOOK: &str = "flotilla.Parked";
/// See [`LOOK`].
pub(super) const DECIDE: &str = "flotilla.Unpark";
/// How long the leader of one shard may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Names one stop of a message group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ParkedHandle {
    shard: u32,
    queue: QueueId,
    offset: u64,
    nonce: u64,
}

impl ParkedHandle {
    fn encode(&self) -> String {
        format!(
            "{}-{:x}-{}-{:x}",
            self.shard, self.queue.0, self.offset, self.nonce
        )
    }

    fn decode(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let handle = Self {
            shard: parts.next()?.parse().ok()?,
            queue: QueueId(u64::from_str_radix(parts.next()?, 16).ok()?),
            offset: parts.next()?.parse().ok()?,
            nonce: u64::from_str_radix(parts.next()?, 16).ok()?,
        };
        parts.next().is_none().then_some(handle)
    }
}

impl Service {
    /// What is to become of messages of message groups whose attempts are used up, from now on. What is parked stays so.
    pub async fn set_poison(&self, name: &str, on_poison: OnPoison) -> Result<GroupView, AdminError> {
        let park = on_poison == OnPoison::Park;
        let change = |known: &record::ConsumerGroup| {
            let set = SetParking {
                id: known.id,
                version: known.version,
                park,
            };
            (known.park != park).then_some(meta_command::Command::SetParking(set))
        };
        self.change_rules(name, change).await
    }

    /// Messages of a consumer group at which their message groups stopped, some at a time.
    pub async fn list_parked(&self, group: &str, query: ParkedQuery) -> Result<ParkedPage, AdminError> {
        let group = self.group_of_admin(group).await?;
        let (mut shard, mut queue, mut offset) = match query.from.as_deref().map(place) {
            None => (1, 0, 0),
            Some(Some(place)) => place,
            Some(None) => {
                let what = "`from` is not the `next` of a page";
                return Err(AdminError::new(AdminErrorKind::Invalid, what));
            }
        };
        let mut left = query.limit.unwrap_or(LETTERS_PAGE).clamp(1, MAX_LETTERS_PAGE);
        let mut page = ParkedPage::default();
        while (1..=self.node().meta().data_shards()).contains(&shard) {
            if left == 0 {
                page.next = Some(format!("{shard}/{queue}/{offset}"));
                break;
            }
            let look = ParkedLook {
                group: group.id,
                queue,
                offset,
                limit: left,
            };
            let found = self.parked(&patient(), shard, look).await?;
            left -= (found.messages.len() as u32).min(left);
            let views = found.messages.into_iter();
            page.messages
                .extend(views.map(|message| self.parked_view(shard, message)));
            (shard, queue, offset) = match found.next {
                Some(next) => (shard, next.queue, next.offset),
                None => (shard + 1, 0, 0),
            };
        }
        Ok(page)
    }

    /// Has a message group go on without the message at which it stopped, or has that delivered again.
    pub async fn unpark(
        &self,
        group: &str,
        spec: UnparkSpec,
        skip: bool,
    ) -> Result<UnparkReport, AdminError> {
        let group = self.group_of_admin(group).await?;
        let handle = ParkedHandle::decode(&spec.handle);
        let shards = 1..=self.node().meta().data_shards();
        let Some(handle) = handle.filter(|handle| shards.contains(&handle.shard)) else {
            let what = "the handle is not one that `flotilla group parked` shows";
            return Err(AdminError::new(AdminErrorKind::Invalid, what));
        };
        let unpark = UnparkMessage {
            group: group.id,
            queue: handle.queue.0,
            offset: handle.offset,
            nonce: handle.nonce,
            skip,
        };
        let done = self.decide(&patient(), handle.shard, unpark).await?;
        let (kind, what) = match (done.done, done.unsure, done.refused) {
            (true, ..) => return Ok(UnparkReport { handle: spec.handle }),
            (_, _, refused) if !refused.is_empty() => (AdminErrorKind::Invalid, refused),
            (_, true, _) => (
                AdminErrorKind::Unavailable,
                "the message is not parked any more; this request may have done it".to_owned(),
            ),
            _ => (
                AdminErrorKind::NotFound,
                "the message is not parked any more, or once more since".to_owned(),
            ),
        };
        Err(AdminError::new(kind, what))
    }

    async fn group_of_admin(&self, name: &str) -> Result<Arc<record::ConsumerGroup>, AdminError> {
        names::check_group(name)?;
        let group = self.existing_group(name).await.map_err(Refused::from)?;
        group.ok_or_else(|| no_group(name))
    }

    /// What is parked in one shard, here or elsewhere.
    pub(super) async fn parked(
        &self,
        caller: &Caller,
        shard: u32,
        look: ParkedLook,
    ) -> Result<ParkedFound, Refused> {
        let here = |shard: Arc<DataShard>, _| async move {
            let found = shard.parked(&look).await;
            Ok(Try::Done(found.map_err(|error| self.not_delivered(error))?))
        };
        match self.at_leader(caller, shard, LOOK, &look, here).await? {
            At::Here(found) => Ok(found),
            At::There(bytes) => {
                let found = ParkedFound::decode(bytes).map_err(|_| undecodable())?;
                match found.refused.is_empty() {
                    true => Ok(found),
                    false => Err(Refused::new(Code::InternalServerError, found.refused)),
                }
            }
        }
    }

    /// The same of a decision.
    pub(super) async fn decide(
        &self,
        caller: &Caller,
        shard: u32,
        unpark: UnparkMessage,
    ) -> Result<UnparkDone, Refused> {
        let here = |shard: Arc<DataShard>, retried| async move {
            match shard.unpark(&unpark, retried).await {
                Ok(done) => Ok(Try::Done(done)),
                Err(DeliverError::Submit(SubmitError::NotLeader { unsure, .. })) => {
                    Ok(Try::Elsewhere { unsure })
                }
                Err(error) => Err(self.not_delivered(error)),
            }
        };
        match self.at_leader(caller, shard, DECIDE, &unpark, here).await? {
            At::Here(done) => Ok(done),
            At::There(bytes) => UnparkDone::decode(bytes).map_err(|_| undecodable()),
        }
    }

    fn parked_view(&self, shard: u32, found: ParkedMessage) -> ParkedView {
        let queue = QueueId(found.queue);
        let handle = ParkedHandle {
            shard,
            queue,
            offset: found.offset,
            nonce: found.nonce,
        };
        let topic = self.node().meta().topic_by_id(queue.topic());
        let message = found.message;
        ParkedView {
            handle: handle.encode(),
            message_id: message.as_ref().map(|message| message.message_id.clone()),
            topic: topic.map(|topic| topic.name.clone()),
            queue: queue.number(),
            offset: found.offset,
            message_group: message.as_ref().and_then(|message| message.message_group.clone()),
            tag: message.as_ref().and_then(|message| message.tag.clone()),
            born_ms: message.as_ref().map(|message| message.born_ms),
            attempts: found.attempt,
            blocked: found.blocked,
            body_bytes: message.as_ref().map_or(0, |message| message.body_bytes),
            keys: message.map_or(Vec::new(), |message| message.keys),
            history: found.notes.into_iter().filter_map(note_view).collect(),
        }
    }
}

/// Whoever administers waits so long for the leader of one shard.
pub(super) fn patient() -> Caller {
    Caller {
        deadline: Some(PATIENCE),
        ..Caller::default()
    }
}

/// The shard, the queue and the offset at which a page begins.
fn place(text: &str) -> Option<(u32, u64, u64)> {
    let mut parts = text.split('/');
    let place = (
        parts.next()?.parse().ok()?,
        parts.next()?.parse().ok()?,
        parts.next()?.parse().ok()?,
    );
    parts.next().is_none().then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_read_as_it_is_written_and_nothing_else_is() {
        let handle = ParkedHandle {
            shard: 3,
            queue: QueueId::new(7, 2),
            offset: 17,
            nonce: u64::MAX,
        };
        assert_eq!(ParkedHandle::decode(&handle.encode()), Some(handle));
        for odd in [
            "",
            "3",
            "3-7-17",
            "3-7-17-x",
            "3-7-17-1-1",
            "-3-7-17",
            "3-zz-17-1",
        ] {
            assert_eq!(ParkedHandle::decode(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_page_goes_on_where_the_one_before_ended_or_is_refused() {
        assert_eq!(place("3/17/4"), Some((3, 17, 4)));
        for odd in ["", "3", "3/4", "//", "3/x/1", "-1/0/0", "3/17/1/1"] {
            assert_eq!(place(odd), None, "{odd}");
        }
    }
}
