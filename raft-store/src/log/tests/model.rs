//! A naive model of the log, and a world that drives a log and the model side by side.
//!
//! Everything asked of the log is a list of changes in order. After any end of a life, what is found must be the state
//! after some prefix of that list, which must hold at least what was acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;

use bytes::Bytes;

use crate::disk::Disk;
use crate::log::LogOptions;
use crate::log::LogStopped;
use crate::log::NodeLog;
use crate::log::OpenError;
use crate::log::ReadError;
use crate::log::RecycleError;
use crate::log::ShardState;
use crate::log::StopReason;
use crate::log_id::LogId;
use crate::record::Kind;
use crate::record::Record;

pub(super) const SHARDS: std::ops::Range<u32> = 0..4;

pub(super) fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 4 << 10,
        cache_bytes: 4 << 10,
        keep_free_bytes: 0,
        ..LogOptions::new(0xfeed)
    }
}

pub(super) fn id(term: u64, index: u64) -> LogId {
    LogId::at(term, 1, index)
}

/// An entry whose payload tells entries apart.
pub(super) fn entry(shard: u32, id: LogId, size_bytes: usize) -> Bytes {
    let mut payload = format!("shard {shard}, {id}: ").into_bytes();
    payload.resize(payload.len() + size_bytes, b'.');
    let kind = if size_bytes == 0 {
        Kind::Blank
    } else {
        Kind::Normal
    };
    Record::encode(kind, shard, id, &payload)
}

/// What a test asks of the log.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// So many entries of so many bytes; not waited for.
    Append {
        shard: u32,
        count: u64,
        size_bytes: usize,
    },
    Vote {
        shard: u32,
        vote: u64,
    },
    Commit {
        shard: u32,
    },
    /// Removes so many of the last entries.
    Truncate {
        shard: u32,
        count: u64,
    },
    /// Removes all entries above the purge point.
    TruncateAll {
        shard: u32,
    },
    /// Purges so many of the first entries.
    Purge {
        shard: u32,
        count: u64,
    },
    /// Imports so many entries beyond the last one and purges up to there: a snapshot was installed.
    Install {
        shard: u32,
        count: u64,
    },
    Drop {
        shard: u32,
    },
    /// Gives up so many of the oldest segments.
    Recycle {
        count: u64,
    },
    /// Waits for everything so far.
    Wait,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Entry(u32, LogId, Bytes),
    Vote(u32, Bytes),
    Truncate(u32, Option<LogId>),
    Purge(u32, LogId),
    Import(u32, u64, Bytes),
    Drop(u32),
}

/// A shard as a naive implementation would keep it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ShardModel {
    pub(super) state: ShardState,
    pub(super) entries: BTreeMap<u64, Bytes>,
    imported: BTreeMap<u64, Bytes>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    pub(super) shards: BTreeMap<u32, ShardModel>,
}

impl Model {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Entry(shard, id, record) => {
                let shard = self.shards.entry(*shard).or_default();
                shard.entries.insert(id.index, record.clone());
                shard.state.last = Some(*id);
            }
            Change::Vote(shard, vote) => {
                self.shards.entry(*shard).or_default().state.vote = Some(vote.clone());
            }
            Change::Truncate(shard, keep) => {
                let shard = self.shards.entry(*shard).or_default();
                let from = keep.map_or(0, |keep| keep.index + 1);
                shard.entries.split_off(&from);
                shard.state.last = keep.or(shard.state.purged);
            }
            Change::Purge(shard, upto) => {
                let shard = self.shards.entry(*shard).or_default();
                shard.entries = shard.entries.split_off(&(upto.index + 1));
                shard.state.purged = Some(*upto);
                shard.state.last = shard.state.last.max(Some(*upto));
            }
            Change::Import(shard, index, record) => {
                self.shards
                    .entry(*shard)
                    .or_default()
                    .imported
                    .insert(*index, record.clone());
            }
            Change::Drop(shard) => {
                self.shards.remove(shard);
            }
        }
    }

    /// What was imported and not purged before the end of a life is nobody's: the snapshot is installed anew, and
    /// entries come at the same indices.
    fn forget_unpurged_imports(&mut self) {
        for shard in self.shards.values_mut() {
            let purged = shard.state.purged.map_or(0, |purged| purged.index + 1);
            shard.imported.split_off(&purged);
        }
    }

    pub(super) fn shard(&self, shard: u32) -> ShardModel {
        self.shards.get(&shard).cloned().unwrap_or_default()
    }
}

/// What was asked for, and what was acknowledged.
#[derive(Clone)]
pub(super) struct History {
    /// The state before the first change, and after each.
    states: Vec<Model>,
    /// How many changes were acknowledged.
    acknowledged: Arc<Mutex<Acknowledged>>,
}

#[derive(Default)]
struct Acknowledged {
    changes: usize,
    /// The highest number of a synced batch that the log has shown.
    synced: u64,
    /// The log has told someone that it stopped.
    failed: bool,
}

impl History {
    fn new(start: Model) -> History {
        History {
            states: vec![start],
            acknowledged: Arc::default(),
        }
    }

    pub(super) fn now(&self) -> &Model {
        self.states.last().expect("there is a first state")
    }

    /// The number of the last synced batch never goes back, in no later life.
    fn check_synced(&self, log: &NodeLog) {
        let before = self.acknowledged.lock().unwrap().synced;
        assert!(before <= log.synced(), "{} after {before}", log.synced());
    }

    pub(super) fn state(&self, changes: usize) -> &Model {
        &self.states[changes]
    }

    fn push(&mut self, change: Change) {
        let mut next = self.now().clone();
        next.apply(&change);
        self.states.push(next);
    }

    /// Tells the history that everything up to now is (or is not) durable.
    fn acknowledge(&self) -> impl FnOnce(bool) + Send + 'static {
        let changes = self.states.len() - 1;
        let acknowledged = self.acknowledged.clone();
        move |ok| {
            let mut acknowledged = acknowledged.lock().unwrap();
            if ok {
                assert!(!acknowledged.failed, "acknowledged after a failure");
                assert!(acknowledged.changes <= changes, "acknowledged out of order");
                acknowledged.changes = changes;
            } else {
                acknowledged.failed = true;
            }
        }
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.acknowledged.lock().unwrap().changes
    }

    /// The prefix of changes that a reopened log holds.
    ///
    /// # Panics
    ///
    /// When it holds no possible one.
    pub(super) fn find(&self, log: &NodeLog) -> usize {
        let found = dump(log);
        let acknowledged = self.acknowledged();
        let position = (acknowledged..self.states.len())
            .rev()
            .find(|&i| same(&found, &self.states[i]) && imported_is_there(log, &self.states[i]));
        let Some(position) = position else {
            let (least, most) = (&self.states[acknowledged], self.now());
            panic!("the log holds\n{found:#?}\nacknowledged was\n{least:#?}\nasked for was\n{most:#?}");
        };
        position
    }
}

/// Everything the log shows of its Raft logs.
fn dump(log: &NodeLog) -> Model {
    let mut model = Model::default();
    for shard in SHARDS {
        let mut found = ShardModel {
            state: log.shard(shard),
            ..ShardModel::default()
        };
        let (last, committed) = (found.state.last, found.state.committed.take());
        assert!(committed <= last, "committed beyond the last entry");
        let from = found.state.purged.map_or(0, |purged| purged.index + 1);
        let to = last.map_or(0, |last| last.index + 1);
        let mut next = from;
        while next < to {
            for record in log.read(shard, next, to, 1000).expect("the log is whole") {
                let view = Record::decode(&record).expect("a good record");
                assert_eq!((view.shard, view.log_id.index), (shard, next));
                assert_eq!(log.log_id(shard, next).unwrap(), Some(view.log_id));
                assert_eq!(log.read_record(shard, next).unwrap(), record);
                found.entries.insert(next, record);
                next += 1;
            }
        }
        assert_eq!(
            log.log_id(shard, to).unwrap().filter(|id| Some(*id) != last),
            None
        );
        if found != ShardModel::default() {
            model.shards.insert(shard, found);
        }
    }
    model
}

fn same(found: &Model, expected: &Model) -> bool {
    SHARDS.into_iter().all(|shard| {
        let (found, expected) = (found.shard(shard), expected.shard(shard));
        found.state == expected.state && found.entries == expected.entries
    })
}

/// What was imported is there below the purge point, as long as its segment is. The model does not know what recycling
/// takes, and what shows then.
fn imported_is_there(log: &NodeLog, model: &Model) -> bool {
    let recycled = log.segments()[0].sequence > 1;
    model.shards.iter().all(|(&id, shard)| {
        let purged = shard.state.purged.map_or(0, |purged| purged.index + 1);
        shard
            .imported
            .range(..purged)
            .all(|(&index, record)| match log.read_record(id, index) {
                Ok(found) => found == *record || recycled,
                Err(ReadError::NotFound { .. }) => recycled,
                Err(e) => panic!("imported entry {index} of shard {id}: {e}"),
            })
    })
}

/// A log and its model, in one life of a process.
pub(super) struct World {
    pub(super) log: NodeLog,
    pub(super) history: History,
    term: u64,
}

impl World {
    pub(super) async fn open(disk: Arc<dyn Disk>, options: LogOptions) -> Result<World, OpenError> {
        let log = NodeLog::open(disk, options).await?;
        Ok(World {
            log,
            history: History::new(Model::default()),
            term: 1,
        })
    }

    /// Opens the log after the end of a life with this history; what is found must be possible.
    pub(super) async fn reopen(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        before: &History,
    ) -> Result<World, OpenError> {
        let log = NodeLog::open(disk, options).await?;
        before.check_synced(&log);
        let mut start = before.state(before.find(&log)).clone();
        start.forget_unpurged_imports();
        let terms = start
            .shards
            .values()
            .flat_map(|shard| [shard.state.last, shard.state.purged]);
        let term = terms.flatten().map(|id| id.term).max().unwrap_or(0) + 1;
        Ok(World {
            log,
            history: History::new(start),
            term,
        })
    }

    pub(super) async fn run(&mut self, ops: &[Op]) -> Result<(), LogStopped> {
        for op in ops {
            let done = self.step(op).await;
            self.history.check_synced(&self.log);
            self.history.acknowledged.lock().unwrap().synced = self.log.synced();
            done?;
        }
        Ok(())
    }

    pub(super) async fn step(&mut self, op: &Op) -> Result<(), LogStopped> {
        match *op {
            Op::Append {
                shard,
                count,
                size_bytes,
            } => self.append(shard, count, size_bytes),
            Op::Vote { shard, vote } => {
                let vote = Bytes::copy_from_slice(&vote.to_le_bytes());
                self.history.push(Change::Vote(shard, vote.clone()));
                self.acknowledged(self.log.clone().save_vote(shard, vote).await)
            }
            Op::Commit { shard } => {
                if let Some(last) = self.log.shard(shard).last {
                    self.log.save_committed(shard, last);
                }
                Ok(())
            }
            Op::Truncate { shard, count } => {
                let model = self.history.now().shard(shard);
                let first = model.entries.keys().next().copied();
                let (Some(last), Some(first)) = (model.state.last, first) else {
                    return Ok(());
                };
                let keep = match last.index.checked_sub(count) {
                    Some(keep) if keep >= first => {
                        Some(Record::decode(&model.entries[&keep]).unwrap().log_id)
                    }
                    _ => model.state.purged,
                };
                self.truncate(shard, keep).await
            }
            Op::TruncateAll { shard } => {
                let purged = self.history.now().shard(shard).state.purged;
                self.truncate(shard, purged).await
            }
            Op::Purge { shard, count } => {
                let model = self.history.now().shard(shard);
                let Some(record) = model.entries.values().take(count as usize).last() else {
                    return Ok(());
                };
                self.purge(shard, Record::decode(record).unwrap().log_id).await
            }
            Op::Install { shard, count } => self.install(shard, count).await,
            Op::Drop { shard } => {
                self.history.push(Change::Drop(shard));
                self.acknowledged(self.log.clone().drop_shard(shard).await)
            }
            Op::Recycle { count } => self.recycle(count).await,
            Op::Wait => {
                // Anything that waits comes after all before it.
                let vote = self.log.shard(0).vote.unwrap_or_default();
                self.history.push(Change::Vote(0, vote.clone()));
                self.acknowledged(self.log.clone().save_vote(0, vote).await)
            }
        }
    }

    fn acknowledged(&self, result: Result<(), LogStopped>) -> Result<(), LogStopped> {
        self.history.acknowledge()(result.is_ok());
        result
    }

    fn append(&mut self, shard: u32, count: u64, size_bytes: usize) -> Result<(), LogStopped> {
        let first = self
            .history
            .now()
            .shard(shard)
            .state
            .last
            .map_or(0, |last| last.index + 1);
        let mut records = Vec::new();
        for index in first..first + count {
            let id = id(self.term, index);
            let record = entry(shard, id, size_bytes);
            self.history.push(Change::Entry(shard, id, record.clone()));
            records.push(record);
        }
        let done = self.history.acknowledge();
        let appended = self
            .log
            .append(shard, records, move |result| done(result.is_ok()));
        if appended.is_ok() && count > 0 {
            let last = self.log.read(shard, first + count - 1, u64::MAX, 0);
            assert!(
                self.log.stopped().is_some() || last.is_ok(),
                "an append is visible at once"
            );
        }
        appended
    }

    async fn truncate(&mut self, shard: u32, keep: Option<LogId>) -> Result<(), LogStopped> {
        self.term += 1;
        self.history.push(Change::Truncate(shard, keep));
        self.acknowledged(self.log.clone().truncate_after(shard, keep).await)
    }

    async fn purge(&mut self, shard: u32, upto: LogId) -> Result<(), LogStopped> {
        self.history.push(Change::Purge(shard, upto));
        self.acknowledged(self.log.clone().purge(shard, upto).await)
    }

    async fn install(&mut self, shard: u32, count: u64) -> Result<(), LogStopped> {
        let last = self
            .history
            .now()
            .shard(shard)
            .state
            .last
            .map_or(0, |last| last.index);
        self.term += 1;
        let upto = id(self.term, last + count);
        let mut records = Vec::new();
        for index in (last + 1).saturating_sub(2)..=upto.index {
            let record = entry(shard, id(self.term, index), 70);
            self.history.push(Change::Import(shard, index, record.clone()));
            records.push(record);
        }
        let imported = self.log.clone().import(shard, records).await;
        self.acknowledged(imported)?;
        self.purge(shard, upto).await
    }

    async fn recycle(&mut self, count: u64) -> Result<(), LogStopped> {
        let through = self.log.segments()[0].sequence + count - 1;
        let points = match self.log.purge_points_through(through) {
            Ok(points) => points,
            Err(e) => return Err(machine_stopped(e)),
        };
        // Nothing else runs: the log will find the same points.
        for (&shard, &upto) in &points {
            self.history.push(Change::Purge(shard, upto));
        }
        let result = self.log.clone().recycle_through(through).await;
        let result = result.map_err(|e| match e {
            RecycleError::Stopped(stopped) => stopped,
            RecycleError::Read(e) => machine_stopped(e),
        });
        if let Ok(found) = &result {
            assert_eq!(found, &points);
        }
        match result {
            // Nothing had to be written, so nothing is known about what was queued.
            Ok(points) if points.is_empty() => Ok(()),
            result => self.acknowledged(result.map(|_| ())),
        }
    }
}

/// Reading fails when the machine stops, maybe before the log has noticed.
fn machine_stopped(e: ReadError) -> LogStopped {
    assert!(matches!(e, ReadError::Io { .. }), "{e}");
    LogStopped(StopReason::Closed)
}

/// A life with something of everything: four shards, votes, truncation, purging, snapshots, segments begun and
/// recycled.
pub(super) fn story() -> Vec<Op> {
    let mut ops = vec![
        Op::Vote { shard: 0, vote: 1 },
        Op::Append {
            shard: 0,
            count: 1,
            size_bytes: 0,
        },
        Op::Append {
            shard: 1,
            count: 3,
            size_bytes: 100,
        },
        Op::Vote { shard: 1, vote: 2 },
        Op::Commit { shard: 1 },
        Op::Append {
            shard: 2,
            count: 5,
            size_bytes: 200,
        },
        Op::Truncate { shard: 1, count: 1 },
        Op::Append {
            shard: 1,
            count: 2,
            size_bytes: 30,
        },
    ];
    for round in 0..6 {
        ops.extend([
            Op::Append {
                shard: 0,
                count: 4,
                size_bytes: 150,
            },
            Op::Append {
                shard: 1,
                count: 2,
                size_bytes: 400,
            },
            Op::Commit { shard: 0 },
            Op::Append {
                shard: 2,
                count: 1,
                size_bytes: 0,
            },
            Op::Wait,
            Op::Append {
                shard: 3,
                count: 3,
                size_bytes: 60,
            },
            Op::Vote {
                shard: 2,
                vote: 10 + round,
            },
            Op::Append {
                shard: 2,
                count: 2,
                size_bytes: 700,
            },
        ]);
        match round {
            1 => ops.extend([
                Op::Truncate { shard: 0, count: 6 },
                Op::Purge { shard: 1, count: 3 },
            ]),
            2 => ops.extend([Op::Drop { shard: 3 }, Op::Recycle { count: 1 }]),
            3 => ops.extend([Op::Install { shard: 2, count: 4 }, Op::TruncateAll { shard: 1 }]),
            4 => ops.extend([
                Op::Recycle { count: 2 },
                Op::Append {
                    shard: 1,
                    count: 1,
                    size_bytes: 5000,
                },
            ]),
            _ => ops.push(Op::Wait),
        }
    }
    ops
}
