//! What an operator did with names, and what clients sent to them and got from them.
//!
//! A name is given anew and again: what bears it at one time is an incarnation, and has a number that clients read in
//! receipt handles and the operator in the catalogue.

use std::time::Duration;

/// Topics that clients use while they are deleted and made again.
pub const TOPICS: [&str; 2] = ["spare-0", "spare-1"];
/// Consumer groups that read them.
pub const GROUPS: [&str; 2] = ["spare-readers-0", "spare-readers-1"];
/// Consumer groups that read the dead letters of those: one that is there early, and one that comes last.
pub const UNDERTAKERS: [&str; 2] = ["spare-undertaker", "spare-heir"];
/// A topic that nobody but the operator ever names.
pub const UNUSED_TOPIC: &str = "spare-2";
/// A consumer group that nobody but the operator ever names.
pub const UNUSED_GROUP: &str = "spare-readers-2";

/// What a name is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A topic.
    Topic,
    /// A consumer group.
    Group,
}

/// A name, in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Of what.
    pub kind: Kind,
    /// The name.
    pub name: String,
}

impl Name {
    /// A topic's.
    #[must_use]
    pub fn topic(name: &str) -> Name {
        let (kind, name) = (Kind::Topic, name.to_owned());
        Name { kind, name }
    }

    /// A consumer group's.
    #[must_use]
    pub fn group(name: &str) -> Name {
        let (kind, name) = (Kind::Group, name.to_owned());
        Name { kind, name }
    }
}

/// What bears a name, as it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// A topic.
    Topic {
        /// How many.
        queues: u32,
    },
    /// A consumer group.
    Group(Rules),
}

/// The rules of a consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Deliveries of a message before it is a dead letter.
    pub max_attempts: u32,
    /// Wait after each of them, milliseconds; the last one repeats.
    pub backoff_ms: Vec<u64>,
    /// It starts at what is sent after its first receive; else at the first message there is.
    pub from_end: bool,
}

/// What the operator asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Makes it.
    Create(Spec),
    /// Deletes it.
    Delete,
    /// What bears the name?
    Describe,
}

/// What he is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was made or deleted.
    Done,
    /// This bears the name.
    Found(Spec),
    /// Not made: the name is taken.
    Exists,
    /// Nothing bears the name.
    NotFound,
    /// There was no leader, and nothing was done.
    NothingDone,
    /// Nobody knows whether it was or will be done.
    Unsure,
    /// Something that he did not expect.
    Refused(String),
}

/// A message that came from one of the topics, or from the dead letters of one of the groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// The topic's name.
    pub topic: String,
    /// The consumer group's name.
    pub group: String,
    /// Which topic of this name.
    pub topic_number: u32,
    /// Which consumer group of this name.
    pub group_number: u32,
    /// Number of the queue, and offset there.
    pub place: (i32, i64),
    /// The message id.
    pub id: String,
    /// 1 for the first.
    pub attempt: i32,
    /// When the receive was sent.
    pub asked: Duration,
    /// The body is the one that was sent.
    pub intact: bool,
}

/// Something that happened to a name, or under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// The operator is about to ask.
    Asked { name: Name, request: Request },
    /// He was told. If he made it, its number, unless the node that he asked has not heard of it yet.
    Answered {
        name: Name,
        request: Request,
        asked: Duration,
        answer: Answer,
        number: Option<u32>,
    },
    /// A message is about to be sent (again).
    Sending { topic: String, id: String },
    /// The service acknowledged the send.
    Stored { topic: String, id: String },
    /// A receive was answered by a node that knew no other topic and consumer group of their names all the while.
    Polled { topic: u32, group: u32 },
    /// A message came.
    Came(Arrival),
    /// The service accepted the acknowledgement of this delivery.
    Acked(Arrival),
    /// A dead letter is about to be made of this delivery.
    Burying(Arrival),
    /// The service accepted that it is a dead letter.
    Buried(Arrival),
    /// From now on nobody deletes what has this name and number, and it is whole everywhere.
    Lasting { name: Name, number: u32 },
}

impl Named {
    /// Whether a text is about the name or the message of this event.
    #[must_use]
    pub fn is_in(&self, text: &str) -> bool {
        match self {
            Named::Asked { name, .. } | Named::Answered { name, .. } | Named::Lasting { name, .. } => {
                text.contains(&name.name)
            }
            Named::Sending { id, .. } | Named::Stored { id, .. } => text.contains(id),
            Named::Came(it) | Named::Acked(it) | Named::Burying(it) | Named::Buried(it) => {
                text.contains(&it.id)
            }
            Named::Polled { .. } => false,
        }
    }
}
