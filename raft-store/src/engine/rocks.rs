//! The state engine of production: one RocksDB for the whole node. The only file that names it.
//!
//! It runs without a log of its own (the node log is one) and writes to disk when a memtable is full or when told to,
//! never when it closes: what a crash leaves and what an orderly end leaves differ in nothing but the last flush.
//! All shards share one column family, so that every flush is one cut through time.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DB, DBCompressionType, DBRawIterator, ErrorKind,
    FlushOptions, LogLevel, Options, ReadOptions, Snapshot, WriteOptions,
};

use super::{Change, Engine, EngineError, EngineStats, EngineView, WriteBatch};
use crate::descriptors::{process_limit, table_files};
use crate::limits::{
    ROCKS_BACKGROUND_JOBS, ROCKS_CACHE_BYTES, ROCKS_MEMTABLE_BYTES, ROCKS_MEMTABLES,
    ROCKS_METADATA_BLOCK_BYTES, ROCKS_ROWS_READ_AGAIN,
};

/// RocksDB as a state engine.
pub struct RocksEngine {
    db: Arc<DB>,
    write: WriteOptions,
    flushes: AtomicU64,
}

impl RocksEngine {
    /// Opens the database in directory `path`, making it where there is none.
    ///
    /// # Errors
    ///
    /// [`EngineError::Corrupt`] when files are damaged or missing; [`EngineError::Failed`] when the disk fails or
    /// another process has the database open.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        Self::open_with(path, ROCKS_CACHE_BYTES)
    }

    fn open_with(path: &Path, cache_bytes: usize) -> Result<Self, EngineError> {
        let existed = path.join("CURRENT").exists();
        let options = database(cache_bytes)?;
        let db = read(|| DB::open(&options, path)).map_err(|error| match error {
            EngineError::Failed(what) if existed && what.contains("No such file") => {
                EngineError::Corrupt(what)
            }
            error => error,
        })?;
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        Ok(Self {
            db: Arc::new(db),
            write,
            flushes: AtomicU64::new(0),
        })
    }

    /// A write fails with what a compaction before it could not read. That may have passed; if it is there still, when everything
    /// is read, it would be met again after every restart.
    fn not_written(&self, error: rocksdb::Error) -> EngineError {
        if !is_unreadable(error.as_ref()) {
            return failed(error);
        }
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        // A compaction reads them, too.
        #[expect(
            deprecated,
            reason = "for lookups, which are as fast without; ranges are deleted here"
        )]
        options.set_ignore_range_deletions(true);
        let mut all = self.db.raw_iterator_opt(options);
        all.seek_to_first();
        let mut rows = 0;
        while all.valid() && rows < ROCKS_ROWS_READ_AGAIN {
            all.next();
            rows += 1;
        }
        match all.status() {
            Ok(()) => EngineError::Failed(error.into_string()),
            Err(error) => failed(error),
        }
    }

    fn number(&self, property: &str) -> u64 {
        self.db.property_int_value(property).ok().flatten().unwrap_or(0)
    }
}

fn database(cache_bytes: usize) -> Result<Options, EngineError> {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(cache_bytes));
    table.set_bloom_filter(10.0, false);
    table.set_cache_index_and_filter_blocks(true);
    // In small parts: the filter and the index of a whole table may be larger than one shard of the cache, would never
    // stay in it, and would be read and checksummed anew, megabytes of it, for every key that is looked up.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_metadata_block_size(ROCKS_METADATA_BLOCK_BYTES);
    table.set_pin_top_level_index_and_filter(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut database = Options::default();
    database.create_if_missing(true);
    database.set_block_based_table_factory(&table);
    database.set_compression_type(DBCompressionType::Lz4);
    database.set_write_buffer_size(ROCKS_MEMTABLE_BYTES);
    database.set_max_write_buffer_number(ROCKS_MEMTABLES);
    database.set_max_background_jobs(ROCKS_BACKGROUND_JOBS);
    database.set_max_open_files(table_files(process_limit()));
    database.set_level_compaction_dynamic_level_bytes(true);
    database.set_paranoid_checks(true);
    database.set_atomic_flush(true);
    database.set_log_level(LogLevel::Warn);
    database.set_keep_log_file_num(2);
    database.set_max_log_file_size(1 << 20);
    database.set_stats_dump_period_sec(0);
    // The crate has no setter for this one.
    Options::get_options_from_string(&mut database, "avoid_flush_during_shutdown=true").map_err(failed)
}

/// The class of an error. What could not be read was tried twice.
fn failed(error: rocksdb::Error) -> EngineError {
    // RocksDB reports a format that it does not know as corruption.
    if error.kind() == ErrorKind::NotSupported || error.to_string().contains("newer version of RocksDB") {
        return EngineError::Newer(error.to_string());
    }
    match error.kind() {
        ErrorKind::Corruption => EngineError::Corrupt(error.to_string()),
        _ if is_unreadable(error.as_ref()) => EngineError::Corrupt(error.to_string()),
        _ => EngineError::Failed(error.to_string()),
    }
}

/// Reads; what the disk does not give back (EIO) is tried once more: an error that passes is no damage.
fn read<T>(mut attempt: impl FnMut() -> Result<T, rocksdb::Error>) -> Result<T, EngineError> {
    let done = match attempt() {
        Err(error) if is_unreadable(error.as_ref()) => attempt(),
        done => done,
    };
    done.map_err(failed)
}

/// RocksDB passes on what it did and the system's words for what came of it; of writes it says something else.
fn is_unreadable(error: &str) -> bool {
    let is_read = ["While pread", "While reading file"]
        .iter()
        .any(|what| error.contains(what));
    is_read && error.contains("Input/output error")
}

fn collect(
    mut iterator: DBRawIterator<'_>,
    from: &[u8],
    limit: usize,
) -> Result<Vec<(Bytes, Bytes)>, rocksdb::Error> {
    let mut pairs = Vec::new();
    iterator.seek(from);
    while pairs.len() < limit {
        let Some((key, value)) = iterator.item() else {
            break;
        };
        pairs.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        iterator.next();
    }
    iterator.status()?;
    Ok(pairs)
}

fn up_to(to: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(to);
    options
}

impl EngineView for RocksEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(read(|| self.db.get(key))?.map(Bytes::from))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        if from >= to {
            return Ok(Vec::new());
        }
        read(|| collect(self.db.raw_iterator_opt(up_to(to)), from, limit))
    }
}

impl Engine for RocksEngine {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        let mut changes = rocksdb::WriteBatch::default();
        for change in &batch.changes {
            match change {
                Change::Put(key, value) => changes.put(key, value),
                Change::Delete(key) => changes.delete(key),
                Change::DeleteRange(from, to) => changes.delete_range(from, to),
            }
        }
        self.db
            .write_opt(changes, &self.write)
            .map_err(|error| self.not_written(error))
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db
            .flush_opt(&options)
            .map_err(|error| self.not_written(error))?;
        self.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn view(&self) -> Result<Box<dyn EngineView>, EngineError> {
        Ok(Box::new(View::new(self.db.clone(), |db| db.snapshot())))
    }

    fn stats(&self) -> EngineStats {
        EngineStats {
            memory_bytes: self.number("rocksdb.size-all-mem-tables")
                + self.number("rocksdb.block-cache-usage")
                + self.number("rocksdb.estimate-table-readers-mem"),
            disk_bytes: self.number("rocksdb.total-sst-files-size"),
            flushes: self.flushes.load(Ordering::Relaxed),
        }
    }
}

self_cell::self_cell!(
    /// A snapshot that keeps its database open.
    struct View {
        owner: Arc<DB>,
        #[covariant]
        dependent: Snapshot,
    }
);

impl EngineView for View {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(read(|| self.borrow_dependent().get(key))?.map(Bytes::from))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        if from >= to {
            return Ok(Vec::new());
        }
        read(|| collect(self.borrow_dependent().raw_iterator_opt(up_to(to)), from, limit))
    }
}

#[cfg(test)]
mod tests {
    use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};

    use super::*;

    fn key(number: u32) -> Bytes {
        // Spread, so that neighbours in time are none in the table.
        let spread = number.wrapping_mul(0x9E37_79B1);
        Bytes::from([&spread.to_be_bytes()[..], &number.to_be_bytes()[..], &[7; 12][..]].concat())
    }

    #[test]
    fn only_what_cannot_be_read_is_damage() {
        let cannot = "IO error: While pread offset 4096 len 53: state/000012.sst: Input/output error";
        let sequential =
            "IO error: While reading file sequentially: state/MANIFEST-000004: Input/output error";
        assert!(is_unreadable(cannot) && is_unreadable(sequential));
        let not_written = "IO error: While fsync: state/000012.sst: Input/output error";
        let not_allowed = "IO error: While pread offset 0 len 53: state/000012.sst: Permission denied";
        assert!(!is_unreadable(not_written) && !is_unreadable(not_allowed));
    }

    #[test]
    fn looking_up_a_key_of_a_large_table_reads_little() {
        const KEYS: u32 = 600_000;
        const LOOKED_UP: u32 = 2_000;
        let folder = tempfile::tempdir().unwrap();
        // Two shards of half a MiB: less than the filter of this table as a whole.
        let engine = RocksEngine::open_with(folder.path(), 1 << 20).unwrap();
        for first in (0..KEYS).step_by(10_000) {
            let puts = (first..first + 10_000).map(|number| Change::Put(key(number), key(number)));
            let changes = puts.collect();
            engine.write(WriteBatch { changes }).unwrap();
        }
        engine.flush().unwrap();
        engine.db.compact_range(None::<&[u8]>, None::<&[u8]>);
        set_perf_stats(PerfStatsLevel::EnableCount);
        let mut read = PerfContext::default();
        read.reset();
        for number in 0..LOOKED_UP {
            let number = number * (KEYS / LOOKED_UP);
            assert_eq!(engine.get(&key(number)).unwrap(), Some(key(number)));
        }
        let each = read.metric(PerfMetric::BlockReadByte) / u64::from(LOOKED_UP);
        set_perf_stats(PerfStatsLevel::Disable);
        assert!(each < 32 << 10, "{each} bytes are read for one key");
    }
}
