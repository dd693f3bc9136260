//! Order within message groups.

use queue_core::{Candidate, InOrder, Source, Stored};

use super::*;

impl Sub {
    /// True if no earlier message of its message group is in flight, and none of it leased.
    pub(super) fn is_first(&self, view: &InFlightView) -> bool {
        let of_group = |other: &InFlightView| other.message_group == view.message_group;
        let mut others = self.in_flight().into_iter().filter(of_group);
        view.message_group == 0 || others.all(|other| !other.leased && other.offset >= view.offset)
    }

    /// Messages of a message group that are not over, below the cursor: offset, and whether one is in flight.
    fn pending(&self, messages: &[Message], group: u64) -> Vec<(u64, Option<InFlightView>)> {
        let states = self.states.iter().enumerate();
        let states = states.map(|(at, state)| ((self.start + at) as u64, state));
        let extra = self.extra.iter().map(|(&offset, state)| (offset, state));
        let pending = extra.chain(states).filter_map(|(offset, state)| {
            let is_pending = state.view().is_some() || *state == State::Blocked;
            (is_pending && messages[offset as usize].group == group).then(|| (offset, state.view().copied()))
        });
        pending.collect()
    }

    /// Whose turn it is, and since when or from when on: what waits, and what was passed over.
    pub(super) fn turns(&self, messages: &[Message]) -> Vec<(u64, u64)> {
        let waiting = self.in_flight().into_iter();
        let waiting = waiting.filter(|view| !view.leased && !view.parked && self.is_first(view));
        let mut turns: Vec<(u64, u64)> = waiting.map(|view| (view.at_ms, view.offset)).collect();
        for (at, _) in self
            .states
            .iter()
            .enumerate()
            .filter(|(_, state)| **state == State::Blocked)
        {
            let offset = (self.start + at) as u64;
            let group = messages[offset as usize].group;
            let pending = self.pending(messages, group);
            if pending[0] == (offset, None) && pending.iter().all(|(_, view)| view.is_none()) {
                turns.push((self.left[&group], offset));
            }
        }
        turns.sort_unstable();
        turns
    }

    pub(super) fn choose_in_order(
        &mut self,
        messages: &[Message],
        deliver: &Deliver,
        now: u64,
    ) -> Vec<(u64, u32)> {
        let before = self.clone();
        let mut wanted: Vec<(u64, u32)> = Vec::new();
        let mut passed: Vec<u64> = Vec::new();
        // Nothing is in flight, and what was passed over before is chosen or passed over for good.
        let is_free = |wanted: &[(u64, u32)], passed: &[u64], group: u64| {
            let mut pending = before.pending(messages, group).into_iter();
            let taken = |offset: u64| wanted.iter().any(|&(it, _)| it == offset) || passed.contains(&offset);
            group == 0 || pending.all(|(offset, view)| view.is_none() && taken(offset))
        };
        for &offset in &deliver.redeliver {
            let view = before.in_flight().into_iter().find(|view| view.offset == offset);
            let Some(view) = view.filter(|view| !view.leased && !view.parked) else {
                continue;
            };
            let is_turn = view.at_ms <= now && before.is_first(&view);
            if is_turn && wanted.iter().all(|&(it, _)| it < offset) {
                wanted.push((offset, view.attempt + 1));
            }
        }
        let mut seen = Vec::new();
        for behind in &deliver.behind {
            let pending = before.pending(messages, behind.message_group);
            let blocked: Vec<u64> = pending
                .iter()
                .filter(|(_, view)| view.is_none())
                .map(|&(it, _)| it)
                .collect();
            let in_flight = pending.iter().any(|(_, view)| view.is_some());
            if seen.contains(&behind.message_group) || in_flight {
                continue;
            }
            let fates = behind
                .runs
                .iter()
                .flat_map(|run| vec![run.filtered; run.count as usize]);
            for (offset, filtered) in blocked.into_iter().zip(fates) {
                seen.push(behind.message_group);
                match filtered {
                    true => {
                        *self.state(offset).unwrap() = State::Filtered;
                        passed.push(offset);
                    }
                    false => wanted.push((offset, 1)),
                }
            }
        }
        let cursor = before.cursor() as u64;
        let fates = deliver.new.iter().flat_map(|run| vec![*run; run.count as usize]);
        let fates = fates.filter(|_| deliver.first_new == cursor);
        for (offset, run) in (cursor..messages.len() as u64).zip(fates) {
            let group = messages[offset as usize].group;
            if run.blocked == is_free(&wanted, &passed, group) {
                break;
            }
            match (run.blocked, run.filtered) {
                (true, _) => *self.state(offset).unwrap() = State::Blocked,
                (false, true) => *self.state(offset).unwrap() = State::Filtered,
                (false, false) => wanted.push((offset, 1)),
            }
        }
        wanted
    }

    /// What can be had next, in order, looking through so many new ones.
    pub(crate) fn in_order(&self, messages: &[Message], now: u64, max: usize, page: usize) -> InOrder {
        let candidate = |offset: u64, from| Candidate {
            offset,
            stored: messages[offset as usize].stored(),
            from,
        };
        let mut candidates = Vec::new();
        let mut open = Vec::new();
        for (at, offset) in self.turns(messages) {
            if at > now || candidates.len() == max {
                break;
            }
            let group = messages[offset as usize].group;
            if group == 0 {
                candidates.push(candidate(offset, Source::Waiting));
                continue;
            }
            let pending = self.pending(messages, group);
            if pending[0].1.is_some() {
                candidates.push(candidate(offset, Source::Waiting));
                continue;
            }
            let room = max - candidates.len();
            if pending.len() <= room {
                open.push(group);
            }
            let behind = pending.into_iter().take(room);
            candidates.extend(behind.map(|(offset, _)| candidate(offset, Source::Behind)));
        }
        let cursor = self.cursor();
        let mut left = max - candidates.len();
        let page = if left > 0 { page } else { 0 };
        for offset in (cursor..messages.len()).take(page) {
            let group = messages[offset].group;
            let is_free = group == 0 || open.contains(&group) || self.pending(messages, group).is_empty();
            if is_free && left == 0 {
                break;
            }
            if is_free {
                left -= 1;
                open.push(group);
            }
            let from = if is_free { Source::New } else { Source::Blocked };
            candidates.push(candidate(offset as u64, from));
        }
        InOrder {
            candidates,
            first_new: cursor as u64,
        }
    }
}

impl Message {
    fn stored(&self) -> Stored {
        Stored {
            position: self.position,
            time_ms: self.time_ms,
            stored_ms: self.stored_ms,
            tag: 0,
            message_group: self.group,
        }
    }
}
