//! Sending: many producers with one open send each, every message tried until its end is known.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_proto::rocketmq as mq;
use tokio::task::JoinHandle;

use super::body::{Stamp, now_ns};
use super::client::{Cluster, Failure, Queue, Route, is_ok, resource};
use super::ledger::{Ledger, MessageGroups, Outcome};
use super::options::{Produce, Retry};
use super::recorder::Recorder;
use super::schedule::Source;

/// First pause after a failed try; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(320);

/// All producers of a run.
pub(super) struct Producers {
    pub cluster: Arc<Cluster>,
    pub topics: Arc<[String]>,
    pub options: Produce,
    pub ledger: Arc<Ledger>,
    pub recorder: Arc<Recorder>,
    pub source: Source,
    pub host: String,
}

/// One message under way.
struct Sending {
    stamp: Stamp,
    topic: usize,
    /// Which of the topic's queues, modulo their number.
    queue: usize,
    message_group: Option<String>,
}

impl Producers {
    /// Starts `count` producers, which run until the source ends.
    pub(super) fn start(self: &Arc<Self>, count: u32) -> Vec<JoinHandle<()>> {
        (0..count)
            .map(|producer| tokio::spawn(self.clone().produce(producer, count)))
            .collect()
    }

    async fn produce(self: Arc<Self>, producer: u32, count: u32) {
        while let Some(due) = self.source.next().await {
            let Some(sending) = self.begin(producer, count, due) else {
                return;
            };
            let (outcome, tries) = self.send(&sending).await;
            self.ledger.end(producer, sending.stamp.sequence, outcome, tries);
            if outcome == Outcome::Acknowledged {
                self.recorder.sent(producer as usize, due, Instant::now(), tries);
            }
        }
    }

    fn begin(&self, producer: u32, count: u32, due: Instant) -> Option<Sending> {
        let next = self.ledger.next_sequence(producer);
        let group = self.ledger.groups().of(producer, next);
        // A message group stays with its topic and queue; everything else takes turns over all of them.
        let turn = group.map_or_else(
            || producer as usize + next as usize * count as usize,
            |group| group as usize,
        );
        let (topic, queue) = (turn % self.topics.len(), turn / self.topics.len());
        let sequence = self.ledger.begin(producer, topic as u32)?;
        let waited = u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let due_ns = now_ns().saturating_sub(waited);
        let stamp = Stamp {
            run: self.ledger.run(),
            producer,
            sequence,
            due_ns,
        };
        Some(Sending {
            stamp,
            topic,
            queue,
            message_group: group.map(MessageGroups::name),
        })
    }

    /// Tries until the message is acknowledged, or refused for good, or the time is up.
    async fn send(&self, sending: &Sending) -> (Outcome, u32) {
        let topic = &self.topics[sending.topic];
        let body = sending.stamp.encode(self.options.payload);
        let (began, mut tries, mut certain, mut pause) = (Instant::now(), 0, true, FIRST_PAUSE);
        loop {
            tries += 1;
            let route = self.cluster.route(topic).await;
            let result = match &route {
                Ok(route) => self.try_once(sending, route, tries, &body).await,
                // Not even sent.
                Err(why) => Err(Failure {
                    certain: true,
                    permanent: false,
                    ..why.clone()
                }),
            };
            let Err(failure) = result else {
                return (Outcome::Acknowledged, tries);
            };
            self.recorder
                .failed_try(Instant::now(), &failure.what, &failure.message);
            certain &= failure.certain;
            if failure.permanent || began.elapsed() >= self.options.give_up {
                return (
                    if certain {
                        Outcome::Refused
                    } else {
                        Outcome::Unknown
                    },
                    tries,
                );
            }
            if let Ok(route) = &route {
                // A failed refresh leaves the old route: the next try says what is wrong.
                let _ = self.cluster.refresh(topic, Some(route)).await;
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    async fn try_once(
        &self,
        sending: &Sending,
        route: &Route,
        tries: u32,
        body: &bytes::Bytes,
    ) -> Result<(), Failure> {
        let moved = match self.options.retry {
            Retry::Same => 0,
            Retry::Next => tries as usize - 1,
        };
        let queues = &route.writable;
        if queues.is_empty() {
            return Err(Failure {
                certain: true,
                ..Failure::of_status(None)
            });
        }
        let queue = &queues[(sending.queue + moved) % queues.len()];
        let message = self.message(sending, queue, body.clone());
        let request = self.cluster.request(mq::SendMessageRequest {
            messages: vec![message],
        });
        let mut client = queue.client(sending.stamp.producer as usize);
        let answer = client.send_message(request).await?.into_inner();
        let entry = answer.entries.first().and_then(|entry| entry.status.as_ref());
        if !is_ok(answer.status.as_ref()) || !is_ok(entry) {
            return Err(Failure::of_status(entry.or(answer.status.as_ref())));
        }
        Ok(())
    }

    fn message(&self, sending: &Sending, queue: &Queue, body: bytes::Bytes) -> mq::Message {
        let kind = if sending.message_group.is_some() {
            mq::MessageType::Fifo
        } else {
            mq::MessageType::Normal
        };
        let born = prost_types::Timestamp {
            seconds: (sending.stamp.due_ns / 1_000_000_000) as i64,
            nanos: (sending.stamp.due_ns % 1_000_000_000) as i32,
        };
        mq::Message {
            topic: Some(resource(&self.topics[sending.topic])),
            system_properties: Some(mq::SystemProperties {
                message_id: sending.stamp.message_id(),
                body_encoding: mq::Encoding::Identity as i32,
                message_type: kind as i32,
                born_timestamp: Some(born),
                born_host: self.host.clone(),
                queue_id: queue.queue.id,
                message_group: sending.message_group.clone(),
                ..mq::SystemProperties::default()
            }),
            body,
            ..mq::Message::default()
        }
    }
}
