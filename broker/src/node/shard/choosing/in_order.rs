//! What a receive gets of one queue in order: whose turn it is, message group by message group, then new messages whose message
//! group is free. New ones of a locked message group are passed over until their turn comes, so that it holds up nobody else.
//!
//! Any first so many of what the core offers can be taken, so the answer's size decides where to stop.

use std::collections::BTreeMap;

use queue_core::{Candidate, GroupId, InOrder, Position, QueueId, Source};

use super::{Choice, DataShard, DeliverError, Runs, Sizing, Want, at_once};
use crate::{filter::Filter, limits::FILTER_LOOKS_FOR, node::kv::Reading};

impl DataShard {
    pub(super) async fn choose_in_order(
        &self,
        queue: QueueId,
        want: &Want,
        now: u64,
        sizing: &mut Sizing<'_>,
    ) -> Result<Choice, DeliverError> {
        let everything = want.filter.is_everything();
        let page = self.bounds.filter_page.max(want.count);
        let most = if everything { want.count } else { page };
        let limits = (most, self.bounds.in_flight_per_queue, page);
        let pair = (GroupId(want.group.id), queue);
        let found = self.replica.read_state(|state| {
            self.machine
                .read(|core| core.in_order(&Reading(state), pair, now, limits))
        })?;
        let offered = found.candidates.len();
        let fates = match everything {
            true => vec![false; offered],
            false => self.fates(queue, &found.candidates, &want.filter).await?,
        };
        let mut leased = 0;
        let mut taken = Vec::new();
        for (candidate, filtered) in found.candidates.into_iter().zip(fates) {
            if !filtered && candidate.from != Source::Blocked {
                if leased == want.count {
                    break;
                }
                if !sizing.fits(Some(candidate.stored)) {
                    if leased == 0 {
                        return Err(DeliverError::NoRoom);
                    }
                    break;
                }
                leased += 1;
            }
            taken.push((candidate, filtered));
        }
        let passed_over = taken.len() - leased;
        if leased == 0 && passed_over > 0 {
            let mut runs = Runs::default();
            runs.add(true, passed_over as u32);
            let key = (pair.0, queue, want.filter.id());
            self.looked.remember(key, found.first_new, runs, self.time_ms());
        }
        Ok(Choice {
            first_new: found.first_new,
            leased,
            passed_over: passed_over as u64,
            // All of it is passed over, and there is more.
            more: leased == 0 && passed_over > 0 && (passed_over >= page || passed_over < offered),
            in_order: Some(InOrder::name(taken)),
            ..Choice::default()
        })
    }

    /// Of each candidate, whether a filter passes it over; of the first so many that are looked at in one go.
    async fn fates(
        &self,
        queue: QueueId,
        candidates: &[Candidate],
        filter: &Filter,
    ) -> Result<Vec<bool>, DeliverError> {
        let until_ms = self.time_ms() + FILTER_LOOKS_FOR.as_millis() as u64;
        let by_tag = |candidate: &Candidate| match candidate.from {
            Source::Waiting | Source::Blocked => Some(true),
            Source::Behind | Source::New => filter.by_tag(candidate.stored.tag),
        };
        let unread = candidates.iter().filter(|candidate| by_tag(candidate).is_none());
        let stored: Vec<_> = unread.clone().map(|candidate| candidate.stored).collect();
        // In their order, so that what is looked at first decides what can be delivered first.
        let places: Vec<(u64, Position)> = unread
            .zip(at_once(&stored))
            .map(|(candidate, position)| (candidate.offset, position))
            .collect();
        let last = places.last().map(|&(offset, _)| offset);
        let messages: BTreeMap<u64, bool> = match places.is_empty() {
            true => BTreeMap::new(),
            false => self.pass_by_message(queue, places, filter, until_ms).await?,
        };
        let mut fates = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let passes = match by_tag(candidate) {
                Some(passes) => passes,
                None => match messages.get(&candidate.offset) {
                    Some(&passes) => passes,
                    None => break,
                },
            };
            fates.push(!passes);
            if Some(candidate.offset) == last {
                break;
            }
        }
        Ok(fates)
    }

    /// Which messages pass a filter that has to read them. One that cannot be read now, or is forgotten, is let through.
    async fn pass_by_message(
        &self,
        queue: QueueId,
        places: Vec<(u64, Position)>,
        filter: &Filter,
        until_ms: u64,
    ) -> Result<BTreeMap<u64, bool>, DeliverError> {
        let offsets: Vec<u64> = places.iter().map(|&(offset, _)| offset).collect();
        let mut passes = BTreeMap::new();
        let runs = self.evaluate(queue, places, filter, until_ms).await?;
        for (offset, passed) in offsets.into_iter().zip(runs) {
            passes.insert(offset, passed);
        }
        Ok(passes)
    }
}
