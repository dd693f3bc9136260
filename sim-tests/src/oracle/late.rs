//! P11, message by message: once the faults are over and the cluster is whole, what is stored comes, and what is leased
//! comes again when its lease and its wait are over, within seconds.
//!
//! A client does not know when exactly a lease began, only that it was before its answer came. So it is over at the latest
//! so long after that. A lease that the server renews is over when its client has said good-bye, or was silent for minutes, or
//! at the latest when it was renewed for as long as was agreed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Oracle;
use crate::history::{DEAD_LETTERS, Delivery, Event, Receipt, Rules, VANISHES_WITHIN, topic_of};

/// Longest wait between two attempts that a world draws.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(8);
/// A lease that the server renews, each time.
const RENEWED_FOR: Duration = Duration::from_secs(50);
/// From one look for what has to be renewed to the next, with what that takes.
const RENEWED_EVERY: Duration = Duration::from_secs(10);
/// A client that was silent for so long is gone.
const SILENT: Duration = Duration::from_secs(120);
/// After a good-bye, what came before it counts for so long.
const DEPARTED: Duration = Duration::from_secs(3);
/// Longest lease that a consumer chooses in these workloads.
pub const LONGEST_LEASE: Duration = Duration::from_secs(30);
/// What was put off while there were faults comes within this, also what was given to somebody whose answer was lost.
const BACKLOG: Duration = Duration::from_secs(90);
/// The same of what somebody held who was gone before the faults were over: whoever leads since has to find that out first.
const BACKLOG_OF_THE_GONE: Duration =
    Duration::from_secs(SILENT.as_secs() + RENEWED_EVERY.as_secs() + RENEWED_FOR.as_secs());
/// The same of what was given for a time that its holder chose, or given back with a good-bye, when the faults were over already.
const BACKLOG_OF_THE_CALM: Duration = Duration::from_secs(20);
/// From the moment at which a message can be had until somebody has it: polls go round, and acknowledge as they go.
const WITHIN: Duration = Duration::from_secs(15);
/// Where the network loses packets all the time, so many answers in a row may be lost, each with a lease and a wait.
const LOST_IN_A_ROW: u32 = 2;
/// A request whose answer got lost may be carried out so much later.
const ON_ITS_WAY: Duration = Duration::from_secs(10);

/// A message, for a consumer group.
type Owed = (String, String);

/// What is owed, and from when on it can be had at the latest.
pub(super) struct Late {
    groups: BTreeSet<String>,
    rules: Rules,
    calm: Option<Duration>,
    /// Since when the present leaders lead.
    led: Duration,
    due: BTreeMap<Owed, Duration>,
    /// Of leases that the server renews: who holds them; an empty name once that client is dead.
    holders: BTreeMap<Owed, String>,
    /// Of those, what is held by clients that were gone before the faults were over.
    of_the_gone: BTreeSet<Owed>,
    /// What began and ends when the faults were over.
    of_the_calm: BTreeSet<Owed>,
    /// Consumer groups whose leases the server renews.
    renewed: BTreeSet<String>,
    /// Until when a consumer group may wait for what of a topic was given to a client that died before it saw it.
    unseen: BTreeMap<(String, String), Duration>,
    in_order: BTreeSet<(Duration, Owed)>,
    /// Came, was done with or forgotten, before its producer knew that it is stored.
    seen: BTreeSet<Owed>,
}

impl Late {
    /// Every message is for each of these consumer groups.
    pub(super) fn new(groups: BTreeSet<String>, rules: Rules) -> Late {
        Late {
            groups,
            rules,
            calm: None,
            led: Duration::ZERO,
            due: BTreeMap::new(),
            holders: BTreeMap::new(),
            of_the_gone: BTreeSet::new(),
            of_the_calm: BTreeSet::new(),
            renewed: BTreeSet::new(),
            unseen: BTreeMap::new(),
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

    /// It comes, at the latest then; never later than was said before.
    fn soon(&mut self, owed: Owed, due: Duration) {
        if self.due.get(&owed).is_some_and(|known| *known > due) {
            self.set(owed, Some(due));
        }
    }

    /// Somebody got it.
    fn delivered(&mut self, at: Duration, it: &Delivery) {
        let dead_of = it.place.topic.strip_prefix(DEAD_LETTERS);
        let owed = (dead_of.unwrap_or(&it.group).to_owned(), it.id.clone());
        self.seen.insert(owed.clone());
        self.holders.remove(&owed);
        self.of_the_gone.remove(&owed);
        self.of_the_calm.remove(&owed);
        if dead_of.is_some() || !self.groups.contains(&it.group) {
            return self.set(owed, None);
        }
        let lease = match it.renewed {
            true => self.rules.renew_at_most + RENEWED_FOR + RENEWED_EVERY,
            false => it.invisible,
        };
        if !it.renewed && self.calm.is_some_and(|calm| it.asked > calm) {
            self.of_the_calm.insert(owed.clone());
        }
        if it.renewed {
            self.holders.insert(owed.clone(), it.client.clone());
            self.renewed.insert(it.group.clone());
        }
        self.set(owed, Some(at + lease + LONGEST_BACKOFF));
    }

    /// What the server renews for a client of a consumer group and topic comes to others soon. Whether it said that it goes.
    fn gone(&mut self, (client, said): (&str, bool), group: &str, topic: &str, due: Duration) {
        let is_held = |((of, id), holder): &(&Owed, &String)| {
            of == group && topic_of(id) == topic && holder.as_str() == client
        };
        let held: Vec<Owed> = self
            .holders
            .iter()
            .filter(is_held)
            .map(|(owed, _)| owed.clone())
            .collect();
        for owed in held {
            match self.calm {
                None => _ = self.of_the_gone.insert(owed.clone()),
                Some(_) if said => _ = self.of_the_calm.insert(owed.clone()),
                Some(_) => {}
            }
            if !said {
                // Whoever comes back says nothing for it.
                self.holders.insert(owed.clone(), String::new());
            }
            self.soon(owed, due);
        }
    }

    fn set_of(&mut self, receipt: &Receipt, due: Option<Duration>) {
        self.set((receipt.group.clone(), receipt.id.clone()), due);
    }

    /// How much longer it may take because answers are lost.
    fn lost_answers(&self, group: &str) -> Duration {
        let lease = match self.renewed.contains(group) {
            true => RENEWED_FOR,
            false => LONGEST_LEASE,
        };
        match self.rules.loses_answers {
            true => (lease + LONGEST_BACKOFF) * LOST_IN_A_ROW,
            false => Duration::ZERO,
        }
    }

    fn judge(&mut self, at: Duration, wrong: &mut Vec<String>) {
        let Some(calm) = self.calm else { return };
        let over = self.in_order.iter().take_while(|(due, _)| at > *due + WITHIN);
        let over: Vec<_> = over
            // Where few are in flight at a time, what stands behind them waits for those who hold them, however long that is.
            .filter(|(_, owed)| self.rules.room_in_flight || self.seen.contains(owed))
            .filter(|(due, owed)| {
                let held = (owed.0.clone(), topic_of(&owed.1).to_owned());
                let unseen = self.unseen.get(&held).copied().unwrap_or_default();
                // Only once a leader has waited for a sign of life does it let the leases of the dead end.
                let led = match self.holders.get(owed).is_some_and(String::is_empty) {
                    true => self.led + BACKLOG_OF_THE_GONE + LONGEST_BACKOFF,
                    false => Duration::ZERO,
                };
                let backlog = if self.of_the_gone.contains(owed) {
                    BACKLOG_OF_THE_GONE
                } else if self.of_the_calm.contains(owed) {
                    BACKLOG_OF_THE_CALM
                } else {
                    BACKLOG
                };
                at > (*due).max(calm + backlog).max(unseen).max(led) + WITHIN + self.lost_answers(&owed.0)
            })
            .cloned()
            .collect();
        for (due, owed) in over {
            let (group, id) = &owed;
            wrong.push(format!(
                "P11: {id} can be had since {due:?}, and by {at:?} {group} has not got it"
            ));
            self.set(owed, None);
        }
    }

    /// From a death until what the dead was given comes to others.
    fn until_the_dead_is_known(&self, group: &str) -> Duration {
        let lease = match self.renewed.contains(group) {
            true => SILENT + RENEWED_EVERY + RENEWED_FOR,
            false => LONGEST_LEASE,
        };
        lease + LONGEST_BACKOFF
    }

    /// A client died: what it was given last nobody has seen, and it is leased for as long as the server takes it for alive.
    fn died(&mut self, at: Duration, client: &str, group: &str, topic: &str) {
        let due = at + self.until_the_dead_is_known(group);
        self.unseen.insert((group.to_owned(), topic.to_owned()), due);
        self.gone((client, false), group, topic, due);
    }
}

impl Oracle for Late {
    fn see(&mut self, at: Duration, event: &Event, wrong: &mut Vec<String>) {
        match event {
            Event::Calm => self.calm = Some(at),
            Event::Led => self.led = at,
            Event::Stored { id, .. } => {
                for group in self.groups.clone() {
                    let owed = (group, id.clone());
                    if !self.seen.contains(&owed) {
                        self.set(owed, Some(at));
                    }
                }
            }
            Event::Delivered(it) => self.delivered(at, it),
            Event::Leaving { client, group, topic } => {
                self.gone((client, true), group, topic, at + DEPARTED + LONGEST_BACKOFF);
            }
            Event::Vanishing { group, topic, .. } => {
                let due = at + VANISHES_WITHIN + self.until_the_dead_is_known(group);
                self.unseen.insert((group.to_owned(), topic.to_owned()), due);
            }
            Event::Died { client, group, topic } => self.died(at, client, group, topic),
            Event::Hidden {
                receipt, invisible, ..
            } => {
                let owed = (receipt.group.clone(), receipt.id.clone());
                self.soon(owed, at + *invisible + LONGEST_BACKOFF);
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
        judged_with(true, events)
    }

    fn judged_with(room_in_flight: bool, events: &[(u64, Event)]) -> usize {
        judged_by(
            Rules {
                room_in_flight,
                ..RULES
            },
            events,
        )
    }

    const RULES: Rules = Rules {
        max_attempts: 3,
        renew_at_most: Duration::from_secs(1_000),
        majority_is_up: false,
        room_in_flight: true,
        loses_answers: false,
    };

    fn judged_by(rules: Rules, events: &[(u64, Event)]) -> usize {
        let mut late = Late::new(["g".to_owned()].into(), rules);
        judge(&mut late, events).len()
    }

    /// Something else happens.
    fn later(at: u64) -> (u64, Event) {
        (at, sending("t/2"))
    }

    #[test]
    fn what_is_stored_comes() {
        let stored = || (10, stored("t/1", 0));
        assert_eq!(judged(&[(1, Event::Calm), stored(), later(106)]), 0);
        assert_eq!(judged(&[(1, Event::Calm), stored(), later(107)]), 1);
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
        assert_eq!(forgotten(83), 0);
        assert_eq!(forgotten(84), 1);
        let Event::Delivered(mut dead) = delivered("t/1", 0, 1, 60) else {
            unreachable!()
        };
        dead.place.topic = "%DLQ%g".into();
        let last = [
            (1, Event::Calm),
            (50, delivered("t/1", 0, 3, 49)),
            (60, Event::Delivered(dead)),
            later(999),
        ];
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
        assert_eq!(hidden(104), 0);
        assert_eq!(hidden(105), 1);
    }

    #[test]
    fn what_the_server_renews_comes_when_its_holder_is_gone() {
        let Event::Delivered(mut it) = delivered("t/1", 0, 1, 49) else {
            unreachable!()
        };
        it.renewed = true;
        let came = [(1, Event::Calm), (50, Event::Delivered(it))];
        let with = |event: Option<Event>, at| {
            let mut events = came.to_vec();
            events.extend(event.map(|event| (60, event)));
            events.push(later(at));
            judged(&events)
        };
        let died = || Event::Died {
            client: "c".into(),
            group: "g".into(),
            topic: "t".into(),
        };
        // It is 11, 188 and 1,068 seconds, each with the 15 that a delivery takes.
        assert_eq!((with(Some(leaving()), 86), with(Some(leaving()), 87)), (0, 1));
        assert_eq!((with(Some(died()), 263), with(Some(died()), 264)), (0, 1));
        assert_eq!((with(None, 1_133), with(None, 1_134)), (0, 1));
    }

    #[test]
    fn a_shorter_end_that_was_agreed_counts() {
        let hidden = Event::Hidden {
            receipt: receipt("t/1", 0, 1),
            asked: S(51),
            invisible: S(1),
        };
        let events = |at| {
            [
                (1, Event::Calm),
                (50, delivered("t/1", 0, 1, 49)),
                (51, hidden.clone()),
                later(at),
            ]
        };
        assert_eq!(judged(&events(75)), 0);
        assert_eq!(judged(&events(76)), 1);
    }

    #[test]
    fn where_few_are_in_flight_at_a_time_only_what_came_once_is_due() {
        let stands_behind = [(1, Event::Calm), (20, stored("t/1", 0)), later(999)];
        assert_eq!(judged_with(true, &stands_behind), 1);
        assert_eq!(judged_with(false, &stands_behind), 0);
        let came = [(1, Event::Calm), (50, delivered("t/1", 0, 1, 49)), later(999)];
        assert_eq!(judged_with(false, &came), 1);
    }

    #[test]
    fn who_dies_excuses_its_own_topic_only() {
        let died = |topic: &str| Event::Died {
            client: "c".into(),
            group: "g".into(),
            topic: topic.into(),
        };
        let judged = |topic| {
            let stored = (20, stored("t/1", 0));
            judged(&[(1, Event::Calm), stored, (100, died(topic)), later(111)])
        };
        assert_eq!((judged("t"), judged("other")), (0, 1));
    }

    /// Seed 24005405: a leader had damage that was found late, and another one led for a while.
    #[test]
    fn who_leads_since_lets_the_leases_of_the_dead_end_after_its_own_wait() {
        let judged = |led: Option<u64>, at| {
            let Event::Delivered(mut held) = delivered("t/1", 0, 1, 9) else {
                unreachable!("it is one");
            };
            held.renewed = true;
            let died = Event::Died {
                client: held.client.clone(),
                group: held.group.clone(),
                topic: "t".into(),
            };
            let mut events = vec![(10, Event::Delivered(held)), (20, died), (30, Event::Calm)];
            events.extend(led.map(|led| (led, Event::Led)));
            events.push(later(at));
            judged(&events)
        };
        // 180 from the calm on, or 188 since there is another leader, and 15 that a delivery takes.
        assert_eq!((judged(None, 225), judged(None, 226)), (0, 1));
        assert_eq!((judged(Some(100), 303), judged(Some(100), 304)), (0, 1));
    }

    /// Seeds 24001534 and 24001625: nobody else was there to read while it was silent, before it counted as dead.
    #[test]
    fn who_vanishes_excuses_its_topic_from_then_on() {
        let vanishing = || Event::Vanishing {
            client: "c".into(),
            group: "g".into(),
            topic: "t".into(),
        };
        let judged = |at| {
            let hidden = Event::Hidden {
                receipt: receipt("t/1", 0, 1),
                asked: S(100),
                invisible: S(1),
            };
            let delivered = delivered("t/1", 0, 1, 100);
            judged(&[
                (1, Event::Calm),
                (100, delivered),
                (101, hidden),
                (105, vanishing()),
                later(at),
            ])
        };
        // 30 of silence, 38 for what it may have been given last, and 15 that a delivery takes.
        assert_eq!((judged(188), judged(189)), (0, 1));
    }

    #[test]
    fn where_answers_get_lost_two_may_be_lost_in_a_row() {
        let rules = Rules {
            loses_answers: true,
            ..RULES
        };
        let judged = |at| {
            let events = [(1, Event::Calm), (50, delivered("t/1", 0, 1, 49)), later(at)];
            judged_by(rules, &events)
        };
        // 68, the longest lease and wait twice, and 15 that a delivery takes.
        assert_eq!((judged(159), judged(160)), (0, 1));
    }
}
