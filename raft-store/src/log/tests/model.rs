//! A naive model of the log (`world.rs` drives both).
//!
//! Everything asked of the log is a list of changes in order. After any end of a life, what is found must be the state
//! after some prefix of that list, which must hold at least what was acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;

use bytes::Bytes;

use crate::log::LogOptions;
use crate::log::NodeLog;
use crate::log::ReadError;
use crate::log::ShardState;
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
    pub(super) fn apply(&mut self, change: &Change) {
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
    pub(super) fn forget_unpurged_imports(&mut self) {
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
    pub(super) fn new(start: Model) -> History {
        History {
            states: vec![start],
            acknowledged: Arc::default(),
        }
    }

    pub(super) fn now(&self) -> &Model {
        self.states.last().expect("there is a first state")
    }

    /// The number of the last synced batch never goes back, in no later life.
    pub(super) fn check_synced(&self, log: &NodeLog) {
        let before = self.acknowledged.lock().unwrap().synced;
        assert!(before <= log.synced(), "{} after {before}", log.synced());
    }

    pub(super) fn note_synced(&self, log: &NodeLog) {
        self.acknowledged.lock().unwrap().synced = log.synced();
    }

    pub(super) fn state(&self, changes: usize) -> &Model {
        &self.states[changes]
    }

    pub(super) fn push(&mut self, change: Change) {
        let mut next = self.now().clone();
        next.apply(&change);
        self.states.push(next);
    }

    /// Tells the history that everything up to now is (or is not) durable.
    pub(super) fn acknowledge(&self) -> impl FnOnce(bool) + Send + 'static {
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
pub(super) fn dump(log: &NodeLog) -> Model {
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

pub(super) fn same(found: &Model, expected: &Model) -> bool {
    SHARDS.into_iter().all(|shard| {
        let (found, expected) = (found.shard(shard), expected.shard(shard));
        found.state == expected.state && found.entries == expected.entries
    })
}

/// What was imported is there below the purge point, as long as its segment is. The model does not know what recycling
/// takes, and what shows then.
pub(super) fn imported_is_there(log: &NodeLog, model: &Model) -> bool {
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
