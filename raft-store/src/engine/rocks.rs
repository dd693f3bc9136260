//! The state engine of a real node: RocksDB. The only file that names it.
//!
//! No write-ahead log: the node log replays what was not flushed. Everything lives in one
//! column family, so a flush makes one consistent point durable, and closing does not flush,
//! so that a stop and a crash leave the same kind of state behind.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Direction, ErrorKind, FlushOptions, IteratorMode,
    LogLevel, Options, ReadOptions, Snapshot, WriteOptions,
};

use super::{Change, Engine, EngineError, EngineStats, EngineView, WriteBatch};
use crate::limits::{
    ROCKS_BACKGROUND_JOBS, ROCKS_CACHE_BYTES, ROCKS_MEMTABLE_BYTES, ROCKS_MEMTABLES, ROCKS_OPEN_FILES,
};

/// An open RocksDB.
pub struct RocksEngine {
    db: Arc<DB>,
    write: WriteOptions,
    flushes: AtomicU64,
}

impl RocksEngine {
    /// Opens, or creates, the database in `directory`. One process at a time.
    pub fn open(directory: &Path) -> Result<Self, EngineError> {
        let db = DB::open(&options()?, directory).map_err(error)?;
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        Ok(Self {
            db: Arc::new(db),
            write,
            flushes: AtomicU64::new(0),
        })
    }

    fn number(&self, property: &str) -> u64 {
        self.db.property_int_value(property).ok().flatten().unwrap_or(0)
    }
}

fn options() -> Result<Options, EngineError> {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(ROCKS_CACHE_BYTES));
    table.set_bloom_filter(10.0, false);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(ROCKS_MEMTABLE_BYTES);
    options.set_max_write_buffer_number(ROCKS_MEMTABLES);
    options.set_max_background_jobs(ROCKS_BACKGROUND_JOBS);
    options.set_max_open_files(ROCKS_OPEN_FILES);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_atomic_flush(true);
    options.set_paranoid_checks(true);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    // The crate has no setter. The string is applied to a copy of what was set above, so it comes last.
    let options =
        Options::get_options_from_string(&mut options, "avoid_flush_during_shutdown=true").map_err(error)?;
    Ok(options)
}

impl EngineView for RocksEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.db.get_pinned(key).map_err(error)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        let mode = IteratorMode::From(from, Direction::Forward);
        collect(self.db.iterator_opt(mode, until(to)), limit)
    }
}

impl Engine for RocksEngine {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        let mut all = rocksdb::WriteBatch::default();
        for change in &batch.changes {
            match change {
                Change::Put(key, value) => all.put(key, value),
                Change::Delete(key) => all.delete(key),
                Change::DeleteRange(from, to) => all.delete_range(from, to),
            }
        }
        self.db.write_opt(all, &self.write).map_err(error)
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_opt(&options).map_err(error)?;
        self.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn view(&self) -> Result<Box<dyn EngineView>, EngineError> {
        Ok(Box::new(RocksView::new(Arc::clone(&self.db))))
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

/// A snapshot that keeps its database open.
struct RocksView {
    // Dropped before the database: fields are dropped in order.
    snapshot: Snapshot<'static>,
    _db: Arc<DB>,
}

impl RocksView {
    fn new(db: Arc<DB>) -> Self {
        let borrowed: *const DB = Arc::as_ptr(&db);
        #[expect(
            unsafe_code,
            reason = "the crate's snapshot borrows its database; nothing owned exists"
        )]
        // SAFETY: the database lives behind an Arc that this struct holds, never moves, and is dropped after
        // the snapshot; the snapshot never leaves this struct.
        let snapshot = unsafe { &*borrowed }.snapshot();
        Self { snapshot, _db: db }
    }
}

impl EngineView for RocksView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.snapshot.get_pinned(key).map_err(error)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        let mode = IteratorMode::From(from, Direction::Forward);
        collect(self.snapshot.iterator_opt(mode, until(to)), limit)
    }
}

fn until(to: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(to);
    options
}

fn collect<'a>(
    pairs: impl Iterator<Item = Result<(Box<[u8]>, Box<[u8]>), rocksdb::Error>> + 'a,
    limit: usize,
) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
    pairs
        .take(limit)
        .map(|pair| pair.map(|(key, value)| (key.into(), value.into())).map_err(error))
        .collect()
}

fn error(error: rocksdb::Error) -> EngineError {
    match error.kind() {
        ErrorKind::Corruption => EngineError::Corrupt(error.to_string()),
        _ => EngineError::Failed(error.to_string()),
    }
}
