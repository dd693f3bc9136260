//! Half messages: they wait as others do, for the end of their transaction.

use flotilla_proto::record::{self, CheckBack, EndHalf, GiveUp};
use queue_core::{DueCheck, EndResult, Half, limits::ENDED_KEPT_MS, message_id_hash};

use super::{timers::Fate, *};

impl Model {
    /// What a message that ever waited was sent as.
    pub(crate) fn id_of(&self, queue: u64, number: u64) -> String {
        let mut timers = self.timers.iter();
        let timer = timers.find(|timer| (timer.queue, timer.number) == (queue, number));
        timer.map_or(String::new(), |timer| timer.id.clone())
    }

    pub(super) fn end(&mut self, end: &EndHalf, commits: bool) -> Reply {
        let until = self.now + ENDED_KEPT_MS;
        let fate = if commits {
            Fate::Committed
        } else {
            Fate::RolledBack
        };
        let timer = self.timer(end.queue, end.timer);
        let Some(timer) = timer.filter(|timer| message_id_hash(&timer.id) == end.message_id) else {
            return Reply::Ended(EndResult::Unknown);
        };
        Reply::Ended(match timer.fate {
            Fate::Half | Fate::GivenUp => {
                (timer.fate, timer.at) = (fate, until);
                let position = timer.message.position;
                if commits {
                    self.push(end.queue, position, 0, true);
                }
                EndResult::Done
            }
            before if before == fate => EndResult::Again,
            Fate::Committed | Fate::RolledBack => EndResult::Contrary,
            _ => EndResult::Unknown,
        })
    }

    /// What is to be checked back, the first first.
    pub(crate) fn due_checks(&self, now: u64) -> Vec<DueCheck> {
        let due = self.timers.iter();
        let mut due: Vec<_> = due
            .filter(|timer| timer.fate == Fate::Half && timer.at <= now)
            .collect();
        due.sort_by_key(|timer| (timer.at, timer.queue, timer.number));
        let due = due.into_iter().map(|timer| DueCheck {
            half: record::Timer {
                queue: timer.queue,
                timer: timer.number,
            },
            checks: timer.checks,
        });
        due.collect()
    }

    pub(super) fn check_back(&mut self, late: u64, check: &CheckBack) -> Reply {
        let now = self.now;
        let mut halves = Vec::new();
        for named in &check.halves {
            let timer = self.timer(named.queue, named.timer);
            let Some(timer) = timer.filter(|timer| timer.fate == Fate::Half && timer.at <= now) else {
                continue;
            };
            timer.at = (check.next_ms + late).max(now);
            timer.checks += 1;
            halves.push(Half {
                queue: QueueId(named.queue),
                timer: named.timer,
                checks: timer.checks,
                position: timer.message.position,
                stored_ms: timer.message.stored_ms,
            });
        }
        Reply::CheckedBack { halves }
    }

    pub(super) fn give_up_halves(&mut self, give_up: &GiveUp) -> Reply {
        let now = self.now;
        let mut given_up = 0;
        for named in &give_up.halves {
            let timer = self.timer(named.queue, named.timer);
            if let Some(timer) = timer.filter(|timer| timer.fate == Fate::Half && timer.at <= now) {
                timer.fate = Fate::GivenUp;
                given_up += 1;
            }
        }
        Reply::GivenUp(given_up)
    }

    pub(super) fn agrees_on_halves(&self, core: &Core, kv: &dyn KeyValue) -> Result<(), String> {
        let half = self.timers.iter().filter(|timer| timer.fate == Fate::Half);
        equal("next check", core.next_check(), half.map(|timer| timer.at).min())?;
        for (now, limit) in [(self.now, 2), (self.now + 700, 3), (u64::MAX, 99)] {
            let due = core
                .due_checks(kv, now, limit)
                .map_err(|fault| fault.to_string())?;
            let expected = self.due_checks(now).into_iter().take(limit).collect();
            equal("checks", due, expected)?;
        }
        for timer in &self.timers {
            let count = |fate| {
                let mut theirs = self.timers.iter().filter(|other| other.queue == timer.queue);
                theirs.by_ref().filter(|other| other.fate == fate).count() as u64
            };
            let counts = (count(Fate::Half), count(Fate::GivenUp));
            equal("halves", core.halves_of(QueueId(timer.queue)), counts)?;
        }
        Ok(())
    }
}
