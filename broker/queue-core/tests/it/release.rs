//! Release.

use flotilla_proto::record::{Release, StartAt, command::Command, configure::What, release::Action};
use queue_core::{
    Effect, GroupId, Outcome, QueueId, Refusal,
    ReleaseResult::{DeadLettered, Done, Stale},
    Reply,
};

use crate::support::{
    BACKOFF_MS, DLQ, G, LEASE_MS, Q, START_MS, Shard, command, configure, offsets, release, subscription,
    visible,
};

fn leased() -> Shard {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 2);
    shard.deliver(G, Q, 2, 5);
    shard
}

/// A message whose attempts are used up cannot become a dead letter here.
fn without_dead_letters() -> Shard {
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
    shard
}

#[test]
fn a_retry_waits_as_long_as_asked_under_a_new_nonce() {
    let mut shard = leased();
    let outcome = shard.outcome(release(
        G,
        Q,
        (0, 5),
        Action::Retry as i32,
        Some(START_MS + 50),
        6,
    ));
    assert_eq!(
        outcome,
        Outcome {
            reply: Reply::Released(Done),
            effects: vec![visible(G, Q, START_MS + 50)]
        }
    );
    let waiting = shard.in_flight(0).unwrap();
    assert_eq!(
        (waiting.leased, waiting.at_ms, waiting.nonce),
        (false, START_MS + 50, 6)
    );
    assert_eq!(shard.release(0, 5, Action::Retry, None, 7), Stale);
    let view = shard.view(G, Q);
    assert_eq!((view.leased, view.waiting, view.ready), (1, 1, 0));
}

#[test]
fn a_retry_without_a_time_waits_by_backoff() {
    let mut shard = leased();
    for (attempt, wait) in [(1, BACKOFF_MS[0]), (2, BACKOFF_MS[1])] {
        assert_eq!(shard.in_flight(0).unwrap().attempt, attempt);
        assert_eq!(shard.release(0, 5, Action::Retry, None, 6), Done);
        assert_eq!(shard.in_flight(0).unwrap().at_ms, shard.now_ms + wait);
        shard.pass(wait);
        assert_eq!(offsets(&shard.deliver(G, Q, 1, 5)), [0]);
    }
}

#[test]
fn a_time_in_the_past_is_now() {
    let mut shard = leased();
    assert_eq!(shard.release(0, 5, Action::Retry, Some(3), 6), Done);
    assert_eq!(shard.in_flight(0).unwrap().at_ms, START_MS);
    assert_eq!(offsets(&shard.deliver(G, Q, 1, 7)), [0]);
}

#[test]
fn the_last_attempt_is_not_retried_but_becomes_a_dead_letter() {
    let mut shard = leased();
    for _ in 1..3 {
        shard.release(0, 5, Action::Retry, Some(START_MS), 6);
        shard.deliver(G, Q, 1, 5);
    }
    assert_eq!(
        shard.release(0, 5, Action::Retry, Some(START_MS), 6),
        DeadLettered
    );
    assert_eq!((shard.next(DLQ), shard.in_flight(0)), (1, None));
    assert_eq!(
        shard.entry_of(DLQ, 0),
        shard.entry_of(Q, 0),
        "the body is where it was"
    );
    assert_eq!(shard.view(G, Q).dead_lettered, 1);
    assert_eq!(shard.release(0, 5, Action::Retry, None, 6), Stale);
    assert_eq!(shard.next(DLQ), 1);
}

#[test]
fn whether_a_message_became_a_dead_letter_lately_can_be_told() {
    let mut shard = leased();
    let is_dead = |shard: &Shard, offset, within| {
        let message = (GroupId(G), QueueId(Q), offset);
        shard.core.is_dead_letter(&shard.kv, message, within).unwrap()
    };
    assert!(!is_dead(&shard, 0, 9));
    shard.release(0, 5, Action::DeadLetter, None, 0);
    assert!(is_dead(&shard, 0, 1) && !is_dead(&shard, 1, 9));
    shard.release(1, 5, Action::DeadLetter, None, 0);
    assert!(is_dead(&shard, 0, 2) && is_dead(&shard, 1, 1));
    assert!(!is_dead(&shard, 0, 1), "it is not among the last ones");
    shard.copy_forward(Q, 0);
    assert!(!is_dead(&shard, 0, 9), "nobody can tell");
    let other = (GroupId(G + 1), QueueId(Q), 1);
    assert!(!shard.core.is_dead_letter(&shard.kv, other, 9).unwrap());
}

#[test]
fn an_extended_lease_goes_on_under_a_new_nonce() {
    let mut shard = leased();
    let at_ms = START_MS + 9 * LEASE_MS;
    let outcome = shard.outcome(release(G, Q, (0, 5), Action::Extend as i32, Some(at_ms), 6));
    assert_eq!(outcome.effects, [Effect::LeaseDeadline { at_ms }]);
    assert_eq!(shard.release(0, 5, Action::Extend, Some(at_ms), 7), Stale);
    shard.pass(LEASE_MS);
    assert_eq!(shard.tick(9), (1, 0, false), "the other lease only");
    let lease = shard.in_flight(0).unwrap();
    assert_eq!((lease.leased, lease.nonce, lease.at_ms), (true, 6, at_ms));
}

#[test]
fn an_extension_may_shorten_a_lease() {
    let mut shard = leased();
    assert_eq!(shard.release(0, 5, Action::Extend, Some(START_MS + 10), 6), Done);
    shard.pass(10);
    assert_eq!(shard.tick(9), (1, 0, false));
}

#[test]
fn what_waits_has_no_receipt_for_any_release() {
    let mut shard = leased();
    shard.release(0, 5, Action::Retry, Some(START_MS + 50), 6);
    shard.pass(LEASE_MS);
    shard.tick(9);
    let before = (shard.in_flight(0), shard.in_flight(1));
    for action in [Action::Retry, Action::Extend, Action::DeadLetter] {
        assert_eq!(shard.release(0, 6, action, Some(START_MS + 90), 7), Stale);
        assert_eq!(shard.release(1, 5, action, Some(START_MS + 90), 7), Stale);
    }
    assert_eq!((shard.in_flight(0), shard.in_flight(1)), before);
}

#[test]
fn a_message_can_be_given_up_at_once() {
    let mut shard = leased();
    let outcome = shard.outcome(release(G, Q, (1, 5), Action::DeadLetter as i32, None, 0));
    let effects = vec![Effect::DeadLettered {
        group: GroupId(G),
        queue: QueueId(Q),
        to: QueueId(DLQ),
    }];
    assert_eq!(
        outcome,
        Outcome {
            reply: Reply::Released(DeadLettered),
            effects
        }
    );
    assert_eq!(shard.entry_of(DLQ, 0), shard.entry_of(Q, 1));
    assert_eq!(shard.release(1, 5, Action::DeadLetter, None, 0), Stale);
    assert_eq!(shard.next(DLQ), 1, "exactly once");
}

#[test]
fn a_message_that_cannot_be_given_up_waits_under_its_old_nonce() {
    let mut shard = without_dead_letters();
    assert_eq!(shard.release(0, 5, Action::DeadLetter, None, 0), Done);
    let waiting = shard.in_flight(0).unwrap();
    assert_eq!(
        (waiting.leased, waiting.nonce, waiting.at_ms),
        (false, 5, START_MS + BACKOFF_MS[0])
    );
}

/// Found by reading: the caller was told "done" and held a handle that named nothing.
#[test]
fn a_retry_that_cannot_be_given_up_waits_under_its_new_nonce() {
    let mut shard = without_dead_letters();
    assert_eq!(shard.release(0, 5, Action::Retry, Some(START_MS + 50), 6), Done);
    let waiting = shard.in_flight(0).unwrap();
    assert_eq!(
        (waiting.leased, waiting.nonce, waiting.at_ms),
        (false, 6, START_MS + 50)
    );
}

#[test]
fn a_release_without_a_lease_or_with_an_unknown_action_is_malformed() {
    let mut shard = leased();
    let malformed = Reply::Refused(Refusal::Malformed);
    let no_lease = Release {
        group: G,
        queue: Q,
        action: Action::Retry as i32,
        ..Release::default()
    };
    assert_eq!(shard.apply(command(Command::Release(no_lease))), malformed);
    assert_eq!(shard.apply(release(G, Q, (0, 5), 99, None, 6)), malformed);
    assert_eq!(
        shard.apply(release(G, Q, (0, 5), Action::Unspecified as i32, None, 6)),
        malformed
    );
    assert_eq!(shard.in_flight(0).unwrap().nonce, 5);
}

#[test]
fn without_a_subscription_it_is_stale() {
    let mut shard = Shard::new();
    assert_eq!(shard.release(0, 5, Action::Retry, None, 6), Stale);
}
