//! Bounds of the cluster's catalogue. Every node keeps all of it in memory.

/// Topics, deleted ones included until the data shards have forgotten them.
pub const MAX_TOPICS: usize = 20_000;
/// Consumer groups, deleted ones included until forgotten.
pub const MAX_GROUPS: usize = 20_000;
/// Queues of all topics together.
pub const MAX_QUEUES_TOTAL: usize = 200_000;
/// Queues of one topic.
pub const MAX_QUEUES_PER_TOPIC: u32 = 1_024;
/// Data shards of a cluster; a dead-letter topic has a queue in each.
pub const MAX_DATA_SHARDS: u32 = 256;
/// Nodes named when a cluster is born.
pub const MAX_INITIAL_NODES: usize = 64;
/// Data directories that one node may have had: a replica's number has 16 bits for it.
pub const MAX_INCARNATION: u32 = u16::MAX as u32;
/// Bytes of a topic's or consumer group's name, dead-letter prefix included.
pub const MAX_NAME_BYTES: usize = 255;
/// Bytes of one address of a node.
pub const MAX_ADDRESS_BYTES: usize = 512;
/// Steps of a customised backoff.
pub const MAX_BACKOFF_STEPS: usize = 256;
/// Topics, and consumer groups, of one command that has them forgotten.
pub const MAX_FORGET: usize = 1_024;
/// Longest wait that weighs as one lane of a PRIORITY topic: 40 days.
pub const MAX_AGEING_MS: u64 = 40 * 86_400_000;
/// Pairs read at a time while loading.
pub(super) const SCAN_LIMIT: usize = 1_024;

const _: () = assert!(MAX_DATA_SHARDS <= MAX_QUEUES_PER_TOPIC);
const _: () = assert!(MAX_QUEUES_PER_TOPIC as usize <= MAX_QUEUES_TOTAL);
