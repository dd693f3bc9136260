//! What can go wrong with the log, one type per operation.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::log_id::LogId;

/// Why a node's log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk answered with an error.
    #[error("cannot {operation} {name}: {source}")]
    Io {
        operation: &'static str,
        name: String,
        source: io::Error,
    },
    /// Something that was durable can no longer be read. This log must not be used: its replicas have to be rebuilt.
    #[error(
        "segment {segment} is corrupt at byte {position}: {reason} (shards {shards:?}); rebuild this node from its peers"
    )]
    Corrupt {
        segment: u64,
        position: u64,
        /// The shards concerned, as far as known; empty means any.
        shards: Vec<u32>,
        reason: String,
    },
    /// Written by a program with another format.
    #[error(
        "segment {segment} has format version {found}, this program reads version {known}: use the program that wrote it, or newer"
    )]
    Version { segment: u64, found: u32, known: u32 },
    /// A record of a kind that this program does not know.
    #[error(
        "segment {segment} has a record of kind {kind} at byte {position}, which this program does not know: use the \
         program that wrote it, or newer"
    )]
    Kind { segment: u64, position: u64, kind: u8 },
    /// A file of another data directory.
    #[error(
        "segment {segment} belongs to data directory {found:016x}, not to {expected:016x}: was it copied here?"
    )]
    OtherDirectory { segment: u64, expected: u64, found: u64 },
    /// The options cannot work.
    #[error("bad log options: {0}")]
    Options(&'static str),
}

/// Why the log takes no more records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// It was closed.
    Closed,
    /// A write or sync failed. What was written since the last success may or may not be on the disk.
    Failed {
        operation: &'static str,
        kind: io::ErrorKind,
        message: Arc<str>,
    },
}

impl StopReason {
    pub(super) fn failed(operation: &'static str, error: &io::Error) -> StopReason {
        StopReason::Failed {
            operation,
            kind: error.kind(),
            message: error.to_string().into(),
        }
    }
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StopReason::Closed => write!(f, "closed"),
            StopReason::Failed {
                operation, message, ..
            } => write!(f, "{operation} failed: {message}"),
        }
    }
}

/// The log has stopped for ever; nothing later than what was acknowledged is promised.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log has stopped: {0}")]
pub struct LogStopped(pub StopReason);

impl From<LogStopped> for io::Error {
    fn from(stopped: LogStopped) -> io::Error {
        let kind = match &stopped.0 {
            StopReason::Closed => io::ErrorKind::BrokenPipe,
            StopReason::Failed { kind, .. } => *kind,
        };
        io::Error::new(kind, stopped)
    }
}

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not (or no longer) in this log.
    #[error("shard {shard} has no record {index}")]
    NotFound { shard: u32, index: u64 },
    /// The record was written, and what the disk returns is something else.
    #[error("record {index} of shard {shard} is corrupt (segment {segment}, byte {position}): {reason}")]
    Corrupt {
        shard: u32,
        index: u64,
        segment: u64,
        position: u64,
        reason: String,
    },
    /// The record is whole, and of a kind that only a newer release knows.
    #[error(
        "segment {segment} has a record of kind {kind}, which this program does not know: use the program that wrote it, or newer"
    )]
    Newer { segment: u64, kind: u8 },
    #[error("cannot read segment {segment}: {source}")]
    Io { segment: u64, source: io::Error },
}

/// Why a record could not be repaired.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// Not the record that was written there.
    #[error("what another node gave is not the record that was stored here")]
    Misfit,
    /// Where it stands cannot be found.
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Stopped(#[from] LogStopped),
    /// The place where it stands does not take it.
    #[error("segment {segment} cannot be written where it is damaged: {source}")]
    Disk { segment: u64, source: io::Error },
}

/// Why segments could not be recycled.
#[derive(Debug, thiserror::Error)]
pub enum RecycleError {
    #[error(transparent)]
    Stopped(#[from] LogStopped),
    /// The purge points could not be found.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Purge points by shard.
pub type PurgePoints = BTreeMap<u32, LogId>;
