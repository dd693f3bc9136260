//! CopyForward.

use flotilla_proto::record::release::Action;
use queue_core::{AckResult, QueueId};

use crate::support::{DLQ, G, Q, START_MS, Shard};

#[test]
fn copy_forward_moves_the_position() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 2);
    shard.pass(77);
    assert!(shard.copy_forward(Q, 0));
    let stored = shard.core.locate(&shard.kv, QueueId(Q), 0).unwrap().unwrap();
    assert_eq!(
        (stored.position.index, stored.time_ms),
        (4, START_MS),
        "a copy is not younger"
    );
    assert_eq!(shard.entry_of(Q, 1), Some(3));
    assert_eq!(shard.deliver(G, Q, 1, 5)[0].position.index, 4);
}

#[test]
fn what_is_forgotten_is_not_copied() {
    let mut shard = Shard::new();
    shard.fill(Q, 2);
    shard.trim(Q, 1, 9);
    assert!(!shard.copy_forward(Q, 0));
    assert!(!shard.copy_forward(Q, 2));
    assert!(!shard.copy_forward(77, 0));
}

#[test]
fn a_message_can_be_copied_again_and_again() {
    let mut shard = Shard::new();
    shard.fill(Q, 1);
    for _ in 0..3 {
        assert!(shard.copy_forward(Q, 0));
        assert_eq!(
            (shard.entry_of(Q, 0), shard.oldest()),
            (Some(shard.index), Some(shard.index))
        );
    }
}

#[test]
fn a_dead_letter_is_copied_apart_from_its_message() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 1);
    shard.deliver(G, Q, 1, 5);
    shard.release(0, 5, Action::DeadLetter, None, 0);
    shard.copy_forward(DLQ, 0);
    assert_eq!(
        (shard.entry_of(Q, 0), shard.entry_of(DLQ, 0)),
        (Some(2), Some(shard.index))
    );
}

#[test]
fn a_copied_message_that_is_in_flight_can_be_acked() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 1);
    shard.deliver(G, Q, 1, 5);
    shard.trim(Q, 1, 9);
    assert!(shard.copy_forward(Q, 0));
    assert_eq!(shard.ack(G, Q, &[(0, 5)]), [AckResult::Done]);
    assert_eq!((shard.entry_of(Q, 0), shard.oldest()), (None, None));
}
