//! How loud libraries may be: what a person must know of them is said by our own lines.

use tracing::level_filters::LevelFilter;

/// Log targets and the level from which on they are shown. openraft warns of every heartbeat that is late; while a replica
/// closes, or loses its leadership in the middle of a change of voters, it has errors for what is no error.
pub const QUIET: &[(&str, LevelFilter)] = &[
    ("openraft", LevelFilter::ERROR),
    ("openraft::raft::raft_inner", LevelFilter::OFF),
    ("openraft::raft::api::management", LevelFilter::OFF),
    ("openraft::core::heartbeat", LevelFilter::OFF),
];
