//! Receiving: workers that each keep one receive open, hand every message to the books, then
//! acknowledge it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flotilla_proto::rocketmq as mq;
use futures::StreamExt;
use tokio::task::JoinHandle;

use super::body::now_ns;
use super::client::{Cluster, Failure, Queue, Route, is_ok, resource};
use super::ledger::{Arrival, Ledger, Position, Seen};
use super::limits::{PRIMING, RECEIVE_BATCH};
use super::options::Ack;
use super::recorder::Recorder;
use super::tally::Tally;
use super::{BenchError, locked};

/// How long an empty queue is watched when a worker has no other queue, and when it has.
const LONG_POLL: Duration = Duration::from_secs(5);
const SHORT_POLL: Duration = Duration::from_secs(1);
/// A node may round a poll up; its answer is waited for that much longer than asked.
const ROUNDING: Duration = Duration::from_secs(5);
/// Pause after a failed receive or acknowledgement.
const PAUSE: Duration = Duration::from_millis(100);
/// While the consumer group is made known: how long to watch a queue, and to try in all.
const PRIMING_POLL: Duration = Duration::from_millis(100);
const PRIMING_TIMEOUT: Duration = Duration::from_secs(30);
const ACK_TRIES: u32 = 5;

/// Where received messages are entered.
pub(super) enum Books {
    /// Of a run that knows what it sent.
    Ledger(Arc<Ledger>),
    /// Of a run that only listens.
    Tally(Mutex<Tally>),
}

/// One consumer group at work.
pub(super) struct Consumers {
    pub cluster: Arc<Cluster>,
    pub topics: Arc<[String]>,
    pub group: String,
    pub ack: Ack,
    pub invisible: Duration,
    pub pace: Pace,
    pub books: Books,
    pub recorder: Arc<Recorder>,
    /// False: only topics with outstanding messages are asked.
    pub listening: AtomicBool,
}

/// When the workers of a consumer group receive.
#[derive(Clone, Copy, Default)]
pub(super) struct Pace {
    /// From the beginning of one receive to the next; `None`: without pause.
    pub every: Option<Duration>,
    /// The first worker's lane and turn among those of all consumer groups, and how many they are: they have lanes of
    /// their own, and do not all begin in the same moment.
    pub first: usize,
    pub of: usize,
}

impl Pace {
    fn turns(self, worker: usize, now: Instant) -> Turns {
        let share = (self.first + worker) as f64 / self.of.max(1) as f64;
        Turns {
            every: self.every,
            next: now + self.every.unwrap_or_default().mul_f64(share),
        }
    }
}

/// The turns of one worker.
struct Turns {
    every: Option<Duration>,
    next: Instant,
}

impl Turns {
    /// When a worker that is free at `now` receives. One that is late does not catch up: it is slow.
    fn turn(&mut self, now: Instant) -> Instant {
        let at = self.next.max(now);
        self.next = at + self.every.unwrap_or_default();
        at
    }

    async fn wait(&mut self) {
        if self.every.is_some() {
            let at = self.turn(Instant::now());
            tokio::time::sleep_until(at.into()).await;
        }
    }
}

/// Running workers; they end when this is dropped.
pub(super) struct Running(Vec<JoinHandle<()>>);

impl Drop for Running {
    fn drop(&mut self) {
        for worker in &self.0 {
            worker.abort();
        }
    }
}

/// One queue of one topic, by its place in the route.
#[derive(Clone, Copy)]
struct Place {
    topic: usize,
    queue: usize,
}

impl Consumers {
    async fn places(&self) -> Vec<Place> {
        let mut places = Vec::new();
        for (topic, name) in self.topics.iter().enumerate() {
            let queues = self
                .cluster
                .route(name)
                .await
                .map_or(0, |route| route.readable.len());
            places.extend((0..queues).map(|queue| Place { topic, queue }));
        }
        places
    }

    /// Receives once from every queue, so that the consumer group exists on each of them before
    /// anything is sent: a new consumer group may start at the end of a queue.
    ///
    /// # Errors
    /// If a queue cannot be received from for half a minute.
    pub(super) async fn prime(self: &Arc<Self>) -> Result<(), BenchError> {
        let deadline = Instant::now() + PRIMING_TIMEOUT;
        let places = self.places().await;
        let polls = places.into_iter().enumerate().map(|(lane, place)| {
            let consumers = self.clone();
            async move {
                while let Err(failure) = consumers.poll(lane, place, PRIMING_POLL).await {
                    if Instant::now() >= deadline {
                        return Err(BenchError::Refused {
                            what: format!(
                                "receiving from {} as {}",
                                consumers.topics[place.topic], consumers.group
                            ),
                            answer: format!("{} {}", failure.what, failure.message),
                        });
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(())
            }
        });
        let mut polls = futures::stream::iter(polls).buffer_unordered(PRIMING);
        while let Some(result) = polls.next().await {
            result?;
        }
        Ok(())
    }

    /// Starts workers that receive until they are dropped.
    pub(super) async fn start(self: &Arc<Self>, wanted: Option<usize>) -> Running {
        let places = self.places().await;
        let count = workers(wanted, places.len());
        let worker = |lane: usize| {
            // More workers than queues share queues.
            let mut own: Vec<Place> = match places.len() {
                0 => Vec::new(),
                all if all <= count => vec![places[lane % all]],
                _ => places.iter().skip(lane).step_by(count).copied().collect(),
            };
            // Consumer groups with a worker each do not all begin at the same queue.
            let begin = self.pace.first % own.len().max(1);
            own.rotate_left(begin);
            let turns = self.pace.turns(lane, Instant::now());
            tokio::spawn(self.clone().work(self.pace.first + lane, own, turns))
        };
        Running((0..count).map(worker).collect())
    }

    async fn work(self: Arc<Self>, lane: usize, places: Vec<Place>, mut turns: Turns) {
        let patience = if places.len() > 1 { SHORT_POLL } else { LONG_POLL };
        loop {
            let mut polled = false;
            for &place in &places {
                while self.wants(place) {
                    polled = true;
                    turns.wait().await;
                    match self.poll(lane, place, patience).await {
                        // There is probably more where this came from; but who pauses looks at all queues in turn.
                        Ok(count) if count == RECEIVE_BATCH as usize && turns.every.is_none() => {}
                        Ok(_) => break,
                        Err(_) => {
                            tokio::time::sleep(PAUSE).await;
                            break;
                        }
                    }
                }
            }
            if !polled {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn wants(&self, place: Place) -> bool {
        match &self.books {
            Books::Tally(_) => true,
            Books::Ledger(ledger) => {
                self.listening.load(Ordering::Relaxed) || ledger.outstanding_of(place.topic as u32) > 0
            }
        }
    }

    /// One receive with everything that follows. Returns how many messages came.
    async fn poll(&self, lane: usize, place: Place, patience: Duration) -> Result<usize, Failure> {
        let topic = &self.topics[place.topic];
        let route = self.cluster.route(topic).await?;
        let result = self.receive(lane, place, &route, patience).await;
        if let Err(failure) = &result {
            self.recorder
                .failed(&format!("receive: {}", failure.what), &failure.message);
            // A failed refresh leaves the old route: the next receive says what is wrong.
            let _ = self.cluster.refresh(topic, Some(&route)).await;
        }
        result
    }

    async fn receive(
        &self,
        lane: usize,
        place: Place,
        route: &Arc<Route>,
        patience: Duration,
    ) -> Result<usize, Failure> {
        if route.readable.is_empty() {
            return Err(Failure::of_status(None));
        }
        let queue = &route.readable[place.queue % route.readable.len()];
        let request = self
            .cluster
            .polling_request(self.request(queue, patience), patience + ROUNDING);
        let mut stream = queue.client(lane).receive_message(request).await?.into_inner();
        let (mut messages, mut status) = (Vec::new(), None);
        while let Some(element) = stream.next().await {
            match element?.content {
                Some(mq::receive_message_response::Content::Message(message)) => messages.push(message),
                Some(mq::receive_message_response::Content::Status(answer)) => status = Some(answer),
                Some(mq::receive_message_response::Content::DeliveryTimestamp(_)) | None => {}
            }
        }
        let empty = status
            .as_ref()
            .is_some_and(|status| status.code == mq::Code::MessageNotFound as i32);
        if !empty && !is_ok(status.as_ref()) {
            return Err(Failure::of_status(status.as_ref()));
        }
        if !messages.is_empty() {
            self.enter(lane, place.topic, &messages);
            self.acknowledge(lane, queue, &self.topics[place.topic], &messages)
                .await;
        }
        Ok(messages.len())
    }

    fn request(&self, queue: &Queue, patience: Duration) -> mq::ReceiveMessageRequest {
        let everything = mq::FilterExpression {
            r#type: mq::FilterType::Tag as i32,
            expression: "*".to_owned(),
        };
        mq::ReceiveMessageRequest {
            group: Some(resource(&self.group)),
            message_queue: Some(queue.queue.clone()),
            filter_expression: Some(everything),
            batch_size: RECEIVE_BATCH,
            invisible_duration: Some(prost_duration(self.invisible)),
            auto_renew: false,
            long_polling_timeout: Some(prost_duration(patience)),
            attempt_id: None,
        }
    }

    fn enter(&self, lane: usize, topic: usize, messages: &[mq::Message]) {
        let (now, now_ns) = (Instant::now(), now_ns());
        self.recorder.received_batch(now);
        let none = mq::SystemProperties::default();
        for message in messages {
            let properties = message.system_properties.as_ref().unwrap_or(&none);
            let arrival = Arrival {
                message_id: &properties.message_id,
                body: &message.body,
                topic: topic as u32,
                message_group: properties.message_group.as_deref(),
                position: Position {
                    queue: properties.queue_id,
                    offset: properties.queue_offset.unwrap_or(-1),
                },
                attempt: properties.delivery_attempt.unwrap_or(0),
            };
            let seen = match &self.books {
                Books::Ledger(ledger) => ledger.arrived(&arrival),
                Books::Tally(tally) => locked(tally).arrived(&arrival),
            };
            let journey = match seen {
                Seen::First(stamp) => Some(Duration::from_nanos(now_ns.saturating_sub(stamp.due_ns))),
                Seen::Redelivered | Seen::Duplicate | Seen::Foreign | Seen::Unexpected => None,
            };
            self.recorder.received(lane, now, journey);
        }
    }

    async fn acknowledge(&self, lane: usize, queue: &Queue, topic: &str, messages: &[mq::Message]) {
        let handle = |message: &mq::Message| {
            let properties = message.system_properties.as_ref();
            mq::AckMessageEntry {
                message_id: properties.map(|all| all.message_id.clone()).unwrap_or_default(),
                receipt_handle: properties
                    .and_then(|all| all.receipt_handle.clone())
                    .unwrap_or_default(),
                lite_topic: None,
            }
        };
        match self.ack {
            Ack::None => {}
            Ack::Batch => {
                self.acknowledge_entries(lane, queue, topic, messages.iter().map(handle).collect())
                    .await
            }
            Ack::Each => {
                for message in messages {
                    self.acknowledge_entries(lane, queue, topic, vec![handle(message)])
                        .await;
                }
            }
        }
    }

    /// What cannot be acknowledged comes again: that is the broker's promise, not our fault.
    async fn acknowledge_entries(
        &self,
        lane: usize,
        queue: &Queue,
        topic: &str,
        entries: Vec<mq::AckMessageEntry>,
    ) {
        for _ in 0..ACK_TRIES {
            let began = Instant::now();
            let request = self.cluster.request(mq::AckMessageRequest {
                group: Some(resource(&self.group)),
                topic: Some(resource(topic)),
                entries: entries.clone(),
            });
            let failure = match queue.client(lane).ack_message(request).await {
                Ok(answer) if is_ok(answer.get_ref().status.as_ref()) => {
                    let now = Instant::now();
                    return self.recorder.acknowledged(lane, now, now - began);
                }
                Ok(answer) => Failure::of_status(answer.get_ref().status.as_ref()),
                Err(status) => Failure::from(status),
            };
            self.recorder
                .failed(&format!("acknowledge: {}", failure.what), &failure.message);
            if failure.permanent || failure.what == mq::Code::MultipleResults.as_str_name() {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// How many workers a consumer group has.
pub(super) fn workers(wanted: Option<usize>, queues: usize) -> usize {
    wanted
        .unwrap_or(super::limits::DEFAULT_CONSUMERS.min(queues))
        .max(1)
}

fn prost_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos() as i32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_of_all_groups_begin_one_after_the_other_and_do_not_catch_up() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let turns = |first, worker| {
            let pace = Pace {
                every: Some(Duration::from_secs(1)),
                first,
                of: 4,
            };
            pace.turns(worker, began)
        };
        assert_eq!(turns(2, 1).turn(began), at(750));
        let mut first = turns(0, 0);
        assert_eq!(first.turn(began), began);
        assert_eq!(first.turn(at(20)), at(1000));
        // It was busy for three turns and a half: the next one is at once, and those after it keep their distance.
        assert_eq!(first.turn(at(4500)), at(4500));
        assert_eq!(first.turn(at(4600)), at(5500));
    }
}
