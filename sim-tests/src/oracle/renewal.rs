//! P3, for leases that the server renews: what a push consumer works on is not given to others while it lives, for as long as
//! was agreed. Only what was asked for once the faults were over is judged: before, its answer may have been taken for lost.

use std::{collections::BTreeMap, time::Duration};

use super::{Departures, Oracle};
use crate::history::{Event, Place, Receipt};

/// From a receive's request to its deadline, at least, in these workloads: their polls are of 0 to 2 seconds. What arrives later may
/// have left the node later, too, and an answer that leaves after its deadline counts as one that nobody waits for.
const DEADLINE: Duration = Duration::from_secs(3);

/// Who holds what, by consumer group and place.
pub(super) struct Renewals {
    at_most: Duration,
    calm: Option<Duration>,
    held: BTreeMap<(String, Place), Held>,
    departures: Departures,
}

struct Held {
    client: String,
    asked: Duration,
    attempt: i32,
}

impl Renewals {
    /// A lease is renewed for so long.
    pub(super) fn new(at_most: Duration) -> Renewals {
        Renewals {
            at_most,
            calm: None,
            held: BTreeMap::new(),
            departures: Departures::default(),
        }
    }

    fn let_go(&mut self, receipt: &Receipt) {
        self.held.remove(&(receipt.group.clone(), receipt.place.clone()));
    }

    /// A client of this consumer group and topic is gone.
    fn gone(&mut self, client: &str, group: &str, topic: &str) {
        self.held
            .retain(|(of, place), held| !(of == group && place.topic == topic && held.client == client));
    }
}

impl Oracle for Renewals {
    fn see(&mut self, at: Duration, event: &Event, wrong: &mut Vec<String>) {
        match event {
            Event::Calm => self.calm = Some(at),
            Event::Delivered(it) => {
                let key = (it.group.clone(), it.place.clone());
                if let Some(held) = self.held.remove(&key)
                    && it.attempt > held.attempt
                    && at < held.asked + self.at_most
                {
                    wrong.push(format!(
                        "P3: {} came to {} again at {at:?}, and {} works on it since {:?}",
                        it.id, it.group, held.client, held.asked
                    ));
                }
                // Who asked, left, and got it then, works on it under a name that is gone.
                let is_of_the_gone = self.departures.concern(it);
                let is_in_time = at <= it.asked + DEADLINE;
                if it.renewed
                    && is_in_time
                    && !is_of_the_gone
                    && self.calm.is_some_and(|calm| it.asked > calm)
                {
                    let held = Held {
                        client: it.client.clone(),
                        asked: it.asked,
                        attempt: it.attempt,
                    };
                    self.held.insert(key, held);
                }
            }
            Event::Leaving { client, group, topic } => {
                self.departures.leaving(at, client, group, topic);
                self.gone(client, group, topic);
            }
            Event::Died { client, group, topic } => self.gone(client, group, topic),
            Event::Ending(receipt) => self.let_go(receipt),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    fn renewed(attempt: i32, asked: u64) -> Event {
        let Event::Delivered(mut it) = delivered("t/1", 0, attempt, asked) else {
            unreachable!()
        };
        it.renewed = true;
        Event::Delivered(it)
    }

    fn judged(between: &[(u64, Event)], again: u64) -> usize {
        let mut events = vec![(1, Event::Calm), (3, renewed(1, 2))];
        events.extend_from_slice(between);
        events.push((again, renewed(2, again)));
        judge(&mut Renewals::new(S(100)), &events).len()
    }

    #[test]
    fn what_somebody_works_on_comes_to_nobody_else_for_as_long_as_was_agreed() {
        assert_eq!(judged(&[], 101), 1);
        assert_eq!(judged(&[], 102), 0);
    }

    #[test]
    fn who_got_it_after_the_deadline_may_have_given_up() {
        let judged = |came| {
            let events = [(1, Event::Calm), (came, renewed(1, 2)), (60, renewed(2, 60))];
            judge(&mut Renewals::new(S(100)), &events).len()
        };
        assert_eq!(judged(5), 1);
        assert_eq!(judged(6), 0);
    }

    #[test]
    fn who_is_done_or_gone_works_on_nothing() {
        assert_eq!(judged(&[(5, Event::Ending(receipt("t/1", 0, 1)))], 60), 0);
        assert_eq!(judged(&[(5, leaving())], 60), 0);
        let late = [
            (1, Event::Calm),
            (3, leaving()),
            (4, renewed(1, 2)),
            (60, renewed(2, 60)),
        ];
        assert_eq!(judge(&mut Renewals::new(S(100)), &late).len(), 0, "asked before");
    }

    #[test]
    fn under_faults_an_answer_may_count_as_lost() {
        let events = [(3, renewed(1, 2)), (4, Event::Calm), (60, renewed(2, 60))];
        assert_eq!(judge(&mut Renewals::new(S(100)), &events).len(), 0);
    }
}
