//! P11, message by message: once the faults are over and the cluster is whole, what is stored comes, and what is leased
//! comes again when its lease and its wait are over, within seconds.
//!
//! A client does not know when exactly a lease began, only that it was before its answer came. So it is over at the latest
//! so long after that. Leases that the server renews are over when their client says so, or has been silent for
//! minutes: they are not reckoned with here.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Oracle;
use crate::history::{DEAD_LETTERS, Event, Receipt};

/// Longest wait between two attempts that a world draws.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(3);
/// What was put off while there were faults comes within this.
const BACKLOG: Duration = Duration::from_secs(40);
/// From the moment at which a message can be had until somebody has it: polls go round, and acknowledge as they go.
const WITHIN: Duration = Duration::from_secs(15);
/// A request whose answer got lost may be carried out so much later.
const ON_ITS_WAY: Duration = Duration::from_secs(10);

/// A message, for a consumer group.
type Owed = (String, String);

/// What is owed, and from when on it can be had at the latest.
pub(super) struct Late {
    groups: BTreeSet<String>,
    max_attempts: u32,
    calm: Option<Duration>,
    due: BTreeMap<Owed, Duration>,
    in_order: BTreeSet<(Duration, Owed)>,
    /// Came, was done with or forgotten, before its producer knew that it is stored.
    seen: BTreeSet<Owed>,
}

impl Late {
    /// Every message is for each of these consumer groups.
    pub(super) fn new(groups: BTreeSet<String>, max_attempts: u32) -> Late {
        Late {
            groups,
            max_attempts,
            calm: None,
            due: BTreeMap::new(),
            in_order: BTreeSet::new(),
            seen: BTreeSet::new(),
        }
    }

    /// From then on it can be had; or never, because nobody waits for it.
    fn set(&mut self, owed: Owed, due: Option<Duration>) {
        if let Some(before) = self.due.remove(&owed) {
            self.in_order.remove(&(before, owed.clone()));
        }
        if let Some(due) = due {
            self.in_order.insert((due, owed.clone()));
            self.due.insert(owed, due);
        }
    }

    fn set_of(&mut self, receipt: &Receipt, due: Option<Duration>) {
        self.set((receipt.group.clone(), receipt.id.clone()), due);
    }

    fn judge(&mut self, at: Duration, wrong: &mut Vec<String>) {
        let Some(calm) = self.calm else { return };
        while let Some((due, (group, id))) = self.in_order.first().cloned() {
            if at <= due.max(calm + BACKLOG) + WITHIN {
                return;
            }
            wrong.push(format!(
                "P11: {id} can be had since {due:?}, and by {at:?} {group} has not got it"
            ));
            self.set((group, id), None);
        }
    }
}

impl Oracle for Late {
    fn see(&mut self, at: Duration, event: &Event, wrong: &mut Vec<String>) {
        match event {
            Event::Calm => self.calm = Some(at),
            Event::Stored { id, .. } => {
                for group in self.groups.clone() {
                    let owed = (group, id.clone());
                    if !self.seen.contains(&owed) {
                        self.set(owed, Some(at));
                    }
                }
            }
            Event::Delivered(it) => {
                let dead_of = it.place.topic.strip_prefix(DEAD_LETTERS);
                let owed = (dead_of.unwrap_or(&it.group).to_owned(), it.id.clone());
                self.seen.insert(owed.clone());
                let comes_again = dead_of.is_none()
                    && !it.renewed
                    && it.attempt < self.max_attempts as i32
                    && self.groups.contains(&it.group);
                self.set(owed, comes_again.then(|| at + it.invisible + LONGEST_BACKOFF));
            }
            Event::Acked { receipt, .. } | Event::AckUnsure(receipt) | Event::Buried { receipt, .. } => {
                self.set_of(receipt, None);
            }
            Event::Forgotten {
                id: Some(id), groups, ..
            } => {
                for group in groups {
                    let owed = (group.clone(), id.clone());
                    self.seen.insert(owed.clone());
                    self.set(owed, None);
                }
            }
            Event::HideUnsure {
                receipt, invisible, ..
            } => {
                let due = at + *invisible + LONGEST_BACKOFF + ON_ITS_WAY;
                let owed = (receipt.group.clone(), receipt.id.clone());
                if self.due.get(&owed).is_some_and(|known| *known < due) {
                    self.set(owed, Some(due));
                }
            }
            _ => {}
        }
        self.judge(at, wrong);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    fn judged(events: &[(u64, Event)]) -> usize {
        let mut late = Late::new(["g".to_owned()].into(), 3);
        judge(&mut late, events).len()
    }

    /// Something else happens.
    fn later(at: u64) -> (u64, Event) {
        (at, sending("t/2"))
    }

    #[test]
    fn what_is_stored_comes() {
        let stored = || (10, stored("t/1", 0));
        assert_eq!(judged(&[(1, Event::Calm), stored(), later(56)]), 0);
        assert_eq!(judged(&[(1, Event::Calm), stored(), later(57)]), 1);
        assert_eq!(judged(&[stored(), later(1_000)]), 0, "there are faults");
        let came = (11, delivered("t/1", 0, 1, 11));
        let done = (12, acked("t/1", 0));
        assert_eq!(
            judged(&[(1, Event::Calm), stored(), came.clone(), done.clone(), later(999)]),
            0
        );
        assert_eq!(
            judged(&[(1, Event::Calm), came, done, stored(), later(999)]),
            0,
            "before its producer knew"
        );
    }

    #[test]
    fn what_retention_took_is_owed_to_nobody() {
        let took = (11, forgotten("t/1", 0, crate::history::Why::Room));
        let calm = || (1, Event::Calm);
        let stored = |at| (at, stored("t/1", 0));
        assert_eq!(judged(&[calm(), stored(10), took.clone(), later(999)]), 0);
        assert_eq!(judged(&[calm(), took, stored(12), later(999)]), 0);
    }

    #[test]
    fn what_is_forgotten_comes_again_after_its_lease_and_its_wait() {
        let forgotten = |at| judged(&[(1, Event::Calm), (50, delivered("t/1", 0, 1, 49)), later(at)]);
        assert_eq!(forgotten(78), 0);
        assert_eq!(forgotten(79), 1);
        let last = [(1, Event::Calm), (50, delivered("t/1", 0, 3, 49)), later(999)];
        assert_eq!(judged(&last), 0, "it is a dead letter");
    }

    #[test]
    fn what_may_be_hidden_comes_when_it_is_over_at_the_latest() {
        let hidden = |at| {
            let unsure = Event::HideUnsure {
                receipt: receipt("t/1", 0, 1),
                asked: S(51),
                invisible: S(20),
            };
            judged(&[
                (1, Event::Calm),
                (50, delivered("t/1", 0, 1, 49)),
                (51, unsure),
                later(at),
            ])
        };
        assert_eq!(hidden(99), 0);
        assert_eq!(hidden(100), 1);
    }
}
