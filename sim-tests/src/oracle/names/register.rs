//! Names that nobody but the operator uses: the catalogue is a register of one writer, and every answer says what it did.
//! What has no certain answer leaves the name taken or free, until another answer tells.

use std::{collections::BTreeMap, time::Duration};

use super::{ON_ITS_WAY, STALE};
use crate::history::names::{Answer, Name, Request, Spec, UNUSED_GROUP, UNUSED_TOPIC};

/// All of them.
#[derive(Default)]
pub(super) struct Register {
    calm: Option<Duration>,
    entries: BTreeMap<Name, Entry>,
}

/// What is known of a name.
#[derive(Debug, Clone)]
struct Entry {
    /// What bears it, or nothing; not known after an answer that was not certain.
    known: Option<Option<Spec>>,
    /// Since then.
    since: Duration,
    /// Until then something may still be carried out that was asked for before.
    hazy: Duration,
}

impl Register {
    pub(super) fn calm(&mut self, at: Duration) {
        self.calm = Some(at);
        for entry in self
            .entries
            .values_mut()
            .filter(|entry| entry.hazy == Duration::MAX)
        {
            entry.hazy = at + ON_ITS_WAY;
        }
    }

    pub(super) fn asked(&mut self, at: Duration, name: &Name) {
        if name.name == UNUSED_TOPIC || name.name == UNUSED_GROUP {
            let free = || Entry {
                known: Some(None),
                since: at,
                hazy: Duration::ZERO,
            };
            self.entries.entry(name.clone()).or_insert_with(free);
        }
    }

    pub(super) fn answered(
        &mut self,
        at: Duration,
        (name, request, asked): (&Name, &Request, Duration),
        answer: &Answer,
        wrong: &mut Vec<String>,
    ) {
        let Some(entry) = self.entries.get_mut(name) else {
            if let Answer::Refused(why) = answer {
                wrong.push(format!("names: {request:?} of {name:?} was refused: {why}"));
            }
            return;
        };
        let heard = self
            .calm
            .is_some_and(|calm| asked > calm.max(entry.since) + STALE);
        let is_certain = asked >= entry.hazy;
        let taken = entry.known.as_ref().filter(|_| is_certain);
        let fits = match (request, answer, taken) {
            (_, Answer::Refused(_), _) => false,
            (_, _, None) | (_, Answer::Unsure | Answer::NothingDone, _) => true,
            (Request::Create(_), Answer::Done, Some(taken)) => taken.is_none(),
            (Request::Create(_), Answer::Exists, Some(taken)) => taken.is_some(),
            (Request::Delete, Answer::Done, Some(taken)) => taken.is_some(),
            (Request::Delete, Answer::NotFound, Some(taken)) => taken.is_none(),
            (Request::Describe, Answer::NotFound, Some(taken)) => taken.is_none(),
            // That a name is known may be old news.
            (Request::Describe, Answer::Found(spec), Some(taken)) => !heard || taken.as_ref() == Some(spec),
            _ => false,
        };
        if !fits {
            wrong.push(format!(
                "names: {request:?} of {name:?}, asked for at {asked:?}, was answered {answer:?} at {at:?}, with {entry:?}"
            ));
        }
        // It may lie in a connection that is cut, and be carried out when that is whole again.
        let over = self.calm.map_or(Duration::MAX, |_| at + ON_ITS_WAY);
        entry.learn((at, over), request, answer, is_certain);
    }
}

impl Entry {
    fn learn(
        &mut self,
        (at, over): (Duration, Duration),
        request: &Request,
        answer: &Answer,
        is_certain: bool,
    ) {
        let changed = match (request, answer) {
            (Request::Describe, _) | (_, Answer::NothingDone) => return,
            // Late, it frees the name of what bore it then, and of nothing else.
            (Request::Delete, Answer::Unsure) => {
                self.known = None;
                return;
            }
            (Request::Create(_), Answer::Unsure) => {
                (self.known, self.hazy) = (None, over);
                return;
            }
            (Request::Create(spec), Answer::Done) => Some(Some(spec.clone())),
            (Request::Delete, Answer::Done | Answer::NotFound) => Some(None),
            _ => None,
        };
        if let Some(changed) = changed.filter(|_| is_certain) {
            (self.known, self.since) = (Some(changed), at);
        }
    }
}
