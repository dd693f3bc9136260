//! Every bound of this crate, and how the bounds relate.

// ---- records and the node's log ----------------------------------------------------------------------------------

/// The fixed part of a record.
pub const RECORD_HEAD_BYTES: usize = 40;
/// The longest payload of a record. A message may have 4 MiB; an entry carries a batch of commands.
pub const MAX_PAYLOAD_BYTES: usize = 8 << 20;
/// The longest record of an entry.
pub const MAX_RECORD_BYTES: usize = MAX_PAYLOAD_BYTES + RECORD_HEAD_BYTES;
/// A batch stops growing at this size; one longer record still makes a batch of its own.
pub const MAX_BATCH_BYTES: usize = 8 << 20;
/// Records may wait for the writer up to this many bytes before the log counts itself overloaded. Raft bounds what is
/// in flight, so nothing is refused here; the count shows when that bound is set too high.
pub const MAX_QUEUED_BYTES: usize = 64 << 20;
/// Before a batch is cut the writer steps back at most this often to let more records arrive.
pub const MAX_GATHER_YIELDS: u32 = 32;
/// The smallest segment: small enough for tests, large enough for its header and some records.
pub const MIN_SEGMENT_BYTES: u64 = 4 << 10;
/// Positions in a segment are 32-bit numbers.
pub const MAX_SEGMENT_BYTES: u64 = 1 << 30;
/// A segment, unless configured otherwise.
pub const DEFAULT_SEGMENT_BYTES: u64 = 64 << 20;
/// Recent records kept in memory, per node, unless configured otherwise.
pub const DEFAULT_CACHE_BYTES: usize = 64 << 20;
/// What a recent entry takes in memory beside its record, bytes: two places in queues that double, and an allocation.
pub const RECENT_ENTRY_BYTES: usize = 160;
/// New segments are only made while the disk keeps this much free: the state engine needs room too, and copes badly
/// with having none.
pub const DEFAULT_KEEP_FREE_BYTES: u64 = 128 << 20;
/// Purged segments kept for reuse; more are deleted.
pub const MAX_SPARE_SEGMENTS: usize = 2;
/// Closed segments whose files are kept open for reading.
pub const MAX_OPEN_SEGMENTS: usize = 64;
/// Zeros are written ahead in steps of this size, so that a step never delays a batch by much.
pub const ZERO_STEP_BYTES: usize = 2 << 20;
/// Records of one shard that lie closer together than this are read with one call.
pub const READ_GAP_BYTES: u32 = 16 << 10;
/// One call reads at most this much, unless one record is longer.
pub const READ_SPAN_BYTES: u32 = 1 << 20;
/// Positions looked up in an index sidecar with one call.
pub const READ_POSITIONS: u64 = 512;
/// Records that cannot be read and are known to be so, per node.
pub const MAX_DAMAGES: usize = 1024;
/// How long a store that closes waits for what its replicas are in the middle of: a vote or an append that waits for room in the log,
/// a snapshot that is put in, a replica that is being opened. Less than `flotilla serve` gives all of a stop (15 s), more than
/// a slow disk takes for one piece of work.
pub const SETTLES_WITHIN_MS: u64 = 8_000;
/// How long whoever needs a record that could not be repaired waits before it is tried again.
pub const REPAIR_EVERY_MS: u64 = 1_000;
/// How long a full log waits before it looks for room again, unless segments were recycled meanwhile.
pub const ROOM_RETRY_MS: u64 = 1_000;

const _: () = assert!(
    MAX_BATCH_BYTES >= MAX_PAYLOAD_BYTES,
    "any entry but the very longest fits a gathered batch"
);
const _: () = assert!(
    MAX_QUEUED_BYTES >= 2 * MAX_BATCH_BYTES,
    "the next batch gathers while one is being written"
);
const _: () = assert!(
    MAX_SEGMENT_BYTES + 4 * MAX_BATCH_BYTES as u64 <= u32::MAX as u64,
    "positions fit 32 bits"
);
const _: () = assert!(READ_GAP_BYTES < READ_SPAN_BYTES);

// ---- consensus -----------------------------------------------------------------------------------------------------

/// Entries of one append message; a single longer entry still makes a message of its own.
pub const MAX_APPEND_BYTES: usize = 1 << 20;
/// Entries of one append message.
pub const MAX_APPEND_ENTRIES: u64 = 4096;
/// Append messages to one replica that may wait for their answers.
pub const APPEND_WINDOW: usize = 16;
/// Append messages from other replicas that may wait for this one, per shard.
pub const MAX_INBOUND_APPENDS: usize = 256;
/// Committed entries are read from the log in pieces of this size.
pub const APPLY_READ_BYTES: usize = 4 << 20;
/// Entries applied between two commits of the state engine.
pub const MAX_APPLY_ENTRIES: usize = 1024;
/// Bytes of entries applied between two commits of the state engine; the last one may go beyond.
pub const MAX_APPLY_BYTES: usize = 8 << 20;

const _: () = assert!(
    MAX_INBOUND_APPENDS > 2 * APPEND_WINDOW,
    "an old leader's window and a new one's fit"
);

// ---- snapshots -----------------------------------------------------------------------------------------------------

/// A part of a snapshot is closed at this size.
pub const SNAPSHOT_PIECE_BYTES: usize = 1 << 20;
/// The longest part: closed late by its last pair or record.
pub const MAX_SNAPSHOT_PIECE_BYTES: usize = SNAPSHOT_PIECE_BYTES + MAX_RECORD_BYTES;
/// Keys and values read from the state engine with one call.
pub const SNAPSHOT_SCAN_PAIRS: usize = 1024;
/// Snapshots a node sends at a time: each has a part in memory, keeps a state's moment and holds records.
pub const MAX_SNAPSHOTS_OUT: usize = 4;
/// Snapshots a node receives at a time.
pub const MAX_SNAPSHOTS_IN: usize = 4;
/// How often a sender asks whether its snapshot is installed by now.
pub const SNAPSHOT_POLL_MS: u64 = 50;
/// A transfer that has not moved for so long is given up, and what it keeps from being thrown away.
pub const SNAPSHOT_STALL_MS: u64 = 30_000;
/// A state's moment is kept for a transfer for so long at most; then it begins anew, without the records that have arrived.
pub const SNAPSHOT_IMAGE_MS: u64 = 600_000;
/// Records wait for being sent while this much is written to the log; then retention goes on without regard to it.
pub const SNAPSHOT_HOLD_BYTES: u64 = 512 << 20;

const _: () = assert!(SNAPSHOT_STALL_MS < SNAPSHOT_IMAGE_MS);

// ---- state ---------------------------------------------------------------------------------------------------------

/// The state is flushed when the log has grown by this much since.
pub const DEFAULT_FLUSH_BYTES: u64 = 64 << 20;
/// The state is flushed this often while anything is written.
pub const DEFAULT_FLUSH_EVERY_MS: u64 = 30_000;
/// How often the store looks whether it is time to flush.
pub const FLUSH_CHECK_MS: u64 = 500;

// ---- RocksDB -------------------------------------------------------------------------------------------------------

/// A memtable; when it is full RocksDB flushes by itself.
pub const ROCKS_MEMTABLE_BYTES: usize = 32 << 20;
/// Memtables that may wait for their flush; over it, writes wait.
pub const ROCKS_MEMTABLES: i32 = 4;
/// Blocks, indexes and filters in memory.
pub const ROCKS_CACHE_BYTES: usize = 64 << 20;
/// Filters and indexes are read and cached in parts of this size.
pub const ROCKS_METADATA_BLOCK_BYTES: usize = 4 << 10;
/// Rows that are read to find out why the state cannot be written; its shards stand meanwhile.
pub const ROCKS_ROWS_READ_AGAIN: usize = 10_000_000;
/// Threads that flush and compact.
pub const ROCKS_BACKGROUND_JOBS: i32 = 2;
/// Table files kept open.
pub const ROCKS_OPEN_FILES: i32 = 512;
