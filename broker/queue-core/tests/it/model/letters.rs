//! Dead letters, what is given back of them, and parked messages. Histories are whole here, however long.

use flotilla_proto::record::{Redrive, Unpark, unpark};
use queue_core::{
    Letter, Note, RedriveResult, UnparkResult, What as Became,
    limits::{MAX_NOTES, MAX_REDRIVE},
};

use super::*;

/// What a dead letter is known by.
#[derive(Debug, Clone)]
pub(crate) struct Dead {
    pub(crate) group: u32,
    queue: u64,
    offset: u64,
    epoch: u64,
    stored_ms: u64,
    message_group: u64,
    redriven_ms: u64,
    redriven_by: u64,
    notes: Vec<Note>,
}

impl Dead {
    pub(super) fn letter(&self) -> Letter {
        let history = last(&self.notes);
        Letter {
            group: GroupId(self.group),
            queue: QueueId(self.queue),
            offset: self.offset,
            epoch: self.epoch,
            stored_ms: self.stored_ms,
            message_group: self.message_group,
            redriven_ms: self.redriven_ms,
            redriven_by: self.redriven_by,
            noted: self.notes.len() as u32,
            history,
        }
    }
}

pub(super) fn last(notes: &[Note]) -> Vec<Note> {
    notes[notes.len().saturating_sub(MAX_NOTES)..].to_vec()
}

impl Model {
    /// Notes what became of a message in flight.
    pub(super) fn note(&mut self, group: u32, queue: u64, offset: u64, what: Became) -> InFlightView {
        let (now, wall) = (self.now, self.wall);
        let sub = self.sub_mut(group, queue).unwrap();
        let mut view = *sub.state(offset).unwrap().view().unwrap();
        let by_operator = [Became::Skipped, Became::Released].contains(&what);
        let notes = sub.notes.entry(offset).or_default();
        notes.push(Note {
            attempt: view.attempt,
            at_ms: now,
            wall_ms: wall,
            client: if by_operator { 0 } else { view.client },
            what,
        });
        view.noted = notes.len() as u32;
        *sub.state(offset).unwrap() = State::of(view);
        view
    }

    /// Stops the message group, or makes a dead letter; nothing if there is no place for it.
    pub(super) fn give_up(
        &mut self,
        group: u32,
        queue: u64,
        offset: u64,
        what: Became,
    ) -> Option<ReleaseResult> {
        let view = self.note(group, queue, offset, what);
        if self.sub(group, queue).unwrap().rules.park && view.message_group != 0 {
            let parked = InFlightView {
                leased: false,
                parked: true,
                at_ms: self.now,
                ..view
            };
            self.set(group, queue, offset, State::Waiting(parked));
            return Some(ReleaseResult::Parked);
        }
        let buried = self.bury(group, queue, offset);
        buried.then_some(ReleaseResult::DeadLettered)
    }

    /// Makes a dead letter, if there is a place for it.
    pub(super) fn bury(&mut self, group: u32, queue: u64, offset: u64) -> bool {
        let sub = self.sub(group, queue).unwrap();
        let target = sub.rules.dead_letter_queue;
        if target == 0 || target == queue {
            return false;
        }
        let message = self.queue(queue).unwrap().messages[offset as usize].clone();
        let dead = Dead {
            group,
            queue,
            offset,
            epoch: sub.epoch,
            stored_ms: message.stored_ms,
            message_group: message.group,
            redriven_ms: 0,
            redriven_by: 0,
            notes: sub.notes[&offset].clone(),
        };
        self.set(group, queue, offset, State::Dead);
        let at = self.push(target, message.position, 0, true);
        let queue = self.queues.iter_mut().find(|queue| queue.id == target).unwrap();
        queue.messages[at as usize].dead = Some(dead);
        true
    }

    pub(super) fn redrive(&mut self, redrive: &Redrive) -> Reply {
        let offsets = redrive.offsets.iter().take(MAX_REDRIVE);
        let results = offsets.map(|&at| self.redrive_one(redrive, at)).collect();
        Reply::Redriven { results }
    }

    fn redrive_one(&mut self, redrive: &Redrive, at: u64) -> RedriveResult {
        let (group, queue) = (redrive.group, redrive.queue);
        let kept = self.kept().into_iter().find(|it| (it.0, it.1) == (queue, at));
        match kept.and_then(|(_, _, it)| Some((it.dead?, it.position))) {
            Some((dead, position)) => self.give_back((group, redrive.id), (queue, at), dead, position),
            None => RedriveResult::Gone,
        }
    }

    fn give_back(
        &mut self,
        (group, id): (u32, u64),
        (queue, at): (u64, u64),
        dead: Dead,
        position: Position,
    ) -> RedriveResult {
        if dead.group != group {
            return RedriveResult::AnotherGroup;
        }
        if dead.redriven_ms != 0 {
            return match id != 0 && id == dead.redriven_by {
                true => RedriveResult::Done,
                false => RedriveResult::Already,
            };
        }
        let Some(sub) = self.sub_mut(group, dead.queue) else {
            return RedriveResult::NoQueue;
        };
        let cursor = sub.cursor() as u64;
        let (start, seeks) = (sub.start as u64, sub.seeks_to.is_some());
        let state = sub.state(dead.offset).cloned();
        let is_pending = state
            .as_ref()
            .is_some_and(|state| state.view().is_some() || *state == State::Blocked);
        if seeks {
            return RedriveResult::Seeks;
        }
        if dead.offset >= cursor || is_pending {
            return RedriveResult::Comes;
        }
        let is_whole = sub.count(|state| *state == State::Trimmed) == 0;
        if dead.epoch != sub.epoch && dead.offset >= start && is_whole {
            return RedriveResult::ReadSince;
        }
        sub.revived.extend(state);
        sub.redriven += 1;
        let is_kept = self
            .kept()
            .iter()
            .any(|it| (it.0, it.1) == (dead.queue, dead.offset));
        let (now, wall) = (self.now, self.wall);
        if !is_kept {
            let from = self.queues.iter_mut().find(|it| it.id == dead.queue).unwrap();
            let message = &mut from.messages[dead.offset as usize];
            (message.position, message.time_ms) = (position, now);
            (message.moved, message.dead) = (true, None);
        }
        let sub = self.sub_mut(group, dead.queue).unwrap();
        let mut notes = dead.notes.clone();
        notes.push(Note {
            attempt: 0,
            at_ms: now,
            wall_ms: wall,
            client: 0,
            what: Became::Redriven,
        });
        let view = InFlightView {
            offset: dead.offset,
            nonce: 0,
            attempt: 0,
            leased: false,
            at_ms: now,
            auto_renew: false,
            written: false,
            client: 0,
            first_leased_ms: 0,
            message_group: if sub.rules.fifo { dead.message_group } else { 0 },
            request: 0,
            departed: false,
            parked: false,
            noted: notes.len() as u32,
        };
        sub.notes.insert(dead.offset, notes);
        match dead.offset < start {
            true => {
                sub.extra.insert(dead.offset, State::Waiting(view));
            }
            false => *sub.state(dead.offset).unwrap() = State::Waiting(view),
        }
        let letters = self.queues.iter_mut().find(|it| it.id == queue).unwrap();
        let letter = letters.messages[at as usize].dead.as_mut().unwrap();
        (letter.redriven_ms, letter.redriven_by) = (wall.max(1), id);
        RedriveResult::Done
    }

    pub(super) fn unpark(&mut self, unpark: &Unpark) -> Reply {
        let release = match unpark::Action::try_from(unpark.action) {
            Ok(unpark::Action::Release) => true,
            Ok(unpark::Action::Skip) => false,
            _ => return Reply::Refused(Refusal::Malformed),
        };
        let (group, queue) = (unpark.group, unpark.queue);
        let mut results = Vec::new();
        for named in &unpark.parked {
            let state = self.sub_mut(group, queue).and_then(|sub| sub.state(named.offset));
            let view = state.and_then(|state| state.view().copied());
            if view
                .filter(|view| view.parked && view.nonce == named.nonce)
                .is_none()
            {
                results.push(UnparkResult::Stale);
                continue;
            }
            if release {
                let now = self.now;
                let view = self.note(group, queue, named.offset, Became::Released);
                let waits = InFlightView {
                    parked: false,
                    attempt: 0,
                    at_ms: now,
                    ..view
                };
                self.set(group, queue, named.offset, State::Waiting(waits));
                results.push(UnparkResult::Done);
                continue;
            }
            self.note(group, queue, named.offset, Became::Skipped);
            results.push(match self.bury(group, queue, named.offset) {
                true => UnparkResult::Done,
                false => UnparkResult::NoPlace,
            });
        }
        Reply::Unparked { results }
    }

    /// Letters of each queue, histories, and what is parked.
    pub(super) fn agrees_on_letters(&self, core: &Core, kv: &dyn KeyValue) -> Result<(), String> {
        let kept = self.kept();
        for queue in &self.queues {
            let expected: Vec<(u64, Letter)> = kept
                .iter()
                .filter(|(id, ..)| *id == queue.id)
                .filter_map(|(_, at, message)| Some((*at, message.dead.as_ref()?.letter())))
                .collect();
            let found = core
                .letters_from(kv, QueueId(queue.id), 0, 999)
                .map_err(|fault| fault.to_string())?;
            let mut found: Vec<(u64, Letter)> = found.into_iter().map(|it| (it.at, it.letter)).collect();
            found.sort_by_key(|(at, _)| *at);
            equal("dead letters", found, expected)?;
        }
        for sub in &self.subs {
            let place = (GroupId(sub.group), QueueId(sub.queue));
            for view in sub.in_flight() {
                let found = core
                    .history(kv, (place.0, place.1, view.offset))
                    .map_err(|fault| fault.to_string())?;
                let expected = sub
                    .notes
                    .get(&view.offset)
                    .map_or(Vec::new(), |notes| last(notes));
                equal("history", found, expected)?;
            }
            let parked: Vec<u64> = sub
                .in_flight()
                .iter()
                .filter(|it| it.parked)
                .map(|it| it.offset)
                .collect();
            let found = core
                .parked_from(kv, place.0, (place.1, 0), 999)
                .map_err(|fault| fault.to_string())?;
            let found = found.into_iter().filter(|it| it.queue == place.1);
            equal("parked", found.map(|it| it.offset).collect(), parked)?;
        }
        Ok(())
    }
}
