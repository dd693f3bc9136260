//! What is known of transactions, and what must not become of them.
//!
//! Nothing here depends on a wall clock: when producers are asked is reckoned by the shard's time, which never runs faster than true
//! time, and stands still while nobody leads. So no question comes too early, and while there are faults it may come late by as long as
//! they last.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use broker::node;
use queue_core::limits::{DEDUP_WINDOW_MS, ENDED_KEPT_MS};

/// In which a message that is sent again is known, and a little less.
const WINDOW: Duration = Duration::from_millis(DEDUP_WINDOW_MS - 20_000);
/// In which it is known how a transaction ended, and a little less.
const KNOWN: Duration = Duration::from_millis(ENDED_KEPT_MS - 60_000);
/// Times are cut to milliseconds.
const CUT: Duration = Duration::from_millis(3);
/// From a commit until somebody has the message: an answer or two may get lost, with a lease each.
const WITHIN: Duration = Duration::from_secs(45);
/// The same of what was committed while there were faults.
const BACKLOG: Duration = Duration::from_secs(120);
/// A question is late by so much at most: others are asked before it.
const ASKED_WITHIN: Duration = Duration::from_secs(30);

/// What a producer says when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Commit,
    Rollback,
    Unknown,
}

/// Queue and offset.
type Place = (i32, i64);

/// One transaction.
#[derive(Debug, Clone)]
struct Fate {
    sending: Duration,
    first_check: Duration,
    answer: Answer,
    stored: Option<Duration>,
    transaction: Option<String>,
    /// Somebody has begun to end it so.
    committing: bool,
    rolling_back: bool,
    /// It is known to have ended so: commits, and since when.
    ended: Option<(bool, Duration)>,
    asked: u32,
    came: Option<(Duration, Place)>,
    acked: Option<Duration>,
    /// Retention took it, once it stood in its queue.
    forgotten: bool,
}

impl Fate {
    /// Its first try and that which was answered are so far apart that a shard need not know any more that they are one message.
    fn may_be_two(&self) -> bool {
        self.stored.is_none_or(|stored| stored > self.sending + WINDOW)
    }

    /// It was committed, and has not come.
    fn is_owed(&self) -> bool {
        matches!(self.ended, Some((true, _))) && self.came.is_none() && !self.forgotten
    }

    fn latest(&self, calm: Duration) -> Duration {
        match self.ended {
            Some((_, at)) if at >= calm => at + WITHIN,
            _ => calm + BACKLOG,
        }
    }
}

/// Of all transactions.
#[derive(Debug)]
pub(super) struct Ledger {
    rules: node::Transactions,
    /// Requests come twice, and so do questions.
    disorder: bool,
    fates: BTreeMap<String, Fate>,
    places: BTreeMap<Place, String>,
    pub(super) wrong: Vec<String>,
}

impl Ledger {
    pub(super) fn new(rules: node::Transactions, disorder: bool) -> Ledger {
        Ledger {
            rules,
            disorder,
            fates: BTreeMap::new(),
            places: BTreeMap::new(),
            wrong: Vec::new(),
        }
    }

    fn broken(&mut self, what: String) {
        self.wrong.push(format!("transaction {what}"));
    }

    pub(super) fn sending(&mut self, id: &str, at: Duration, first_check: Option<Duration>, answer: Answer) {
        let fate = Fate {
            sending: at,
            first_check: first_check.unwrap_or(self.rules.first_check),
            answer,
            stored: None,
            transaction: None,
            committing: false,
            rolling_back: false,
            ended: None,
            asked: 0,
            came: None,
            acked: None,
            forgotten: false,
        };
        self.fates.insert(id.to_owned(), fate);
    }

    fn fate(&mut self, id: &str) -> Option<&mut Fate> {
        self.fates.get_mut(id)
    }

    pub(super) fn stored(&mut self, id: &str, at: Duration, transaction: &str) {
        if let Some(fate) = self.fate(id) {
            fate.stored = Some(at);
            fate.transaction = Some(transaction.to_owned());
        }
    }

    /// Until then it is known to be the same message if it is sent again.
    pub(super) fn known_until(&mut self, id: &str) -> Duration {
        self.fate(id).map_or(Duration::ZERO, |fate| fate.sending + WINDOW)
    }

    /// It was sent once more.
    pub(super) fn stored_again(&mut self, id: &str, transaction: &str) {
        let Some(fate) = self.fate(id).filter(|fate| !fate.may_be_two()).cloned() else {
            return;
        };
        if fate.transaction.as_deref() != Some(transaction) {
            self.broken(format!(
                "twice: {id} is {transaction} when it is sent again: {fate:?}"
            ));
        }
    }

    /// Somebody begins to end it.
    pub(super) fn ending(&mut self, id: &str, commits: bool) {
        if let Some(fate) = self.fate(id) {
            match commits {
                true => fate.committing = true,
                false => fate.rolling_back = true,
            }
        }
    }

    /// And was told that it has ended so.
    pub(super) fn ended(&mut self, id: &str, at: Duration, commits: bool) {
        let Some(fate) = self.fate(id) else {
            return self.broken(format!("unexpected: {id} was ended, and was never sent"));
        };
        let (before, _) = *fate.ended.get_or_insert((commits, at));
        let fate = fate.clone();
        if before != commits && !fate.may_be_two() {
            self.broken(format!("two ends: {id} has ended both ways by {at:?}: {fate:?}"));
        }
        self.judge_came(id);
    }

    /// Or that it has not: it has ended the other way before.
    pub(super) fn refused(&mut self, id: &str, at: Duration, commits: bool, why: &str) {
        let Some(fate) = self.fate(id).cloned() else {
            return self.broken(format!(
                "unexpected: the end of {id} was refused, and it was never sent"
            ));
        };
        if why.contains("no such") {
            let long_ago = fate.ended.is_some_and(|(_, ended)| at > ended + KNOWN);
            let unknown_long_ago = fate.ended.is_none() && at > fate.sending + KNOWN;
            if !long_ago && !unknown_long_ago && !fate.may_be_two() {
                self.broken(format!("lost: nobody knew of {id} at {at:?}: {why}: {fate:?}"));
            }
            return;
        }
        let begun = if commits {
            fate.rolling_back
        } else {
            fate.committing
        };
        if !begun {
            self.broken(format!(
                "refused: nobody has ended {id} the other way: {why}: {fate:?}"
            ));
        }
        self.ended(id, at, !commits);
    }

    /// A producer is asked about it; what it says.
    pub(super) fn asked(
        &mut self,
        id: &str,
        at: Duration,
        transaction: &str,
        is_whole: bool,
    ) -> Option<Answer> {
        let (rules, disorder) = (self.rules, self.disorder);
        let Some(fate) = self.fate(id) else {
            self.broken(format!("unexpected: {id} is asked about, and was never sent"));
            return None;
        };
        fate.asked += 1;
        let fate = fate.clone();
        if !is_whole {
            self.broken(format!("corrupt: {id} is asked about with what was not sent"));
        }
        if fate
            .transaction
            .as_deref()
            .is_some_and(|known| known != transaction)
            && !fate.may_be_two()
        {
            self.broken(format!("twice: {id} is asked about as {transaction}: {fate:?}"));
        }
        // Of two with one id each is asked about.
        if disorder || fate.stored.is_some() && fate.may_be_two() {
            return Some(fate.answer);
        }
        let earliest = fate.sending + fate.first_check + (fate.asked - 1) * rules.check_every;
        if at + CUT < earliest {
            self.broken(format!("early: {id} is asked about at {at:?} already: {fate:?}"));
        }
        if fate.asked > rules.max_checks {
            self.broken(format!(
                "too often: {id} is asked about again at {at:?}: {fate:?}"
            ));
        }
        Some(fate.answer)
    }

    /// Somebody who asked then got it.
    pub(super) fn came(&mut self, id: &str, (asked, at): (Duration, Duration), place: Place, is_whole: bool) {
        if !is_whole {
            self.broken(format!("corrupt: {id} is not what was sent"));
        }
        let other = self.places.insert(place, id.to_owned());
        if let Some(other) = other.filter(|other| other != id) {
            self.broken(format!("twice: {id} and {other} came from {place:?}"));
        }
        let Some(fate) = self.fate(id) else {
            return self.broken(format!("unexpected: {id} came, and was never sent"));
        };
        let before = fate.came.get_or_insert((at, place)).1;
        let fate = fate.clone();
        if !fate.committing {
            self.broken(format!("half seen: {id} came at {at:?}: {fate:?}"));
        }
        if fate.stored.is_some() && fate.may_be_two() {
            return;
        }
        if before != place {
            self.broken(format!(
                "twice: {id} came from {before:?}, and at {at:?} from {place:?}"
            ));
        }
        if fate.acked.is_some_and(|acked| asked > acked) {
            self.broken(format!(
                "twice: {id} was acknowledged, and came to who asked at {asked:?}"
            ));
        }
        self.judge_came(id);
    }

    fn judge_came(&mut self, id: &str) {
        let Some(fate) = self.fate(id).cloned() else {
            return;
        };
        if matches!(fate.ended, Some((false, _))) && fate.came.is_some() && !fate.may_be_two() {
            self.broken(format!("rolled back: {id} came: {fate:?}"));
        }
    }

    pub(super) fn acked(&mut self, id: &str, at: Duration) {
        if let Some(fate) = self.fate(id) {
            fate.acked.get_or_insert(at);
        }
    }

    /// Retention took these, which had come to their queues.
    pub(super) fn forgotten(&mut self, ids: &BTreeSet<String>) {
        for id in ids {
            if let Some(fate) = self.fates.get_mut(id) {
                fate.forgotten = true;
            }
        }
    }

    /// Tells what should have come by now, once the cluster is whole.
    pub(super) fn late(&mut self, now: Duration, calm: Option<Duration>) {
        let Some(calm) = calm else { return };
        let late = |fate: &&Fate| fate.is_owed() && now > fate.latest(calm);
        let late = self.fates.iter().find(|(_, fate)| late(fate));
        if let Some((id, fate)) = late.map(|(id, fate)| (id.clone(), fate.clone())) {
            self.broken(format!(
                "lost: {id} was committed and has not come by {now:?}: {fate:?}"
            ));
        }
    }

    /// All that is listed (message, transaction, given up), once nobody begins or ends anything by himself any more. True if
    /// nothing more happens to it: all is given up.
    pub(super) fn listed(
        &mut self,
        now: Duration,
        calm: Option<Duration>,
        listed: &BTreeSet<(String, String, bool)>,
    ) -> bool {
        let mut wrong = Vec::new();
        let mut rests = true;
        for (id, fate) in &self.fates {
            let Some(transaction) = &fate.transaction else {
                continue;
            };
            let row = listed
                .iter()
                .find(|(of, named, _)| of == id && named == transaction);
            if fate.may_be_two() {
                continue;
            }
            match (row, fate.ended) {
                (Some(_), Some((_, ended))) if ended < now => {
                    // The list was made before that was known, perhaps.
                    rests = false;
                    if now > ended + ASKED_WITHIN && calm.is_some_and(|calm| now > calm + ASKED_WITHIN) {
                        wrong.push(format!("lists {id}, which has ended: {fate:?}"));
                    }
                }
                (None, None) if !fate.committing && !fate.rolling_back => {
                    wrong.push(format!("does not list {id}, which nobody has ended: {fate:?}"));
                }
                (Some((.., false)), None) => {
                    rests = false;
                    let checks = self.rules.max_checks * self.rules.check_every;
                    let begun = fate.stored.unwrap_or_default().max(calm.unwrap_or(now));
                    if now > begun + fate.first_check + checks + ASKED_WITHIN {
                        wrong.push(format!("has not given up {id} by {now:?}: {fate:?}"));
                    }
                }
                (Some((.., true)), None) => {
                    let in_calm = calm.is_some_and(|calm| fate.sending > calm);
                    if in_calm && fate.asked == 0 {
                        wrong.push(format!("has given up {id} and asked nobody about it: {fate:?}"));
                    }
                }
                _ => {}
            }
        }
        for what in wrong {
            self.broken(what);
        }
        rests && listed.iter().all(|(.., given_up)| *given_up)
    }

    /// All that is owed has come.
    pub(super) fn rests(&self) -> bool {
        !self.fates.values().any(Fate::is_owed)
    }
}

#[cfg(test)]
mod tests;
