//! Deliver.

use flotilla_proto::record::{Append, Deliver, StartAt, command::Command, release::Action};
use queue_core::{
    Effect, GroupId, InFlightView, Lease, QueueId, Refusal, Reply,
    limits::{MAX_DELIVER, MAX_IN_FLIGHT},
    tag_hash,
};

use crate::support::{
    DLQ, G, G_OTHER, LEASE_MS, Q, START_MS, Shard, WALL_MS, command, offsets, place, runs, taken,
};

fn new_ones(first_new: u64, new_count: u32) -> Deliver {
    Deliver {
        group: G,
        queue: Q,
        first_new,
        new: taken(new_count),
        deadline_ms: START_MS + LEASE_MS,
        nonce: 5,
        ..Deliver::default()
    }
}

#[test]
fn new_messages_are_leased_once_and_in_order() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 3);
    let leases = shard.deliver(G, Q, 2, 5);
    let lease = |offset, index| Lease {
        offset,
        attempt: 1,
        nonce: 5,
        position: place(index),
        stored_ms: WALL_MS,
        message_group: 0,
    };
    assert_eq!(leases, [lease(0, 2), lease(1, 3)]);
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 6)), [2]);
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 7)), [] as [u64; 0]);
}

#[test]
fn what_a_filter_does_not_let_through_is_passed_over_and_over() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 9);
    let deliver = Deliver {
        new: runs(&[(1, true), (2, false), (3, true)]),
        ..new_ones(0, 0)
    };
    assert_eq!(offsets(&shard.delivered(deliver.clone())), [1, 2]);
    let view = shard.view(G, Q);
    assert_eq!(
        (view.cursor, view.filtered, view.leased, view.ready),
        (6, 4, 2, 3)
    );
    assert_eq!(
        offsets(&shard.delivered(deliver)),
        [] as [u64; 0],
        "decided for another place"
    );
    let rest = Deliver {
        new: runs(&[(99, true)]),
        ..new_ones(6, 0)
    };
    assert_eq!(offsets(&shard.delivered(rest)), [] as [u64; 0]);
    let view = shard.view(G, Q);
    assert_eq!(
        (view.cursor, view.filtered, view.ready),
        (9, 7, 0),
        "no further than there are any"
    );
}

#[test]
fn nothing_is_passed_over_behind_what_finds_no_room() {
    let mut shard = Shard::subscribed();
    shard.careful = false;
    let most = MAX_DELIVER as u32;
    shard.fill(Q, u64::from(most) + 3);
    let deliver = Deliver {
        new: runs(&[(most + 1, false), (1, true)]),
        ..new_ones(0, 0)
    };
    assert_eq!(shard.delivered(deliver).len(), MAX_DELIVER);
    let view = shard.view(G, Q);
    assert_eq!((view.cursor, view.filtered), (u64::from(most), 0));
}

#[test]
fn a_tag_stands_in_the_row_of_its_message_and_of_its_dead_letter() {
    let mut shard = Shard::subscribed();
    let sent = Append {
        queue: Q,
        message_id: "tagged".into(),
        tag: tag_hash("red"),
        ..Append::default()
    };
    shard.apply(command(Command::Append(sent)));
    shard.deliver(G, Q, 1, 5);
    shard.release(0, 5, Action::DeadLetter, None, 6);
    for queue in [Q, DLQ] {
        let stored = shard.core.locate(&shard.kv, QueueId(queue), 0).unwrap().unwrap();
        assert_eq!(stored.tag, tag_hash("red"));
    }
}

#[test]
fn a_lease_says_whose_it_is() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 1);
    shard.deliver_as(G, Q, 1, 5, true);
    let expected = InFlightView {
        offset: 0,
        nonce: 5,
        attempt: 1,
        leased: true,
        at_ms: START_MS + LEASE_MS,
        auto_renew: true,
        written: false,
        client: 7,
        first_leased_ms: START_MS,
        message_group: 0,
        request: 0,
        departed: false,
        parked: false,
        noted: 0,
    };
    assert_eq!(shard.in_flight(0), Some(expected));
    let view = shard.view(G, Q);
    assert_eq!((view.cursor, view.ready, view.leased, view.waiting), (1, 0, 1, 0));
}

#[test]
fn without_a_subscription_it_is_refused() {
    let mut shard = Shard::new();
    shard.fill(Q, 1);
    let refused = Reply::Refused(Refusal::NoSubscription);
    assert_eq!(shard.apply(command(Command::Deliver(new_ones(0, 1)))), refused);
}

#[test]
fn consumer_groups_do_not_disturb_each_other() {
    let mut shard = Shard::subscribed();
    shard.subscribe(G_OTHER, Q, StartAt::First);
    shard.fill(Q, 2);
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 5)), [0, 1]);
    assert_eq!(offsets(&shard.deliver(G_OTHER, Q, 1, 6)), [0]);
    assert_eq!(shard.in_flight(0).unwrap().nonce, 5);
}

#[test]
fn new_ones_of_a_wrong_cursor_are_dropped() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 3);
    shard.deliver(G, Q, 1, 5);
    assert_eq!(shard.delivered(new_ones(0, 1)), []);
    assert_eq!(shard.delivered(new_ones(2, 1)), []);
    assert_eq!(offsets(&shard.delivered(new_ones(1, 1))), [1]);
}

#[test]
fn new_ones_end_with_the_queue() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 2);
    assert_eq!(offsets(&shard.delivered(new_ones(0, u32::MAX))), [0, 1]);
    assert_eq!(shard.delivered(new_ones(2, 1)), []);
}

#[test]
fn what_is_leased_or_not_due_or_not_in_flight_is_not_redelivered() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 4);
    shard.deliver(G, Q, 3, 5);
    shard.release(1, 5, Action::Retry, Some(START_MS + 50), 6);
    shard.release(2, 5, Action::Retry, Some(START_MS), 6);
    let deliver = Deliver {
        redeliver: vec![0, 1, 2, 3, 99],
        ..new_ones(99, 1)
    };
    let leases = shard.delivered(deliver);
    assert_eq!((offsets(&leases), leases[0].attempt), (vec![2], 2));
}

#[test]
fn an_offset_named_twice_is_leased_once() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 2);
    shard.deliver(G, Q, 2, 5);
    shard.release(0, 5, Action::Retry, Some(START_MS), 6);
    shard.release(1, 5, Action::Retry, Some(START_MS), 6);
    let deliver = Deliver {
        redeliver: vec![1, 1, 0],
        ..new_ones(2, 0)
    };
    assert_eq!(offsets(&shard.delivered(deliver)), [1]);
}

#[test]
fn a_waiting_message_is_not_delivered_before_its_time() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 1);
    shard.deliver(G, Q, 1, 5);
    shard.release(0, 5, Action::Retry, Some(START_MS + 50), 6);
    shard.pass(49);
    assert_eq!(shard.deliver(G, Q, 1, 7), []);
    shard.pass(1);
    assert_eq!(shard.deliver(G, Q, 1, 7)[0].attempt, 2);
}

#[test]
fn a_deadline_in_the_past_is_over_at_once_and_not_before() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 1);
    let outcome = shard.outcome(command(Command::Deliver(Deliver {
        deadline_ms: 1,
        ..new_ones(0, 1)
    })));
    assert_eq!(outcome.effects, [Effect::LeaseDeadline { at_ms: START_MS }]);
    assert_eq!(shard.in_flight(0).unwrap().at_ms, START_MS);
    assert_eq!(shard.tick(9), (1, 0, false));
}

#[test]
fn a_leader_that_is_behind_gives_no_shorter_leases() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 1);
    shard.now_ms -= 400;
    let deliver = Deliver {
        deadline_ms: shard.now_ms + LEASE_MS,
        ..new_ones(0, 1)
    };
    shard.delivered(deliver);
    assert_eq!(shard.in_flight(0).unwrap().at_ms, START_MS + LEASE_MS);
}

#[test]
fn one_command_leases_a_bounded_number() {
    let mut shard = Shard::subscribed();
    shard.careful = false;
    shard.fill(Q, MAX_DELIVER as u64 + 1);
    assert_eq!(shard.delivered(new_ones(0, u32::MAX)).len(), MAX_DELIVER);
    shard.core.check(&shard.kv).unwrap();
}

#[test]
fn one_subscription_has_a_bounded_number_in_flight() {
    let mut shard = Shard::subscribed();
    shard.careful = false;
    shard.fill(Q, MAX_IN_FLIGHT as u64 + 2);
    let mut leased = 0;
    while leased < MAX_IN_FLIGHT {
        leased += shard.delivered(new_ones(leased as u64, MAX_DELIVER as u32)).len();
    }
    assert_eq!(leased, MAX_IN_FLIGHT);
    assert_eq!(shard.delivered(new_ones(leased as u64, 1)), []);
    shard.ack(G, Q, &[(17, 5)]);
    assert_eq!(shard.delivered(new_ones(leased as u64, 9)).len(), 1);
    shard.core.check(&shard.kv).unwrap();
}

#[test]
fn what_waits_longest_is_chosen_first_and_then_new_ones() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 5);
    shard.deliver(G, Q, 3, 5);
    shard.release(0, 5, Action::Retry, Some(START_MS + 30), 6);
    shard.release(1, 5, Action::Retry, Some(START_MS + 20), 6);
    shard.release(2, 5, Action::Retry, Some(START_MS + 10), 6);
    let select = |now, max, in_flight| {
        let chosen = shard.core.selectable(GroupId(G), QueueId(Q), now, max, in_flight);
        (chosen.redeliver, chosen.first_new, chosen.new_count)
    };
    assert_eq!(select(START_MS + 30, 2, 9), (vec![1, 2], 3, 0));
    assert_eq!(select(START_MS + 20, 9, 9), (vec![1, 2], 3, 2));
    assert_eq!(select(START_MS + 20, 3, 9), (vec![1, 2], 3, 1));
    assert_eq!(
        select(START_MS, 9, 4),
        (vec![], 3, 1),
        "no more in flight than allowed"
    );
    assert_eq!(
        select(START_MS + 30, 9, 0),
        (vec![0, 1, 2], 3, 0),
        "what is in flight already may come again"
    );
    let nobody = shard.core.selectable(GroupId(99), QueueId(Q), START_MS, 9, 9);
    assert_eq!(nobody, queue_core::Selection::default());
}
