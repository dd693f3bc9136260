//! What comes out of a command: a reply for the caller, hints for the leader.

use crate::ids::{GroupId, Position, QueueId};

/// Reply and effects of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// For the caller, refusals included.
    pub reply: Reply,
    /// Hints for the leader alone. They may get lost or be repeated.
    pub effects: Vec<Effect>,
}

impl From<Reply> for Outcome {
    fn from(reply: Reply) -> Self {
        Self {
            reply,
            effects: Vec::new(),
        }
    }
}

/// What a command answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The message stands in the queue.
    Appended {
        /// The queue it stands in; a duplicate may stand in another queue of the topic. The waiting room of the queue, if it is
        /// not due yet: then the offset is the number of its timer.
        queue: QueueId,
        /// Its offset.
        offset: u64,
        /// It was there before.
        duplicate: bool,
    },
    /// These messages are leased now.
    Delivered {
        /// In the order of the command, dropped ones left out.
        leases: Vec<Lease>,
    },
    /// One result for each lease of the command.
    Acked {
        /// In the order of the command.
        results: Vec<AckResult>,
    },
    /// What became of the lease.
    Released(ReleaseResult),
    /// Leases got another end.
    Prolonged {
        /// How many were changed.
        changed: u32,
        /// The limit was reached; repeat the command.
        more: bool,
    },
    /// Time passed.
    Ticked {
        /// Leases that ended.
        expired: u32,
        /// Of those, messages given up.
        dead_lettered: u32,
        /// More leases are over already.
        more: bool,
    },
    /// Messages are forgotten.
    Trimmed {
        /// The first offset kept now.
        first: u64,
        /// The limit was reached before the wanted offset.
        more: bool,
    },
    /// True if the message still exists and is read from the new place now.
    Copied(bool),
    /// Where the consumer group goes on from; nothing while some of what it had is left: repeat the command.
    Sought {
        /// The offset that comes next.
        at: Option<u64>,
    },
    /// Messages that were due stand in their queues.
    Fired {
        /// How many.
        fired: u32,
        /// That so many others were recalled is forgotten.
        forgotten: u32,
    },
    /// What became of a recall.
    Recalled(RecallResult),
    /// True if the message still waited, and is due at the new time.
    Retimed(bool),
    /// One result for each dead letter of the command.
    Redriven {
        /// In the order of the command.
        results: Vec<RedriveResult>,
    },
    /// One result for each parked message of the command.
    Unparked {
        /// In the order of the command.
        results: Vec<UnparkResult>,
    },
    /// What became of the end of a transaction.
    Ended(EndResult),
    /// These half messages are to be checked back now.
    CheckedBack {
        /// In the order of the command, dropped ones left out.
        halves: Vec<Half>,
    },
    /// So many half messages are not checked back any more.
    GivenUp(u32),
    /// The rules stand.
    Configured {
        /// The limit was reached; repeat the command.
        more: bool,
    },
    /// Nothing was changed.
    Refused(Refusal),
}

/// A message that was leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Offset in the queue.
    pub offset: u64,
    /// 1 on first delivery.
    pub attempt: u32,
    /// With the offset, the name of the lease.
    pub nonce: u64,
    /// Where its bytes are.
    pub position: Position,
    /// When it was stored, by the wall clock, milliseconds since 1970.
    pub stored_ms: u64,
    /// [Hash](crate::message_group_hash) of the message group that it locks; 0 if none.
    pub message_group: u64,
}

/// What became of an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckResult {
    /// The consumer group is done with the message.
    Done,
    /// There is no such lease (any more).
    Stale,
}

/// What became of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseResult {
    /// As asked.
    Done,
    /// There is no such lease (any more).
    Stale,
    /// The attempts are used up, or it was asked for: the message is a dead letter.
    DeadLettered,
    /// The attempts are used up, or it was given up: its message group stops at the message, as the rules say.
    Parked,
}

/// What became of a dead letter that was to be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RedriveResult {
    /// It waits for the consumer group that it died in.
    Done,
    /// It was given back before.
    Already,
    /// There is no such dead letter (any more).
    Gone,
    /// It died in another consumer group.
    AnotherGroup,
    /// The consumer group is not on the queue that it came from any more.
    NoQueue,
    /// The consumer group is on its way elsewhere in that queue: ask again.
    Seeks,
    /// The consumer group gets the message anyway: it was put before it.
    Comes,
    /// The consumer group was put before it, and read it again since it died.
    ReadSince,
    /// The consumer group has too much in flight: ask again.
    Full,
}

/// What became of a parked message that was decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnparkResult {
    /// As asked.
    Done,
    /// It is not parked, or is parked once more since: nothing was done.
    Stale,
    /// It is to be a dead letter, and there is no queue for it.
    NoPlace,
}

/// What became of a recall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecallResult {
    /// The message waited. It never comes to its queue.
    Done,
    /// It was recalled before.
    Again,
    /// It does not wait: it came to its queue, or was dropped with it, or was recalled so long ago that nobody knows.
    Over,
}

/// What became of the end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndResult {
    /// It was open, and ended so.
    Done,
    /// It had ended so before.
    Again,
    /// It had ended the other way before, which counts.
    Contrary,
    /// There is no such transaction, or it ended so long ago that nobody knows how.
    Unknown,
}

/// A half message that is checked back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Half {
    /// The queue that it comes to if it is committed.
    pub queue: QueueId,
    /// Its number in the waiting room.
    pub timer: u64,
    /// How often it was checked back, this time included.
    pub checks: u32,
    /// Where its bytes are.
    pub position: Position,
    /// When it was stored, by the wall clock, milliseconds since 1970.
    pub stored_ms: u64,
}

/// Why a command changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The consumer group has not started on the queue.
    NoSubscription,
    /// A newer release wrote the command, or it lacks a part.
    Malformed,
    /// The consumer group was put elsewhere since this was decided. Nothing was done.
    Outdated,
    /// The leader's catalogue lacked deletions that this state has carried out. Nothing was done.
    Behind,
    /// The queue has as many half messages that nobody has ended as it may have. Nothing was stored.
    TooManyOpen,
}

/// A hint for the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// A message came to the queue.
    Appended {
        /// The queue.
        queue: QueueId,
    },
    /// A message was given up, and came to the dead-letter queue.
    DeadLettered {
        /// The consumer group that gave it up.
        group: GroupId,
        /// The queue it came from.
        queue: QueueId,
        /// The dead-letter queue.
        to: QueueId,
    },
    /// A message waits for its retry.
    Visible {
        /// The consumer group.
        group: GroupId,
        /// The queue.
        queue: QueueId,
        /// Not to be delivered before.
        at_ms: u64,
    },
    /// A message waits to be due.
    Due {
        /// When something is due; nothing is before.
        at_ms: u64,
    },
    /// A lease ends.
    LeaseDeadline {
        /// When.
        at_ms: u64,
    },
}
