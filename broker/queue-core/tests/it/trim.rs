//! Trim.

use flotilla_proto::record::{StartAt, release::Action};
use queue_core::{AckResult, GroupId, QueueId};

use crate::support::{DLQ, G, G_OTHER, Q, Shard, offsets};

#[test]
fn trimmed_messages_are_forgotten() {
    let mut shard = Shard::new();
    shard.fill(Q, 5);
    assert_eq!(shard.trim(Q, 3, 99), (3, false));
    assert_eq!((shard.entry_of(Q, 2), shard.entry_of(Q, 3)), (None, Some(4)));
    let ends = shard.core.queue(QueueId(Q)).unwrap();
    assert_eq!((ends.first, ends.next), (3, 5));
}

#[test]
fn one_command_trims_no_more_than_its_limit() {
    let mut shard = Shard::new();
    shard.fill(Q, 5);
    assert_eq!(shard.trim(Q, 5, 2), (2, true));
    assert_eq!(shard.trim(Q, 5, 0), (2, true));
    assert_eq!(shard.trim(Q, 5, 2), (4, true));
    assert_eq!(shard.trim(Q, 5, 2), (5, false));
}

#[test]
fn a_queue_is_trimmed_to_its_end_at_most_and_never_back() {
    let mut shard = Shard::new();
    shard.fill(Q, 3);
    assert_eq!(shard.trim(Q, u64::MAX, u32::MAX), (3, false));
    assert_eq!(shard.trim(Q, 1, 9), (3, false));
    assert_eq!(shard.append(Q, "next"), (Q, 3, false), "offsets go on");
    assert_eq!(shard.trim(77, 9, 9), (0, false), "an unknown queue has nothing");
}

#[test]
fn undelivered_messages_are_counted_as_trimmed() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 5);
    shard.deliver(G, Q, 1, 5);
    shard.trim(Q, 3, 99);
    let view = shard.view(G, Q);
    assert_eq!((view.cursor, view.trimmed, view.leased, view.ready), (3, 2, 1, 2));
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 6)), [3, 4]);
}

#[test]
fn trim_keeps_what_is_in_flight_readable() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 3);
    shard.deliver(G, Q, 2, 5);
    shard.release(1, 5, Action::Retry, Some(0), 6);
    shard.trim(Q, 3, 99);
    assert_eq!(
        [0, 1, 2].map(|offset| shard.entry_of(Q, offset)),
        [Some(2), Some(3), None]
    );
    let leases = shard.deliver(G, Q, 9, 7);
    assert_eq!(
        (leases[0].offset, leases[0].attempt, leases[0].position.index),
        (1, 2, 3)
    );
    assert_eq!(
        shard.ack(G, Q, &[(0, 5), (1, 7)]),
        [AckResult::Done, AckResult::Done]
    );
    assert_eq!([0, 1].map(|offset| shard.entry_of(Q, offset)), [None, None]);
}

#[test]
fn what_is_in_flight_is_forgotten_with_its_last_consumer_group() {
    let mut shard = Shard::subscribed();
    shard.subscribe(G_OTHER, Q, StartAt::First);
    shard.fill(Q, 1);
    shard.deliver(G, Q, 1, 5);
    shard.deliver(G_OTHER, Q, 1, 6);
    shard.trim(Q, 1, 99);
    shard.ack(G, Q, &[(0, 5)]);
    assert_eq!(shard.entry_of(Q, 0), Some(3));
    shard.ack(G_OTHER, Q, &[(0, 6)]);
    assert_eq!(shard.entry_of(Q, 0), None);
}

#[test]
fn what_was_in_flight_below_the_first_offset_still_becomes_a_dead_letter() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 1);
    shard.deliver(G, Q, 1, 5);
    shard.trim(Q, 1, 99);
    shard.release(0, 5, Action::DeadLetter, None, 0);
    assert_eq!((shard.entry_of(Q, 0), shard.entry_of(DLQ, 0)), (None, Some(2)));
}

#[test]
fn a_new_consumer_group_starts_at_what_is_kept() {
    let mut shard = Shard::new();
    shard.fill(Q, 3);
    shard.trim(Q, 2, 99);
    shard.subscribe(G, Q, StartAt::First);
    let view = shard.core.subscription(GroupId(G), QueueId(Q)).unwrap();
    assert_eq!((view.cursor, view.ready, view.trimmed), (2, 1, 0));
}
