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

use super::{Departures, Oracle};
use crate::{
    history::{DEAD_LETTERS, Delivery, Event, Receipt, Rules, VANISHES_WITHIN, topic_of},
    readers::Readers,
};

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

/// A consumer group, topic and message group.
type Line = (String, String, String);

/// What is owed, and from when on it can be had at the latest.
pub(super) struct Late {
    readers: Readers,
    rules: Rules,
    calm: Option<Duration>,
    /// Since when the present leaders lead.
    led: Duration,
    due: BTreeMap<Owed, Duration>,
    /// The last attempt that came of each.
    attempts: BTreeMap<Owed, i32>,
    /// Of leases that the server renews: who holds them; an empty name once that client is dead.
    holders: BTreeMap<Owed, String>,
    /// Of those, what is held by clients that were gone before the faults were over.
    of_the_gone: BTreeSet<Owed>,
    /// What began and ends when the faults were over.
    of_the_calm: BTreeSet<Owed>,
    /// Consumer groups whose leases the server renews.
    renewed: BTreeSet<String>,
    departures: Departures,
    /// Until when a consumer group may wait for what of a topic was given to a client that died before it saw it.
    unseen: BTreeMap<(String, String), Duration>,
    in_order: BTreeSet<(Duration, Owed)>,
    /// Where consumer groups want order: what is owed of each message group, and since when at the latest the first of it can be had.
    lines: BTreeMap<Line, (BTreeSet<String>, Duration)>,
    /// Came, was done with or forgotten, before its producer knew that it is stored.
    seen: BTreeSet<Owed>,
}

impl Late {
    /// Messages are for these consumer groups.
    pub(super) fn new(readers: Readers, rules: Rules) -> Late {
        Late {
            readers,
            rules,
            calm: None,
            led: Duration::ZERO,
            due: BTreeMap::new(),
            attempts: BTreeMap::new(),
            holders: BTreeMap::new(),
            of_the_gone: BTreeSet::new(),
            of_the_calm: BTreeSet::new(),
            renewed: BTreeSet::new(),
            departures: Departures::default(),
            unseen: BTreeMap::new(),
            in_order: BTreeSet::new(),
            lines: BTreeMap::new(),
            seen: BTreeSet::new(),
        }
    }

    /// From then on it can be had; or never, because nobody waits for it.
    fn set(&mut self, owed: Owed, due: Option<Duration>) {
        if let Some(before) = self.due.remove(&owed) {
            self.in_order.remove(&(before, owed.clone()));
        }
        if let Some(line) = self.line(&owed) {
            let (ids, _) = self.lines.entry(line).or_default();
            match due {
                Some(_) => ids.insert(owed.1.clone()),
                None => ids.remove(&owed.1),
            };
        }
        if let Some(due) = due {
            self.in_order.insert((due, owed.clone()));
            self.due.insert(owed, due);
        }
    }

    /// Where a message has its turn, if its consumer group wants order.
    fn line(&self, (group, id): &Owed) -> Option<Line> {
        let order = self.readers.order_of(group, id)?;
        Some((group.clone(), topic_of(id).to_owned(), order.to_owned()))
    }

    /// What comes after this one in its message group can be had then at the latest, as far as this one is concerned.
    fn passes_on(&mut self, owed: &Owed, at: Duration) {
        if let Some(line) = self.line(owed) {
            let (_, since) = self.lines.entry(line).or_default();
            *since = (*since).max(at);
        }
    }

    /// Since when a message can be had, as far as others of its message group are concerned; nothing while one of those that were sent
    /// before it is owed.
    fn turn(&self, owed: &Owed) -> Option<Duration> {
        let Some((ids, since)) = self.line(owed).and_then(|line| self.lines.get(&line)) else {
            return Some(Duration::ZERO);
        };
        // What was given out with it, or before it, and is not over.
        let held = ids
            .iter()
            .filter(|id| **id != owed.1)
            .map(|id| (owed.0.clone(), id.clone()));
        let held = held.filter(|other| self.attempts.contains_key(other));
        let held = held.filter_map(|other| self.due.get(&other).copied()).max();
        (ids.first() == Some(&owed.1)).then_some(held.unwrap_or_default().max(*since))
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
        self.attempts.insert(owed.clone(), it.attempt);
        self.holders.remove(&owed);
        self.of_the_gone.remove(&owed);
        self.of_the_calm.remove(&owed);
        self.passes_on(&owed, at);
        if dead_of.is_some() || !self.readers.groups().contains(&it.group) {
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
        self.set(owed.clone(), Some(at + lease + LONGEST_BACKOFF));
        if it.renewed && self.departures.concern(it) {
            self.given_to_the_gone(owed, at, &it.group);
        }
    }

    /// Who had asked for it has said good-bye since, and will say nothing more under that name.
    fn given_to_the_gone(&mut self, owed: Owed, at: Duration, group: &str) {
        if self.calm.is_none() {
            self.of_the_gone.insert(owed.clone());
        }
        self.holders.insert(owed.clone(), String::new());
        self.soon(owed, at + self.until_the_dead_is_known(group));
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
                let Some(turn) = self.turn(owed) else {
                    return false;
                };
                let due = (*due).max(turn);
                at > due.max(calm + backlog).max(unseen).max(led) + WITHIN + self.lost_answers(&owed.0)
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
                for group in self.readers.clone().of(id) {
                    let owed = (group.clone(), id.clone());
                    if !self.seen.contains(&owed) {
                        self.set(owed, Some(at));
                    }
                }
            }
            Event::Delivered(it) => self.delivered(at, it),
            Event::Leaving { client, group, topic } => {
                self.departures.leaving(at, client, group, topic);
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
                // Word of it may come after the next delivery, of which it says nothing.
                if self.attempts.get(&owed) == Some(&receipt.attempt) {
                    // Its end was chosen: no good-bye ends it, nor what was given to somebody else since.
                    self.holders.remove(&owed);
                    self.soon(owed, at + *invisible + LONGEST_BACKOFF);
                }
            }
            Event::Acked { receipt, .. } | Event::AckUnsure(receipt) | Event::Buried { receipt, .. } => {
                let sure = matches!(event, Event::Acked { .. });
                let lease = match self.renewed.contains(&receipt.group) {
                    true => self.rules.renew_at_most + RENEWED_FOR,
                    false => LONGEST_LEASE,
                };
                // If it was not carried out, the lease ends.
                let later = if sure {
                    Duration::ZERO
                } else {
                    lease + LONGEST_BACKOFF
                };
                self.passes_on(&(receipt.group.clone(), receipt.id.clone()), at + later);
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
mod tests;
