//! Tick: expiry, retries, dead letters.

use flotilla_proto::record::{StartAt, configure::What, release::Action};
use queue_core::{AckResult, Effect, GroupId, Outcome, QueueId, Reply};

use crate::support::{
    BACKOFF_MS, DLQ, G, G_OTHER, LEASE_MS, Q, START_MS, Shard, configure, offsets, subscription, tick,
    ticked, visible, written,
};

fn leased(count: u64, auto_renew: bool) -> Shard {
    let mut shard = Shard::subscribed();
    shard.fill(Q, count);
    shard.deliver_as(G, Q, count as usize, 5, auto_renew);
    shard
}

/// Delivers and lets expire, `times` times.
fn expire(shard: &mut Shard, group: u32, queue: u64, times: u32) {
    for _ in 0..times {
        assert_eq!(shard.deliver(group, queue, 1, 5).len(), 1);
        shard.pass(LEASE_MS);
        assert_eq!(shard.tick(9).0, 1);
    }
}

#[test]
fn a_lease_is_not_over_before_its_deadline() {
    let mut shard = leased(1, false);
    shard.pass(LEASE_MS - 1);
    assert_eq!(shard.tick(9), (0, 0, false));
    assert_eq!(shard.deliver(G, Q, 9, 6), []);
    assert_eq!(shard.core.next_deadline(), Some(START_MS + LEASE_MS));
}

#[test]
fn lease_past_deadline_returns_to_waiting() {
    let mut shard = leased(1, false);
    shard.pass(LEASE_MS + 30);
    let outcome = shard.outcome(tick(shard.core.expiries(shard.now_ms, 9)));
    let reply = Reply::Ticked {
        expired: 1,
        dead_lettered: 0,
        more: false,
    };
    assert_eq!(
        outcome,
        Outcome {
            reply,
            effects: vec![visible(G, Q, START_MS + LEASE_MS)]
        }
    );
    let waiting = shard.in_flight(0).unwrap();
    assert_eq!(
        (waiting.leased, waiting.at_ms),
        (false, START_MS + LEASE_MS),
        "visible at once"
    );
    assert_eq!(shard.core.next_deadline(), None);
    assert_eq!(shard.deliver(G, Q, 1, 6)[0].attempt, 2);
}

#[test]
fn a_message_that_perhaps_never_reached_its_push_consumer_is_visible_at_once() {
    let mut shard = leased(1, true);
    shard.pass(LEASE_MS);
    assert_eq!(shard.tick(9), (1, 0, false));
    assert_eq!(shard.deliver(G, Q, 1, 6)[0].attempt, 2);
}

#[test]
fn a_lease_that_the_server_renewed_waits_by_backoff() {
    let mut shard = leased(1, true);
    shard.prolong(written(5, &[0], START_MS));
    shard.pass(LEASE_MS + 30);
    assert_eq!(shard.tick(9), (1, 0, false));
    assert_eq!(
        shard.in_flight(0).unwrap().at_ms,
        START_MS + LEASE_MS + BACKOFF_MS[0]
    );
    assert_eq!(shard.deliver(G, Q, 1, 6), []);
    shard.pass(BACKOFF_MS[0] - 30);
    assert_eq!(shard.deliver(G, Q, 1, 6)[0].attempt, 2);
}

#[test]
fn the_oldest_leases_end_first_and_no_more_than_the_limit() {
    let mut shard = leased(3, false);
    shard.release(0, 5, Action::Extend, Some(START_MS + LEASE_MS + 1), 5);
    shard.pass(LEASE_MS + 1);
    assert_eq!(shard.tick(0), (0, 0, true));
    assert_eq!(shard.tick(2), (2, 0, true));
    assert!(shard.in_flight(0).unwrap().leased);
    assert_eq!(shard.tick(2), (1, 0, false));
    assert_eq!(shard.tick(2), (0, 0, false));
}

#[test]
fn what_no_longer_holds_is_left_out() {
    let mut shard = leased(2, false);
    shard.pass(LEASE_MS);
    let decided = shard.core.expiries(shard.now_ms, 9);
    assert_eq!(shard.ack(G, Q, &[(0, 5)]), [AckResult::Done]);
    let twice = [&decided[..], &decided[1..]].concat();
    assert_eq!(ticked(shard.apply(tick(twice))), (1, 0, false));
    assert!(!shard.in_flight(1).unwrap().leased);
}

#[test]
fn what_was_decided_by_other_rules_is_decided_anew() {
    let mut shard = leased(1, false);
    shard.pass(LEASE_MS);
    let decided = shard.core.expiries(shard.now_ms, 9);
    shard.apply(configure(What::Subscribe(subscription(
        G,
        Q,
        StartAt::First,
        1,
        DLQ,
    ))));
    assert_eq!(ticked(shard.apply(tick(decided))), (0, 0, true));
    assert_eq!(shard.tick(9), (1, 1, false));
}

#[test]
fn no_lease_ends_before_its_end_whoever_says_so() {
    let mut shard = leased(1, false);
    let early = shard.core.expiries(shard.now_ms + LEASE_MS, 9);
    assert_eq!(early.len(), 1);
    shard.pass(LEASE_MS - 1);
    assert_eq!(ticked(shard.apply(tick(early))), (0, 0, false));
}

#[test]
fn a_clock_that_goes_back_ends_no_lease_early_and_starts_none_again() {
    let mut shard = leased(1, false);
    shard.now_ms -= 2 * LEASE_MS;
    assert_eq!(shard.tick(9), (0, 0, false));
    shard.pass(3 * LEASE_MS);
    assert_eq!(shard.tick(9), (1, 0, false));
}

#[test]
fn after_max_attempts_exactly_one_dead_letter() {
    let mut shard = leased(1, false);
    shard.pass(LEASE_MS);
    assert_eq!(shard.tick(9), (1, 0, false));
    expire(&mut shard, G, Q, 1);
    assert_eq!(shard.deliver(G, Q, 1, 5)[0].attempt, 3);
    shard.pass(LEASE_MS);
    let outcome = shard.outcome(tick(shard.core.expiries(shard.now_ms, 9)));
    let reply = Reply::Ticked {
        expired: 1,
        dead_lettered: 1,
        more: false,
    };
    assert_eq!(
        outcome,
        Outcome {
            reply,
            effects: vec![Effect::DeadLettered {
                group: GroupId(G),
                queue: QueueId(Q),
                to: QueueId(DLQ)
            }]
        }
    );
    assert_eq!(shard.in_flight(0), None);
    assert_eq!(
        (shard.next(DLQ), shard.entry_of(DLQ, 0)),
        (1, shard.entry_of(Q, 0))
    );
    let view = shard.view(G, Q);
    assert_eq!(
        (view.dead_lettered, view.acked, view.leased + view.waiting),
        (1, 0, 0)
    );
    shard.pass(9 * LEASE_MS);
    assert_eq!(shard.tick(9), (0, 0, false));
    assert_eq!(shard.deliver(G, Q, 9, 6), []);
    assert_eq!(shard.next(DLQ), 1);
}

#[test]
fn a_late_ack_of_a_dead_letter_is_stale() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 1);
    expire(&mut shard, G, Q, 3);
    assert_eq!(shard.ack(G, Q, &[(0, 5)]), [AckResult::Stale]);
    assert_eq!(shard.next(DLQ), 1);
}

#[test]
fn each_consumer_group_has_its_own_dead_letter() {
    let mut shard = Shard::subscribed();
    shard.subscribe(G_OTHER, Q, StartAt::First);
    shard.fill(Q, 1);
    expire(&mut shard, G, Q, 3);
    expire(&mut shard, G_OTHER, Q, 3);
    assert_eq!(shard.next(DLQ), 2);
}

#[test]
fn a_dead_letter_is_delivered_like_any_message() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 1);
    expire(&mut shard, G, Q, 3);
    shard.subscribe(G, DLQ, StartAt::First);
    let leases = shard.deliver(G, DLQ, 9, 8);
    assert_eq!(
        (leases[0].offset, leases[0].attempt, leases[0].stored_ms),
        (0, 1, shard.wall_ms)
    );
    assert_eq!(shard.ack(G, DLQ, &[(0, 8)]), [AckResult::Done]);
}

#[test]
fn a_dead_letter_outlives_its_queue() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 1);
    expire(&mut shard, G, Q, 3);
    assert!(!shard.drop_queue(Q, 99));
    assert_eq!((shard.entry_of(Q, 0), shard.entry_of(DLQ, 0)), (None, Some(2)));
}

#[test]
fn a_dead_letter_of_a_dead_letter_queue_is_not_lost() {
    let mut shard = Shard::new();
    shard.apply(configure(What::Subscribe(subscription(
        G,
        DLQ,
        StartAt::First,
        2,
        DLQ,
    ))));
    shard.fill(DLQ, 1);
    shard.deliver(G, DLQ, 1, 5);
    shard.pass(LEASE_MS);
    assert_eq!(shard.tick(9), (1, 0, false));
    for attempt in 2..6 {
        assert_eq!(shard.deliver(G, DLQ, 1, 5)[0].attempt, attempt);
        shard.pass(LEASE_MS);
        assert_eq!(shard.tick(9), (1, 0, false));
        assert_eq!(shard.deliver(G, DLQ, 1, 5), [], "it waits by the last backoff");
        shard.pass(BACKOFF_MS[1]);
    }
    assert_eq!((shard.next(DLQ), shard.view(G, DLQ).dead_lettered), (1, 0));
}

#[test]
fn without_a_dead_letter_queue_a_message_is_not_lost() {
    let mut shard = Shard::new();
    shard.apply(configure(What::Subscribe(subscription(
        G,
        Q,
        StartAt::First,
        1,
        0,
    ))));
    shard.fill(Q, 1);
    shard.deliver(G, Q, 1, 5);
    shard.pass(LEASE_MS);
    assert_eq!(shard.tick(9), (1, 0, false));
    shard.pass(BACKOFF_MS[0]);
    assert_eq!(offsets(&shard.deliver(G, Q, 1, 5)), [0]);
}

#[test]
fn a_wait_beyond_the_end_of_time_is_survived() {
    let mut shard = leased(1, true);
    shard.now_ms = u64::MAX;
    assert_eq!(
        shard.release(0, 5, Action::Extend, Some(u64::MAX), 5),
        queue_core::ReleaseResult::Done
    );
    assert_eq!(shard.tick(9), (1, 0, false));
    assert_eq!(shard.in_flight(0).unwrap().at_ms, u64::MAX);
}
