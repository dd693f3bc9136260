//! What the leader and administrators read of the state.

use flotilla_proto::record::Backoff;

use crate::{
    core::Core,
    ids::{GroupId, Position, QueueId},
};

/// A queue's ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueView {
    /// First offset kept.
    pub first: u64,
    /// Offset of the next message.
    pub next: u64,
}

/// A consumer group's place in a queue.
#[derive(Debug, Clone, PartialEq)]
pub struct SubscriptionView {
    /// The next offset to be delivered for the first time.
    pub cursor: u64,
    /// Deliverable now: new, or their retry time is over.
    pub ready: u64,
    /// Leased to a consumer.
    pub leased: u64,
    /// Waiting for their retry time, or, in order, for a message before them.
    pub waiting: u64,
    /// Passed over because an earlier message of their message group is not over.
    pub blocked: u64,
    /// Acknowledged since the subscription began.
    pub acked: u64,
    /// Given up since then.
    pub dead_lettered: u64,
    /// In flight, and stopping their message groups until somebody decides. Counted among those that wait, too.
    pub parked: u64,
    /// Dead letters given back since then: each is in flight, or over, once more.
    pub redriven: u64,
    /// Forgotten before they were delivered.
    pub trimmed: u64,
    /// Passed over, because the filter of the consumer whose turn it was did not let them through.
    pub filtered: u64,
    /// In flight when a seek began that is not done yet, and over by it.
    pub sought: u64,
    /// The seek that was begun last, and where the consumer group began, by the last that was done.
    pub last_seek: u64,
    /// The first offset that counts.
    pub start: u64,
    /// Seeks that were done since the subscription began. The counts began anew with each.
    pub epoch: u64,
    /// Where it goes on from once what it had in flight is over.
    pub seeks_to: Option<u64>,
    /// Deliveries of one message, first one included.
    pub max_attempts: u32,
    /// Waits between them.
    pub backoff: Option<Backoff>,
    /// Where dead letters go.
    pub dead_letter_queue: QueueId,
}

/// A message in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlightView {
    /// Offset in the queue.
    pub offset: u64,
    /// Names the lease together with the offset.
    pub nonce: u64,
    /// Deliveries so far.
    pub attempt: u32,
    /// Leased; otherwise it waits.
    pub leased: bool,
    /// When the lease or the wait ends.
    pub at_ms: u64,
    /// The server prolongs the lease while the client lives.
    pub auto_renew: bool,
    /// The answer that carried it was written out to the client: only then it is prolonged.
    pub written: bool,
    /// Hash of the client id.
    pub client: u64,
    /// When this delivery began.
    pub first_leased_ms: u64,
    /// [Hash](crate::message_group_hash) of the message group that it locks; 0 if none.
    pub message_group: u64,
    /// Hash of the request it was delivered to, if that said which it is; else 0.
    pub request: u64,
    /// Its client said good-bye.
    pub departed: bool,
    /// Its attempts are used up, and its message group stopped at it.
    pub parked: bool,
    /// How often something became of it that is kept in its history.
    pub noted: u32,
}

/// What the state knows of a message: where its bytes are, since when, and its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its frame in the log.
    pub position: Position,
    /// When it was stored, by the shard's time: how old it is follows from this.
    pub time_ms: u64,
    /// When it was stored, by the wall clock, milliseconds since 1970: for people, and to be found by. Never before that of
    /// the message before it in the queue.
    pub stored_ms: u64,
    /// [Hash](crate::tag_hash) of its tag; 0 if it has none.
    pub tag: u64,
    /// [Hash](crate::message_group_hash) of its message group; 0 if it has none.
    pub message_group: u64,
}

/// What a deliver command could take now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Offsets whose retry time is over, ascending.
    pub redeliver: Vec<u64>,
    /// The cursor.
    pub first_new: u64,
    /// How many new ones.
    pub new_count: u32,
}

/// What every receive and acknowledgement asks. A [`SubscriptionView`] is for people: it counts what waits.
impl Core {
    /// The next offset to be delivered to a consumer group for the first time; nothing if it has not begun on the queue.
    pub fn cursor(&self, group: GroupId, queue: QueueId) -> Option<u64> {
        let known = self.subscriptions.get(&(queue, group));
        known.map(|known| known.cursor)
    }

    /// True if a consumer group has begun on a queue, with the rules of this version of it or a newer one.
    pub fn has_begun(
        &self,
        group: GroupId,
        queue: QueueId,
        version: u32,
        dead_letter_queue: QueueId,
    ) -> bool {
        let rules = self.rules.get(&group);
        let current = rules.is_some_and(|rules| {
            (rules.version, rules.dead_letter_queue) == (version, dead_letter_queue)
                || rules.version > version
        });
        current && self.subscriptions.contains_key(&(queue, group))
    }
}
