//! P11 while there are faults: where a majority of the nodes is up and hears each other at any time, a send is acknowledged
//! within seconds, whatever happens to the others meanwhile.

use std::{collections::BTreeMap, time::Duration};

use super::Oracle;
use crate::history::Event;

/// From its first try to its acknowledgement. A fault can hit a send several times: whoever it asked first does not answer,
/// who leads then has to be elected, and the next fault hits that one.
const WITHIN: Duration = Duration::from_secs(30);

/// Sends that are not acknowledged.
pub(super) struct Available {
    /// There is always a majority.
    promised: bool,
    tried: BTreeMap<String, Duration>,
}

impl Available {
    /// In a world in which a majority is always up, or not.
    pub(super) fn new(promised: bool) -> Available {
        Available {
            promised,
            tried: BTreeMap::new(),
        }
    }
}

impl Oracle for Available {
    fn see(&mut self, at: Duration, event: &Event, wrong: &mut Vec<String>) {
        if !self.promised {
            return;
        }
        match event {
            // Whoever still tries after so long says so by trying again.
            Event::Sending { id, .. } => {
                let first = *self.tried.entry(id.clone()).or_insert(at);
                if at > first.saturating_add(WITHIN) {
                    self.tried.insert(id.clone(), Duration::MAX);
                    wrong.push(format!(
                        "P11: a majority is up, and {id} is sent since {first:?} and not acknowledged at {at:?}"
                    ));
                }
            }
            Event::Stored { id, .. } | Event::Refused { id } => {
                if let Some(first) = self
                    .tried
                    .get(id)
                    .filter(|first| at > first.saturating_add(WITHIN))
                {
                    wrong.push(format!(
                        "P11: a majority is up, and {id} was sent at {first:?} and acknowledged at {at:?}"
                    ));
                }
            }
            Event::Acked { receipt, asked } | Event::Buried { receipt, asked }
                if at > asked.saturating_add(WITHIN) =>
            {
                wrong.push(format!(
                    "P11: a majority is up, and {receipt:?} was acknowledged since {asked:?}, and is at {at:?}"
                ));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    fn judged(promised: bool, events: &[(u64, Event)]) -> usize {
        judge(&mut Available::new(promised), events).len()
    }

    #[test]
    fn a_send_is_acknowledged_within_seconds_or_there_is_no_majority() {
        let late = |at| [(1, sending("t/1")), (20, sending("t/1")), (at, stored("t/1", 0))];
        assert_eq!(judged(true, &late(31)), 0);
        assert_eq!(judged(true, &late(32)), 1);
        assert_eq!(judged(false, &late(32)), 0);
    }

    #[test]
    fn an_acknowledgement_takes_no_longer_than_a_send() {
        let done = |at| [(at, acked("t/1", 0))];
        assert_eq!(judged(true, &done(30)), 0);
        assert_eq!(judged(true, &done(31)), 1);
        assert_eq!(judged(false, &done(31)), 0);
    }

    #[test]
    fn a_send_that_is_never_acknowledged_is_found_once() {
        let never = [
            (1, sending("t/1")),
            (31, sending("t/1")),
            (32, sending("t/1")),
            (33, sending("t/1")),
        ];
        assert_eq!(judged(true, &never), 1);
    }
}
