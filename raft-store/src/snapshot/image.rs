//! What a snapshot is read from: a shard's state at one moment, and the log.
//!
//! Nothing is copied ahead: each part is read when a receiver asks for it. While that goes on, the state's moment is
//! kept by a view of the engine, and a [`super::hold::Hold`] keeps the records from being given up. Both have an end.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};

use super::piece::{Outline, Piece, Place, put_pair};
use crate::{
    engine::EngineView,
    health::Health,
    limits::{SNAPSHOT_IMAGE_MS, SNAPSHOT_SCAN_PAIRS},
    log::{NodeLog, ReadError},
    machine::StateRead,
    runtime::Moment,
    state::{ShardView, Standing},
    types::SnapshotMeta,
};

/// A shard's state at one moment.
pub(crate) struct StateImage {
    pub(crate) shard: u32,
    pub(crate) view: Box<dyn EngineView>,
    /// Where in the view the shard's keys are.
    pub(crate) section: u8,
    pub(crate) standing: Standing,
    /// The first record the state still refers to.
    pub(crate) oldest: Option<u64>,
    /// Where the records are.
    pub(crate) log: NodeLog,
    pub(crate) taken: Moment,
}

impl StateImage {
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.standing.applied,
            last_membership: self.standing.membership.clone(),
        }
    }

    /// Too old to be sent any further: what it keeps from being thrown away has a bound in time.
    pub(crate) fn expired(&self, at: Moment) -> bool {
        at.saturating_duration_since(self.taken) > Duration::from_millis(SNAPSHOT_IMAGE_MS)
    }

    /// What is to be sent. `None` while nothing was applied.
    pub(crate) fn outline(&self) -> Option<Outline> {
        let standing = self.standing.clone();
        let applied = standing.applied.as_ref()?.index;
        let oldest = self.oldest.unwrap_or(applied + 1).min(applied + 1);
        let oldest = plant!(SnapshotWithoutMessages => applied + 1, else oldest);
        Some(Outline {
            standing,
            applied,
            oldest,
        })
    }

    /// The part from `from` on. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// `NotFound` when the log no longer has the record: the image is worth nothing then.
    pub(crate) fn piece(&self, from: Place, most: usize, health: &Health) -> io::Result<Piece> {
        match &from {
            Place::Record(index) => self.records(*index, most, health),
            Place::Pair(key) => self.pairs(key.clone(), most, health),
            Place::End => Ok(Piece {
                to: Place::End,
                data: Bytes::new(),
                from,
            }),
        }
    }

    fn records(&self, from: u64, most: usize, health: &Health) -> io::Result<Piece> {
        let applied = self.standing.applied.map_or(0, |id| id.index);
        let mut data = BytesMut::new();
        let mut next = from;
        while next <= applied && data.len() < most {
            match self.log.read_record(self.shard, next) {
                Ok(record) => data.extend_from_slice(&record),
                Err(error @ ReadError::NotFound { .. }) => {
                    return Err(io::Error::new(io::ErrorKind::NotFound, error.to_string()));
                }
                Err(error @ ReadError::Corrupt { .. }) => {
                    health.damages.note(&error);
                    return Err(io::Error::other(error));
                }
                Err(error) => return Err(health.read(error)),
            }
            next += 1;
        }
        let to = match next <= applied {
            true => Place::Record(next),
            false => Place::Pair(Bytes::new()),
        };
        Ok(Piece {
            from: Place::Record(from),
            data: data.freeze(),
            to,
        })
    }

    fn pairs(&self, from: Bytes, most: usize, health: &Health) -> io::Result<Piece> {
        let state = ShardView::new(self.shard, self.section, &*self.view);
        let mut data = BytesMut::new();
        let mut next = from.clone();
        let to = loop {
            let pairs = state
                .scan(&next, &[], SNAPSHOT_SCAN_PAIRS)
                .map_err(|e| health.engine(e))?;
            let more = pairs.len() == SNAPSHOT_SCAN_PAIRS;
            for (key, value) in pairs {
                if data.len() >= most {
                    return Ok(Piece {
                        from: Place::Pair(from),
                        data: data.freeze(),
                        to: Place::Pair(key),
                    });
                }
                next = [&key[..], &[0][..]].concat().into();
                plant!(SnapshotWithoutLeases => if key.first() == Some(&b'f') { continue });
                plant!(SnapshotWithoutDedup => if key.first() == Some(&b'd') { continue });
                put_pair(&mut data, &key, &value);
            }
            if !more {
                break Place::End;
            }
        };
        Ok(Piece {
            from: Place::Pair(from),
            data: data.freeze(),
            to,
        })
    }
}
