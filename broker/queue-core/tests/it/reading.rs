//! What the leader and retention read.

use std::cell::Cell;

use bytes::Bytes;
use flotilla_proto::record::release::Action;
use queue_core::{Fault, GroupId, KeyValue, QueueId};

use crate::support::{DLQ, G, LEASE_MS, Map, Q, Q_TWIN, START_MS, Shard, place};

/// Counts the pairs that scans give.
struct Counting<'a> {
    map: &'a Map,
    read: Cell<usize>,
}

impl KeyValue for Counting<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        self.map.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Fault> {
        let found = self.map.scan(from, to, limit)?;
        self.read.set(self.read.get() + found.len());
        Ok(found)
    }

    fn put(&mut self, _: &[u8], _: &[u8]) -> Result<(), Fault> {
        unreachable!("only read")
    }

    fn delete(&mut self, _: &[u8]) -> Result<(), Fault> {
        unreachable!("only read")
    }
}

fn with_dead_letters(count: u64) -> Shard {
    let mut shard = Shard::subscribed();
    shard.careful = false;
    shard.fill(Q, count);
    for offset in 0..count {
        shard.deliver(G, Q, 1, 5);
        shard.release(offset, 5, Action::DeadLetter, None, 0);
    }
    shard
}

#[test]
fn the_oldest_live_entry_is_that_of_the_first_message_kept() {
    let mut shard = Shard::new();
    assert_eq!(shard.oldest(), None);
    shard.fill(Q, 2);
    shard.fill(Q_TWIN, 1);
    assert_eq!(shard.oldest(), Some(1));
    shard.trim(Q, 1, 9);
    assert_eq!(shard.oldest(), Some(2));
    shard.trim(Q, 2, 9);
    assert_eq!(shard.oldest(), Some(3));
    shard.trim(Q_TWIN, 1, 9);
    assert_eq!(shard.oldest(), None);
}

#[test]
fn what_is_in_flight_holds_its_entry() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 2);
    shard.deliver(G, Q, 1, 5);
    shard.trim(Q, 2, 9);
    assert_eq!(shard.oldest(), Some(2));
    shard.copy_forward(Q, 0);
    assert_eq!(shard.oldest(), Some(shard.index));
}

#[test]
fn a_dead_letter_holds_the_entry_of_its_message() {
    let mut shard = with_dead_letters(1);
    shard.trim(Q, 1, 9);
    assert_eq!((shard.oldest(), shard.entry_of(DLQ, 0)), (Some(2), Some(2)));
    shard.trim(DLQ, 1, 9);
    assert_eq!(shard.oldest(), None);
}

#[test]
fn the_oldest_live_entry_is_found_behind_many_copied_messages() {
    let mut shard = Shard::new();
    shard.careful = false;
    shard.fill(Q, 40);
    for offset in 0..39 {
        shard.copy_forward(Q, offset);
    }
    assert_eq!(shard.oldest(), Some(40));
}

/// Found by reading: all dead letters were read each time, to find one that stands in order.
#[test]
fn the_oldest_live_entry_is_found_without_reading_all_dead_letters() {
    let shard = with_dead_letters(200);
    let counting = Counting {
        map: &shard.kv,
        read: Cell::new(0),
    };
    assert_eq!(shard.core.oldest_live_index(&counting).unwrap(), Some(2));
    assert!(counting.read.get() < 40, "{} rows were read", counting.read.get());
}

#[test]
fn stragglers_are_what_only_a_copy_lets_go() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 4);
    shard.deliver(G, Q, 3, 5);
    shard.release(2, 5, Action::DeadLetter, None, 0);
    assert_eq!(
        shard.stragglers(99, 9),
        [(DLQ, 0)],
        "what is kept goes with its queue"
    );
    shard.trim(Q, 4, 9);
    assert_eq!(shard.stragglers(99, 9), [(DLQ, 0), (Q, 0), (Q, 1)]);
    assert_eq!(shard.stragglers(2, 9), [(Q, 0)], "offset 0 stands in entry 2");
    assert_eq!(shard.stragglers(99, 2), [(DLQ, 0), (Q, 0)]);
    assert_eq!(shard.stragglers(99, 0), []);
    assert_eq!(shard.stragglers_of(99, 9, 0), [(DLQ, 0)], "one always");
    shard.copy_forward(Q, 0);
    assert_eq!(shard.stragglers(shard.index - 1, 9), [(DLQ, 0), (Q, 1)]);
}

/// Found by reading: copied messages at a queue's front filled the page, and what came after them
/// was never found, so its segment was never given back.
#[test]
fn stragglers_are_found_behind_copied_messages() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 3);
    shard.deliver(G, Q, 3, 5);
    shard.trim(Q, 3, 9);
    let last = shard.index;
    shard.copy_forward(Q, 0);
    shard.copy_forward(Q, 1);
    assert_eq!(shard.stragglers(last, 1), [(Q, 2)]);
}

#[test]
fn the_next_deadline_is_that_of_the_earliest_lease() {
    let mut shard = Shard::subscribed();
    assert_eq!(shard.core.next_deadline(), None);
    shard.fill(Q, 2);
    shard.deliver(G, Q, 1, 5);
    shard.pass(10);
    shard.deliver(G, Q, 1, 6);
    assert_eq!(shard.core.next_deadline(), Some(START_MS + LEASE_MS));
    shard.ack(G, Q, &[(0, 5)]);
    assert_eq!(shard.core.next_deadline(), Some(START_MS + 10 + LEASE_MS));
    shard.release(1, 6, Action::Retry, Some(START_MS + 99), 7);
    assert_eq!(shard.core.next_deadline(), None);
}

#[test]
fn the_next_visible_time_is_that_of_the_earliest_waiting_message() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 2);
    shard.deliver(G, Q, 2, 5);
    let next = |shard: &Shard| shard.core.next_visible(GroupId(G), QueueId(Q));
    assert_eq!(next(&shard), None);
    shard.release(0, 5, Action::Retry, Some(START_MS + 99), 6);
    shard.release(1, 5, Action::Retry, Some(START_MS + 50), 6);
    assert_eq!(next(&shard), Some(START_MS + 50));
    shard.pass(50);
    shard.deliver(G, Q, 1, 7);
    assert_eq!(next(&shard), Some(START_MS + 99));
}

#[test]
fn due_messages_are_ready_even_before_they_are_delivered() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 3);
    shard.deliver(G, Q, 2, 5);
    shard.release(0, 5, Action::Retry, Some(START_MS), 6);
    shard.release(1, 5, Action::Retry, Some(START_MS + 50), 6);
    let view = shard.view(G, Q);
    assert_eq!((view.ready, view.waiting, view.leased), (2, 1, 0));
}

#[test]
fn what_a_trim_lets_go_is_told_from_what_only_a_copy_does() {
    let mut shard = Shard::subscribed();
    let keeps = |shard: &Shard, through| shard.core.keeps_through(&shard.kv, through).unwrap();
    let due = |shard: &Shard, through| shard.core.queues_through(through).count();
    shard.fill(Q, 4);
    let first = shard.index - 3;
    assert_eq!((keeps(&shard, first - 1), keeps(&shard, first)), (false, true));
    assert_eq!((due(&shard, first - 1), due(&shard, first)), (0, 1));
    shard.deliver(G, Q, 2, 5);
    shard.trim(Q, 3, 9);
    assert!(!keeps(&shard, first + 2), "what is in flight is not kept");
    assert!(keeps(&shard, first + 3));
    assert_eq!(due(&shard, first), 1, "but holds its entry");
    shard.copy_forward(Q, 0);
    shard.copy_forward(Q, 1);
    assert_eq!(due(&shard, first + 2), 0);
}

#[test]
fn the_bytes_of_dead_letters_and_copies_are_known() {
    let mut shard = with_dead_letters(5);
    let each = u64::from(place(0).frame_len);
    assert_eq!(shard.core.displaced_bytes(), 5 * each);
    shard.copy_forward(DLQ, 0);
    shard.copy_forward(DLQ, 0);
    assert_eq!(shard.core.displaced_bytes(), 5 * each);
    shard.trim(DLQ, 3, 9);
    assert_eq!(shard.core.displaced_bytes(), 2 * each);
    assert!(!shard.drop_queue(DLQ, 9));
    assert_eq!(shard.core.displaced_bytes(), 0);
}
