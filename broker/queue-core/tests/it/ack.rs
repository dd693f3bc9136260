//! Ack.

use flotilla_proto::record::release::Action;
use queue_core::AckResult::{Done, Stale};

use crate::support::{G, G_OTHER, LEASE_MS, Q, START_MS, Shard};

fn leased() -> Shard {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 3);
    shard.deliver(G, Q, 3, 5);
    shard
}

#[test]
fn an_acked_message_is_over() {
    let mut shard = leased();
    assert_eq!(shard.ack(G, Q, &[(0, 5), (2, 5)]), [Done, Done]);
    assert_eq!(shard.in_flight(0), None);
    let view = shard.view(G, Q);
    assert_eq!((view.acked, view.leased, view.cursor), (2, 1, 3));
    shard.pass(LEASE_MS);
    assert_eq!(shard.tick(9), (1, 0, false));
}

#[test]
fn a_double_ack_is_stale() {
    let mut shard = leased();
    assert_eq!(shard.ack(G, Q, &[(0, 5), (0, 5)]), [Done, Stale]);
    assert_eq!(shard.ack(G, Q, &[(0, 5)]), [Stale]);
    assert_eq!(shard.view(G, Q).acked, 1);
}

#[test]
fn an_ack_under_another_nonce_is_stale() {
    let mut shard = leased();
    assert_eq!(shard.ack(G, Q, &[(0, 6)]), [Stale]);
    assert_eq!(shard.view(G, Q).leased, 3);
}

#[test]
fn an_ack_of_another_consumer_group_or_of_nothing_is_stale() {
    let mut shard = leased();
    assert_eq!(shard.ack(G_OTHER, Q, &[(0, 5)]), [Stale]);
    assert_eq!(shard.ack(G, Q, &[(99, 5)]), [Stale]);
    assert_eq!(shard.ack(G, 77, &[]), []);
}

#[test]
fn an_ack_after_its_lease_is_over_is_stale() {
    let mut shard = leased();
    shard.pass(LEASE_MS);
    shard.tick(9);
    assert_eq!(shard.ack(G, Q, &[(0, 5)]), [Stale]);
    shard.deliver(G, Q, 9, 6);
    assert_eq!(shard.ack(G, Q, &[(0, 5), (0, 6)]), [Stale, Done]);
}

#[test]
fn what_was_given_back_has_no_receipt_until_it_is_delivered_again() {
    let mut shard = leased();
    shard.release(0, 5, Action::Retry, Some(START_MS), 6);
    assert_eq!(shard.ack(G, Q, &[(0, 5), (0, 6)]), [Stale, Stale]);
    shard.deliver(G, Q, 1, 7);
    assert_eq!(shard.ack(G, Q, &[(0, 7)]), [Done]);
}
