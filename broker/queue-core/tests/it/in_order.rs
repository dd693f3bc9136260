//! Order within message groups, told in examples.

use flotilla_proto::record::{
    Deliver, LeaseRef, Redrive, StartAt, Subscribe, command::Command, configure::What, release::Action,
};
use queue_core::{GroupId, InOrder, Lease, QueueId, Source, limits::REPEATED_WITHIN_MS};

use crate::support::{
    BACKOFF_MS, DLQ, G, LEASE_MS, Q, Shard, append_in, command, configure, offsets, subscription,
};

const A: u64 = 0xA;
const B: u64 = 0xB;

/// With consumer group `G` on `Q`, in order, and these messages, each of its message group.
fn shard(groups: &[u64]) -> Shard {
    let mut shard = Shard::new();
    let subscribe = Subscribe {
        fifo: true,
        ..subscription(G, Q, StartAt::First, 3, DLQ)
    };
    shard.apply(configure(What::Subscribe(subscribe)));
    fill(&mut shard, groups);
    shard
}

fn fill(shard: &mut Shard, groups: &[u64]) {
    for &group in groups {
        let id = format!("{group}-{}", shard.index);
        shard.apply(append_in(Q, &id, group));
    }
}

/// What the leader would deliver in order, up to `max`.
fn deliver(shard: &mut Shard, max: usize, nonce: u64) -> Vec<Lease> {
    deliver_without(shard, max, nonce, &[])
}

/// The same for a filter that does not let these offsets through.
fn deliver_without(shard: &mut Shard, max: usize, nonce: u64, filtered: &[u64]) -> Vec<Lease> {
    let (group, queue) = (GroupId(G), QueueId(Q));
    let limits = (max, usize::MAX, 99);
    let found = shard
        .core
        .in_order(&shard.kv, (group, queue), shard.now_ms, limits);
    let found = found.unwrap();
    let named = found.candidates.into_iter().map(|candidate| {
        let passed = filtered.contains(&candidate.offset) && candidate.from != Source::Blocked;
        (candidate, passed)
    });
    let deliver = Deliver {
        group: G,
        queue: Q,
        first_new: found.first_new,
        deadline_ms: shard.now_ms + LEASE_MS,
        nonce,
        request: nonce,
        ..InOrder::name(named)
    };
    shard.delivered(deliver)
}

fn ack(shard: &mut Shard, leases: &[(u64, u64)]) {
    shard.ack(G, Q, leases);
}

fn attempts(leases: &[Lease]) -> Vec<(u64, u32)> {
    leases.iter().map(|lease| (lease.offset, lease.attempt)).collect()
}

#[test]
fn a_message_group_that_hangs_stops_nobody_else() {
    let mut shard = shard(&[A, B, A, B, 0, A]);
    assert_eq!(offsets(&deliver(&mut shard, 1, 1)), [0]);
    assert_eq!(offsets(&deliver(&mut shard, 1, 2)), [1]);
    assert_eq!(
        offsets(&deliver(&mut shard, 9, 3)),
        [4],
        "the one of no message group"
    );
    let view = shard.view(G, Q);
    assert_eq!((view.cursor, view.blocked, view.leased), (6, 3, 3));
    ack(&mut shard, &[(1, 2)]);
    assert_eq!(offsets(&deliver(&mut shard, 9, 4)), [3]);
    ack(&mut shard, &[(0, 1)]);
    assert_eq!(offsets(&deliver(&mut shard, 9, 5)), [2, 5]);
    assert_eq!(shard.view(G, Q).blocked, 0);
}

#[test]
fn several_of_one_message_group_go_out_together_and_what_was_delivered_before_by_itself() {
    let mut shard = shard(&[A, A, A, A]);
    assert_eq!(attempts(&deliver(&mut shard, 3, 1)), [(0, 1), (1, 1), (2, 1)]);
    ack(&mut shard, &[(0, 1)]);
    assert_eq!(offsets(&deliver(&mut shard, 9, 2)), [] as [u64; 0]);
    shard.pass(LEASE_MS);
    assert_eq!(shard.tick(9), (2, 0, false));
    for (offset, nonce) in [(1, 3), (2, 4)] {
        assert_eq!(attempts(&deliver(&mut shard, 9, nonce)), [(offset, 2)]);
        ack(&mut shard, &[(offset, nonce)]);
    }
    fill(&mut shard, &[A]);
    assert_eq!(attempts(&deliver(&mut shard, 9, 5)), [(3, 1), (4, 1)]);
}

#[test]
fn what_follows_a_poison_message_does_not_die_with_it() {
    let mut shard = shard(&[A, A]);
    assert_eq!(attempts(&deliver(&mut shard, 9, 1)), [(0, 1), (1, 1)]);
    shard.pass(LEASE_MS);
    shard.tick(9);
    for nonce in 2..=3 {
        assert_eq!(attempts(&deliver(&mut shard, 9, nonce)), [(0, nonce as u32)]);
        shard.pass(LEASE_MS);
        shard.tick(9);
    }
    let view = shard.view(G, Q);
    assert_eq!((shard.next(DLQ), view.dead_lettered), (1, 1));
    assert_eq!(attempts(&deliver(&mut shard, 9, 9)), [(1, 2)]);
}

#[test]
fn a_refused_message_holds_up_its_message_group_for_its_backoff() {
    let mut shard = shard(&[A, B, A]);
    deliver(&mut shard, 2, 1);
    shard.release(0, 1, Action::Retry, None, 7);
    assert_eq!(offsets(&deliver(&mut shard, 9, 2)), [] as [u64; 0]);
    shard.pass(BACKOFF_MS[0]);
    assert_eq!(attempts(&deliver(&mut shard, 9, 3)), [(0, 2)]);
    ack(&mut shard, &[(0, 3)]);
    assert_eq!(attempts(&deliver(&mut shard, 9, 4)), [(2, 1)]);
}

#[test]
fn nothing_is_delivered_while_a_later_one_of_its_message_group_is_leased() {
    let mut shard = shard(&[A, A]);
    deliver(&mut shard, 9, 1);
    shard.release(0, 1, Action::Retry, Some(shard.now_ms), 7);
    assert_eq!(offsets(&deliver(&mut shard, 9, 2)), [] as [u64; 0]);
    ack(&mut shard, &[(1, 1)]);
    assert_eq!(attempts(&deliver(&mut shard, 9, 3)), [(0, 2)]);
}

#[test]
fn a_filter_passes_over_what_was_blocked_when_its_turn_comes() {
    let mut shard = shard(&[A, A, A, A, B]);
    deliver(&mut shard, 1, 1);
    deliver(&mut shard, 9, 2);
    ack(&mut shard, &[(0, 1)]);
    assert_eq!(offsets(&deliver_without(&mut shard, 9, 3, &[1, 3])), [2]);
    let view = shard.view(G, Q);
    assert_eq!((view.filtered, view.blocked, view.cursor), (2, 0, 5));
}

#[test]
fn what_retention_forgets_of_a_message_group_is_trimmed() {
    let mut shard = shard(&[A, A, B, A, A]);
    deliver(&mut shard, 1, 1);
    deliver(&mut shard, 9, 2);
    shard.trim(Q, 4, 99);
    let view = shard.view(G, Q);
    assert_eq!(
        (view.trimmed, view.blocked, view.leased),
        (2, 1, 2),
        "what is leased is kept"
    );
    ack(&mut shard, &[(0, 1)]);
    assert_eq!(offsets(&deliver(&mut shard, 9, 3)), [4]);
}

#[test]
fn a_late_command_delivers_nothing_out_of_order() {
    let mut shard = shard(&[A, A, B]);
    let stale = Deliver {
        group: G,
        queue: Q,
        deadline_ms: shard.now_ms + LEASE_MS,
        nonce: 9,
        ..Deliver::default()
    };
    deliver(&mut shard, 1, 1);
    // As if nothing were locked.
    let new = crate::support::taken(2);
    let late = Deliver {
        first_new: 1,
        new,
        ..stale.clone()
    };
    assert_eq!(offsets(&shard.delivered(late)), [] as [u64; 0]);
    let passed = crate::support::runs(&[(1, true)]);
    let filtered = Deliver {
        first_new: 1,
        new: passed,
        ..stale.clone()
    };
    assert_eq!(offsets(&shard.delivered(filtered)), [] as [u64; 0]);
    assert_eq!(shard.view(G, Q).filtered, 0, "not before its turn");
    let redelivered = Deliver {
        redeliver: vec![0, 1],
        ..stale
    };
    assert_eq!(offsets(&shard.delivered(redelivered)), [] as [u64; 0]);
}

#[test]
fn another_consumer_group_without_order_takes_all() {
    let mut shard = shard(&[A, A, A]);
    shard.subscribe(2, Q, StartAt::First);
    deliver(&mut shard, 1, 1);
    assert_eq!(offsets(&shard.deliver(2, Q, 9, 2)), [0, 1, 2]);
}

#[test]
fn a_repeated_request_gets_what_it_has_under_the_receipts_that_it_has() {
    let mut shard = shard(&[A, A, B, B]);
    let first = deliver(&mut shard, 3, 1);
    shard.ack(G, Q, &[(0, 1)]);
    shard.pass(LEASE_MS / 2);
    let (group, queue) = (GroupId(G), QueueId(Q));
    let had = shard.core.had_by(1, group, queue.topic(), 99);
    let again: Vec<u64> = had.into_iter().map(|(_, offset)| offset).collect();
    assert_eq!(again, [1, 2]);
    let deliver = |request, again: &[u64], shard: &mut Shard| {
        let deliver = Deliver {
            group: G,
            queue: Q,
            request,
            again: again.to_vec(),
            deadline_ms: shard.now_ms + LEASE_MS,
            nonce: 8,
            ..Deliver::default()
        };
        shard.delivered(deliver)
    };
    assert_eq!(deliver(1, &again, &mut shard), first[1..]);
    assert_eq!(deliver(2, &again, &mut shard), [], "of another request");
    assert_eq!(deliver(0, &again, &mut shard), [], "of none");
    shard.pass(LEASE_MS - 1);
    assert_eq!(shard.tick(9).0, 0, "the leases began anew");
    let receipts = [LeaseRef { offset: 1, nonce: 1 }].map(|lease| (lease.offset, lease.nonce));
    shard.ack(G, Q, &receipts);
    assert_eq!(shard.view(G, Q).acked, 2);
}

#[test]
fn what_waits_comes_although_there_is_no_room_for_what_was_passed_over_before_it() {
    const C: u64 = 0xC;
    let mut shard = shard(&[A, B, A, B, C]);
    let (group, queue) = (GroupId(G), QueueId(Q));
    deliver(&mut shard, 1, 1);
    deliver(&mut shard, 1, 2);
    deliver(&mut shard, 1, 3);
    // It is the turn of what was passed over of A and B; C waits, and fills the bound.
    ack(&mut shard, &[(0, 1), (1, 2)]);
    shard.release(4, 3, Action::Retry, Some(shard.now_ms), 7);
    let next = |bound| {
        let found = shard
            .core
            .in_order(&shard.kv, (group, queue), shard.now_ms, (1, bound, 99));
        let candidates = found.unwrap().candidates.into_iter();
        candidates.map(|it| (it.offset, it.from)).collect::<Vec<_>>()
    };
    assert_eq!(next(2), [(2, Source::Behind)]);
    assert_eq!(next(1), [(4, Source::Waiting)]);
}

#[test]
fn a_request_is_not_repeated_for_ever() {
    let mut shard = shard(&[A]);
    let (group, queue) = (GroupId(G), QueueId(Q));
    deliver(&mut shard, 1, 1);
    let repeat = Deliver {
        group: G,
        queue: Q,
        request: 1,
        again: vec![0],
        ..Deliver::default()
    };
    for _ in 0..2 {
        shard.pass(REPEATED_WITHIN_MS / 2 - 1);
        let deadline_ms = shard.now_ms + REPEATED_WITHIN_MS;
        let repeat = Deliver {
            deadline_ms,
            ..repeat.clone()
        };
        assert_eq!(offsets(&shard.delivered(repeat)), [0]);
    }
    shard.pass(2);
    assert_eq!(shard.delivered(repeat), []);
    assert_eq!(shard.core.had_by(1, group, queue.topic(), 9), []);
}

#[test]
fn what_is_given_again_does_not_overtake_what_waits_before_it() {
    let mut shard = shard(&[A, A]);
    deliver(&mut shard, 2, 1);
    shard.release(0, 1, Action::Retry, Some(shard.now_ms), 7);
    let repeat = Deliver {
        group: G,
        queue: Q,
        request: 1,
        again: vec![1],
        deadline_ms: shard.now_ms + LEASE_MS,
        ..Deliver::default()
    };
    assert_eq!(shard.delivered(repeat), []);
}

#[test]
fn what_is_given_back_does_not_keep_a_repeated_request_from_what_it_has() {
    let mut shard = shard(&[A, A]);
    deliver(&mut shard, 1, 1);
    shard.release(0, 1, Action::DeadLetter, None, 0);
    assert_eq!(offsets(&deliver(&mut shard, 1, 2)), [1]);
    let redrive = Redrive {
        group: G,
        queue: DLQ,
        offsets: vec![0],
        id: 0,
    };
    shard.apply(command(Command::Redrive(redrive)));
    let repeat = Deliver {
        group: G,
        queue: Q,
        request: 2,
        again: vec![1],
        deadline_ms: shard.now_ms + LEASE_MS,
        ..Deliver::default()
    };
    assert_eq!(attempts(&shard.delivered(repeat)), [(1, 1)]);
    ack(&mut shard, &[(1, 2)]);
    assert_eq!(offsets(&deliver(&mut shard, 9, 3)), [0]);
}
