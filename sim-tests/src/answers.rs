//! What an answer to a client must be, field by field, whatever the request asked for: the rules of the protocol and of
//! ARCHITECTURE.md that need no history, but what was asked, and when. What came of it is for the oracles.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    time::Duration,
};

use broker::service::handle::Handle;
use flotilla_proto::rocketmq as mq;
use madsim::time::TimeHandle;
use md5::{Digest, Md5};
use mq::receive_message_response::Content;

use crate::{
    history::{AGEING, DEAD_LETTERS, DELAYED, History, TRANSACTIONS, URGENT, topic_of},
    host::client_addr,
    letter::says_its_birth,
    plan::{Fault, Plan},
    readers::message_group_of,
};

mod changes;
mod routes;

pub use changes::{of_ack, of_change, of_send};
pub use routes::{of_assignment, of_route};

/// Judges the answers that a client gets.
#[derive(Clone)]
pub struct Judge {
    history: History,
    nodes: u32,
    /// Most that a node's wall clock differs from the true time; nothing where somebody sets clocks.
    skew: Option<Duration>,
    /// The plan's topics have ordered messages.
    ordered: bool,
}

impl Judge {
    /// In this world.
    #[must_use]
    pub fn new(history: &History, plan: &Plan) -> Judge {
        let jumps = plan.faults.contains_key(&Fault::ClockJump);
        Judge {
            history: history.clone(),
            nodes: plan.nodes,
            ordered: plan.ordered,
            skew: (!jumps).then(|| Duration::from_millis(plan.skew_ms.unsigned_abs())),
        }
    }

    /// What a topic takes: those of the plan have ordered messages, in some worlds.
    #[must_use]
    pub fn taken_by(&self, topic: &str) -> mq::MessageType {
        match self.ordered && topic.starts_with("topic-") {
            true => mq::MessageType::Fifo,
            false => mq::MessageType::Normal,
        }
    }

    /// What is wrong with an answer of this node breaks a promise.
    pub fn say(&self, node: u32, wrong: Vec<String>) {
        for what in wrong {
            self.history.broken(format!("answer of node {node}: {what}"));
        }
    }

    /// The wall clocks that nodes may have between a moment and now, milliseconds.
    #[must_use]
    pub fn clocks_since(&self, moment: Duration) -> Option<RangeInclusive<i64>> {
        let skew = self.skew?.as_millis() as i64;
        let time = TimeHandle::current();
        let wall = time.now_time().duration_since(std::time::UNIX_EPOCH);
        let now_ms = wall.expect("simulated time starts after 1970").as_millis() as i64;
        let since = time.elapsed().saturating_sub(moment).as_millis() as i64;
        // Both ends were cut to milliseconds.
        Some(now_ms - since - skew - 2..=now_ms + skew + 1)
    }

    /// Judges the answer to a receive that was sent at `asked`.
    pub fn receive(
        &self,
        node: u32,
        request: &mq::ReceiveMessageRequest,
        asked: Duration,
        answers: &[mq::ReceiveMessageResponse],
    ) {
        self.say(
            node,
            of_receive(request, self.clocks_since(asked).as_ref(), answers),
        );
        let hosts: Vec<String> = (1..=self.nodes)
            .map(|node| client_addr(node).to_string())
            .collect();
        for message in messages(answers) {
            let id = message.system_properties.as_ref().map(|all| &all.message_id);
            // That it was never sent is for an oracle.
            let sent = id.and_then(|id| self.history.first_sent(id));
            let since_sent = sent.and_then(|sent| self.clocks_since(sent));
            self.say(node, of_message(request, &hosts, since_sent.as_ref(), message));
        }
    }
}

fn messages(answers: &[mq::ReceiveMessageResponse]) -> impl Iterator<Item = &mq::Message> {
    answers.iter().filter_map(|answer| match &answer.content {
        Some(Content::Message(message)) => Some(message),
        _ => None,
    })
}

/// The stream as a whole: the status first, and once; the time of the delivery, once; as many messages as were asked for
/// at most, and none without OK; no message twice, and those that come for the first time in order.
#[must_use]
pub fn of_receive(
    request: &mq::ReceiveMessageRequest,
    clocks: Option<&RangeInclusive<i64>>,
    answers: &[mq::ReceiveMessageResponse],
) -> Vec<String> {
    let contents = || answers.iter().filter_map(|answer| answer.content.as_ref());
    let code = match answers.first().and_then(|first| first.content.as_ref()) {
        Some(Content::Status(status)) => Some(status.code()),
        _ => None,
    };
    let statuses = contents().filter(|it| matches!(it, Content::Status(_))).count();
    let stamps: Vec<Option<i64>> = contents()
        .filter_map(|content| match content {
            Content::DeliveryTimestamp(stamp) => Some(to_ms(Some(stamp))),
            _ => None,
        })
        .collect();
    let (came, most) = (messages(answers).count(), usize::try_from(request.batch_size));
    let may_come = match code {
        Some(mq::Code::Ok) => 1..=most.unwrap_or(0),
        _ => 0..=0,
    };
    let is_served = matches!(code, Some(mq::Code::Ok | mq::Code::MessageNotFound));
    let is_now =
        |stamp: &Option<i64>| stamp.is_some_and(|ms| clocks.is_none_or(|clocks| clocks.contains(&ms)));
    let places: Vec<_> = messages(answers).map(place).collect();
    let unlike: BTreeSet<_> = places.iter().map(|(queue, offset, _)| (queue, offset)).collect();
    let rules = [
        (code.is_some(), "a receive is answered with its status first"),
        (statuses == 1, "a receive has one status"),
        (contents().count() == answers.len(), "an element is empty"),
        (
            may_come.contains(&came),
            "OK without messages, messages without OK, or too many",
        ),
        (
            stamps.len() == usize::from(is_served),
            "the time of the delivery is there once, if the receive was served",
        ),
        (stamps.iter().all(is_now), "no clock of a node says this time"),
        (unlike.len() == came, "a message came twice"),
        (
            are_in_order(answers),
            "what comes for the first time is not in order",
        ),
    ];
    broken(rules, || in_few_words(answers))
}

/// What is said of the rules that do not hold, with the answer.
fn broken(rules: impl IntoIterator<Item = (bool, &'static str)>, answer: impl Fn() -> String) -> Vec<String> {
    let broken = rules.into_iter().filter(|(holds, _)| !holds);
    broken.map(|(_, what)| format!("{what}: {}", answer())).collect()
}

/// Of each queue, and of each message group there, what comes for the first time.
fn are_in_order(answers: &[mq::ReceiveMessageResponse]) -> bool {
    let mut lines: BTreeMap<_, Vec<i64>> = BTreeMap::new();
    for message in messages(answers) {
        let (queue, offset, attempt) = place(message);
        let properties = message.system_properties.as_ref();
        if attempt == 1 {
            let message_group = properties.and_then(|all| all.message_group.as_ref());
            lines.entry((queue, message_group)).or_default().push(offset);
        }
    }
    lines.values().all(|offsets| offsets.is_sorted())
}

/// Queue, offset, attempt.
fn place(message: &mq::Message) -> (i32, i64, i32) {
    let properties = message.system_properties.as_ref();
    properties.map_or((-1, -1, 0), |all| {
        let (offset, attempt) = (all.queue_offset, all.delivery_attempt);
        (all.queue_id, offset.unwrap_or(-1), attempt.unwrap_or(0))
    })
}

/// A stream in few words.
fn in_few_words(answers: &[mq::ReceiveMessageResponse]) -> String {
    let words: Vec<String> = answers
        .iter()
        .map(|answer| match &answer.content {
            None => "nothing".into(),
            Some(Content::Status(status)) => format!("{:?}", status.code()),
            Some(Content::Message(message)) => format!("{:?}", place(message)),
            Some(Content::DeliveryTimestamp(stamp)) => format!("at {:?}", to_ms(Some(stamp))),
        })
        .collect();
    words.join(", ")
}

/// One message. What its producer gave it is compared by whoever knows what that was (`letter.rs`).
#[must_use]
pub fn of_message(
    request: &mq::ReceiveMessageRequest,
    hosts: &[String],
    since_sent: Option<&RangeInclusive<i64>>,
    message: &mq::Message,
) -> Vec<String> {
    let Some(all) = &message.system_properties else {
        return vec!["a message has no system properties".into()];
    };
    let asked = request
        .message_queue
        .as_ref()
        .and_then(|queue| queue.topic.as_ref());
    let delivered = [
        (
            message.topic.as_ref() == asked,
            "the topic is not the one that was asked for",
        ),
        (is_its_handle(all), "the handle is of another place"),
        (
            all.delivery_attempt.is_some_and(|attempt| attempt >= 1),
            "no attempt",
        ),
        (
            all.invisible_duration.is_none() || all.invisible_duration == request.invisible_duration,
            "another time than was asked for",
        ),
        (
            all.dead_letter_queue == origin(asked, &all.message_id),
            "not where a dead letter came from",
        ),
    ];
    let rules = delivered
        .into_iter()
        .chain(as_it_is(message, all))
        .chain(as_it_came(all, hosts, since_sent));
    broken(rules, || format!("{all:?} of {:?}", message.topic))
}

/// What a message is.
fn as_it_is(message: &mq::Message, all: &mq::SystemProperties) -> [(bool, &'static str); 5] {
    let message_group = message_group_of(&all.message_id);
    let (kind, is_delayed) = match (message_group, topic_of(&all.message_id)) {
        (Some(_), _) => (mq::MessageType::Fifo, false),
        (None, DELAYED) => (mq::MessageType::Delay, true),
        (None, TRANSACTIONS) => (mq::MessageType::Transaction, false),
        (None, URGENT | AGEING) => (mq::MessageType::Priority, false),
        (None, _) => (mq::MessageType::Normal, false),
    };
    let is_plain = all.message_group.as_deref() == message_group
        && all.delivery_timestamp.is_some() == is_delayed
        && all.orphaned_transaction_recovery_duration.is_none()
        && all.lite_topic.is_none()
        && all.priority == priority_of(&all.message_id);
    let encodings = [mq::Encoding::Identity, mq::Encoding::Gzip];
    [
        (!all.message_id.is_empty(), "no message id"),
        (
            all.body_digest.as_ref() == Some(&digest(&message.body)),
            "not the body's digest",
        ),
        (encodings.contains(&all.body_encoding()), "no encoding"),
        (
            all.message_type() == kind,
            "not a message of the kind that was sent",
        ),
        (is_plain, "a property that messages of its kind have not"),
    ]
}

/// Ids of messages with a priority say it.
fn priority_of(id: &str) -> Option<i32> {
    let (_, priority) = id.rsplit_once('^')?;
    priority.parse().ok()
}

/// From where and when it came.
fn as_it_came(
    all: &mq::SystemProperties,
    hosts: &[String],
    since_sent: Option<&RangeInclusive<i64>>,
) -> [(bool, &'static str); 5] {
    let (born, stored) = (
        to_ms(all.born_timestamp.as_ref()),
        to_ms(all.store_timestamp.as_ref()),
    );
    let after = |ms: Option<i64>| ms.is_some_and(|ms| since_sent.is_none_or(|since| since.contains(&ms)));
    let is_born = says_its_birth(&all.message_id) || born.is_none() || after(born);
    [
        (born.is_some(), "no time of birth"),
        (is_born, "it was not born between its sending and now"),
        (!all.born_host.is_empty(), "no host of birth"),
        (after(stored), "it was not stored between its sending and now"),
        (
            hosts.contains(&all.store_host),
            "no node of this cluster stored it",
        ),
    ]
}

/// The handle names the place where the message stands.
fn is_its_handle(all: &mq::SystemProperties) -> bool {
    let handle = all.receipt_handle.as_deref().and_then(Handle::decode);
    handle.is_some_and(|handle| {
        let place = (handle.queue.number() as i32, Some(handle.offset as i64));
        place == (all.queue_id, all.queue_offset)
    })
}

/// What a dead letter says about itself, and others do not.
fn origin(topic: Option<&mq::Resource>, id: &str) -> Option<mq::DeadLetterQueue> {
    let is_dead = topic.is_some_and(|topic| topic.name.starts_with(DEAD_LETTERS));
    is_dead.then(|| mq::DeadLetterQueue {
        topic: topic_of(id).to_owned(),
        message_id: id.to_owned(),
    })
}

/// MD5 in upper case is what all SDKs read alike.
pub(crate) fn digest(body: &[u8]) -> mq::Digest {
    let checksum = Md5::digest(body)
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    mq::Digest {
        r#type: mq::DigestType::Md5.into(),
        checksum,
    }
}

/// Milliseconds since 1970; nothing of a time that is none.
fn to_ms(stamp: Option<&prost_types::Timestamp>) -> Option<i64> {
    let stamp = stamp?;
    let is_one = stamp.seconds > 0 && (0..1_000_000_000).contains(&stamp.nanos);
    is_one.then(|| stamp.seconds * 1_000 + i64::from(stamp.nanos / 1_000_000))
}

/// One status for several: theirs if they agree, "look at them" if not.
fn sums_up(status: Option<&mq::Status>, of: &[Option<&mq::Status>]) -> bool {
    let codes: BTreeSet<i32> = of.iter().map(|it| it.map_or(0, |it| it.code)).collect();
    let said = status.map_or(0, |status| status.code);
    let due = match codes.iter().next() {
        Some(code) if codes.len() == 1 => *code,
        _ => mq::Code::MultipleResults.into(),
    };
    said == due && !codes.contains(&0)
}

#[cfg(test)]
mod tests;
