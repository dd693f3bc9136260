//! Transactions that nobody has ended.

use serde::{Deserialize, Serialize};

/// Which transactions of a topic are to be shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TransactionQuery {
    /// Go on where the page before ended: its `next`.
    #[serde(default)]
    pub from: Option<String>,
    /// At most so many are looked at, 100 when absent, 256 at most.
    #[serde(default)]
    pub limit: Option<u32>,
    /// Of those, show only the one with this message id.
    #[serde(default)]
    pub message_id: Option<String>,
    /// And only those about which producers are not asked any more.
    #[serde(default)]
    pub only_given_up: bool,
}

/// Some transactions, queue by queue, in the order in which they began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct TransactionPage {
    /// What was found.
    pub transactions: Vec<TransactionView>,
    /// Where the next page begins; absent after the last.
    pub next: Option<String>,
}

/// A transaction that nobody has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct TransactionView {
    /// The queue that its message comes to if it is committed.
    pub queue: u32,
    /// Names it, to its producer and here.
    pub transaction_id: String,
    /// Id of its half message.
    pub message_id: String,
    /// Its tag.
    pub tag: Option<String>,
    /// Its keys.
    pub keys: Vec<String>,
    /// Producers are not asked about it any more.
    pub given_up: bool,
    /// How often they were.
    pub checks: u32,
    /// When they are asked next, by its shard's time.
    pub next_check_in_ms: Option<u64>,
    /// When the half message was sent.
    pub stored_ms: u64,
    /// Bytes of its body.
    pub body_bytes: u64,
}

/// How a transaction is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Resolution {
    /// Its message is delivered.
    Commit,
    /// It never is.
    Rollback,
}

/// Which transaction is to end, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ResolveSpec {
    /// As it is listed.
    pub transaction_id: String,
    /// How it ends, unless it has ended the other way before.
    pub resolution: Resolution,
}

/// The transaction that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct TransactionDone {
    /// Id of its message.
    pub message_id: String,
    /// How it ended.
    pub resolution: Resolution,
}
