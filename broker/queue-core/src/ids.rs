//! Numbers that must not be confused.

/// The highest bit of a queue's number, which no topic has so many queues for.
const WAITING_ROOM: u64 = 1 << 31;

/// A queue: topic id in the high half, number within the topic in the low half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct QueueId(pub u64);

impl QueueId {
    /// Queue `number` of a topic.
    pub fn new(topic: u32, number: u32) -> Self {
        Self(u64::from(topic) << 32 | u64::from(number))
    }

    /// Id of the topic.
    pub fn topic(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Number within the topic, from 0.
    pub fn number(self) -> u32 {
        self.0 as u32
    }

    /// Where messages stand that will come to this queue, and are not due yet.
    pub fn waiting_room(self) -> Self {
        Self(self.0 | WAITING_ROOM)
    }

    /// The queue of a waiting room; nothing if this is a queue itself.
    pub fn waits_for(self) -> Option<Self> {
        (self.0 & WAITING_ROOM != 0).then_some(Self(self.0 & !WAITING_ROOM))
    }
}

/// A consumer group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GroupId(pub u32);

/// Where a command's frame stands in the log: which entry, and where in its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Index of the entry.
    pub index: u64,
    /// Bytes from the start of the payload to the encoded command.
    pub frame_offset: u32,
    /// Bytes of the encoded command.
    pub frame_len: u32,
}
