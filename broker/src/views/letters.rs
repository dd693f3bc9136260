//! Dead letters and parked messages.

use serde::{Deserialize, Serialize};

/// What becomes of a message of a message group whose attempts are used up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnPoison {
    /// It is a dead letter, and its message group goes on.
    #[default]
    DeadLetter,
    /// Its message group stops at it until somebody decides.
    Park,
}

/// Which dead letters are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LettersQuery {
    /// Go on where the page before ended: its `next`.
    #[serde(default)]
    pub from: Option<String>,
    /// At most so many are looked at, 100 when absent, 256 at most.
    #[serde(default)]
    pub limit: Option<u32>,
    /// Only what came from this topic.
    #[serde(default)]
    pub topic: Option<String>,
    /// Only what has this tag.
    #[serde(default)]
    pub tag: Option<String>,
    /// Only what became a dead letter then or later, ms since 1970.
    #[serde(default)]
    pub since_ms: Option<u64>,
    /// Only what became a dead letter before this, ms since 1970.
    #[serde(default)]
    pub before_ms: Option<u64>,
}

/// Some dead letters of a consumer group, shard by shard, in the order in which they died there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct LettersPage {
    /// What was found.
    pub letters: Vec<LetterView>,
    /// Where the next page begins; absent after the last.
    pub next: Option<String>,
}

/// A dead letter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct LetterView {
    /// Where it stands in the dead-letter topic: the queue.
    pub dead_letter_queue: u32,
    /// And the offset.
    pub dead_letter_offset: u64,
    /// Its id; absent, as all that stands in the message, while it cannot be read.
    pub message_id: Option<String>,
    /// The consumer group that it died in; absent if that was deleted since.
    pub consumer_group: Option<String>,
    /// The topic that it came from.
    pub topic: Option<String>,
    /// The queue of that, from 0.
    pub queue: u32,
    /// And the offset there.
    pub offset: u64,
    /// Its tag.
    pub tag: Option<String>,
    /// Its keys.
    pub keys: Vec<String>,
    /// Its message group.
    pub message_group: Option<String>,
    /// When its producer made it, ms since 1970.
    pub born_ms: Option<u64>,
    /// When it was stored in its topic.
    pub stored_ms: u64,
    /// When it became a dead letter.
    pub died_ms: u64,
    /// When it was given back to its consumer group.
    pub redriven_ms: Option<u64>,
    /// Bytes of its body.
    pub body_bytes: u64,
    /// How often something became of it.
    pub events: u32,
    /// The last 16 of that, the latest last.
    pub history: Vec<NoteView>,
}

/// Something that became of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct NoteView {
    /// Of which attempt, from 1. They begin anew when a message is given back or released.
    pub attempt: u32,
    /// When, ms since 1970.
    pub at_ms: u64,
    /// Hash of the id of the client that had it, 16 hexadecimal digits; absent where none had.
    pub client: Option<String>,
    /// What.
    pub what: NoteKind,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum NoteKind {
    /// Its time was over, and its consumer had said nothing.
    TimedOut,
    /// Its consumer gave it back.
    Refused,
    /// Its consumer said good-bye.
    Departed,
    /// Its consumer gave it up.
    GivenUp,
    /// An operator had its message group go on without it.
    Skipped,
    /// An operator had it delivered again.
    Released,
    /// An operator gave it back to its consumer group.
    Redriven,
}

/// Which dead letters are to go back to the consumer group that they died in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RedriveSpec {
    /// Which ones, and where this step begins.
    #[serde(default)]
    pub which: LettersQuery,
    /// Say what would become of each, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Names the redrive: what an earlier try with it did is told as done. Drawn if it is left out; the report has it.
    #[serde(default)]
    pub id: Option<u64>,
}

/// What became of some dead letters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct RedriveReport {
    /// Nothing was changed, because that was asked for.
    pub dry_run: bool,
    /// Names this redrive, for the steps after this one.
    pub id: u64,
    /// Each that was meant.
    pub letters: Vec<RedrivenView>,
    /// Where the next step begins; absent after the last.
    pub next: Option<String>,
}

/// What became of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct RedrivenView {
    /// Which.
    #[serde(flatten)]
    pub letter: LetterView,
    /// What.
    pub outcome: RedriveOutcome,
}

/// What became of a dead letter that was to go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RedriveOutcome {
    /// It waits for its consumer group.
    Redriven,
    /// It was given back before.
    Already,
    /// It is forgotten.
    Gone,
    /// It died in a consumer group of this name that was deleted since.
    AnotherGroup,
    /// Its consumer group does not read the queue that it came from any more.
    NoQueue,
    /// Its consumer group is on its way elsewhere there: ask again.
    Seeks,
    /// Its consumer group gets it anyway: it was put before it.
    Comes,
    /// Its consumer group has read it again since it died.
    ReadSince,
    /// Its consumer group has too much in flight there: ask again.
    Full,
}

/// Which parked messages are to be shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ParkedQuery {
    /// Go on where the page before ended: its `next`.
    #[serde(default)]
    pub from: Option<String>,
    /// At most so many, 100 when absent, 256 at most.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// Some parked messages of a consumer group, shard by shard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct ParkedPage {
    /// What was found.
    pub messages: Vec<ParkedView>,
    /// Where the next page begins; absent after the last.
    pub next: Option<String>,
}

/// A message at which its message group stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct ParkedView {
    /// For `skip` and `release`; names this stop of it.
    pub handle: String,
    /// Its id; absent, as all that stands in the message, while it cannot be read.
    pub message_id: Option<String>,
    /// Its topic.
    pub topic: Option<String>,
    /// Its queue, from 0.
    pub queue: u32,
    /// Its offset there.
    pub offset: u64,
    /// Its message group.
    pub message_group: Option<String>,
    /// Its tag.
    pub tag: Option<String>,
    /// Its keys.
    pub keys: Vec<String>,
    /// When its producer made it, ms since 1970.
    pub born_ms: Option<u64>,
    /// How often it was delivered.
    pub attempts: u32,
    /// Messages behind it that wait for it, as far as the consumer group has come to them.
    pub blocked: u64,
    /// Bytes of its body.
    pub body_bytes: u64,
    /// What became of it, the last 16, the latest last.
    pub history: Vec<NoteView>,
}

/// Which parked message is decided on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct UnparkSpec {
    /// As it is shown among those that are parked.
    pub handle: String,
}

/// The message that was decided on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct UnparkReport {
    /// As it was named.
    pub handle: String,
}

/// What is to become of messages of message groups whose attempts are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PoisonSpec {
    /// From now on.
    pub on_poison: OnPoison,
}
