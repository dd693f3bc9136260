//! Messages that wait for their date.

use serde::{Deserialize, Serialize};

/// Which messages of a topic that wait are to be shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DelayedQuery {
    /// Go on where the page before ended: its `next`.
    #[serde(default)]
    pub from: Option<String>,
    /// At most so many are looked at, 100 when absent, 256 at most.
    #[serde(default)]
    pub limit: Option<u32>,
    /// Of those, show only the one with this message id.
    #[serde(default)]
    pub message_id: Option<String>,
}

/// Some messages that wait, queue by queue, in the order in which they came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DelayedPage {
    /// What was found.
    pub messages: Vec<DelayedView>,
    /// Where the next page begins; absent after the last.
    pub next: Option<String>,
}

/// A message that waits for its date.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DelayedView {
    /// The queue that it will come to.
    pub queue: u32,
    /// For a recall, and to change its time.
    pub recall_handle: String,
    /// Its id.
    pub message_id: String,
    /// Its tag.
    pub tag: Option<String>,
    /// Its keys.
    pub keys: Vec<String>,
    /// When it is to be delivered, as its sender or an operator said.
    pub delivery_ms: u64,
    /// How long it waits still, by its shard's time.
    pub left_ms: u64,
    /// When it was sent.
    pub stored_ms: u64,
    /// Bytes of its body.
    pub body_bytes: u64,
}

/// Which message is to be recalled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RecallSpec {
    /// As its sender was told, or as it is shown among those that wait.
    pub recall_handle: String,
}

/// When a message is to be delivered that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RetimeSpec {
    /// As its sender was told, or as it is shown among those that wait.
    pub recall_handle: String,
    /// The new date, milliseconds since 1970; in the past is at once.
    pub delivery_ms: u64,
}

/// The message that was recalled, or has another time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DelayedDone {
    /// Its id.
    pub message_id: String,
}
