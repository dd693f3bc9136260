//! What retention needs: which segments there are, what is in them, and giving the oldest up.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::LogStats;
use super::SegmentView;
use super::error::LogStopped;
use super::error::PurgePoints;
use super::error::ReadError;
use super::error::RecycleError;
use super::error::StopReason;
use super::shared::Done;
use super::shared::Recycle;
use super::shared::Shared;

impl Shared {
    pub(super) fn segments(&self) -> Vec<SegmentView> {
        let inner = self.lock();
        let mut views: BTreeMap<u64, SegmentView> = BTreeMap::new();
        for (&sequence, segment) in &inner.segments {
            let open = segment.end.is_none();
            views.insert(
                sequence,
                SegmentView {
                    sequence,
                    bytes: segment.len,
                    filled: segment.end.unwrap_or(0),
                    open,
                    shards: BTreeMap::new(),
                },
            );
        }
        for (shard, _, extent) in inner.written.extents() {
            let Some(view) = views.get_mut(&extent.segment) else {
                continue;
            };
            let range = view
                .shards
                .entry(shard)
                .or_insert((extent.first, extent.end() - 1));
            *range = (range.0.min(extent.first), range.1.max(extent.end() - 1));
        }
        views.into_values().collect()
    }

    pub(super) fn stats(&self) -> LogStats {
        let inner = self.lock();
        let segment_bytes: u64 = inner.segments.values().map(|segment| segment.len).sum();
        LogStats {
            cache_bytes: inner.recent.bytes() as u64,
            queued_bytes: inner.queued_bytes as u64,
            segments: inner.segments.len() as u64,
            disk_bytes: segment_bytes + inner.spare_bytes,
            ..inner.stats.clone()
        }
    }

    /// The highest index of each shard's records in the closed segments up to `sequence`: entries, purged or not, and
    /// imported ones.
    pub(super) fn highest_through(&self, sequence: u64) -> BTreeMap<u32, u64> {
        let inner = self.lock();
        let mut highest = BTreeMap::new();
        for (shard, _, extent) in inner.written.extents() {
            let closed = inner
                .segments
                .get(&extent.segment)
                .is_some_and(|it| it.end.is_some());
            if closed && extent.segment <= sequence {
                let index: &mut u64 = highest.entry(shard).or_default();
                *index = (*index).max(extent.end() - 1);
            }
        }
        highest
    }

    pub(super) fn purge_points_through(&self, sequence: u64) -> Result<PurgePoints, ReadError> {
        Ok(self.closed_through(sequence)?.1)
    }

    /// The last closed segment up to `sequence`, and the purge points that recycling up to there needs.
    fn closed_through(&self, sequence: u64) -> Result<(u64, PurgePoints), ReadError> {
        let (through, lasts) = {
            let inner = self.lock();
            // What is open now may be closed, with more entries in it, by the time the files go.
            let open = inner
                .segments
                .last_key_value()
                .map_or(0, |(&sequence, _)| sequence);
            let through = sequence.min(open.saturating_sub(1));
            let shards = inner.written.shards.iter();
            let lasts = shards.filter_map(|(&id, shard)| {
                let last = shard
                    .entries
                    .iter()
                    .rev()
                    .find(|extent| extent.segment <= through)?;
                let index = last.end() - 1;
                let needed = shard.state.purged.is_none_or(|purged| purged.index < index);
                needed
                    .then(|| Some((id, index, shard.entries.find(index, 1)?)))
                    .flatten()
            });
            (through, lasts.collect::<Vec<_>>())
        };
        let mut points = PurgePoints::new();
        for (shard, index, spot) in lasts {
            points.insert(shard, self.positions(shard, index, &spot)?[0].log_id(index));
        }
        Ok((through, points))
    }

    pub(super) async fn recycle_through(&self, sequence: u64) -> Result<PurgePoints, RecycleError> {
        let (through, points) = self.closed_through(sequence)?;
        if let Some((&last, _)) = points.last_key_value() {
            // Durable before the first file goes: else a shard would seem to have lost entries.
            let purge = |inner: &mut super::shared::Inner, done: Done| {
                let mut done = Some(done);
                for (&shard, &upto) in &points {
                    inner.purge(shard, upto, if shard == last { done.take() } else { None });
                }
            };
            self.change_and_wait(purge).await?;
        }
        let (done, waiter) = oneshot::channel();
        self.change(|inner| {
            inner.recycles.push_back(Recycle {
                through,
                done: Done::Wake(done),
            })
        })?;
        waiter.await.unwrap_or(Err(LogStopped(StopReason::Closed)))?;
        Ok(points)
    }
}
