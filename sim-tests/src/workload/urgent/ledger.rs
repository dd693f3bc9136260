//! What is known of messages with priorities, and in which order they must come (ADR 25).
//!
//! A leader chooses at one moment between the beginning of a receive and its answer. What could be delivered all that time and did
//! not come, while something less urgent did, was passed by. A message counts as one that could be delivered from when its sender
//! knew that it is stored, until the beginning of the receive that got it. A receive without an answer may have taken anything from
//! its beginning on: nothing is claimed of what was free then until it is seen again.

use std::{collections::BTreeMap, time::Duration};

/// After a receive has failed it may take something for so long.
const WORKS_ON: Duration = Duration::from_secs(12);
/// What is due by then has its lease ended by the ticker a little later.
const ENDED_WITHIN: Duration = Duration::from_secs(2);
/// Of two messages that weigh nearly the same nobody knows from outside which one weighs more.
const NEARLY: Duration = Duration::from_millis(500);

/// One message.
#[derive(Debug, Clone)]
struct Fate {
    lane: u32,
    wanted: bool,
    sending: Duration,
    stored: Option<Duration>,
    /// It can be delivered from then on.
    free: Option<Duration>,
    /// When it could be before.
    was_free: Vec<(Duration, Duration)>,
    acked: bool,
}

/// A receive's answer that is not judged yet.
#[derive(Debug, Clone)]
struct Answer {
    begun: Duration,
    ended: Duration,
    came: Vec<String>,
}

/// Of one topic.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// So much of waiting weighs as one lane.
    ageing: Option<Duration>,
    /// Nothing is claimed of what was stored before then.
    from: Duration,
    fates: BTreeMap<String, Fate>,
    /// Beginnings of receives that have no answer yet.
    asking: BTreeMap<u64, Duration>,
    next: u64,
    unsure_until: Duration,
    answers: Vec<Answer>,
    pub(super) wrong: Vec<String>,
}

impl Ledger {
    pub(super) fn new(ageing: Option<Duration>) -> Ledger {
        Ledger {
            ageing,
            ..Ledger::default()
        }
    }

    pub(super) fn sending(&mut self, id: &str, at: Duration, lane: u32, wanted: bool) {
        let fate = Fate {
            lane,
            wanted,
            sending: at,
            stored: None,
            free: None,
            was_free: Vec::new(),
            acked: false,
        };
        self.fates.insert(id.to_owned(), fate);
    }

    /// Its sender knows that it is stored. It may have come already.
    pub(super) fn stored(&mut self, id: &str, at: Duration) {
        let is_certain = at >= self.unsure_until;
        let fate = self.fates.get_mut(id).expect("it was sent");
        let is_first = fate.stored.is_none();
        fate.stored.get_or_insert(at);
        if is_first && is_certain && !fate.acked && fate.wanted {
            fate.free = Some(at);
        }
    }

    /// A receive begins; its number.
    pub(super) fn asks(&mut self, at: Duration) -> u64 {
        self.next += 1;
        self.asking.insert(self.next, at);
        self.next
    }

    /// It has no answer, or one that does not say all that was leased: it may have taken anything, now or later.
    pub(super) fn took_anything(&mut self, number: u64, at: Duration) {
        let begun = self.asking[&number];
        for fate in self.fates.values_mut() {
            fate.taken(begun);
        }
        self.unsure_until = self.unsure_until.max(at + WORKS_ON);
    }

    /// It has no answer.
    pub(super) fn failed(&mut self, number: u64, at: Duration) {
        self.took_anything(number, at);
        self.asking.remove(&number);
        self.judge();
    }

    /// It is answered with these messages, in this order.
    pub(super) fn answered(&mut self, number: u64, at: Duration, came: Vec<String>) {
        let begun = self.asking.remove(&number).expect("it asked");
        let mut before = u32::MAX;
        for id in &came {
            let Some(fate) = self.fates.get_mut(id) else {
                self.wrong.push(format!("P6 {id} came, and was never sent"));
                continue;
            };
            fate.taken(begun);
            // Whatever its sender knows: it is stored, and leased now.
            fate.stored.get_or_insert(at);
            if fate.lane > before {
                let what = format!("P6 {id} comes behind what is less urgent: {came:?}");
                self.wrong.push(what);
            }
            before = fate.lane;
            if !fate.wanted {
                self.wrong
                    .push(format!("P6 {id} came, and the filter does not let it through"));
            }
        }
        self.answers.push(Answer {
            begun,
            ended: at,
            came,
        });
        self.judge();
    }

    /// It waits, and comes again, from then on. If that is certain.
    pub(super) fn waits_until(&mut self, id: &str, until: Option<Duration>) {
        let unsure_until = self.unsure_until;
        let fate = self.fates.get_mut(id).expect("it was sent");
        fate.free = until
            .filter(|until| *until >= unsure_until)
            .map(|until| until + ENDED_WITHIN);
    }

    /// Somebody acknowledges it: it comes no more, or again if that was not done.
    pub(super) fn acking(&mut self, id: &str) {
        let fate = self.fates.get_mut(id).expect("it was sent");
        (fate.acked, fate.free) = (true, None);
    }

    /// Of what was stored before nothing is claimed: the shard's time may have stood still.
    pub(super) fn begins_anew(&mut self, at: Duration) {
        self.from = at;
    }

    /// What has not come to an end yet.
    pub(super) fn left(&self) -> Vec<&str> {
        let left = self.fates.iter();
        let left = left.filter(|(_, fate)| fate.wanted && fate.stored.is_some() && !fate.acked);
        left.map(|(id, _)| id.as_str()).collect()
    }

    /// Judges what no receive that is under way can tell any more of.
    fn judge(&mut self) {
        let under_way = self.asking.values().min().copied().unwrap_or(Duration::MAX);
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.answers)
            .into_iter()
            .partition(|answer| answer.ended < under_way);
        self.answers = later;
        for answer in now {
            let Some(least) = answer.came.iter().filter_map(|id| self.weight(id, false)).max() else {
                continue;
            };
            let passed_by = self.fates.iter().find(|(id, fate)| {
                let came = answer.came.contains(id);
                !came && fate.was_free_in(&answer) && self.weight(id, true).is_some_and(|it| it < least)
            });
            if let Some((id, fate)) = passed_by {
                self.wrong.push(format!(
                    "P6 {id} was passed by: {fate:?} could be delivered all the time of {answer:?}"
                ));
            }
        }
    }

    /// The less, the earlier it comes: by its lane, or with ageing by when it was stored, too, at the latest or at the earliest.
    fn weight(&self, id: &str, latest: bool) -> Option<i128> {
        let fate = self.fates.get(id)?;
        let Some(ageing) = self.ageing else {
            return Some(-i128::from(fate.lane));
        };
        let known = fate.stored.filter(|_| fate.sending >= self.from)?;
        let stored = if latest { known + NEARLY } else { fate.sending };
        Some(stored.as_millis() as i128 - i128::from(fate.lane) * ageing.as_millis() as i128)
    }
}

impl Fate {
    /// A receive that began then has it, or may have it.
    fn taken(&mut self, begun: Duration) {
        if let Some(free) = self.free.take()
            && free < begun
        {
            self.was_free.push((free, begun));
        }
    }

    /// Whether it could be delivered from the beginning of a receive until after its end.
    fn was_free_in(&self, answer: &Answer) -> bool {
        let now = self.free.map(|free| (free, Duration::MAX));
        let mut all = self.was_free.iter().copied().chain(now);
        all.any(|(from, until)| from < answer.begun && answer.ended < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    /// "high" and "low" are stored by second 2; a receive from second 3 to 4 gets one of them.
    fn judged(ageing: Option<Duration>, came: &str, then: impl FnOnce(&mut Ledger)) -> usize {
        let mut ledger = Ledger::new(ageing);
        for (id, lane, at) in [("low", 1, 0), ("high", 3, 1)] {
            ledger.sending(id, S(at), lane, true);
            ledger.stored(id, S(at + 1));
        }
        let first = ledger.asks(S(3));
        then(&mut ledger);
        ledger.answered(first, S(4), vec![came.to_owned()]);
        ledger.wrong.len()
    }

    #[test]
    fn what_is_more_urgent_is_not_passed_by() {
        assert_eq!(judged(None, "high", |_| ()), 0);
        assert_eq!(judged(None, "low", |_| ()), 1);
        let ages = |seconds| Some(S(seconds));
        assert_eq!(judged(ages(10), "low", |_| ()), 1);
        assert_eq!(
            judged(Some(Duration::from_millis(10)), "high", |_| ()),
            0,
            "nearly the same"
        );
    }

    #[test]
    fn what_another_receive_has_or_may_have_is_no_claim() {
        let other = |ledger: &mut Ledger| {
            let other = ledger.asks(S(3));
            ledger.answered(other, S(4), vec!["high".into()]);
        };
        assert_eq!(judged(None, "low", other), 0);
        let lost = |ledger: &mut Ledger| {
            let other = ledger.asks(S(2));
            ledger.failed(other, S(3));
        };
        assert_eq!(judged(None, "low", lost), 0);
    }

    #[test]
    fn with_ageing_what_is_old_is_not_passed_by() {
        let mut ledger = Ledger::new(Some(Duration::from_millis(100)));
        for (id, lane, at) in [("old", 1, 1), ("high", 3, 5)] {
            ledger.sending(id, S(at), lane, true);
            ledger.stored(id, S(at));
        }
        let number = ledger.asks(S(6));
        ledger.answered(number, S(7), vec!["high".into()]);
        assert_eq!(ledger.wrong.len(), 1);
    }

    #[test]
    fn an_answer_is_in_order() {
        let mut ledger = Ledger::new(None);
        for (id, lane) in [("low", 1), ("high", 3)] {
            ledger.sending(id, S(1), lane, true);
        }
        let number = ledger.asks(S(1));
        ledger.answered(number, S(2), vec!["low".into(), "high".into()]);
        assert_eq!(ledger.wrong.len(), 1);
    }
}
