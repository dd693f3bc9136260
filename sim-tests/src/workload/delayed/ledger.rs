//! What is known of messages that are to be delivered at a date, and what must not become of them.
//!
//! A node takes a date by its own wall clock when it accepts the message (ADR 18), so a message may come earlier by what the
//! clock that is ahead most was wrong meanwhile, and later by what the one that is behind most was. A shard's time
//! stands still while nobody leads it: what was sent before the faults were over may be later by as long as they lasted.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use queue_core::limits::DEDUP_WINDOW_MS;

use crate::client::Told;

/// In which a message that is sent again is known, and a little less.
pub(super) const WINDOW: Duration = Duration::from_millis(DEDUP_WINDOW_MS - 20_000);
/// Dates and clocks are cut to milliseconds.
const CUT: Duration = Duration::from_millis(3);
/// From the moment at which a message is due until somebody has it: an answer or two may get lost, with a lease each.
const WITHIN: Duration = Duration::from_secs(45);
/// The same of what was put off while there were faults.
const BACKLOG: Duration = Duration::from_secs(120);

/// What became of a recall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recall {
    /// It never comes.
    Done,
    /// It came, or will: nothing else has recalled it.
    TooLate,
    /// Nobody knows.
    Unsure,
}

/// Queue and offset.
type Place = (i32, i64);

/// One message.
#[derive(Debug, Clone)]
struct Fate {
    sending: Duration,
    /// By true time; while nobody knows whether it has another date, the first of both.
    due: Duration,
    /// And the last of both.
    due_latest: Duration,
    retiming: bool,
    stored: Option<Duration>,
    handle: Option<String>,
    /// By how much the clocks were wrong from its first sending until it was stored, milliseconds.
    clocks: (i64, i64),
    recalling: bool,
    recall: Option<Recall>,
    came: Option<(Duration, Place)>,
    acked: Option<Duration>,
    /// Retention took it, once it stood in its queue.
    forgotten: bool,
}

impl Fate {
    fn earliest(&self) -> Duration {
        let ahead = Duration::from_millis(self.clocks.1.max(0) as u64);
        self.due.saturating_sub(ahead + CUT)
    }

    fn latest(&self, calm: Duration) -> Duration {
        let behind = Duration::from_millis(self.clocks.0.min(0).unsigned_abs());
        match self.sending < calm {
            true => calm + self.due_latest.saturating_sub(self.sending) + behind + BACKLOG,
            false => self.due_latest.max(self.stored.unwrap_or_default()) + behind + WITHIN,
        }
    }

    /// Its first try and that which was answered are so far apart that a shard need not know any more that they are one message.
    fn may_be_two(&self) -> bool {
        self.stored.is_none_or(|stored| stored > self.sending + WINDOW)
    }

    /// It was acknowledged, and no recall can have had to do with that it did not come.
    fn is_owed(&self) -> bool {
        let may_be_recalled = matches!(self.recall, Some(Recall::Done | Recall::Unsure));
        self.stored.is_some()
            && self.came.is_none()
            && !self.forgotten
            && !may_be_recalled
            && (!self.recalling || self.recall.is_some())
    }
}

/// Of all messages.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Requests come twice: what is not found may have been recalled by the same request.
    disorder: bool,
    fates: BTreeMap<String, Fate>,
    places: BTreeMap<Place, String>,
    clocks: (i64, i64),
    pub(super) wrong: Vec<String>,
}

impl Ledger {
    pub(super) fn new(disorder: bool) -> Ledger {
        Ledger {
            disorder,
            ..Ledger::default()
        }
    }

    fn broken(&mut self, what: String) {
        self.wrong.push(format!("P5 {what}"));
    }

    /// By how much the wall clocks of nodes are ahead, the one that is behind most and the one that is ahead most.
    pub(super) fn clocks(&mut self, _at: Duration, least: i64, most: i64) {
        self.clocks = (least, most);
        let on_their_way = self
            .fates
            .values_mut()
            .filter(|fate| fate.stored.is_none() || fate.retiming);
        for fate in on_their_way {
            fate.clocks = (fate.clocks.0.min(least), fate.clocks.1.max(most));
        }
    }

    pub(super) fn sending(&mut self, id: &str, at: Duration, delay_ms: i64) {
        let delay = Duration::from_millis(delay_ms.max(0) as u64);
        let fate = Fate {
            sending: at,
            due: at + delay,
            due_latest: at + delay,
            retiming: false,
            stored: None,
            handle: None,
            clocks: self.clocks,
            recalling: false,
            recall: None,
            came: None,
            acked: None,
            forgotten: false,
        };
        self.fates.insert(id.to_owned(), fate);
    }

    fn fate(&mut self, id: &str) -> Option<&mut Fate> {
        self.fates.get_mut(id)
    }

    pub(super) fn stored(&mut self, id: &str, at: Duration, told: &Told) {
        if let Some(fate) = self.fate(id) {
            fate.stored = Some(at);
            fate.handle = Some(told.handle.clone()).filter(|handle| !handle.is_empty());
        }
    }

    /// Where it came from, if it came.
    pub(super) fn place_of(&mut self, id: &str) -> Option<Place> {
        self.fate(id).and_then(|fate| fate.came).map(|(_, place)| place)
    }

    /// It was sent once more; when that began it had come from there.
    pub(super) fn stored_again(&mut self, id: &str, told: &Told, came: Option<Place>) {
        let Some(fate) = self.fate(id).filter(|fate| !fate.may_be_two()).cloned() else {
            return;
        };
        let again = Some(told.handle.clone()).filter(|handle| !handle.is_empty());
        if again.is_some() && again != fate.handle {
            self.broken(format!(
                "twice: {id} was told {:?}, and now {told:?}",
                fate.handle
            ));
        }
        if let Some((queue, offset)) = came
            && (again.is_some() || told.offset != offset)
        {
            self.broken(format!(
                "twice: {id} came from {queue}/{offset}, and was told {told:?}"
            ));
        }
    }

    /// It is to have another date.
    pub(super) fn retiming(&mut self, id: &str, due: Duration) {
        if let Some(fate) = self.fate(id) {
            (fate.due, fate.due_latest) = (fate.due.min(due), fate.due_latest.max(due));
            fate.retiming = true;
        }
    }

    /// It has it, if that is known.
    pub(super) fn retimed(&mut self, id: &str, due: Option<Duration>) {
        if let Some(fate) = self.fate(id) {
            fate.retiming = false;
            if let Some(due) = due {
                (fate.due, fate.due_latest) = (due, due);
            }
        }
    }

    pub(super) fn recalling(&mut self, id: &str) {
        if let Some(fate) = self.fate(id) {
            fate.recalling = true;
        }
    }

    pub(super) fn recalled(&mut self, id: &str, at: Duration, became: Recall) {
        let disorder = self.disorder;
        let Some(fate) = self.fate(id) else { return };
        let became = match became {
            Recall::TooLate if disorder => Recall::Unsure,
            other => other,
        };
        fate.recall = Some(became);
        let came = fate.came.filter(|_| !fate.may_be_two());
        if let (Recall::Done, Some((came, _))) = (became, came) {
            self.broken(format!(
                "recalled: {id} came at {came:?}, and its recall was OK at {at:?}"
            ));
        }
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
        if at < fate.earliest() {
            self.broken(format!("early: {id} came at {at:?}: {fate:?}"));
        }
        // Until it is known to be stored nobody knows that it is one; what is wrong with it then is wrong later, too.
        if fate.may_be_two() {
            return;
        }
        if before != place {
            self.broken(format!(
                "twice: {id} came from {before:?}, and at {at:?} from {place:?}"
            ));
        }
        if fate.recall == Some(Recall::Done) {
            self.broken(format!("recalled: {id} came at {at:?}, and its recall was OK"));
        }
        if fate.acked.is_some_and(|acked| asked > acked) {
            self.broken(format!(
                "twice: {id} was acknowledged, and came to who asked at {asked:?}"
            ));
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
            self.broken(format!("late: {id} has not come by {now:?}: {fate:?}"));
        }
    }

    /// When all that is owed has come: the moment at which the last of what must not come was due.
    pub(super) fn rests_at(&self) -> Option<Duration> {
        let is_owed = self.fates.values().any(Fate::is_owed);
        let last = self.fates.values().map(|fate| {
            let behind = fate.clocks.0.min(0).unsigned_abs();
            fate.due_latest + Duration::from_millis(behind)
        });
        (!is_owed).then(|| last.max().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn told(handle: &str, offset: i64) -> Told {
        Told {
            handle: handle.into(),
            offset,
        }
    }

    /// With a message that is due at 10 s, and clocks that are up to 2 s ahead.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(false);
        ledger.clocks(S(0), -1_000, 2_000);
        ledger.sending("a", S(1), 9_000);
        ledger.stored("a", S(2), &told("h", 0));
        ledger
    }

    fn says(ledger: &Ledger, what: &str) -> bool {
        matches!(&ledger.wrong[..], [wrong] if wrong.starts_with(what))
    }

    #[test]
    fn what_comes_once_and_in_time_is_good() {
        let mut ledger = ledger();
        ledger.came("a", (S(7), S(8)), (0, 3), true);
        ledger.acked("a", S(9));
        ledger.stored_again("a", &told("", 3), Some((0, 3)));
        ledger.late(S(1_000), Some(S(1)));
        assert_eq!((ledger.wrong.len(), ledger.rests_at()), (0, Some(S(11))));
    }

    #[test]
    fn what_comes_before_the_clock_that_is_ahead_most_would_have_it_is_early() {
        let mut ledger = ledger();
        ledger.came("a", (S(7), Duration::from_millis(7_990)), (0, 3), true);
        assert!(says(&ledger, "P5 early"), "{:?}", ledger.wrong);
    }

    #[test]
    fn what_comes_twice_is_found() {
        let mut two_places = ledger();
        two_places.came("a", (S(10), S(11)), (0, 3), true);
        two_places.came("a", (S(30), S(31)), (1, 3), true);
        assert!(says(&two_places, "P5 twice"), "{:?}", two_places.wrong);
        let mut acked = ledger();
        acked.came("a", (S(10), S(11)), (0, 3), true);
        acked.acked("a", S(12));
        acked.came("a", (S(30), S(31)), (0, 3), true);
        assert!(says(&acked, "P5 twice"), "{:?}", acked.wrong);
        let mut another_handle = ledger();
        another_handle.stored_again("a", &told("i", 0), None);
        assert!(says(&another_handle, "P5 twice"), "{:?}", another_handle.wrong);
    }

    #[test]
    fn what_was_recalled_never_comes_before_or_after() {
        let mut after = ledger();
        after.recalling("a");
        after.recalled("a", S(5), Recall::Done);
        assert_eq!(after.rests_at(), Some(S(11)));
        after.came("a", (S(10), S(11)), (0, 3), true);
        assert!(says(&after, "P5 recalled"), "{:?}", after.wrong);
        let mut before = ledger();
        before.came("a", (S(10), S(11)), (0, 3), true);
        before.recalling("a");
        before.recalled("a", S(12), Recall::Done);
        assert!(says(&before, "P5 recalled"), "{:?}", before.wrong);
    }

    #[test]
    fn what_was_not_found_by_its_recall_must_come() {
        let mut ledger = ledger();
        ledger.recalling("a");
        ledger.late(S(1_000), Some(S(0)));
        assert_eq!(ledger.wrong.len(), 0, "it may be recalled");
        ledger.recalled("a", S(12), Recall::TooLate);
        assert_eq!(ledger.rests_at(), None);
        ledger.late(S(50), Some(S(0)));
        assert_eq!(ledger.wrong.len(), 0);
        ledger.late(S(57), Some(S(0)));
        assert!(says(&ledger, "P5 late"), "{:?}", ledger.wrong);
    }

    #[test]
    fn what_has_another_date_comes_by_that() {
        let mut ledger = ledger();
        ledger.retiming("a", S(30));
        ledger.retimed("a", Some(S(30)));
        ledger.came("a", (S(19), S(20)), (0, 3), true);
        assert!(says(&ledger, "P5 early"), "{:?}", ledger.wrong);
    }
}
