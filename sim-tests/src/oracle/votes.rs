//! Raft's election safety, at its root: a replica that has given its vote to a candidate gives none to a lower one in a
//! later life. Votes are ordered by term and then by replica (openraft's order), so two replicas may lead in one term, but
//! only the larger one after the other.
//!
//! Nothing is said about one life: answers that wait for one sync overtake each other on their way out. And who leads when
//! cannot be compared between nodes: a leader may learn of its votes long after it got them, when another has been elected.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A candidate: its term and its replica.
pub type Candidate = (u64, u64);

/// The highest candidate that every replica has voted for, by shard and replica.
type Given = BTreeMap<(u32, u64), Candidate>;

/// The votes given by the replicas of one node. Clones are the same book.
#[derive(Clone, Default)]
pub struct Votes(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    earlier: Given,
    now: Given,
}

impl Votes {
    /// The node starts: from now on it has to keep to all votes so far.
    pub fn new_life(&self) {
        let mut book = self.book();
        let now = std::mem::take(&mut book.now);
        for (replica, candidate) in now {
            raise(&mut book.earlier, replica, candidate);
        }
    }

    /// A replica answers that it votes for a candidate; what is wrong about it.
    #[must_use]
    pub fn give(&self, shard: u32, replica: u64, candidate: Candidate) -> Option<String> {
        let mut book = self.book();
        raise(&mut book.now, (shard, replica), candidate);
        let before = *book.earlier.get(&(shard, replica))?;
        (candidate < before).then(|| {
            format!(
                "Raft: replica {replica} of shard {shard} voted for {candidate:?}, and for {before:?} in an earlier life"
            )
        })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn raise(given: &mut Given, replica: (u32, u64), candidate: Candidate) {
    let highest = given.entry(replica).or_insert(candidate);
    *highest = candidate.max(*highest);
}

#[cfg(test)]
mod tests {
    use super::{Candidate, Votes};

    /// Votes of an earlier life, with an answer that overtook another.
    fn after(earlier: Candidate) -> Votes {
        let votes = Votes::default();
        for candidate in [earlier, (1, 1)] {
            assert_eq!(votes.give(1, 7, candidate), None);
        }
        votes.new_life();
        votes.new_life();
        votes
    }

    #[test]
    fn a_vote_for_a_lower_candidate_in_a_later_life_is_found() {
        for lower in [(3, 9), (4, 1)] {
            assert!(after((4, 2)).give(1, 7, lower).is_some(), "{lower:?}");
        }
    }

    #[test]
    fn the_same_vote_again_and_higher_ones_are_good_and_replicas_and_shards_have_votes_of_their_own() {
        for (shard, replica, candidate) in [
            (1, 7, (4, 2)),
            (1, 7, (4, 3)),
            (1, 7, (5, 1)),
            (1, 8, (1, 1)),
            (2, 7, (1, 1)),
        ] {
            assert_eq!(after((4, 2)).give(shard, replica, candidate), None);
        }
    }
}
