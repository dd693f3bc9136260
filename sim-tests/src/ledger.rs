//! What clients did and saw, and the promises that must hold for it.
//!
//! The ledger knows nothing of the broker: only what an application can know. Numbers of promises are
//! those of ARCHITECTURE.md.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The ledger of one run. Clones are the same ledger; times are simulated time since its start.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    messages: BTreeMap<String, Fate>,
    places: BTreeMap<(i32, i64), String>,
    violations: Vec<String>,
}

#[derive(Default)]
struct Fate {
    tries: u32,
    stored_at: Option<i64>,
    maybe_acked: bool,
    /// Where it was received from; more than one place if a repeated send stored a copy.
    places: BTreeMap<(i32, i64), Lease>,
    deliveries: u32,
}

/// The last delivery from one place.
struct Lease {
    attempt: i32,
    /// The lease cannot end before this.
    until: Duration,
    acked_at: Option<Duration>,
}

/// Counts for the report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sends that were acknowledged.
    pub stored: usize,
    /// Deliveries to consumers.
    pub delivered: usize,
    /// Messages that were received and acknowledged.
    pub done: usize,
    /// Messages stored in two places because a send was repeated.
    pub twice: usize,
}

impl Ledger {
    /// A message is about to be sent (again).
    pub fn sending(&self, id: &str) {
        self.book().messages.entry(id.to_owned()).or_default().tries += 1;
    }

    /// The service acknowledged the send.
    pub fn stored(&self, id: &str, offset: i64) {
        let mut book = self.book();
        let fate = book.messages.get_mut(id).expect("sent before");
        fate.stored_at = Some(offset);
    }

    /// A consumer that asked at `asked` got a message at `now`, leased for `invisible`.
    pub fn delivered(
        &self,
        message: (&str, (i32, i64), i32),
        asked: Duration,
        now: Duration,
        invisible: Duration,
    ) {
        let (id, place, attempt) = message;
        let mut book = self.book();
        let mut wrong = Vec::new();
        if let Some(other) = book.places.insert(place, id.to_owned())
            && other != id
        {
            wrong.push(format!("P8: {place:?} was {other} and is now {id}"));
        }
        match book.messages.get_mut(id) {
            None => wrong.push(format!("P1: {id} was received and never sent")),
            Some(fate) => fate.deliver(id, place, attempt, (asked, now, invisible), &mut wrong),
        }
        book.violations.extend(wrong);
    }

    /// The service accepted the acknowledgement of what came from a place, at `now`.
    pub fn acked(&self, id: &str, place: (i32, i64), now: Duration) {
        let mut book = self.book();
        let fate = book.messages.get_mut(id).expect("received before");
        let lease = fate.places.get_mut(&place).expect("received from there");
        lease.acked_at.get_or_insert(now);
    }

    /// An acknowledgement may or may not have been carried out: the message may come again or not.
    pub fn maybe_acked(&self, id: &str) {
        self.book()
            .messages
            .get_mut(id)
            .expect("received before")
            .maybe_acked = true;
    }

    /// True once every stored message was received and acknowledged.
    #[must_use]
    pub fn drained(&self) -> bool {
        self.book()
            .messages
            .values()
            .all(|fate| fate.stored_at.is_none() || fate.done())
    }

    /// A promise was found broken elsewhere.
    pub fn broken(&self, what: String) {
        self.book().violations.push(what);
    }

    /// Everything that must not be, at the end of the run.
    #[must_use]
    pub fn verdict(&self) -> Vec<String> {
        let book = self.book();
        let mut found = book.violations.clone();
        for (id, fate) in &book.messages {
            if fate.stored_at.is_some() && fate.deliveries == 0 {
                found.push(format!("P1: {id} was acknowledged and never received"));
            } else if fate.stored_at.is_some() && !fate.done() {
                found.push(format!("P11: {id} was never acknowledged by a consumer"));
            }
            if let (Some(offset), false) = (fate.stored_at, fate.places.is_empty())
                && !fate.places.keys().any(|(_, at)| *at == offset)
            {
                found.push(format!(
                    "P8: {id} was acknowledged at offset {offset} and received at {:?}",
                    fate.places.keys()
                ));
            }
        }
        found
    }

    /// Counts.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let book = self.book();
        let fates = || book.messages.values();
        Tally {
            stored: fates().filter(|fate| fate.stored_at.is_some()).count(),
            delivered: fates().map(|fate| fate.deliveries as usize).sum(),
            done: fates().filter(|fate| fate.done()).count(),
            twice: fates().filter(|fate| fate.places.len() > 1).count(),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fate {
    fn done(&self) -> bool {
        self.maybe_acked || self.places.values().any(|lease| lease.acked_at.is_some())
    }

    fn deliver(
        &mut self,
        id: &str,
        place: (i32, i64),
        attempt: i32,
        (asked, now, invisible): (Duration, Duration, Duration),
        wrong: &mut Vec<String>,
    ) {
        self.deliveries += 1;
        let last = self.places.remove(&place);
        match &last {
            None if !self.places.is_empty() && self.tries == 1 => {
                let others: Vec<_> = self.places.keys().collect();
                wrong.push(format!(
                    "P7: {id} was sent once and is stored at {place:?} and {others:?}"
                ));
            }
            None => {}
            Some(last) => {
                if now < last.until {
                    wrong.push(format!(
                        "P3: {id} came again at {now:?}, leased until {:?}",
                        last.until
                    ));
                }
                if attempt <= last.attempt {
                    wrong.push(format!(
                        "P4: {id} came with attempt {attempt} after {}",
                        last.attempt
                    ));
                }
                if last.acked_at.is_some_and(|acked| asked > acked) {
                    wrong.push(format!("P4: {id} was acknowledged and came again"));
                }
            }
        }
        let acked_at = last.and_then(|last| last.acked_at);
        self.places.insert(
            place,
            Lease {
                attempt,
                until: asked + invisible,
                acked_at,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn delivered_at(ledger: &Ledger, id: &str, place: (i32, i64), attempt: i32, at: u64) {
        ledger.delivered((id, place, attempt), S(at), S(at), S(10));
    }

    fn sent(ledger: &Ledger, id: &str, offset: i64) {
        ledger.sending(id);
        ledger.stored(id, offset);
    }

    fn promise(ledger: &Ledger) -> Vec<String> {
        ledger.verdict().iter().map(|line| line[..2].to_owned()).collect()
    }

    #[test]
    fn a_message_sent_received_and_acknowledged_breaks_nothing() {
        let ledger = Ledger::default();
        sent(&ledger, "a", 7);
        assert!(!ledger.drained());
        delivered_at(&ledger, "a", (0, 7), 1, 1);
        ledger.acked("a", (0, 7), S(2));
        assert!(ledger.drained());
        assert_eq!(ledger.verdict(), Vec::<String>::new());
    }

    #[test]
    fn a_lost_message_is_found() {
        let ledger = Ledger::default();
        sent(&ledger, "a", 7);
        assert_eq!(promise(&ledger), ["P1"]);
    }

    #[test]
    fn an_invented_message_is_found() {
        let ledger = Ledger::default();
        delivered_at(&ledger, "x", (0, 7), 1, 1);
        assert_eq!(promise(&ledger), ["P1"]);
    }

    #[test]
    fn a_second_delivery_before_the_deadline_is_found() {
        let ledger = Ledger::default();
        sent(&ledger, "a", 7);
        delivered_at(&ledger, "a", (0, 7), 1, 1);
        delivered_at(&ledger, "a", (0, 7), 2, 10);
        ledger.acked("a", (0, 7), S(11));
        assert_eq!(promise(&ledger), ["P3"]);
    }

    #[test]
    fn a_second_delivery_after_the_deadline_is_none_of_our_business() {
        let ledger = Ledger::default();
        sent(&ledger, "a", 7);
        delivered_at(&ledger, "a", (0, 7), 1, 1);
        delivered_at(&ledger, "a", (0, 7), 2, 11);
        ledger.acked("a", (0, 7), S(12));
        assert_eq!(promise(&ledger), Vec::<String>::new());
    }

    #[test]
    fn a_delivery_after_the_acknowledgement_and_attempts_that_start_again_are_found() {
        let ledger = Ledger::default();
        sent(&ledger, "a", 7);
        delivered_at(&ledger, "a", (0, 7), 1, 1);
        ledger.acked("a", (0, 7), S(2));
        delivered_at(&ledger, "a", (0, 7), 1, 20);
        assert_eq!(promise(&ledger), ["P4", "P4"]);
    }

    #[test]
    fn a_place_that_changes_its_message_and_an_offset_that_was_not_acknowledged_are_found() {
        let ledger = Ledger::default();
        sent(&ledger, "a", 7);
        sent(&ledger, "b", 8);
        delivered_at(&ledger, "a", (0, 7), 1, 1);
        delivered_at(&ledger, "b", (0, 7), 1, 1);
        ledger.acked("a", (0, 7), S(2));
        ledger.acked("b", (0, 7), S(2));
        assert_eq!(promise(&ledger), ["P8", "P8"]);
    }

    #[test]
    fn a_copy_of_what_was_sent_once_is_found_and_one_of_a_repeated_send_is_counted() {
        let ledger = Ledger::default();
        sent(&ledger, "a", 7);
        sent(&ledger, "b", 8);
        ledger.sending("b");
        for (id, first, second) in [("a", 7, 17), ("b", 8, 18)] {
            delivered_at(&ledger, id, (0, first), 1, 1);
            delivered_at(&ledger, id, (0, second), 1, 1);
            ledger.acked(id, (0, first), S(2));
        }
        assert_eq!(promise(&ledger), ["P7"]);
        assert_eq!(ledger.tally().twice, 2);
    }
}
