//! A world that drives a log and its model side by side.

use std::sync::Arc;

use bytes::Bytes;

use crate::disk::Disk;
use crate::log::LogOptions;
use crate::log::LogStopped;
use crate::log::NodeLog;
use crate::log::OpenError;
use crate::log::ReadError;
use crate::log::RecycleError;
use crate::log::StopReason;
use crate::log_id::LogId;
use crate::record::Record;

use super::model::Change;
use super::model::History;
use super::model::Model;
use super::model::Op;
use super::model::entry;
use super::model::id;

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
            self.history.note_synced(&self.log);
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
