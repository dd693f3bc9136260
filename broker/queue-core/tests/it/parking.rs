//! Parked messages: a message group stops at what cannot be consumed, until somebody decides.

use flotilla_proto::record::{
    LeaseRef, Redrive, StartAt, Subscribe, Unpark, command::Command, configure::What, release::Action,
    unpark::Action as Decision,
};
use queue_core::{GroupId, InOrder, ParkedView, QueueId, ReleaseResult, Reply, UnparkResult, What as Became};

use crate::support::{
    BACKOFF_MS, DLQ, G, LEASE_MS, Q, Shard, append_in, command, configure, offsets, seek, subscription,
};

fn rules(version: u32, park: bool, dead_letter_queue: u64) -> Subscribe {
    Subscribe {
        version,
        park,
        fifo: true,
        ..subscription(G, Q, StartAt::First, 2, dead_letter_queue)
    }
}

/// Messages 0, 2, 3 of one message group, 1 and 4 of another.
fn shard_with(park: bool, dead_letter_queue: u64) -> Shard {
    let mut shard = Shard::new();
    shard.apply(configure(What::Subscribe(rules(1, park, dead_letter_queue))));
    for (at, message_group) in [8, 9, 8, 8, 9].into_iter().enumerate() {
        shard.apply(append_in(Q, &format!("m{at}"), message_group));
    }
    shard
}

/// What comes next in order, at most so many; under a nonce.
fn deliver(shard: &mut Shard, max: usize, nonce: u64) -> Vec<u64> {
    let place = (GroupId(G), QueueId(Q));
    let found = shard.core.in_order(&shard.kv, place, shard.now_ms, (max, 99, 99));
    let found = found.unwrap();
    let mut deliver = InOrder::name(found.candidates.into_iter().map(|it| (it, false)));
    (deliver.group, deliver.queue, deliver.first_new) = (G, Q, found.first_new);
    (deliver.nonce, deliver.deadline_ms) = (nonce, shard.now_ms + LEASE_MS);
    offsets(&shard.delivered(deliver))
}

/// Message 0 used up its two attempts.
fn parked() -> Shard {
    let mut shard = shard_with(true, DLQ);
    for nonce in [5, 6] {
        assert_eq!(deliver(&mut shard, 1, nonce), [0]);
        let result = shard.release(0, nonce, Action::Retry, None, 99);
        let expected = if nonce == 5 {
            ReleaseResult::Done
        } else {
            ReleaseResult::Parked
        };
        assert_eq!(result, expected);
        shard.pass(BACKOFF_MS[1]);
    }
    shard
}

fn listed(shard: &Shard) -> Vec<ParkedView> {
    let from = (QueueId(0), 0);
    shard.core.parked_from(&shard.kv, GroupId(G), from, 99).unwrap()
}

fn decide(shard: &mut Shard, offset: u64, nonce: u64, action: Decision) -> UnparkResult {
    let unpark = Unpark {
        group: G,
        queue: Q,
        parked: vec![LeaseRef { offset, nonce }],
        action: action as i32,
    };
    match shard.apply(command(Command::Unpark(unpark))) {
        Reply::Unparked { results } => results[0],
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_group_stops_at_a_message_whose_attempts_are_used_up_and_no_other_does() {
    let mut shard = parked();
    let found = listed(&shard);
    assert_eq!((found[0].offset, found[0].nonce, found[0].attempt), (0, 6, 2));
    assert_eq!(found[0].history.len(), 2);
    assert_eq!(deliver(&mut shard, 9, 7), [1, 4]);
    shard.pass(60 * LEASE_MS);
    shard.tick(9);
    shard.pass(60 * LEASE_MS);
    assert_eq!(
        deliver(&mut shard, 1, 8),
        [1],
        "nothing of the other message group"
    );
    let view = shard.view(G, Q);
    assert_eq!((view.parked, view.blocked, view.dead_lettered), (1, 2, 0));
    assert_eq!(listed(&shard)[0].blocked, 2);
}

#[test]
fn skipped_it_is_a_dead_letter_and_its_message_group_goes_on() {
    let mut shard = parked();
    assert_eq!(deliver(&mut shard, 9, 7), [1, 4]);
    assert_eq!(decide(&mut shard, 0, 6, Decision::Skip), UnparkResult::Done);
    assert_eq!(decide(&mut shard, 0, 6, Decision::Skip), UnparkResult::Stale);
    assert_eq!(deliver(&mut shard, 9, 8), [2, 3]);
    let letters = shard.core.letters_from(&shard.kv, QueueId(DLQ), 0, 9).unwrap();
    let became: Vec<Became> = letters[0].letter.history.iter().map(|note| note.what).collect();
    assert_eq!(became, [Became::Refused, Became::Refused, Became::Skipped]);
    assert!(listed(&shard).is_empty());
}

#[test]
fn released_it_is_delivered_with_all_its_attempts_and_parked_again_if_they_are_used_up() {
    let mut shard = parked();
    assert_eq!(decide(&mut shard, 0, 6, Decision::Release), UnparkResult::Done);
    for nonce in [7, 8] {
        assert_eq!(deliver(&mut shard, 1, nonce), [0]);
        assert_eq!(shard.in_flight(0).unwrap().attempt, nonce as u32 - 6);
        shard.release(0, nonce, Action::Retry, None, 99);
        shard.pass(BACKOFF_MS[1]);
    }
    // Whoever decides late, on what he saw before, decides nothing.
    assert_eq!(decide(&mut shard, 0, 6, Decision::Skip), UnparkResult::Stale);
    assert_eq!(decide(&mut shard, 0, 8, Decision::Skip), UnparkResult::Done);
}

#[test]
fn a_message_that_its_consumer_gives_up_stops_its_message_group_too() {
    let mut shard = shard_with(true, DLQ);
    assert_eq!(deliver(&mut shard, 1, 5), [0]);
    assert_eq!(
        shard.release(0, 5, Action::DeadLetter, None, 0),
        ReleaseResult::Parked
    );
    assert!(shard.core.is_parked(GroupId(G), QueueId(Q), 0, 5));
    assert_eq!(deliver(&mut shard, 9, 6), [1, 4]);
}

#[test]
fn several_of_one_delivery_are_parked_and_decided_on_one_by_one() {
    let mut shard = shard_with(true, DLQ);
    assert_eq!(deliver(&mut shard, 9, 5), [0, 1, 2, 3, 4]);
    for offset in [2, 0] {
        shard.release(offset, 5, Action::DeadLetter, None, 0);
    }
    shard.ack(G, Q, &[(3, 5)]);
    assert_eq!(decide(&mut shard, 0, 5, Decision::Release), UnparkResult::Done);
    assert_eq!(deliver(&mut shard, 9, 6), [0]);
    shard.ack(G, Q, &[(0, 6)]);
    assert!(deliver(&mut shard, 9, 7).is_empty(), "it stops at the next");
    assert_eq!(decide(&mut shard, 2, 5, Decision::Release), UnparkResult::Done);
    assert_eq!(deliver(&mut shard, 9, 8), [2]);
}

#[test]
fn the_rules_can_be_changed_and_what_is_parked_stays_so_until_somebody_decides() {
    let mut shard = parked();
    shard.apply(configure(What::Rules(rules(2, false, DLQ))));
    assert_eq!(deliver(&mut shard, 9, 7), [1, 4]);
    assert_eq!(
        shard.release(1, 7, Action::DeadLetter, None, 0),
        ReleaseResult::DeadLettered
    );
    assert_eq!(listed(&shard).len(), 1);
}

#[test]
fn where_there_is_no_place_for_dead_letters_nothing_is_skipped() {
    let mut shard = shard_with(true, 0);
    deliver(&mut shard, 1, 5);
    shard.release(0, 5, Action::DeadLetter, None, 0);
    assert_eq!(decide(&mut shard, 0, 5, Decision::Skip), UnparkResult::NoPlace);
    assert_eq!(listed(&shard).len(), 1);
}

#[test]
fn what_is_given_back_takes_the_next_turn_of_its_message_group() {
    let mut shard = shard_with(false, DLQ);
    assert_eq!(deliver(&mut shard, 1, 5), [0]);
    assert_eq!(deliver(&mut shard, 9, 6), [1, 4]);
    shard.release(0, 5, Action::DeadLetter, None, 0);
    let redrive = Redrive {
        group: G,
        queue: DLQ,
        offsets: vec![0],
        id: 0,
    };
    shard.apply(command(Command::Redrive(redrive)));
    assert_eq!(deliver(&mut shard, 9, 7), [0]);
    shard.ack(G, Q, &[(0, 7)]);
    assert_eq!(deliver(&mut shard, 9, 8), [2, 3]);
}

#[test]
fn what_is_parked_takes_no_room_from_other_message_groups() {
    let mut shard = Shard::new();
    shard.apply(configure(What::Subscribe(rules(1, true, DLQ))));
    for message_group in [7, 8, 9] {
        shard.apply(append_in(Q, &format!("m{message_group}"), message_group));
    }
    assert_eq!(deliver(&mut shard, 9, 5), [0, 1, 2]);
    for offset in 0..3 {
        let result = shard.release(offset, 5, Action::DeadLetter, None, 0);
        assert_eq!(result, ReleaseResult::Parked);
    }
    shard.apply(append_in(Q, "another", 10));
    let next = |bound| {
        let place = (GroupId(G), QueueId(Q));
        let found = shard
            .core
            .in_order(&shard.kv, place, shard.now_ms, (9, bound, 99));
        let candidates = found.unwrap().candidates.into_iter();
        candidates.map(|it| it.offset).collect::<Vec<_>>()
    };
    assert_eq!(next(3), [3]);
    assert_eq!(next(0), [] as [u64; 0]);
    let unordered = shard.core.selectable(GroupId(G), QueueId(Q), shard.now_ms, 9, 3);
    assert_eq!(unordered.new_count, 1);
}

#[test]
fn what_a_seek_leaves_behind_and_was_parked_is_a_dead_letter() {
    let mut shard = parked();
    shard.apply(seek((G, Q, 5, 9), 0, 1));
    assert!(listed(&shard).is_empty());
    let letters = shard.core.letters_from(&shard.kv, QueueId(DLQ), 0, 9).unwrap();
    let became: Vec<Became> = letters[0].letter.history.iter().map(|note| note.what).collect();
    assert_eq!((letters.len(), became), (1, vec![Became::Refused; 2]));
    assert_eq!(letters[0].letter.epoch, 0);
}

#[test]
fn what_is_parked_and_comes_again_after_a_seek_is_no_dead_letter() {
    let mut shard = parked();
    shard.apply(seek((G, Q, 0, 9), 0, 1));
    assert!(listed(&shard).is_empty());
    assert_eq!(shard.next(DLQ), 0);
    assert_eq!(deliver(&mut shard, 9, 9), [0, 1, 2, 3, 4]);
}
