//! The oracles: each watches one promise, and says so when it is broken. Numbers are those of ARCHITECTURE.md; words in
//! quotes are Jepsen's names for what queues and logs get wrong.
//!
//! Oracles draw no randomness and know nothing of the broker. Those of this folder see what clients see; `cluster` looks
//! into the nodes and `votes` at what they say to each other, and so they are there in the simulator only.
//!
//! | file | promise |
//! |---|---|
//! | `durable` | P1: nothing acknowledged is lost, nothing is invented |
//! | `available` | P11: while a majority is up, a send is acknowledged within seconds |
//! | `late` | P11: once the cluster is whole, what is due comes within seconds |
//! | `early_death` | P9: no message is given up before its attempts are used up |
//! | `lease` | P3: nobody gets what somebody else has leased |
//! | `receipt` | P3: an acknowledgement counts if its lease is the present one, and only then |
//! | `renewal` | P3: what a push consumer that lives works on is not given to others |
//! | `conserve` | P4: attempts go up, and what is acknowledged does not come again |
//! | `once` | P7: what was sent once is stored once |
//! | `whole` | P7: what was sent together is stored together, in its order |
//! | `offsets` | P8: offsets are dense, and what stands at one never changes |
//! | `poll` | P8: a queue comes in order |
//! | `order` | P2: the messages of a message group come one after the other |
//! | `names` | what is deleted is gone, and what bears its name next begins anew |
//! | `dead` | P9: dead letters, exactly once, and never more attempts than allowed |
//! | `cluster` | P10, and Raft's own: one entry an index, no leader without what was committed |
//! | `flushed` | P11: what counts as flushed is, and an orderly stop leaves nothing else |
//! | `payloads` | P10: an entry says the same on all nodes |
//! | `waits` | P3: a wait between two attempts is the one that was agreed |
//! | `copies` | what is copied to outlive its segment writes no more than it is worth |
//! | `turns` | P11: every queue has its turn |
//! | `retention` | nothing is forgotten before its time, and what is past it goes |
//! | `votes` | Raft's own: no vote is taken back |

use std::{collections::BTreeMap, time::Duration};

use crate::{
    history::{Delivery, Event, Rules},
    readers::Readers,
};

mod available;
#[cfg(madsim)]
pub mod cluster;
mod conserve;
#[cfg(madsim)]
pub mod copies;
mod dead;
mod durable;
mod early_death;
#[cfg(madsim)]
pub mod flushed;
pub mod late;
mod lease;
pub mod names;
mod offsets;
mod once;
mod order;
#[cfg(madsim)]
pub mod payloads;
mod poll;
mod receipt;
mod renewal;
pub mod retention;
#[cfg(madsim)]
pub mod turns;
#[cfg(madsim)]
pub mod votes;
#[cfg(madsim)]
pub mod waits;
mod whole;

/// Watches one promise.
pub trait Oracle: Send {
    /// Looks at what happened at `at`; adds to `wrong` what must not be.
    fn see(&mut self, at: Duration, event: &Event, wrong: &mut Vec<String>);

    /// Everything has happened, and every message should be where it belongs.
    fn end(&mut self, _wrong: &mut Vec<String>) {}
}

/// So long after it was said a good-bye may end leases: it may be on its way for as long as a lease lasts that the server renews,
/// and what its client asked for before may come a little later.
const GOOD_BYE_WORKS: Duration = Duration::from_secs(60);

/// When consumers said good-bye: by consumer group and topic, and by client.
#[derive(Default)]
struct Departures(BTreeMap<(String, String), BTreeMap<String, Vec<Duration>>>);

impl Departures {
    fn leaving(&mut self, at: Duration, client: &str, group: &str, topic: &str) {
        let of_all = self.0.entry((group.to_owned(), topic.to_owned())).or_default();
        of_all.entry(client.to_owned()).or_default().push(at);
    }

    fn of_all(&self, group: &str, topic: &str) -> Option<&BTreeMap<String, Vec<Duration>>> {
        self.0.get(&(group.to_owned(), topic.to_owned()))
    }

    /// How many good-byes of this consumer group and topic may have had an effect since then: each may have ended what nobody saw
    /// before its time.
    fn worked_since(&self, then: Duration, group: &str, topic: &str) -> usize {
        let left = self.of_all(group, topic).into_iter().flat_map(BTreeMap::values);
        left.flatten()
            .filter(|left| **left + GOOD_BYE_WORKS > then)
            .count()
    }

    /// It was given to somebody who has left since: its lease may be over, and later attempts may have come already.
    fn concern(&self, it: &Delivery) -> bool {
        let left = self.of_all(&it.group, &it.place.topic);
        let left = left.and_then(|all| all.get(&it.client)?.last());
        left.is_some_and(|left| it.asked <= *left)
    }
}

/// The shortest lease that a consumer may choose.
const SHORTEST_LEASE: Duration = Duration::from_secs(10);

/// An attempt that nobody saw, of what came so, was leased for so long at least: consumers choose another time whenever they
/// ask, and the server gives the same to all whose leases it renews.
fn unseen_lease(it: &Delivery) -> Duration {
    match it.renewed {
        true => it.invisible,
        false => it.invisible.min(SHORTEST_LEASE),
    }
}

/// All that watch histories.
pub(crate) fn all(readers: &Readers, rules: Rules) -> Vec<Box<dyn Oracle>> {
    vec![
        Box::new(durable::Durable::new(readers.clone())),
        Box::<lease::Leases>::default(),
        Box::<receipt::Receipts>::default(),
        Box::<conserve::Conserve>::default(),
        Box::new(available::Available::new(rules.majority_is_up)),
        Box::<once::Once>::default(),
        Box::new(whole::Whole::new(readers.clone())),
        Box::<offsets::Offsets>::default(),
        Box::new(poll::Polls::new(readers.clone())),
        Box::new(order::Orders::new(readers.clone())),
        Box::new(dead::Dead::new(rules.max_attempts)),
        Box::new(early_death::EarlyDeath::new(
            readers.groups().clone(),
            rules.max_attempts,
        )),
        Box::<retention::Retention>::default(),
        Box::new(renewal::Renewals::new(rules.renew_at_most)),
        Box::new(late::Late::new(readers.clone(), rules)),
    ]
}

#[cfg(test)]
pub(crate) mod testing {
    //! Synthetic histories, in seconds.

    use std::time::Duration;

    use super::Oracle;
    use crate::history::{Delivery, Event, Place, Receipt, Why};

    pub(crate) const S: fn(u64) -> Duration = Duration::from_secs;

    pub(crate) fn place(offset: i64) -> Place {
        Place {
            topic: "t".into(),
            queue: 0,
            offset,
        }
    }

    pub(crate) fn sending(id: &str) -> Event {
        Event::Sending {
            topic: "t".into(),
            id: id.into(),
        }
    }

    pub(crate) fn stored(id: &str, offset: i64) -> Event {
        Event::Stored {
            topic: "t".into(),
            id: id.into(),
            offset,
        }
    }

    /// To consumer group "g" at once, leased for ten seconds.
    pub(crate) fn delivered(id: &str, offset: i64, attempt: i32, asked: u64) -> Event {
        Event::Delivered(Delivery {
            client: "c".into(),
            group: "g".into(),
            place: place(offset),
            id: id.into(),
            attempt,
            asked: S(asked),
            invisible: S(10),
            renewed: false,
            intact: true,
        })
    }

    /// A consumer of consumer group "g" says good-bye.
    pub(crate) fn leaving() -> Event {
        Event::Leaving {
            client: "c".into(),
            group: "g".into(),
            topic: "t".into(),
        }
    }

    /// Retention takes it before consumer group "g" had it.
    pub(crate) fn forgotten(id: &str, offset: i64, why: Why) -> Event {
        Event::Forgotten {
            place: place(offset),
            id: Some(id.into()),
            groups: vec!["g".into()],
            why,
        }
    }

    /// Of a delivery to consumer group "g".
    pub(crate) fn receipt(id: &str, offset: i64, attempt: i32) -> Receipt {
        Receipt {
            group: "g".into(),
            place: place(offset),
            id: id.into(),
            attempt,
            changes: 0,
        }
    }

    pub(crate) fn acked(id: &str, offset: i64) -> Event {
        Event::Acked {
            receipt: receipt(id, offset, 1),
            asked: S(0),
        }
    }

    /// What an oracle says about a history; each event with the second at which it happened.
    pub(crate) fn judge(oracle: &mut dyn Oracle, events: &[(u64, Event)]) -> Vec<String> {
        let mut wrong = Vec::new();
        for (at, event) in events {
            oracle.see(S(*at), event, &mut wrong);
        }
        oracle.end(&mut wrong);
        wrong
    }
}
