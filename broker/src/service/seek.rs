//! Replay: a consumer group goes on from another message, by offset or by date, queue by queue, each at its leader.

use std::sync::Arc;

use flotilla_proto::{
    peer::{SeekAnswer, SeekQueue, seek_queue::To},
    record::{self, Command, command},
    rocketmq::Code,
};
use futures::{StreamExt, stream};
use prost::Message;
use queue_core::{GroupId, QueueId, Refusal, Reply};
use tokio::time::Instant;

use super::{
    Caller, Service,
    admin::{no_group, no_topic},
    answer::Refused,
    at_leader::{At, Try, undecodable},
    names,
};
use crate::{
    limits::{SEEK_AT_ONCE, SEEK_PATIENCE},
    node::{
        proposer::SubmitError,
        shard::{DataShard, Want},
    },
    views::{AdminError, AdminErrorKind, QueueSeek, SeekReport, SeekSpec, SeekTo},
};

/// The name under which a node asks a queue's leader.
pub const RPC: &str = "flotilla.Seek";

impl Service {
    /// Lets a consumer group go on from another message in each queue of a topic, or in one. What it has in flight there is
    /// over. A queue that is not known to be done is told with the reason; to ask again does no harm.
    pub async fn seek_group(&self, name: &str, spec: SeekSpec) -> Result<SeekReport, AdminError> {
        names::check_group(name)?;
        names::check_topic(&spec.topic)?;
        self.node().catch_up_meta().await?;
        let meta = self.node().meta();
        let group = meta.group(name).ok_or_else(|| no_group(name))?;
        let topic = meta.topic(&spec.topic).ok_or_else(|| no_topic(&spec.topic))?;
        let count = topic.queue_shards.len() as u32;
        // Never 0, which is that of no seek; and small enough for whoever reads JSON numbers as doubles.
        let drawn = || self.node().clock().random_u64() >> 11;
        let id = spec.id.unwrap_or_else(drawn).max(1);
        if let Some(queue) = spec.queue.filter(|&queue| queue >= count) {
            let none = format!("topic {} has queues 0 to {}, not {queue}", spec.topic, count - 1);
            return Err(AdminError::new(AdminErrorKind::Invalid, none));
        }
        let until = Instant::now() + SEEK_PATIENCE;
        let numbers = (0..count).filter(|&number| spec.queue.is_none_or(|only| only == number));
        let seeks = numbers.map(|number| {
            let shard = topic.queue_shards[number as usize];
            let seek = SeekQueue {
                id,
                ..seek_of(group.id, QueueId::new(topic.id, number), &spec)
            };
            self.seek_queue(shard, seek, until)
        });
        let queues = stream::iter(seeks.collect::<Vec<_>>()).buffered(SEEK_AT_ONCE);
        Ok(SeekReport {
            dry_run: spec.dry_run,
            id,
            queues: queues.collect().await,
        })
    }

    /// One queue, at its leader.
    async fn seek_queue(&self, shard: u32, seek: SeekQueue, until: Instant) -> QueueSeek {
        let queue = QueueId(seek.queue).number();
        let caller = || Caller {
            deadline: Some(until.saturating_duration_since(Instant::now())),
            ..Caller::default()
        };
        let problem = |why: String| QueueSeek {
            queue,
            problem: Some(why),
            ..QueueSeek::default()
        };
        // First a look: where it is put by this depends on what was done before, and a late repetition must not do it again.
        let look = SeekQueue {
            only_look: true,
            ..seek
        };
        let mut answer = self.seek_for(&caller(), shard, look).await;
        if let Ok(looked) = &answer
            && looked.refused.is_empty()
            && !seek.only_look
        {
            // It was done when it was asked for before, and what came after it stands.
            if looked.last == seek.id {
                return QueueSeek {
                    queue,
                    after: Some(looked.start),
                    ..QueueSeek::default()
                };
            }
            let seek = SeekQueue {
                epoch: looked.epoch,
                ..seek
            };
            let before = looked.before;
            let done = self.seek_for(&caller(), shard, seek).await;
            answer = done.map(|done| SeekAnswer { before, ..done });
        }
        match answer {
            Ok(answer) if answer.refused.is_empty() => QueueSeek {
                queue,
                before: Some(answer.before),
                after: Some(answer.after),
                problem: None,
            },
            Ok(answer) => problem(answer.refused),
            Err(refused) => problem(refused.message),
        }
    }

    /// The same, here or elsewhere.
    pub(super) async fn seek_for(
        &self,
        caller: &Caller,
        shard: u32,
        seek: SeekQueue,
    ) -> Result<SeekAnswer, Refused> {
        let here = |shard, _| self.seek_here(shard, seek);
        match self.at_leader(caller, shard, RPC, &seek, here).await? {
            At::Here(answer) => Ok(answer),
            At::There(bytes) => SeekAnswer::decode(bytes).map_err(|_| undecodable()),
        }
    }

    /// Carries it out on the leader, step by step.
    async fn seek_here(&self, shard: Arc<DataShard>, seek: SeekQueue) -> Result<Try<SeekAnswer>, Refused> {
        let (group, queue) = (GroupId(seek.group), QueueId(seek.queue));
        // Where it is, and not where it was for a leader that is none any more.
        let asks_nobody = plant!(OffsetAskedOfNobody => true, else !seek.only_look);
        if !asks_nobody && shard.replica.barrier().await.is_err() {
            return Ok(Try::Elsewhere { unsure: false });
        }
        // A look changes nothing; else a consumer group that has never read the queue begins first.
        if !seek.only_look {
            let want = self.want_to_seek(&shard, group, queue).await?;
            if let Err(error) = shard.subscribe_if_needed(queue, &want).await {
                return elsewhere(error);
            }
        }
        let Some(to) = seek.to else {
            return Err(Refused::new(Code::BadRequest, "a seek without a place"));
        };
        let target = shard.seek_target(group, queue, to);
        let target = target.map_err(|fault| self.not_delivered(fault.into()))?;
        let step = record::Seek {
            group: group.0,
            queue: queue.0,
            from: target.before,
            to: target.after,
            limit: shard.bounds.seek,
            epoch: seek.epoch,
            id: seek.id,
        };
        let after = match seek.only_look {
            true => target.after,
            false => match carry_out(&shard, step).await? {
                Try::Done(at) => at,
                Try::Elsewhere { unsure } => return Ok(Try::Elsewhere { unsure }),
            },
        };
        Ok(Try::Done(SeekAnswer {
            before: target.before,
            after,
            refused: String::new(),
            epoch: target.epoch,
            last: target.last_seek,
            start: target.start,
            begun: target.begun,
        }))
    }

    /// What has to be known of a consumer group to let it begin, unless it or the topic is gone.
    async fn want_to_seek(&self, shard: &DataShard, group: GroupId, queue: QueueId) -> Result<Want, Refused> {
        if self.node().meta().group_by_id(group.0).is_none() {
            // It may be new, and not heard of here yet.
            let _ = self.node().catch_up_meta().await;
        }
        let meta = self.node().meta();
        let gone = || {
            Refused::new(
                Code::NotFound,
                "the topic or the consumer group was deleted meanwhile",
            )
        };
        let known = meta.group_by_id(group.0).ok_or_else(gone)?;
        if meta.topic_is_gone(queue.topic()) || meta.group_is_gone(group.0) {
            return Err(gone());
        }
        Ok(self.want_of(&meta, &known, shard.id))
    }
}

/// Step by step; where the consumer group is then. Each step ends some of what it has in flight, and nothing comes to that.
async fn carry_out(shard: &DataShard, seek: record::Seek) -> Result<Try<u64>, Refused> {
    let queue = QueueId(seek.queue);
    let command = Command {
        command: Some(command::Command::Seek(seek)),
    };
    loop {
        match shard.proposer.submit(command.clone()).await {
            Ok(Reply::Sought { at: Some(at) }) => return Ok(Try::Done(at)),
            Ok(Reply::Sought { at: None }) => {}
            // Nothing was ever stored there, and the consumer group begins with the first message.
            Ok(Reply::Refused(Refusal::NoSubscription))
                if shard.machine.read(|core| core.queue(queue).is_none()) =>
            {
                return Ok(Try::Done(seek.to));
            }
            // The first message has come meanwhile: it begins, and then seeks.
            Ok(Reply::Refused(Refusal::NoSubscription)) => return Ok(Try::Elsewhere { unsure: false }),
            Ok(Reply::Refused(Refusal::Outdated)) => {
                let other = "the consumer group was put elsewhere meanwhile; look where it is, and ask again";
                return Err(Refused::new(Code::BadRequest, other));
            }
            Ok(other) => {
                let odd = format!("the shard answered a seek with {other:?}");
                return Err(Refused::new(Code::InternalServerError, odd));
            }
            Err(error) => return elsewhere(error),
        }
    }
}

fn elsewhere<T>(error: SubmitError) -> Result<Try<T>, Refused> {
    match error {
        SubmitError::NotLeader { unsure, .. } => Ok(Try::Elsewhere { unsure }),
        other => Err(other.into()),
    }
}

fn seek_of(group: u32, queue: QueueId, spec: &SeekSpec) -> SeekQueue {
    let to = match spec.to {
        SeekTo::First => To::First(true),
        SeekTo::Last => To::Last(true),
        SeekTo::Offset(offset) => To::Offset(offset),
        SeekTo::AtMs(at_ms) => To::AtMs(at_ms),
    };
    SeekQueue {
        group,
        queue: queue.0,
        to: Some(to),
        only_look: spec.dry_run,
        ..SeekQueue::default()
    }
}
