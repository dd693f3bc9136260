//! The pure core of a data shard.
