//! How many files a node keeps open for its log and its state, by what the operating system allows the process.

use rustix::process::Resource;
use rustix::process::getrlimit;

use crate::limits::MAX_OPEN_SEGMENTS;
use crate::limits::ROCKS_OPEN_FILES;

/// Everything that is neither a table file, nor a closed segment, nor a connection that somebody else opened: the log's
/// head and spares, the state engine's own log and what it compacts, sockets to other nodes, listeners, the runtime.
const OTHERS: usize = 64;

/// Descriptors this process may have open.
pub fn process_limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Table files of the state engine that stay open.
pub(crate) fn table_files(limit: usize) -> i32 {
    i32::try_from(limit / 4)
        .unwrap_or(i32::MAX)
        .clamp(20, ROCKS_OPEN_FILES)
}

/// Closed segments that stay open for reading, each with its sidecar.
pub(crate) fn open_segments(limit: usize) -> usize {
    (limit / 32).clamp(4, MAX_OPEN_SEGMENTS)
}

/// What must never be given to connections.
pub fn kept_back(limit: usize) -> usize {
    table_files(limit).unsigned_abs() as usize + 2 * open_segments(limit) + OTHERS
}
