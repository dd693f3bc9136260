//! One shard's Raft log, as openraft sees it.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds, RangeInclusive},
    sync::Arc,
};

use bytes::Bytes;
use futures::{Stream, stream};
use openraft::{
    LogState, OptionalSend,
    storage::{IOFlushed, RaftLogReader, RaftLogStorage},
};

use super::Synced;
use crate::{
    blocking::{Work, blocking},
    health::{Health, StoreStopped},
    limits::{APPLY_READ_BYTES, MAX_APPEND_BYTES},
    log::{NodeLog, ReadError},
    replica::Repairs,
    types::{Entry, RaftLogId, TypeConfig, Vote, convert},
};

/// Writes one shard's log.
pub(crate) struct LogStore {
    reader: LogReader,
    synced: Arc<Synced>,
}

/// Reads one shard's log.
#[derive(Clone)]
pub(crate) struct LogReader {
    shard: u32,
    log: NodeLog,
    health: Health,
    repairs: Arc<Repairs>,
}

impl LogStore {
    pub(crate) fn new(
        shard: u32,
        log: NodeLog,
        synced: Arc<Synced>,
        health: Health,
        repairs: Arc<Repairs>,
    ) -> Self {
        Self {
            reader: LogReader {
                shard,
                log,
                health,
                repairs,
            },
            synced,
        }
    }

    fn log(&self) -> &NodeLog {
        &self.reader.log
    }

    fn shard(&self) -> u32 {
        self.reader.shard
    }
}

impl LogReader {
    /// Some of the entries, at least one if there is one. What is not in memory is waited for without keeping others from
    /// running; what cannot be read, until it is repaired.
    async fn fetch(&self, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let mut to = to;
        while from < to {
            let (log, shard) = (self.log.clone(), self.shard);
            let read = if log.is_recent(shard, from) {
                log.read(shard, from, to, max_bytes)
            } else {
                blocking(Work::Read, move || log.read(shard, from, to, max_bytes)).await
            };
            match read {
                Ok(records) => return records.into_iter().map(|record| self.decode(record)).collect(),
                // What comes before it is whole.
                Err(ReadError::Corrupt { index, .. }) if index > from => to = index,
                Err(error) => self.repairs.wait_for(error).await?,
            }
        }
        Ok(Vec::new())
    }

    /// The log id at an index, waited for like an entry.
    async fn log_id(&self, index: u64) -> io::Result<Option<RaftLogId>> {
        loop {
            match self.log.log_id(self.shard, index) {
                Ok(found) => return Ok(found.map(convert::to_raft)),
                Err(error) => self.repairs.wait_for(error).await?,
            }
        }
    }

    fn decode(&self, record: Bytes) -> io::Result<Entry> {
        Entry::from_record(self.shard, record, true).map_err(|e| {
            self.health.stop(StoreStopped::Corrupt(format!(
                "an entry of shard {}: {e}",
                self.shard
            )));
            io::Error::other(e)
        })
    }

    /// The entries from `from` to before `to`, read in bounded pieces.
    fn entries(self, from: u64, to: u64) -> impl Stream<Item = io::Result<Entry>> + Send + 'static {
        let start = (self, from, Vec::new().into_iter());
        stream::try_unfold(start, move |(reader, mut next, mut piece)| async move {
            loop {
                if let Some(entry) = piece.next() {
                    return Ok(Some((entry, (reader, next, piece))));
                }
                if next >= to {
                    return Ok(None);
                }
                let entries = reader.fetch(next, to, APPLY_READ_BYTES).await?;
                if entries.is_empty() {
                    return Ok(None);
                }
                next += entries.len() as u64;
                piece = entries.into_iter();
            }
        })
    }
}

fn there(index: u64, id: Option<RaftLogId>) -> io::Result<RaftLogId> {
    id.ok_or_else(|| io::Error::other(format!("entry {index} is not there")))
}

/// A range of indexes as first and end.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before + 1,
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last + 1,
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = bounds(&range);
        let state = self.log.shard(self.shard);
        let mut from = from.max(state.purged.map_or(0, |purged| purged.index + 1));
        let to = to.min(state.last.map_or(0, |last| last.index + 1));
        // Logs of openraft's own suite begin above 0.
        while from < to && self.log_id(from).await?.is_none() {
            from += 1;
        }
        let mut entries = Vec::new();
        loop {
            let more = self.fetch(from, to, usize::MAX).await?;
            if more.is_empty() {
                return Ok(entries);
            }
            from += more.len() as u64;
            entries.extend(more);
        }
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = bounds(&range);
        Box::pin(self.clone().entries(from, to))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.fetch(start, end, MAX_APPEND_BYTES).await
    }

    /// The last entry of each leader, found in the index: a start reads no old records.
    async fn get_key_log_ids(&mut self, range: RangeInclusive<RaftLogId>) -> io::Result<Vec<RaftLogId>> {
        let (mut from, last) = (*range.start(), *range.end());
        let mut found = Vec::new();
        while from.leader_id != last.leader_id {
            let (mut same, mut other) = (from.index, last.index);
            while same + 1 < other {
                let middle = same + (other - same) / 2;
                match there(middle, self.log_id(middle).await?)?.leader_id == from.leader_id {
                    true => same = middle,
                    false => other = middle,
                }
            }
            found.push(there(same, self.log_id(same).await?)?);
            from = there(other, self.log_id(other).await?)?;
        }
        found.push(last);
        Ok(found)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        let Some(bytes) = self.log.shard(self.shard).vote else {
            return Ok(None);
        };
        let vote = convert::decode_vote(bytes).ok_or_else(|| {
            self.health
                .stop(StoreStopped::Corrupt(format!("the vote of shard {}", self.shard)));
            io::Error::other("the stored vote cannot be read")
        })?;
        Ok(Some(vote))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.log().shard(self.shard());
        Ok(LogState {
            last_purged_log_id: state.purged.map(convert::to_raft),
            last_log_id: state.last.map(convert::to_raft),
        })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        Ok(self
            .log()
            .save_vote(self.shard(), convert::encode_vote(vote))
            .await?)
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.log()
                .save_committed(self.shard(), convert::from_raft(&committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<RaftLogId>> {
        Ok(self.log().shard(self.shard()).committed.map(convert::to_raft))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut next = 0;
        let shard = self.shard();
        let mut records = Vec::new();
        for entry in entries {
            next = entry.id().index + 1;
            records.push(entry.into_record(shard));
        }
        if records.is_empty() {
            callback.io_completed(Ok(()));
            return Ok(());
        }
        let synced = self.synced.clone();
        let callback = plant!(AnsweredBeforeSync => crate::planted::called_already(callback), else callback);
        let done = move |result: io::Result<()>| {
            synced.report(next, &result);
            callback.io_completed(result);
        };
        Ok(self.log().append(shard, records, done)?)
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> io::Result<()> {
        let shard = self.shard();
        self.log()
            .truncate_after(shard, last.as_ref().map(convert::from_raft))
            .await?;
        // Only now: appends from before are reported synced until then.
        self.synced.truncate(last.map_or(0, |last| last.index + 1));
        Ok(())
    }

    async fn purge(&mut self, upto: RaftLogId) -> io::Result<()> {
        self.log().purge(self.shard(), convert::from_raft(&upto)).await?;
        self.synced.report(upto.index + 1, &Ok(()));
        Ok(())
    }
}
