//! What is known of messages that die: what was asked of each attempt, what operators were told, and what must follow.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use broker::views::{LetterView, NoteKind, NoteView, ParkedView, RedriveOutcome};

use crate::readers::message_group_of;

/// Of each life of a message.
pub(super) const MAX_ATTEMPTS: u32 = 3;

/// What a consumer asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    Acked,
    Refused,
    Buried,
}

/// Something that was asked of one attempt.
struct Asked {
    attempt: u32,
    what: Done,
    /// When it was known to be done.
    done: Option<Duration>,
}

#[derive(Default)]
struct Mortal {
    /// How often it is to die still.
    deaths: u32,
    place: Option<(i32, i64)>,
    asked: Vec<Asked>,
    /// Nothing comes that was asked for after.
    over: Option<Duration>,
    /// How often it came with its first attempt, and how often it was released.
    firsts: u32,
    releases: u32,
    /// Its dead letters, by queue and offset of each, and who was told that he gave it back.
    letters: BTreeMap<(u32, u64), Option<u64>>,
    /// It was sent again when its id may have been forgotten: nothing is certain of it.
    may_be_twice: bool,
}

/// A message group that stands still.
struct Stop {
    since: Duration,
    handle: String,
    offset: i64,
}

#[derive(Default)]
pub(super) struct Ledger {
    mortals: BTreeMap<String, Mortal>,
    stops: BTreeMap<String, Stop>,
    /// Every stop that was seen, and those that somebody has decided on for certain.
    seen: BTreeSet<String>,
    decided: BTreeMap<(u32, u64), String>,
    /// Somebody has decided on these, and may have been heard.
    deciding: BTreeSet<String>,
    skipped: BTreeSet<String>,
    witnesses: BTreeMap<String, Duration>,
    pub(super) wrong: Vec<String>,
}

impl Ledger {
    fn mortal(&mut self, id: &str) -> &mut Mortal {
        self.mortals.entry(id.to_owned()).or_default()
    }

    /// It is to die so often.
    pub(super) fn sending(&mut self, id: &str, deaths: u32) {
        self.mortal(id).deaths = deaths;
    }

    /// It is sent again so late that it may be stored again.
    pub(super) fn may_be_twice(&mut self, id: &str) {
        self.mortal(id).may_be_twice = true;
    }

    /// It came; true if it is to die. Times: when it was asked for, and now.
    pub(super) fn came(
        &mut self,
        id: &str,
        attempt: i32,
        (asked, at): (Duration, Duration),
        place: (i32, i64),
        is_whole: bool,
    ) -> bool {
        let mut wrong = Vec::new();
        if let Some(stop) = message_group_of(id).and_then(|group| self.stops.get(group))
            && asked > stop.since
            && place.1 >= stop.offset
        {
            wrong.push(format!(
                "{id} came at {at:?}, asked for at {asked:?}, and its message group stands still since {:?} at {}",
                stop.since, stop.offset
            ));
        }
        let mortal = self.mortal(id);
        if attempt < 1 || attempt > MAX_ATTEMPTS as i32 {
            wrong.push(format!("{id} came with attempt {attempt} of {MAX_ATTEMPTS}"));
        }
        if !is_whole {
            wrong.push(format!("{id} did not come as it was sent"));
        }
        let first = *mortal.place.get_or_insert(place);
        if first != place {
            wrong.push(format!("{id} stood at {first:?} and stands at {place:?}"));
        }
        if let Some(over) = mortal.over.filter(|&over| asked > over) {
            wrong.push(format!(
                "{id} was acknowledged at {over:?} and came again at {at:?}"
            ));
        }
        mortal.firsts += u32::from(attempt == 1);
        let (dies, certain) = (mortal.deaths > 0, !mortal.may_be_twice);
        self.wrong.extend(wrong.into_iter().filter(|_| certain));
        dies
    }

    /// Something is asked of an attempt; its number.
    pub(super) fn asking(&mut self, id: &str, attempt: i32, what: Done) -> usize {
        let mortal = self.mortal(id);
        mortal.asked.push(Asked {
            attempt: attempt.unsigned_abs(),
            what,
            done: None,
        });
        mortal.asked.len() - 1
    }

    /// It was done.
    pub(super) fn answered(&mut self, id: &str, asked: usize, at: Duration) {
        let mortal = self.mortal(id);
        let asked = &mut mortal.asked[asked];
        asked.done = Some(at);
        if asked.what == Done::Acked {
            mortal.over.get_or_insert(at);
        }
    }

    /// What has nothing die never gets a message again that it was done with.
    pub(super) fn witnessed(&mut self, id: &str, (asked, at): (Duration, Duration)) {
        let certain = !self.mortal(id).may_be_twice;
        let over = self.witnesses.get(id).filter(|&&over| certain && asked > over);
        if let Some(over) = over {
            let what = format!(
                "{id} was acknowledged at {over:?} by who has nothing die, and came there again at {at:?}"
            );
            self.wrong.push(what);
        }
    }

    pub(super) fn witness_acked(&mut self, id: &str, at: Duration) {
        self.witnesses.entry(id.to_owned()).or_insert(at);
    }

    /// An operator sees a dead letter; he asked for it then. Who tells of it may lead no more: what he says was so once.
    pub(super) fn listed(&mut self, view: &LetterView, asked: Duration) {
        let Some(id) = view.message_id.as_deref() else {
            return;
        };
        let key = (view.dead_letter_queue, view.dead_letter_offset);
        let mut wrong: Vec<String> = of_history(view).err().into_iter().collect();
        let mortal = self.mortals.entry(id.to_owned()).or_default();
        if !mortal.letters.contains_key(&key) {
            mortal.letters.insert(key, None);
            mortal.deaths = mortal.deaths.saturating_sub(1);
            // In a life after it nothing is asked before it was given back.
            if view.redriven_ms.is_none() {
                wrong.extend(of_asks(mortal, view, asked));
            }
        }
        if view.topic.as_deref() != Some(super::TOPIC) || view.consumer_group.as_deref() != Some(super::GROUP)
        {
            wrong.push("it does not come from where it came from".to_owned());
        }
        if let Some(place) = mortal.place
            && place != (view.queue as i32, view.offset as i64)
        {
            wrong.push(format!("it stood at {place:?}"));
        }
        if self.skipped.contains(id)
            && view.redriven_ms.is_none()
            && !view.history.iter().any(|note| note.what == NoteKind::Skipped)
        {
            wrong.push("it was skipped, and does not say so".to_owned());
        }
        let wrong = wrong.into_iter().filter(|_| !mortal.may_be_twice);
        self.wrong
            .extend(wrong.map(|what| format!("dead letter {id}: {what}: {view:?}")));
    }

    /// What became of a dead letter that was to be given back.
    pub(super) fn redriven(&mut self, view: &LetterView, outcome: RedriveOutcome, by: u64) {
        let Some(id) = view.message_id.clone() else {
            return;
        };
        let key = (view.dead_letter_queue, view.dead_letter_offset);
        let mortal = self.mortals.entry(id.clone()).or_default();
        let told = mortal.letters.entry(key);
        // He has not seen it before.
        if matches!(told, std::collections::btree_map::Entry::Vacant(_)) {
            mortal.deaths = mortal.deaths.saturating_sub(1);
        }
        let told = told.or_default();
        match (outcome, *told) {
            (RedriveOutcome::Redriven, Some(before)) if before != by => {
                self.wrong
                    .push(format!("dead letter {id} at {key:?} was given back twice"));
            }
            (RedriveOutcome::Redriven, _) => *told = Some(by),
            (RedriveOutcome::Already, _) => {}
            (outcome, _) => self.wrong.push(format!(
                "dead letter {id} at {key:?} is not given back: {outcome:?}"
            )),
        }
    }

    /// An operator sees a stop.
    pub(super) fn parked(&mut self, view: &ParkedView, at: Duration) {
        let (Some(id), Some(group)) = (view.message_id.clone(), view.message_group.clone()) else {
            return;
        };
        if self.seen.insert(view.handle.clone()) {
            let mortal = self.mortal(&id);
            mortal.deaths = mortal.deaths.saturating_sub(1);
        }
        if let Err(what) = of_notes(&view.history, false) {
            self.wrong.push(format!("parked {id}: {what}: {view:?}"));
        }
        let before = self
            .stops
            .get(&group)
            .is_some_and(|stop| stop.offset <= view.offset as i64);
        if !self.deciding.contains(&view.handle) && !before {
            let stop = Stop {
                since: at,
                handle: view.handle.clone(),
                offset: view.offset as i64,
            };
            self.stops.insert(group, stop);
        }
    }

    /// From now on it may go on.
    pub(super) fn deciding(&mut self, view: &ParkedView, skip: bool) {
        self.deciding.insert(view.handle.clone());
        self.stops.retain(|_, stop| stop.handle != view.handle);
        let Some(id) = view.message_id.clone() else {
            return;
        };
        if skip {
            self.skipped.insert(id);
        } else {
            self.mortal(&id).releases += 1;
        }
    }

    /// What became of it, as far as that is known.
    pub(super) fn decided(&mut self, view: &ParkedView, is_done: bool, is_certain: bool) {
        if is_done && is_certain {
            self.decided
                .insert((view.queue, view.offset), view.handle.clone());
        } else if let Some(id) = &view.message_id {
            // Nobody knows.
            self.skipped.remove(id);
        }
    }

    /// An earlier stop of the same message, which was decided on.
    pub(super) fn late_handle(&self, view: &ParkedView) -> Option<String> {
        self.decided.get(&(view.queue, view.offset)).cloned()
    }

    /// Everybody has been asked to acknowledge it.
    pub(super) fn is_done(&mut self) -> bool {
        let is_over = |mortal: &Mortal| mortal.asked.iter().any(|asked| asked.what == Done::Acked);
        self.mortals.values().all(is_over)
    }

    /// Each life begins with a first attempt, and there are no more lives than were given.
    pub(super) fn end(&mut self) {
        for (id, mortal) in &self.mortals {
            let lives = 1 + mortal.letters.len() as u32 + mortal.releases;
            if mortal.firsts > lives && !mortal.may_be_twice {
                self.wrong.push(format!(
                    "{id} came {} times with its first attempt, and had {lives} lives at most",
                    mortal.firsts
                ));
            }
        }
    }
}

/// A history tells of attempts one after the other, and of a death for which there was a reason.
fn of_history(view: &LetterView) -> Result<(), String> {
    if view.history.len() != view.events.min(16) as usize {
        return Err(format!(
            "{} events, and tells of {}",
            view.events,
            view.history.len()
        ));
    }
    of_notes(&view.history, true)
}

fn of_notes(notes: &[NoteView], died: bool) -> Result<(), String> {
    let mut next = None;
    let mut last: Option<&NoteView> = None;
    for note in notes {
        match note.what {
            NoteKind::TimedOut | NoteKind::Refused | NoteKind::GivenUp | NoteKind::Departed => {
                if next.is_some_and(|next| next != note.attempt) || note.attempt > MAX_ATTEMPTS {
                    return Err(format!("attempt {} is not {next:?}", note.attempt));
                }
                if note.client.is_none() {
                    return Err(format!("nobody had attempt {}", note.attempt));
                }
                next = Some(note.attempt + 1);
            }
            NoteKind::Skipped => {}
            NoteKind::Released | NoteKind::Redriven => next = Some(1),
        }
        if note.what != NoteKind::Skipped {
            last = Some(note);
        }
    }
    // A history that has lost its beginning may begin anywhere.
    if notes.len() < 16 && notes.first().is_none_or(|note| note.attempt != 1) {
        return Err("it does not begin with the first attempt".to_owned());
    }
    let has_reason = last.is_some_and(|last| last.what == NoteKind::GivenUp || last.attempt == MAX_ATTEMPTS);
    match has_reason {
        true => Ok(()),
        false if died => Err("it died before its attempts were used up".to_owned()),
        false => Err("it stopped before its attempts were used up".to_owned()),
    }
}

/// What consumers were told that they did is in it, and nothing that they never asked for.
fn of_asks(mortal: &Mortal, view: &LetterView, listed: Duration) -> Option<String> {
    if view.events as usize > view.history.len() {
        return None;
    }
    for attempt in 1..=MAX_ATTEMPTS {
        for (what, kind) in [
            (Done::Refused, NoteKind::Refused),
            (Done::Buried, NoteKind::GivenUp),
        ] {
            let asked = || {
                mortal
                    .asked
                    .iter()
                    .filter(|it| (it.attempt, it.what) == (attempt, what))
            };
            let least = asked()
                .filter(|it| it.done.is_some_and(|done| done < listed))
                .count();
            let told = view.history.iter();
            let told = told
                .filter(|note| (note.attempt, note.what) == (attempt, kind))
                .count();
            if !(least..=asked().count()).contains(&told) {
                let most = asked().count();
                return Some(format!(
                    "attempt {attempt} was {kind:?} {told} times, and {least} to {most} times was asked so"
                ));
            }
        }
    }
    None
}
