//! Dead letters: what became of them, and how they are given back.

use flotilla_proto::record::{Redrive, StartAt, command, configure::What, release::Action};
use queue_core::{
    Effect, GroupId, LetterView, QueueId, RedriveResult, Reply, What as Became,
    limits::{MAX_DELIVER, MAX_GIVEN_BACK, MAX_NOTES, MAX_REDRIVE},
};

use crate::support::{
    BACKOFF_MS, DLQ, G, G_OTHER, LEASE_MS, Q, Shard, WALL_MS, command, configure, offsets, seek, subscription,
};

/// A message that was delivered until its attempts were used up.
fn died(shard: &mut Shard, offset: u64) {
    for _ in 0..3 {
        let leases = shard.deliver(G, Q, 1, 5);
        assert_eq!(offsets(&leases), [offset]);
        shard.pass(LEASE_MS);
        shard.tick(9);
        shard.pass(BACKOFF_MS[1]);
    }
}

fn one_dead() -> Shard {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 1);
    died(&mut shard, 0);
    shard
}

fn redrive(shard: &mut Shard, group: u32, offsets: &[u64]) -> Vec<RedriveResult> {
    let redrive = Redrive {
        group,
        queue: DLQ,
        offsets: offsets.to_vec(),
        id: 0,
    };
    match shard.apply(command(command::Command::Redrive(redrive))) {
        Reply::Redriven { results } => results,
        other => panic!("{other:?}"),
    }
}

fn letters(shard: &Shard) -> Vec<LetterView> {
    shard.core.letters_from(&shard.kv, QueueId(DLQ), 0, 99).unwrap()
}

fn became(letter: &LetterView) -> Vec<(u32, Became)> {
    let notes = letter.letter.history.iter();
    notes.map(|note| (note.attempt, note.what)).collect()
}

#[test]
fn a_dead_letter_says_where_it_comes_from_and_how_its_attempts_ended() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 1);
    shard.deliver(G, Q, 1, 5);
    shard.release(0, 5, Action::Retry, None, 6);
    shard.pass(BACKOFF_MS[0]);
    shard.deliver(G, Q, 1, 7);
    shard.pass(LEASE_MS);
    shard.tick(9);
    shard.pass(BACKOFF_MS[1]);
    shard.deliver(G, Q, 1, 8);
    shard.release(0, 8, Action::DeadLetter, None, 0);
    let found = letters(&shard);
    let letter = &found[0].letter;
    assert_eq!(
        (letter.group, letter.queue, letter.offset),
        (GroupId(G), QueueId(Q), 0)
    );
    assert_eq!((letter.stored_ms, letter.redriven_ms), (WALL_MS, 0));
    let expected = [(1, Became::Refused), (2, Became::TimedOut), (3, Became::GivenUp)];
    assert_eq!(became(&found[0]), expected);
    assert!(letter.history.iter().all(|note| note.client == 7));
    assert_eq!(letter.history[2].at_ms, shard.now_ms);
}

#[test]
fn a_history_keeps_the_last() {
    let mut shard = one_dead();
    for life in 0..9 {
        assert_eq!(redrive(&mut shard, G, &[life]), [RedriveResult::Done]);
        died(&mut shard, 0);
    }
    let found = letters(&shard);
    let last = &found.last().unwrap().letter;
    assert_eq!((last.history.len(), last.noted), (MAX_NOTES, 9 * 4 + 3));
    assert_eq!(last.history[MAX_NOTES - 4].what, Became::Redriven);
}

#[test]
fn a_dead_letter_is_given_back_once_and_begins_anew() {
    let mut shard = one_dead();
    shard.fill(Q, 1);
    assert_eq!(
        redrive(&mut shard, G, &[0, 0, 7]),
        [RedriveResult::Done, RedriveResult::Already, RedriveResult::Gone]
    );
    assert_eq!(redrive(&mut shard, G, &[0]), [RedriveResult::Already]);
    let leases = shard.deliver(G, Q, 9, 6);
    assert_eq!(offsets(&leases), [0, 1]);
    assert_eq!(leases[0].attempt, 1);
    shard.ack(G, Q, &[(0, 6), (1, 6)]);
    let view = shard.view(G, Q);
    assert_eq!((view.acked, view.dead_lettered, view.redriven), (2, 1, 1));
    assert!(shard.deliver(G, Q, 9, 7).is_empty());
    // It stays among the dead letters, marked.
    assert_eq!(letters(&shard)[0].letter.redriven_ms, WALL_MS);
}

#[test]
fn a_request_that_comes_twice_is_told_what_it_did() {
    let mut shard = one_dead();
    let redrive = |id| {
        command(command::Command::Redrive(Redrive {
            group: G,
            queue: DLQ,
            offsets: vec![0],
            id,
        }))
    };
    let results = |result| Reply::Redriven {
        results: vec![result],
    };
    for (id, result) in [
        (7, RedriveResult::Done),
        (7, RedriveResult::Done),
        (8, RedriveResult::Already),
    ] {
        assert_eq!(shard.apply(redrive(id)), results(result));
    }
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 6)), [0]);
    assert_eq!(shard.view(G, Q).redriven, 1);
}

#[test]
fn no_other_consumer_group_gets_what_is_given_back() {
    let mut shard = one_dead();
    shard.subscribe(G_OTHER, Q, StartAt::First);
    let leases = shard.deliver(G_OTHER, Q, 9, 6);
    shard.ack(G_OTHER, Q, &[(leases[0].offset, 6)]);
    assert_eq!(redrive(&mut shard, G_OTHER, &[0]), [RedriveResult::AnotherGroup]);
    assert_eq!(redrive(&mut shard, G, &[0]), [RedriveResult::Done]);
    assert!(shard.deliver(G_OTHER, Q, 9, 7).is_empty());
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 7)), [0]);
}

#[test]
fn what_its_queue_has_forgotten_is_given_back_too() {
    let mut shard = one_dead();
    shard.trim(Q, 1, 9);
    assert_eq!(shard.entry_of(Q, 0), None);
    assert_eq!(redrive(&mut shard, G, &[0]), [RedriveResult::Done]);
    assert_eq!(shard.entry_of(Q, 0), shard.entry_of(DLQ, 0));
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 6)), [0]);
    shard.ack(G, Q, &[(0, 6)]);
    assert_eq!(shard.entry_of(Q, 0), None);
}

#[test]
fn a_consumer_group_that_was_put_elsewhere_is_not_given_what_it_reads_or_has_read_anyway() {
    let mut shard = one_dead();
    shard.apply(seek((G, Q, 0, 9), 0, 1));
    assert_eq!(redrive(&mut shard, G, &[0]), [RedriveResult::Comes]);
    shard.deliver(G, Q, 9, 6);
    shard.ack(G, Q, &[(0, 6)]);
    assert_eq!(redrive(&mut shard, G, &[0]), [RedriveResult::ReadSince]);
    // What lies before its new beginning is given back.
    shard.apply(seek((G, Q, 1, 9), 1, 2));
    assert_eq!(redrive(&mut shard, G, &[0]), [RedriveResult::Done]);
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 7)), [0]);
    shard.ack(G, Q, &[(0, 7)]);
    let view = shard.view(G, Q);
    assert_eq!((view.start, view.cursor, view.acked, view.redriven), (1, 1, 1, 1));
}

#[test]
fn whoever_waits_is_told_of_what_is_given_back() {
    let mut shard = one_dead();
    let redrive = Redrive {
        group: G,
        queue: DLQ,
        offsets: vec![0],
        id: 0,
    };
    let outcome = shard.outcome(command(command::Command::Redrive(redrive)));
    let visible = Effect::Visible {
        group: GroupId(G),
        queue: QueueId(Q),
        at_ms: shard.now_ms,
    };
    assert_eq!(outcome.effects, [visible]);
}

#[test]
fn a_consumer_group_that_left_the_queue_gets_nothing_back() {
    let mut shard = one_dead();
    shard.drop_group(G, 9);
    assert_eq!(redrive(&mut shard, G, &[0]), [RedriveResult::NoQueue]);
}

#[test]
fn a_message_that_cannot_become_a_dead_letter_keeps_its_history() {
    let mut shard = Shard::new();
    let rules = subscription(G, Q, StartAt::First, 1, 0);
    shard.apply(configure(What::Subscribe(rules)));
    shard.fill(Q, 1);
    shard.deliver(G, Q, 1, 5);
    shard.pass(LEASE_MS);
    shard.tick(9);
    let history = shard
        .core
        .history(&shard.kv, (GroupId(G), QueueId(Q), 0))
        .unwrap();
    assert_eq!(history.len(), 1);
    assert_eq!(history[0].what, Became::TimedOut);
}

#[test]
fn what_is_given_back_leaves_room_for_what_is_new() {
    let mut shard = Shard::subscribed();
    let dead = MAX_GIVEN_BACK as u64 + 1;
    shard.careful = false;
    shard.fill(Q, dead);
    for _ in 0..dead.div_ceil(MAX_DELIVER as u64) {
        for lease in shard.deliver(G, Q, MAX_DELIVER, 5) {
            shard.release(lease.offset, 5, Action::DeadLetter, None, 0);
        }
    }
    let all: Vec<u64> = (0..dead).collect();
    let mut results = Vec::new();
    for some in all.chunks(MAX_REDRIVE) {
        results.extend(redrive(&mut shard, G, some));
    }
    let refused = results.pop();
    assert!(results.iter().all(|result| *result == RedriveResult::Done));
    assert_eq!(refused, Some(RedriveResult::Full));
    shard.core.check(&shard.kv).unwrap();
    // What was given back is consumed, and the rest can be.
    let lease = &shard.deliver(G, Q, 1, 6)[0];
    shard.ack(G, Q, &[(lease.offset, 6)]);
    assert_eq!(redrive(&mut shard, G, &[dead - 1]), [RedriveResult::Done]);
}

#[test]
fn what_may_have_been_forgotten_unread_is_given_back() {
    let mut shard = one_dead();
    shard.apply(seek((G, Q, 0, 9), 0, 1));
    shard.trim(Q, 1, 9);
    assert_eq!(shard.view(G, Q).trimmed, 1);
    assert_eq!(redrive(&mut shard, G, &[0]), [RedriveResult::Done]);
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 6)), [0]);
}

#[test]
fn a_page_begins_at_what_is_kept() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 4);
    for offset in 0..4 {
        died(&mut shard, offset);
    }
    shard.subscribe(G_OTHER, DLQ, StartAt::First);
    assert_eq!(offsets(&shard.deliver(G_OTHER, DLQ, 2, 6)), [0, 1]);
    shard.ack(G_OTHER, DLQ, &[(0, 6)]);
    shard.trim(DLQ, 3, 9);
    let page = |from, limit| {
        let found = shard.core.letters_from(&shard.kv, QueueId(DLQ), from, limit);
        found.unwrap().iter().map(|it| it.at).collect::<Vec<_>>()
    };
    // One is still held by whoever reads dead letters.
    assert_eq!(page(0, 9), [1, 3]);
    assert_eq!(page(0, 1), [1]);
    assert_eq!(page(2, 9), [3]);
    assert_eq!(page(4, 9), [] as [u64; 0]);
}

#[test]
fn what_was_given_back_and_forgotten_by_its_queue_is_a_dead_letter_after_a_seek() {
    let mut shard = one_dead();
    shard.fill(Q, 1);
    shard.trim(Q, 1, 9);
    assert_eq!(redrive(&mut shard, G, &[0]), [RedriveResult::Done]);
    // In two steps, of which the first ends it.
    shard.deliver(G, Q, 9, 6);
    let outcome = shard.outcome(seek((G, Q, 2, 1), 0, 1));
    assert_eq!(outcome.reply, Reply::Sought { at: None });
    assert!(matches!(outcome.effects[..], [Effect::DeadLettered { .. }]));
    assert_eq!(shard.view(G, Q).sought, 0);
    shard.apply(seek((G, Q, 2, 1), 0, 1));
    assert_eq!(shard.entry_of(Q, 0), None);
    let found = letters(&shard);
    assert_eq!((found.len(), found[1].letter.redriven_ms), (2, 0));
    assert_eq!(became(&found[1]).last(), Some(&(0, Became::Redriven)));
    assert_eq!(redrive(&mut shard, G, &[1]), [RedriveResult::Done]);
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 7)), [0]);
}
