//! Numbers that must not be confused.

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
